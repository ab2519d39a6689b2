//! Images in a registry.
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use bolide_core::{BlobOpener, Digest, Error, ErrorKind, Result};
use bolide_fetch::{ImageReference, Repository, RetryPolicy, WrapOpener};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};
use tempfile::NamedTempFile;
use tokio_util::io::ReaderStream;

use super::{Origin, Target, check_document_size};
use crate::{Access, blob_reader::blocking, manifest::Descriptor, retry::retrying};

/// Pieces in which a blob is read from disk, in bytes.
const READ_SIZE: usize = 128 * 1024;

#[derive(Debug)]
pub(super) struct RegistryOrigin {
    repository: Repository,
    /// Tag or digest.
    wanted: String,
    retry: RetryPolicy,
}

impl RegistryOrigin {
    pub(super) fn new(reference: &ImageReference, access: &Access) -> Result<Self> {
        let repository = access.registries()?.repository(reference);
        Ok(Self { repository, wanted: reference.target(), retry: access.retry().clone() })
    }

    async fn read(&self, wanted: &str) -> Result<(Descriptor, Bytes)> {
        let found = retrying(&self.retry, || self.repository.manifest(wanted)).await?;
        let size = found.bytes.len() as u64;
        check_document_size(found.digest, size)?;
        Ok((Descriptor::new(&found.media_type, found.digest, size), found.bytes))
    }
}

#[async_trait]
impl Origin for RegistryOrigin {
    async fn root(&self) -> Result<(Descriptor, Bytes)> {
        self.read(&self.wanted).await
    }

    async fn manifest(&self, name: &Descriptor) -> Result<Bytes> {
        Ok(self.read(&name.digest.to_string()).await?.1)
    }

    fn blobs(&self) -> Arc<dyn BlobOpener> {
        let repository = Arc::new(self.repository.clone());
        Arc::new(WrapOpener::new(repository).with_retry(self.retry.clone()))
    }
}

#[derive(Debug)]
pub(super) struct RegistryTarget {
    repository: Repository,
    tag: String,
    work_dir: PathBuf,
    retry: RetryPolicy,
}

impl RegistryTarget {
    pub(super) async fn open(reference: &ImageReference, access: &Access) -> Result<Self> {
        let (None, Some(tag)) = (reference.digest(), reference.tag()) else {
            return Err(Error::new(
                ErrorKind::Malformed,
                "image::write",
                "an image is written under a tag: its digest is known only afterwards",
            )
            .with_context("reference", reference));
        };
        let target = Self {
            repository: access.registries()?.repository(reference),
            tag: tag.to_owned(),
            work_dir: access.work_dir()?.to_owned(),
            retry: access.retry().clone(),
        };
        // Work of minutes should not end at a registry that is not there or wants a login.
        target.has(Digest::of(b"")).await?;
        Ok(target)
    }

    async fn has(&self, digest: Digest) -> Result<bool> {
        retrying(&self.retry, || self.repository.blob_exists(digest)).await
    }
}

#[async_trait]
impl Target for RegistryTarget {
    fn work_dir(&self) -> &Path {
        &self.work_dir
    }

    async fn put_blob(&self, file: NamedTempFile, digest: Digest) -> Result<()> {
        if !self.has(digest).await? {
            let file = &file;
            retrying(&self.retry, || async move {
                let (size, body) = contents(file).await?;
                self.repository.push_blob(digest, size, body).await
            })
            .await?;
        }
        blocking(move || file.close().map_err(|error| Error::io("image::write", error))).await
    }

    async fn put_document(&self, bytes: Bytes) -> Result<()> {
        let digest = Digest::of(&bytes);
        if self.has(digest).await? {
            return Ok(());
        }
        retrying(&self.retry, || {
            let body = stream::iter([Ok(bytes.clone())]).boxed();
            self.repository.push_blob(digest, bytes.len() as u64, body)
        })
        .await
    }

    async fn publish(&self, name: Descriptor, bytes: Bytes) -> Result<()> {
        retrying(&self.retry, || {
            self.repository.put_manifest(&self.tag, &name.media_type, bytes.clone())
        })
        .await?;
        Ok(())
    }
}

/// Size and bytes of a file, from its start.
async fn contents(file: &NamedTempFile) -> Result<(u64, BoxStream<'static, Result<Bytes>>)> {
    let failed = |error| Error::io("image::write", error);
    let file = tokio::fs::File::open(file.path()).await.map_err(failed)?;
    let size = file.metadata().await.map_err(failed)?.len();
    Ok((size, ReaderStream::with_capacity(file, READ_SIZE).map_err(failed).boxed()))
}
