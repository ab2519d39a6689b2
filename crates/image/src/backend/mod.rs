//! The kinds of places an image can lie at: one file each.
mod containerd;
mod docker_archive;
mod layout;
mod oci_archive;
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

    /// Whether the target has a blob, or took it over from `source` without moving its bytes.
    async fn adopt(&self, name: &Descriptor, source: &Location) -> Result<bool> {
        let _ = (name, source);
        Ok(false)
    }

    /// Stores a blob, whose digest the caller vouches for. The file is gone afterwards.
    async fn put_blob(&self, file: NamedTempFile, blob: NewBlob) -> Result<()>;

    /// Stores a configuration.
    async fn put_document(&self, bytes: Bytes) -> Result<()>;

    /// Stores a manifest that an index will list. What it names is stored.
    async fn put_manifest(&self, name: &Descriptor, bytes: Bytes) -> Result<()>;

    /// Stores the manifest or index that `name` describes and gives the image its name, with
    /// `suffix` appended to the tag. The name without a suffix is given last.
    async fn publish(&self, name: Descriptor, bytes: Bytes, suffix: &str) -> Result<()>;
}

/// What is known of a blob that is to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewBlob {
    /// Digest of its bytes.
    pub digest: Digest,
    /// Digest of what it holds uncompressed, if it is a layer.
    pub diff_id: Option<Digest>,
}

/// The origin of a location. Sends and opens nothing yet.
pub(crate) fn origin(location: &Location, access: &Access) -> Result<Box<dyn Origin>> {
    Ok(match location {
        Location::Layout { dir, tag } => Box::new(layout::LayoutOrigin::new(dir, tag.clone())),
        Location::OciArchive { file, tag } => {
            Box::new(oci_archive::OciArchiveOrigin::new(file, tag.clone(), access))
        }
        Location::DockerArchive { file, name } => {
            Box::new(docker_archive::DockerArchiveOrigin::new(file, name.clone(), access))
        }
        Location::Containerd(name) => Box::new(containerd::ContainerdOrigin::new(name, access)?),
        Location::Registry(reference) => {
            Box::new(registry::RegistryOrigin::new(reference, access)?)
        }
    })
}

/// Makes a location ready to be written.
pub(crate) async fn target(location: &Location, access: &Access) -> Result<Arc<dyn Target>> {
    Ok(match location {
        Location::Layout { dir, tag } => {
            Arc::new(layout::LayoutTarget::open(dir.clone(), tag.clone()).await?)
        }
        Location::OciArchive { file, tag } => {
            Arc::new(oci_archive::OciArchiveTarget::open(file, tag.clone()).await?)
        }
        Location::DockerArchive { file, name } => {
            Arc::new(docker_archive::DockerArchiveTarget::open(file, name.clone()).await?)
        }
        Location::Containerd(name) => {
            Arc::new(containerd::ContainerdTarget::open(name, access).await?)
        }
        Location::Registry(reference) => {
            Arc::new(registry::RegistryTarget::open(reference, access).await?)
        }
    })
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

/// `Malformed` when a destination is named by a digest, which is known only afterwards.
fn tag_to_write(reference: &bolide_fetch::ImageReference) -> Result<&str> {
    match (reference.digest(), reference.tag()) {
        (None, Some(tag)) => Ok(tag),
        _ => Err(Error::new(
            ErrorKind::Malformed,
            "image::write",
            "an image is written under a tag: its digest is known only afterwards",
        )
        .with_context("reference", reference)),
    }
}
