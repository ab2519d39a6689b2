//! What was written.
use std::collections::BTreeMap;

use bolide_core::Digest;
use bytes::Bytes;

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildReport {
    /// Digest of the blob.
    pub blob_digest: Digest,
    /// Size of the blob, in bytes.
    pub blob_size: u64,
    /// Digest of the uncompressed blob.
    pub diff_id: Digest,
    /// Size of the uncompressed blob, in bytes.
    pub uncompressed_size: u64,
    /// Digest of the TOC document; none in formats that have none.
    pub toc_digest: Option<Digest>,
    /// The TOC document, when the blob does not hold it.
    pub external_toc: Option<Bytes>,
    /// What the layer's descriptor must be annotated with.
    pub annotations: BTreeMap<String, String>,
    /// Entries of the tar, landmarks included.
    pub entries: u32,
    /// Size of the prioritized area of the blob, in bytes; 0 when nothing is prioritized.
    pub prioritized_size: u64,
}
