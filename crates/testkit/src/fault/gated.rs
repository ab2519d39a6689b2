//! A blob source that delivers no more than it is told to, and remembers what it was asked.
use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bolide_core::{
    BlobSource, ByteRange, Digest, Error, ErrorKind, ReadOptions, Result, SourceCapability,
};
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::watch;

/// Longest piece of a stream, in bytes.
const PIECE: u64 = 4096;

/// A source whose streams stop at a gate: bytes before it flow, the others wait until it moves.
#[derive(Clone, Debug)]
pub struct GatedSource {
    bytes: Bytes,
    digest: Digest,
    merge_gap: u64,
    gate: Arc<watch::Sender<u64>>,
    log: Arc<Mutex<Log>>,
}

#[derive(Debug, Default)]
struct Log {
    asked: Vec<ByteRange>,
    delivered: Vec<ByteRange>,
    open: usize,
    most_open: usize,
    fail_at: Option<u64>,
}

impl GatedSource {
    /// A source over `bytes` with this merge gap, in bytes, and a closed gate.
    #[must_use]
    pub fn new(bytes: impl Into<Bytes>, merge_gap: u64) -> Self {
        let bytes = bytes.into();
        let digest = Digest::of(&bytes);
        let gate = Arc::new(watch::Sender::new(0));
        Self { bytes, digest, merge_gap, gate, log: Arc::default() }
    }

    /// Lets the bytes before offset `to` of the blob flow.
    pub fn open_to(&self, to: u64) {
        self.gate.send_replace(to);
    }

    /// Lets everything flow.
    pub fn open(&self) {
        self.open_to(u64::MAX);
    }

    /// Makes the next stream that reaches offset `at` fail there, as `Unavailable`.
    pub fn fail_at(&self, at: u64) {
        self.log().fail_at = Some(at);
    }

    /// The ranges that were asked for, in order.
    #[must_use]
    pub fn asked(&self) -> Vec<ByteRange> {
        self.log().asked.clone()
    }

    /// Bytes delivered so far.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.log().delivered.iter().map(|range| range.len()).sum()
    }

    /// Whether a byte was delivered twice.
    #[must_use]
    pub fn repeated(&self) -> bool {
        overlap(self.log().delivered.clone())
    }

    /// Streams that neither ended nor were dropped.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.log().open
    }

    /// Most streams there were at once.
    #[must_use]
    pub fn most_in_flight(&self) -> usize {
        self.log().most_open
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn piece(&self, at: u64, end: u64) -> Result<Bytes> {
        let mut gate = self.gate.subscribe();
        // The sender is in `self`: it is not closed.
        let gate = gate.wait_for(|gate| *gate > at).await.map_or(u64::MAX, |gate| *gate);
        let mut log = self.log();
        if log.fail_at == Some(at) {
            log.fail_at = None;
            return Err(Error::new(ErrorKind::Unavailable, "gated_source::stream", "it broke"));
        }
        let stop = log.fail_at.filter(|stop| *stop > at).unwrap_or(u64::MAX);
        let piece = ByteRange::new(at..end.min(gate).min(stop).min(at + PIECE))?;
        log.delivered.push(piece);
        let bound = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
        Ok(self.bytes.slice(bound(piece.start())..bound(piece.end())))
    }
}

/// Whether two of these ranges share a byte.
#[must_use]
pub fn overlap(mut ranges: Vec<ByteRange>) -> bool {
    ranges.sort_unstable();
    ranges.windows(2).any(|pair| pair[0].intersection(pair[1]).is_some())
}

/// Counts a stream until it is dropped.
struct Open(GatedSource);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.log().open -= 1;
    }
}

impl fmt::Display for GatedSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gated({})", self.digest)
    }
}

#[async_trait]
impl BlobSource for GatedSource {
    fn digest(&self) -> Digest {
        self.digest
    }

    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn capability(&self) -> SourceCapability {
        SourceCapability::default().with_merge_gap(self.merge_gap)
    }

    fn stream(&self, range: ByteRange, _: ReadOptions) -> BoxStream<'static, Result<Bytes>> {
        let mut log = self.log();
        log.asked.push(range);
        log.open += 1;
        log.most_open = log.most_open.max(log.open);
        drop(log);
        let open = Open(self.clone());
        if range.end() > self.size() {
            let error = Error::new(ErrorKind::OutOfRange, "gated_source::stream", "past the end");
            return stream::iter([Err(error)]).boxed();
        }
        stream::unfold((open, range.start()), move |(open, at)| async move {
            if at >= range.end() {
                return None;
            }
            let piece = open.0.piece(at, range.end()).await;
            let at = piece.as_ref().map_or(range.end(), |piece| at + piece.len() as u64);
            Some((piece, (open, at)))
        })
        .boxed()
    }
}
