//! What an operator can ask about a live layer.
use crate::{Digest, Presence};

/// The state of one live layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerStatus {
    /// Digest of the blob.
    pub blob: Digest,
    /// Digest of its TOC.
    pub toc: Digest,
    /// Size of the blob, in bytes.
    pub blob_size: u64,
    /// Bytes of the blob fetched from its source for this node, in bytes.
    pub fetched_bytes: u64,
    /// What is present of the uncompressed data.
    pub presence: Presence,
    /// The last failure, in words, until something was read successfully after it.
    pub error: Option<String>,
}

/// Tells the state of a live layer.
pub trait StatusSource: std::fmt::Debug + Send + Sync + 'static {
    /// The state at this moment.
    fn status(&self) -> LayerStatus;
}
