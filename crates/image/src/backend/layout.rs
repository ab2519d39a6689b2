//! Images in an OCI image layout.
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use bolide_core::{BlobOpener, Result};
use bolide_fetch::OciLayoutOpener;
use bytes::Bytes;
use tempfile::NamedTempFile;

use super::{NewBlob, Origin, Target};
use crate::{Layout, blob_reader::blocking, manifest::Descriptor};

#[derive(Debug)]
pub(super) struct LayoutOrigin {
    dir: PathBuf,
    tag: Option<String>,
}

impl LayoutOrigin {
    pub(super) fn new(dir: &Path, tag: Option<String>) -> Self {
        Self { dir: dir.to_owned(), tag }
    }
}

#[async_trait]
impl Origin for LayoutOrigin {
    async fn root(&self) -> Result<(Descriptor, Bytes)> {
        let (dir, tag) = (self.dir.clone(), self.tag.clone());
        blocking(move || {
            let layout = Layout::open(dir)?;
            let name = layout.resolve(tag.as_deref())?;
            let document = layout.document(&name)?;
            Ok((name, document.into()))
        })
        .await
    }

    async fn manifest(&self, name: &Descriptor) -> Result<Bytes> {
        let (dir, name) = (self.dir.clone(), name.clone());
        blocking(move || Ok(Layout::open(dir)?.document(&name)?.into())).await
    }

    fn blobs(&self) -> Arc<dyn BlobOpener> {
        Arc::new(OciLayoutOpener::new(&self.dir))
    }
}

#[derive(Debug)]
pub(super) struct LayoutTarget {
    layout: Layout,
    blob_dir: PathBuf,
    tag: Option<String>,
}

impl LayoutTarget {
    pub(super) async fn open(dir: PathBuf, tag: Option<String>) -> Result<Self> {
        let layout = blocking(move || Layout::create(dir)).await?;
        Ok(Self { blob_dir: layout.blob_dir(), layout, tag })
    }
}

#[async_trait]
impl Target for LayoutTarget {
    /// From here a file reaches its place without another copy.
    fn work_dir(&self) -> &Path {
        &self.blob_dir
    }

    async fn put_blob(&self, file: NamedTempFile, blob: NewBlob) -> Result<()> {
        let layout = self.layout.clone();
        blocking(move || layout.put_blob(file, blob.digest)).await
    }

    async fn put_document(&self, bytes: Bytes) -> Result<()> {
        let layout = self.layout.clone();
        blocking(move || layout.put_document(&bytes)).await
    }

    async fn put_manifest(&self, _: &Descriptor, bytes: Bytes) -> Result<()> {
        self.put_document(bytes).await
    }

    async fn publish(&self, name: Descriptor, bytes: Bytes, suffix: &str) -> Result<()> {
        let (layout, tag) = (self.layout.clone(), self.tag.clone());
        let tag = tag.map(|tag| tag + suffix);
        blocking(move || {
            layout.put_document(&bytes)?;
            layout.tag(&name, tag.as_deref())
        })
        .await
    }
}
