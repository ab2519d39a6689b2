//! Where an image is written to.
use std::{path::Path, sync::Arc};

use bolide_core::Result;
use bytes::Bytes;
use tempfile::NamedTempFile;

use crate::{
    Access, Location,
    backend::{self, NewBlob, Target},
    manifest::Descriptor,
};

/// Where an image is written to. Its name is given last, so nobody finds half an image.
#[derive(Clone, Debug)]
pub struct ImageSink(Arc<dyn Target>);

impl ImageSink {
    /// Makes `location` ready to be written.
    ///
    /// `Malformed` when it names a digest, `Config` when `access` lacks what it needs,
    /// `Unauthorized` or `Unavailable` when a registry refuses us or does not answer.
    pub async fn open(access: &Access, location: &Location) -> Result<Self> {
        let target = backend::target(location, access).await;
        target.map(Self).map_err(|error| error.with_context("destination", location))
    }

    /// A directory for the blobs that are being made.
    #[must_use]
    pub fn work_dir(&self) -> &Path {
        self.0.work_dir()
    }

    /// Whether the destination has a blob of `source` already, or took it over without moving its
    /// bytes, as between repositories of one registry.
    pub async fn adopt(&self, name: &Descriptor, source: &Location) -> Result<bool> {
        self.0.adopt(name, source).await
    }

    /// Stores a blob that was written in [`work_dir`](Self::work_dir) and is what `blob` says. What
    /// a registry has already is not sent again. The file is gone afterwards, whatever happens.
    pub async fn put_blob(&self, file: NamedTempFile, blob: NewBlob) -> Result<()> {
        self.0.put_blob(file, blob).await
    }

    /// Stores a configuration.
    pub async fn put_document(&self, bytes: impl Into<Bytes>) -> Result<()> {
        self.0.put_document(bytes.into()).await
    }

    /// Stores a manifest that an index will list, after everything it names.
    pub async fn put_manifest(&self, name: &Descriptor, bytes: impl Into<Bytes>) -> Result<()> {
        self.0.put_manifest(name, bytes.into()).await
    }

    /// Stores the manifest or index that `name` describes and gives the image its name.
    pub async fn publish(&self, name: Descriptor, bytes: impl Into<Bytes>) -> Result<()> {
        self.0.publish(name, bytes.into(), "").await
    }

    /// The same for an image that belongs to this one and is named before it: its tag is that of
    /// the image with `suffix`.
    pub async fn publish_beside(
        &self,
        name: Descriptor,
        bytes: impl Into<Bytes>,
        suffix: &str,
    ) -> Result<()> {
        self.0.publish(name, bytes.into(), suffix).await
    }
}
