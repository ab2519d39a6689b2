//! Where a layer's decompressed, verified bytes lie.
use std::{fmt, os::fd::BorrowedFd, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{ChunkIndex, ChunkKey, ChunkVerifier, Digest, Error, ErrorKind, Result, VerifiedChunk};

/// Where one chunk lies in a layer image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkSlot {
    /// Number of the chunk in its layer.
    pub index: ChunkIndex,
    /// Offset in the layer image, in bytes.
    pub image_offset: u64,
    /// What belongs there.
    pub key: ChunkKey,
}

/// The shape of a layer image: made from an index, enough to make or check the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSpec {
    /// Digest of the layer's TOC; names the image.
    pub toc: Digest,
    /// Size of the image, in bytes.
    pub size: u64,
    /// Every chunk, in the order of its number.
    pub slots: Vec<ChunkSlot>,
}

/// How much of a layer image is present.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Presence {
    /// Chunks present.
    pub chunks: u32,
    /// Chunks in the layer.
    pub chunks_total: u32,
    /// Uncompressed bytes present.
    pub bytes: u64,
    /// Uncompressed bytes in the layer.
    pub bytes_total: u64,
}

impl Presence {
    /// Whether nothing is missing.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.chunks == self.chunks_total
    }
}

/// The decompressed, verified bytes of one layer: a sparse file and a record of what it holds.
///
/// # Contract
///
/// * **A set bit is the truth.** [`is_present`](Self::is_present) answers `true` only after the
///   whole chunk matched its digest and was written. It never goes back to `false`.
/// * **Durable in order.** What a later process finds present was on the disk before the record
///   said so, whatever was lost between any two system calls.
/// * **No zeros.** [`try_read`](Self::try_read) of an absent chunk is `Ok(false)`, never a hole.
/// * **Exclusive writes.** Unverified bytes (a [`SlotWriter`]'s) never touch a present chunk.
/// * **Idempotent.** Filling a present chunk again is allowed and does nothing.
/// * **All or nothing.** A failed fill leaves the chunk absent and harms no other chunk.
#[async_trait]
pub trait LayerImage: fmt::Debug + Send + Sync + 'static {
    /// Digest of the TOC that names this image.
    fn toc_digest(&self) -> Digest;

    /// Whether a chunk may be read. Lock-free.
    fn is_present(&self, chunk: ChunkIndex) -> bool;

    /// How much is present.
    fn presence(&self) -> Presence;

    /// Reads `buf.len()` bytes at `offset` of a chunk; `Ok(false)` when the chunk is absent.
    ///
    /// Synchronous local I/O: call it from a thread that may block. `OutOfRange` when the bytes
    /// reach past the end of the chunk.
    fn try_read(&self, slot: &ChunkSlot, offset: u64, buf: &mut [u8]) -> Result<bool>;

    /// Writes a chunk and marks it present. `Malformed` when the chunk is not the slot's.
    async fn fill(&self, slot: &ChunkSlot, chunk: VerifiedChunk) -> Result<()>;

    /// Begins to write a chunk that is too large to hold; `None` when it is present already.
    ///
    /// Waits for another writer of the same chunk to end. Use it through [`SlotFill`].
    async fn writer(&self, slot: &ChunkSlot) -> Result<Option<Box<dyn SlotWriter>>>;

    /// The file itself, for mounters that let the kernel read it. Absent chunks are holes there:
    /// whoever hands it on answers for presence.
    fn descriptor(&self) -> Option<BorrowedFd<'_>>;

    /// Makes everything filled so far durable.
    async fn sync(&self) -> Result<()>;
}

/// Writes one chunk in pieces. Dropped without [`commit`](Self::commit), the chunk stays absent.
#[async_trait]
pub trait SlotWriter: fmt::Debug + Send {
    /// Writes the next bytes of the chunk.
    async fn write(&mut self, bytes: Bytes) -> Result<()>;

    /// Marks the chunk present. The proof must be for the slot's key.
    async fn commit(self: Box<Self>, proof: crate::ChunkProof) -> Result<()>;
}

/// Streams one chunk into a layer image, checking exactly the bytes it writes.
#[derive(Debug)]
pub struct SlotFill {
    writer: Box<dyn SlotWriter>,
    verifier: ChunkVerifier,
}

