//! Making layers appear as a file system.
use std::{fmt, ops::Range, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{Error, FetchTarget, LayerImage, NodeId, Priority, Result, StatusSource, TocIndex};

/// What a fill did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FillReport {
    /// Chunks that were wanted.
    pub chunks: u32,
    /// Chunks that were present already.
    pub hits: u32,
    /// Compressed bytes asked of the scheduler.
    pub fetched_bytes: u64,
}

/// Reads file content of one layer: what is present from its image, the rest after filling it.
/// The read pipeline implements it.
///
/// # Contract
///
/// * **Verified.** Every byte returned matched its chunk's digest.
/// * **Exact.** A read is short only at the end of the file; past it, empty.
/// * **One fetch.** Concurrent reads and fills of one chunk share one fetch.
/// * **Passing faults pass.** A failed read leaves nothing behind that would fail the next one.
#[async_trait]
pub trait FileReader: fmt::Debug + Send + Sync + 'static {
    /// Reads when every chunk is present, `None` otherwise. Synchronous local I/O: call it from a
    /// thread that may block.
    fn try_read(&self, file: NodeId, range: Range<u64>) -> Option<Result<Bytes>>;

    /// Reads, fetching what is absent. What lies in a hole is zeros. `OutOfRange` when more is asked for
    /// than one answer may hold.
    async fn read(&self, file: NodeId, range: Range<u64>, priority: Priority) -> Result<Bytes>;

    /// Makes bytes present without returning them. Chunks become readable as they arrive.
    async fn fill(&self, target: &FetchTarget, priority: Priority) -> Result<FillReport>;
}

/// One layer, ready to be shown.
#[derive(Clone, Debug)]
pub struct LayerView {
    /// Its tree.
    pub toc: Arc<dyn TocIndex>,
    /// Its content.
    pub reader: Arc<dyn FileReader>,
    /// The file that holds the content, for mounters that let the kernel read it.
    pub image: Arc<dyn LayerImage>,
    /// Its state, shown in the hidden state directory.
    pub status: Arc<dyn StatusSource>,
}

/// Which extended attribute tells overlayfs that a directory is opaque.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OpaqueXattr {
    /// `trusted.overlay.opaque`, for overlay mounts by root.
    #[default]
    Trusted,
    /// `user.overlay.opaque`, for overlay mounted with `userxattr` in a user namespace.
    User,
}

/// How to show a layer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// How opaque directories are marked.
    pub opaque: OpaqueXattr,
    /// Whether users other than the one who mounts may read. Needed under containers.
    pub allow_other: bool,
}

/// What to mount, and where.
#[derive(Clone, Debug)]
pub struct MountRequest {
    /// Stable name, used to find the mount again after a restart.
    pub id: String,
    /// The layer.
    pub layer: LayerView,
    /// Existing directory to mount on, or path of a socket to make for a virtual machine.
    pub target: PathBuf,
    /// How to show it.
    pub options: MountOptions,
}

/// Where a mounted layer can be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exposure {
    /// A directory of this host.
    Directory(PathBuf),
    /// A vhost-user socket for a virtual machine.
    VhostSocket(PathBuf),
}

/// What the kernel and this process allow, found by probing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MountCapability {
    /// Present files can be read by the kernel without a call to this process.
    pub passthrough: bool,
    /// A mount survives the end of this process.
    pub survives_restart: bool,
}

/// One way of showing layers: FUSE, EROFS, virtio-fs, or plain unpacking.
///
/// # Contract
///
/// * **Probed, not assumed.** [`probe`](Self::probe) makes a real trial and says why when this host
///   cannot; the assembly goes on to the next mounter.
/// * **Ready on return.** When `mount` returns, a lookup in the target is answered.
/// * **All or nothing.** A failed `mount` leaves the target as it was.
/// * **Idempotent by id.** Mounting an id that is mounted with the same TOC on the same target
///   returns another handle of that mount; with anything else it is `AlreadyExists`.
#[async_trait]
pub trait Mounter: fmt::Debug + Send + Sync + 'static {
    /// Short name for logs, metrics and configuration, for example `"fuse"`.
    fn name(&self) -> &'static str;

    /// Checks whether this host can mount this way.
    async fn probe(&self) -> Result<MountCapability>;

    /// Mounts a layer.
    async fn mount(&self, request: MountRequest) -> Result<Box<dyn Mounted>>;

    /// Takes over a mount that an earlier process left; `None` when there is nothing to take.
    async fn adopt(&self, request: MountRequest) -> Result<Option<Box<dyn Mounted>>> {
        let _ = request;
        Ok(None)
    }
}

/// A live mount. Dropping it does not unmount: a crash must not pull files from under a container.
#[async_trait]
pub trait Mounted: fmt::Debug + Send + Sync + 'static {
    /// The name it was mounted under.
    fn id(&self) -> &str;

    /// Where it can be seen.
    fn exposure(&self) -> &Exposure;

    /// Resolves when the mount ends for a reason other than [`unmount`](Self::unmount).
    async fn lost(&self) -> Error;

    /// Unmounts. Fails with `FailedPrecondition`, leaving the mount as it was, while it is in use.
    async fn unmount(&self) -> Result<()>;
}
