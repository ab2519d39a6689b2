//! Images in a registry.
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use bolide_core::{BlobOpener, Digest, Error, Result};
use bolide_fetch::{
    FileSource, ImageReference, Repository, RetryPolicy, UploadOptions, WrapOpener,
};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use tempfile::NamedTempFile;

use super::{NewBlob, Origin, Target, check_document_size, tag_to_write};
use crate::{Access, Location, blob_reader::blocking, manifest::Descriptor};

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
        let found = self
            .retry
            .run(Digest::of(wanted.as_bytes()), || self.repository.manifest(wanted))
            .await?;
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
    reference: ImageReference,
    repository: Repository,
    tag: String,
    work_dir: PathBuf,
    upload: UploadOptions,
}

impl RegistryTarget {
    pub(super) async fn open(reference: &ImageReference, access: &Access) -> Result<Self> {
        let target = Self {
            repository: access.registries()?.repository(reference),
            tag: tag_to_write(reference)?.to_owned(),
            work_dir: access.work_dir()?.to_owned(),
            upload: access.upload(),
            reference: reference.clone(),
        };
        // Work of minutes should not end at a registry that is not there or wants a login.
        target.has(Digest::of(b"")).await?;
        Ok(target)
    }

    async fn has(&self, digest: Digest) -> Result<bool> {
        self.upload.retry.run(digest, || self.repository.blob_exists(digest)).await
    }

    async fn put(&self, reference: &str, name: &Descriptor, bytes: Bytes) -> Result<()> {
        let put = || self.repository.put_manifest(reference, &name.media_type, bytes.clone());
        self.upload.retry.run(name.digest, put).await.map(drop)
    }
}

#[async_trait]
impl Target for RegistryTarget {
    fn work_dir(&self) -> &Path {
        &self.work_dir
    }

    async fn adopt(&self, name: &Descriptor, source: &Location) -> Result<bool> {
        if self.has(name.digest).await? {
            return Ok(true);
        }
        let Location::Registry(from) = source else { return Ok(false) };
        if from.host() != self.reference.host() || from.repository() == self.reference.repository()
        {
            return Ok(false);
        }
        // Who may not read the other repository sends the blob, as does who was misunderstood.
        let mounted = self.repository.mount_blob(name.digest, from.repository()).await;
        Ok(mounted.unwrap_or_else(|error| {
            tracing::debug!(%error, "a blob is sent, because it could not be mounted");
            false
        }))
    }

    async fn put_blob(&self, file: NamedTempFile, blob: NewBlob) -> Result<()> {
        if !self.has(blob.digest).await? {
            let source = FileSource::open(file.path(), blob.digest).await?;
            self.repository.upload_blob(&source, &self.upload).await?;
        }
        blocking(move || file.close().map_err(|error| Error::io("image::write", error))).await
    }

    async fn put_document(&self, bytes: Bytes) -> Result<()> {
        let digest = Digest::of(&bytes);
        if self.has(digest).await? {
            return Ok(());
        }
        let push = || {
            let body = stream::iter([Ok(bytes.clone())]).boxed();
            self.repository.push_blob(digest, bytes.len() as u64, body)
        };
        self.upload.retry.run(digest, push).await
    }

    async fn put_manifest(&self, name: &Descriptor, bytes: Bytes) -> Result<()> {
        self.put(&name.digest.to_string(), name, bytes).await
    }

    async fn publish(&self, name: Descriptor, bytes: Bytes, suffix: &str) -> Result<()> {
        self.put(&format!("{}{suffix}", self.tag), &name, bytes).await
    }
}