impl SlotFill {
    /// Begins to fill `slot`; `None` when it is present already.
    pub async fn begin(image: &dyn LayerImage, slot: &ChunkSlot) -> Result<Option<Self>> {
        let writer = image.writer(slot).await?;
        Ok(writer.map(|writer| Self { writer, verifier: ChunkVerifier::new(slot.key) }))
    }

    /// Writes the next bytes.
    pub async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.verifier.update(&bytes)?;
        self.writer.write(bytes).await
    }

    /// Compares the digest and marks the chunk present; `Corrupt` leaves it absent.
    pub async fn finish(self) -> Result<()> {
        let proof = self.verifier.finish()?;
        self.writer.commit(proof).await
    }
}

/// Small files kept beside a layer image, by TOC digest, so that a second mount needs no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Artifact {
    /// The TOC document, as it was in the blob.
    Toc,
    /// What was learned of the blob (size, where the TOC starts, format), as JSON.
    Blob,
    /// Which bytes a start needs, in order.
    Profile,
    /// What a check of the whole blob found, as JSON.
    Verdict,
}

impl Artifact {
    /// All artifacts.
    pub const ALL: [Self; 4] = [Self::Toc, Self::Blob, Self::Profile, Self::Verdict];

    /// File name of the artifact.
    #[must_use]
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::Toc => "toc.json",
            Self::Blob => "blob.json",
            Self::Profile => "profile.json",
            Self::Verdict => "verdict.json",
        }
    }
}

/// What one layer costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerUsage {
    /// Digest of its TOC.
    pub toc: Digest,
    /// Bytes the layer occupies on the medium, artifacts included.
    pub disk_bytes: u64,
    /// Presence, where the image is open or could be read.
    pub presence: Presence,
}

/// Holds the layer images of a node.
///
/// # Contract
///
/// * **One image per TOC.** [`open`](Self::open) with an equal spec returns the same image while
///   anyone holds it, and finds it again, with what is durable in it, after a restart.
/// * **A spec is a promise.** An image on the medium whose shape differs from the spec was not
///   made from this TOC: it is discarded and made anew, never read.
/// * **Local copies.** [`copy_local`](Self::copy_local) finds a chunk in any image by its content
///   and verifies it again on the way; bytes that no longer match are not copied.
/// * **Artifacts are whole.** [`put_artifact`](Self::put_artifact) is atomic: a reader sees the old
///   bytes or the new.
/// * **Removal frees.** After [`remove`](Self::remove) the disk space is given back as soon as
///   nobody holds the image.
#[async_trait]
pub trait LayerStore: fmt::Debug + Send + Sync + 'static {
    /// Opens an image, making it when it does not exist.
    async fn open(&self, spec: ImageSpec) -> Result<Arc<dyn LayerImage>>;

    /// Fills `slot` of `target` from another image that holds the same chunk; `false` when none
    /// does.
    async fn copy_local(&self, target: &dyn LayerImage, slot: &ChunkSlot) -> Result<bool>;

    /// Keeps a small file beside the image of `toc`, replacing an earlier one.
    async fn put_artifact(&self, toc: Digest, artifact: Artifact, bytes: Bytes) -> Result<()>;

    /// Reads a small file kept beside the image of `toc`.
    async fn artifact(&self, toc: Digest, artifact: Artifact) -> Result<Option<Bytes>>;

    /// Removes image and artifacts of `toc`, present or not.
    async fn remove(&self, toc: Digest) -> Result<()>;

    /// Every layer held, in the order of digests.
    async fn list(&self) -> Result<Vec<LayerUsage>>;
}

impl ImageSpec {
    /// Checks that slots are numbered from 0, lie in order without overlap, and end within the size.
    pub fn check(&self) -> Result<()> {
        let mut end = 0;
        for (number, slot) in self.slots.iter().enumerate() {
            let next = slot.image_offset.checked_add(slot.key.len);
            let ordered = slot.index.0 as usize == number && slot.image_offset >= end;
            match next {
                Some(next) if ordered && slot.key.len > 0 && next <= self.size => end = next,
                _ => {
                    return Err(Error::new(
                        ErrorKind::Malformed,
                        "image_spec::check",
                        "chunks of a layer image must be numbered in order, not empty, not overlap and end inside it",
                    )
                    .with_context("toc", self.toc)
                    .with_context("chunk", number));
                }
            }
        }
        Ok(())
    }
}
