//! From the reference of an image to its blobs and manifests.
use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bolide_core::{BlobOpener, Digest, Result};
use bytes::Bytes;

/// Names a manifest in the repository of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ManifestName {
    /// The manifest of this digest.
    Digest(Digest),
    /// That of the image of TOCs beside the image: the one of its tag and `-esgztoc`.
    TocImage,
}

/// Knows where the blobs and manifests of an image are.
///
/// The assembly implements it for registries; an integrator's own storage takes its place by
/// implementing these two methods.
#[async_trait]
pub trait Places: fmt::Debug + Send + Sync + 'static {
    /// Opens the blobs of the image that `reference` names. Sends nothing; `Malformed` when it is
    /// no reference.
    fn opener(&self, reference: &str) -> Result<Arc<dyn BlobOpener>>;

    /// Reads a manifest that lies beside the image, of 8 MiB at most; the caller verifies it.
    ///
    /// `NotFound` when there is none, `Malformed` when `reference` cannot name one: an image of TOCs
    /// has no name beside an image without a tag.
    async fn manifest(&self, reference: &str, wanted: ManifestName) -> Result<Bytes>;
}
