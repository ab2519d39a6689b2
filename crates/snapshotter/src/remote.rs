//! The seam between snapshots and the layers that are mounted lazily under them.
use std::{fmt, path::Path};

use async_trait::async_trait;
use bolide_core::{Digest, Result};
use bolide_estargz::TocTrust;
use serde::{Deserialize, Serialize};

use crate::labels::RemoteLayerRequest;

/// What is known of a layer once it is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountedInfo {
    /// Digest its TOC was verified against, or has.
    pub toc: Digest,
    /// On what ground it is believed. Kept with the snapshot, so that it is known after a restart
    /// without asking anyone.
    pub trust: TocTrust,
    /// Name of the mounter that shows it.
    pub mounter: &'static str,
}

/// The state of one lazily mounted layer, for people and programs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerReport {
    /// Snapshot that shows the layer.
    pub snapshot_id: String,
    /// Chain id of the snapshot.
    pub chain_id: String,
    /// Image the layer was pulled for.
    pub reference: String,
    /// Digest of the blob.
    pub blob: String,
    /// Digest of the TOC, once known.
    pub toc: Option<String>,
    /// Name of the mounter that shows it; `None` while it is not mounted.
    pub mounter: Option<String>,
    /// Size of the blob, in bytes; 0 while unknown.
    pub blob_size: u64,
    /// Bytes of the blob fetched from its source by this process.
    pub fetched_bytes: u64,
    /// Uncompressed bytes present on this node.
    pub present_bytes: u64,
    /// Uncompressed bytes in the layer; 0 while unknown.
    pub total_bytes: u64,
    /// Whether blob digest, diffID and TOC of the whole layer were checked, and agree: `None` as long
    /// as it was not checked.
    pub whole: Option<bool>,
    /// Why it is not usable, or the last failed read.
    pub error: Option<String>,
}

/// Mounts layers lazily.
///
/// # Contract
///
/// * **All or nothing.** A failed `mount` leaves the target as it was and remembers nothing.
/// * **Idempotent by id.** Mounting an id that is mounted on the same target succeeds; unmounting
///   an id that is not mounted does too.
/// * **Restores without the network** what was mounted before, when its index is on disk. A failed
///   `restore` remembers the layer as broken: [`check`](Self::check) tries it again.
#[async_trait]
pub trait RemoteLayers: fmt::Debug + Send + Sync + 'static {
    /// Mounts the layer of a request on an existing directory.
    async fn mount(
        &self,
        id: &str,
        request: &RemoteLayerRequest,
        target: &Path,
    ) -> Result<MountedInfo>;

    /// Mounts again, after a restart, what `mount` mounted.
    async fn restore(&self, id: &str, request: &RemoteLayerRequest, target: &Path) -> Result<()>;

    /// Unmounts. `FailedPrecondition`, leaving it mounted, while it is in use.
    async fn unmount(&self, id: &str) -> Result<()>;

    /// Whether a layer can be read, waiting for its prefetch as long as configured. `Unavailable`
    /// when neither its data nor its source is at hand.
    async fn check(&self, id: &str) -> Result<()>;

    /// Every layer, in the order of ids.
    fn status(&self) -> Vec<LayerReport>;

    /// Unmounts what is not in use, leaves the rest, and makes everything durable.
    async fn shutdown(&self);
}
