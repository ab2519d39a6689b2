//! The kinds of places an image can lie at: one file each.
mod layout;
mod registry;

use std::{fmt, path::Path, sync::Arc};

use async_trait::async_trait;
use bolide_core::{BlobOpener, Digest, Error, ErrorKind, Result};
use bytes::Bytes;
use tempfile::NamedTempFile;

use crate::{
    Access, Location,
    manifest::{Descriptor, MAX_DOCUMENT_BYTES},
};

/// Where one image is read from.
///
/// Documents have [`MAX_DOCUMENT_BYTES`] at most, or are `Exhausted`; callers verify them.
#[async_trait]
pub(crate) trait Origin: fmt::Debug + Send + Sync {
    /// The manifest or index that the location names.
    async fn root(&self) -> Result<(Descriptor, Bytes)>;

    /// A manifest or index that an index lists.
    async fn manifest(&self, name: &Descriptor) -> Result<Bytes>;

    /// A way to all other blobs.
    fn blobs(&self) -> Arc<dyn BlobOpener>;
}

/// Where one image is written to.
#[async_trait]
pub(crate) trait Target: fmt::Debug + Send + Sync {
    /// A directory for the files that are handed to [`put_blob`](Self::put_blob).
    fn work_dir(&self) -> &Path;

    /// Stores a blob, whose digest the caller vouches for. The file is gone afterwards.
    async fn put_blob(&self, file: NamedTempFile, digest: Digest) -> Result<()>;

    /// Stores a configuration.
    async fn put_document(&self, bytes: Bytes) -> Result<()>;

    /// Stores the manifest that `name` describes and gives the image its name.
    async fn publish(&self, name: Descriptor, bytes: Bytes) -> Result<()>;
}

/// The origin of a location. Sends and opens nothing yet.
pub(crate) fn origin(location: &Location, access: &Access) -> Result<Box<dyn Origin>> {
    match location {
        Location::Layout { dir, tag } => Ok(Box::new(layout::LayoutOrigin::new(dir, tag.clone()))),
        Location::Registry(reference) => {
            Ok(Box::new(registry::RegistryOrigin::new(reference, access)?))
        }
    }
}

/// Makes a location ready to be written.
pub(crate) async fn target(location: &Location, access: &Access) -> Result<Arc<dyn Target>> {
    match location {
        Location::Layout { dir, tag } => {
            Ok(Arc::new(layout::LayoutTarget::open(dir.clone(), tag.clone()).await?))
        }
        Location::Registry(reference) => {
            Ok(Arc::new(registry::RegistryTarget::open(reference, access).await?))
        }
    }
}

/// `Exhausted` when a document has more bytes than are read.
pub(crate) fn check_document_size(digest: Digest, size: u64) -> Result<()> {
    if size <= MAX_DOCUMENT_BYTES {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Exhausted, "image::read", "a document may have 4 MiB")
        .with_context("document", digest)
        .with_context("size", size))
}
