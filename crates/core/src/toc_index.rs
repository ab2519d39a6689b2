//! The verified directory tree of one layer, and where each file's bytes lie.
use std::{
    ffi::OsStr,
    fmt,
    ops::{ControlFlow, Range},
    path::PathBuf,
};

use bytes::Bytes;

use crate::{ByteRange, ChunkIndex, ChunkKey, ChunkSlot, Digest, ImageSpec, Result};

/// Identifies a node inside one index. Not an inode number; mounters derive those.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

/// Device number of a character or block device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Device {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

/// What kind of node it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NodeKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice(Device),
    /// A block device.
    BlockDevice(Device),
    /// A named pipe.
    Fifo,
}

/// Time since 1970-01-01T00:00:00Z; negative seconds lie before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Whole seconds.
    pub seconds: i64,
    /// Nanoseconds added to the seconds, below 1,000,000,000.
    pub nanos: u32,
}

/// Metadata of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeAttr {
    /// Kind.
    pub kind: NodeKind,
    /// Size in bytes; length of the target for a symbolic link; 0 for the rest.
    pub size: u64,
    /// Permission bits with set-id and sticky bits, at most 0o7777.
    pub perm: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Timestamp,
    /// Names of a file; 2 and the number of subdirectories for a directory.
    pub nlink: u32,
}

/// How a member of the blob is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// As it is.
    Stored,
    /// A gzip member.
    Gzip,
    /// One or more zstd frames.
    Zstd,
}

/// One chunk of a file: where it sits in the file, in the blob and in the layer image, and what it
/// must hash to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkSpan {
    /// Number of the chunk in its layer.
    pub index: ChunkIndex,
    /// File the chunk belongs to.
    pub file: NodeId,
    /// Offset of the chunk in the uncompressed file.
    pub file_offset: u64,
    /// Offset of the chunk in the layer image.
    pub image_offset: u64,
    /// The compressed member of the blob that holds the chunk: from its start to the start of the
    /// next member. It may hold other chunks, tar headers and padding as well.
    pub member: ByteRange,
    /// How the member is encoded.
    pub codec: Codec,
    /// Offset of the chunk inside the decompressed member.
    pub inner_offset: u64,
    /// Names and verifies the uncompressed chunk.
    pub key: ChunkKey,
}

impl ChunkSpan {
    /// Where the chunk lies in the layer image.
    #[must_use]
    pub const fn slot(&self) -> ChunkSlot {
        ChunkSlot { index: self.index, image_offset: self.image_offset, key: self.key }
    }
}

/// What the author of the image says of prefetching.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PrefetchMark {
    /// Nothing; configuration decides.
    #[default]
    Absent,
    /// That nothing is worth it.
    Nothing,
    /// That this part of the blob, which starts at 0, is used at start, in this order.
    UpTo(ByteRange),
}

