//! Random access to one immutable, remote blob.
use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, stream::BoxStream};

use crate::{ByteRange, Digest, Error, ErrorKind, Priority, Result};

/// What a [`BlobSource`] can do natively. Wrappers may narrow it, never lie about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SourceCapability {
    /// Smallest gap between two wanted ranges, in bytes, for which two requests beat one that
    /// reads the gap too. Planners merge across smaller gaps.
    pub merge_gap: u64,
    /// Whether reads work without the network (a local file, a content store).
    pub local: bool,
}

impl Default for SourceCapability {
    fn default() -> Self {
        // 32 KiB cost 2.6 ms on a 100 Mbit/s line, an eighth of a 20 ms round trip.
        Self { merge_gap: 32 * 1024, local: false }
    }
}

impl SourceCapability {
    /// Sets the merge gap, in bytes.
    #[must_use]
    pub const fn with_merge_gap(mut self, gap: u64) -> Self {
        self.merge_gap = gap;
        self
    }

    /// Says whether reads stay on this machine.
    #[must_use]
    pub const fn with_local(mut self, local: bool) -> Self {
        self.local = local;
        self
    }
}

/// How to perform one read.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct ReadOptions {
    /// Orders this read against the others in flight.
    pub priority: Priority,
}

impl ReadOptions {
    /// Sets the priority.
    #[must_use]
    pub const fn with_priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }
}

/// Random access to one immutable blob, named by its digest.
///
/// # Contract
///
/// * **Exact.** A read returns exactly the bytes asked for or fails; it is never short.
/// * **Immutable.** The same range always yields the same bytes, or an error.
/// * **Unverified.** Bytes have not been checked against any digest. Callers turn them into a
///   [`VerifiedChunk`](crate::VerifiedChunk) before anyone else sees them.
/// * **In bounds.** A range that ends past [`size`](Self::size) is `OutOfRange`, without a request.
/// * **Ordered stream.** [`stream`](Self::stream) yields the range in order, in non-empty pieces of
///   any size, owns what it needs, and ends after an error.
/// * **Cancel-safe.** Dropping a future or stream stops the work and leaks no permit or connection.
/// * **No hidden policy.** Retries, limits, mirrors and timeouts are wrappers, not the source's
///   own loops, so that each is written and tested once.
///
/// Wrappers must forward every method: put `#[deny(clippy::missing_trait_methods)]` on the impl.
#[async_trait]
pub trait BlobSource: fmt::Debug + fmt::Display + Send + Sync + 'static {
    /// Digest of the whole blob, as the manifest names it.
    fn digest(&self) -> Digest;

    /// Size of the whole blob in bytes.
    fn size(&self) -> u64;

    /// What this source can do natively.
    fn capability(&self) -> SourceCapability;

    /// Streams a range in order.
    fn stream(&self, range: ByteRange, options: ReadOptions) -> BoxStream<'static, Result<Bytes>>;

    /// Reads one range into memory. The provided method collects [`stream`](Self::stream).
    async fn read_at(&self, range: ByteRange, options: ReadOptions) -> Result<Bytes> {
        let mut pieces = self.stream(range, options);
        let Some(first) = pieces.next().await.transpose()? else {
            return Err(short(self.digest(), range, 0));
        };
        if first.len() as u64 == range.len() {
            return Ok(first);
        }
        let mut whole = BytesMut::from(first);
        while let Some(piece) = pieces.next().await.transpose()? {
            whole.extend_from_slice(&piece);
        }
        if whole.len() as u64 == range.len() {
            Ok(whole.freeze())
        } else {
            Err(short(self.digest(), range, whole.len()))
        }
    }
}

fn short(digest: Digest, range: ByteRange, got: usize) -> Error {
    Error::new(ErrorKind::Unavailable, "blob_source::read_at", "the source ended early")
        .with_context("blob", digest)
        .with_context("range", range)
        .with_context("got", got)
}

/// What a manifest says of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlobRef {
    /// Digest of the blob.
    pub digest: Digest,
    /// Size of the blob in bytes, where the manifest is at hand. Saves a request with servers that
    /// do not know suffix ranges.
    pub size: Option<u64>,
}

/// A blob that was opened, and what was read of its end on the way.
#[derive(Clone, Debug)]
pub struct OpenedBlob {
    /// The blob.
    pub source: Arc<dyn BlobSource>,
    /// The last bytes of the blob, up to its end; empty when none were asked for.
    pub tail: Bytes,
}

/// Opens the blobs of one place: a repository of a registry, a bucket, a directory.
///
/// # Contract
///
/// * **One round trip.** Where the server can, size and tail come with one request.
/// * **Exact size.** The source's size is the server's word, checked against
///   [`BlobRef::size`] when that is given; `Corrupt` when they differ.
/// * **Honest tail.** `tail` holds the last `min(tail_hint, size)` bytes, no fewer.
/// * **`NotFound`** when the place does not hold the blob.
#[async_trait]
pub trait BlobOpener: fmt::Debug + Send + Sync + 'static {
    /// Opens a blob and reads its last `tail_hint` bytes.
    async fn open(&self, blob: BlobRef, tail_hint: u64) -> Result<OpenedBlob>;
}
