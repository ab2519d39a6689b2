//! From the reference of an image to whoever opens its blobs.
use std::{fmt, sync::Arc};

use bolide_core::{BlobOpener, Result};

/// Knows where the blobs of an image are.
///
/// The assembly implements it for registries; an integrator's own storage takes its place by
/// implementing this one method.
pub trait Places: fmt::Debug + Send + Sync + 'static {
    /// Opens the blobs of the image that `reference` names. Sends nothing; `Malformed` when it is
    /// no reference.
    fn opener(&self, reference: &str) -> Result<Arc<dyn BlobOpener>>;
}