/// The verified directory tree of one layer, and where each file's bytes lie.
///
/// # Contract
///
/// * **Verified before it exists.** A constructor takes raw bytes and the digest they must match;
///   an index that failed verification is never built (unless the operator turned verification
///   off by name).
/// * **Pure.** No method awaits or touches the network. An index may be paged from a mapped file,
///   so methods still return `Result`.
/// * **Total.** Ids come only from this index; an unknown id is `NotFound`, not a panic.
/// * **Ordered.** Children are visited in the bytewise order of their names, chunks in file order,
///   members in blob order, so a walk can be resumed by position. A visitor that answers `Break`
///   ends the walk early.
/// * **Raw names.** Whiteouts appear under their own names (`.wh.x`); mounters translate them.
///   Names that belong to the format (landmarks, the TOC) do not appear at all.
/// * **Tiled, but for holes.** The chunks of a file lie in it in order and without overlap. Bytes of
///   the file that no chunk covers are a hole: the verified TOC itself says that each of them is
///   zero. A hole has no number, no place in the blob and nothing to fetch, so one of terabytes costs
///   nothing; readers make its zeros up. An index makes a hole only of what its TOC calls one, never
///   of a chunk that is missing.
/// * **Laid out.** Chunks are numbered from 0 in the order of `image_offset`. A file is one extent
///   of the layer image, from a multiple of 4096: each of its chunks lies as far from that as it lies
///   from the file's start. Room for its holes is kept and never written, so it is zeros there too.
/// * **Format-neutral.** There is no `is_estargz()`: differences between formats are data in
///   [`ChunkSpan`], not questions callers ask.
pub trait TocIndex: fmt::Debug + Send + Sync + 'static {
    /// Digest the index was verified against; names the layer image.
    fn digest(&self) -> Digest;

    /// The root directory.
    fn root(&self) -> NodeId;

    /// Number of nodes, the root included. Ids are not necessarily dense.
    fn len(&self) -> usize;

    /// Whether the layer holds nothing but its root.
    fn is_empty(&self) -> bool {
        self.len() <= 1
    }

    /// Metadata of a node.
    fn attr(&self, node: NodeId) -> Result<NodeAttr>;

    /// The first path of a node, relative to the root, for messages.
    fn path(&self, node: NodeId) -> Result<PathBuf>;

    /// Finds a child by name; `None` when there is none, or `parent` is not a directory.
    fn lookup(&self, parent: NodeId, name: &OsStr) -> Result<Option<NodeId>>;

    /// The directory that holds the first name of a node; the root holds itself.
    fn parent(&self, node: NodeId) -> Result<NodeId>;

    /// Visits children in order, skipping the first `skip`.
    fn for_each_child(
        &self,
        dir: NodeId,
        skip: usize,
        visit: &mut dyn FnMut(&OsStr, NodeId) -> ControlFlow<()>,
    ) -> Result<()>;

    /// Target of a symbolic link, as stored.
    fn read_link(&self, node: NodeId) -> Result<Bytes>;

    /// Visits extended attributes as name and value, in the bytewise order of names.
    fn for_each_xattr(
        &self,
        node: NodeId,
        visit: &mut dyn FnMut(&OsStr, &[u8]) -> ControlFlow<()>,
    ) -> Result<()>;

    /// Visits the chunks that overlap `range` of a file, in file order.
    fn for_each_chunk(
        &self,
        file: NodeId,
        range: Range<u64>,
        visit: &mut dyn FnMut(ChunkSpan) -> ControlFlow<()>,
    ) -> Result<()>;

    /// Visits the holes of a file inside `range`, in file order, none of them empty. The provided
    /// method looks at what its chunks leave out.
    fn for_each_hole(
        &self,
        file: NodeId,
        range: Range<u64>,
        visit: &mut dyn FnMut(Range<u64>) -> ControlFlow<()>,
    ) -> Result<()> {
        let attr = self.attr(file)?;
        let end = if attr.kind == NodeKind::File { range.end.min(attr.size) } else { 0 };
        let (mut at, mut ended) = (range.start, false);
        self.for_each_chunk(file, range.start..end, &mut |span| {
            ended = at < span.file_offset && visit(at..span.file_offset).is_break();
            at = span.file_offset + span.key.len;
            if ended { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        if !ended && at < end {
            let _ = visit(at..end);
        }
        Ok(())
    }

    /// Visits the chunks whose member starts inside `range` of the blob, in blob order.
    fn for_each_chunk_in_blob(
        &self,
        range: ByteRange,
        visit: &mut dyn FnMut(ChunkSpan) -> ControlFlow<()>,
    ) -> Result<()>;

    /// Number of chunks in the layer.
    fn chunk_count(&self) -> u32;

    /// The chunk of a number below [`chunk_count`](Self::chunk_count).
    fn chunk(&self, index: ChunkIndex) -> Result<ChunkSpan>;

    /// Size of the layer image, in bytes: a multiple of 4096.
    fn image_size(&self) -> u64;

    /// What the author of the image says of prefetching.
    fn prefetch_mark(&self) -> PrefetchMark {
        PrefetchMark::Absent
    }

    /// What a layer store must know to make the layer image.
    fn image_spec(&self) -> Result<ImageSpec> {
        let slots = (0..self.chunk_count())
            .map(|index| Ok(self.chunk(ChunkIndex(index))?.slot()))
            .collect::<Result<_>>()?;
        Ok(ImageSpec { toc: self.digest(), size: self.image_size(), slots })
    }
}
