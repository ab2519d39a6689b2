//! Keeps what passes through, so that a blob fetched piece by piece can be checked as a whole.
use std::{
    fmt,
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt as _,
    path::Path,
    sync::Arc,
};

use async_trait::async_trait;
use bolide_core::{
    BlobSource, ByteRange, Digest, Error, ErrorKind, ReadOptions, Result, SourceCapability,
};
use bytes::{Bytes, BytesMut};
use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use parking_lot::Mutex;
use tokio::task::{JoinHandle, spawn_blocking};

use super::{ranges::RangeSet, retry::collect};

/// Bytes read from the spool at a time: large enough to hide the cost of a blocking task.
const PIECE: u64 = 256 * 1024;

/// Writes what it streams to an unnamed, sparse file, and serves what that holds from there.
///
/// What a stream delivered is in the spool when its last piece is handed out; the pieces before are
/// written while the next ones arrive. The file takes no more room than the blob, and goes with the
/// last clone and reader. A spool that cannot be written or read is given up and everything comes
/// from the inner source: it never fails a read.
#[derive(Clone, Debug)]
pub struct SpoolSource {
    inner: Arc<dyn BlobSource>,
    spool: Arc<Spool>,
}

#[derive(Debug)]
struct Spool {
    file: Arc<File>,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    ranges: RangeSet,
    broken: bool,
}

impl Held {
    fn broken() -> Self {
        Self { broken: true, ..Self::default() }
    }
}

impl SpoolSource {
    /// Spools `inner` to a file in the directory `dir`.
    pub async fn create(inner: Arc<dyn BlobSource>, dir: &Path) -> Result<Self> {
        let dir = dir.to_owned();
        let made = spawn_blocking(move || {
            tempfile::tempfile_in(&dir).map_err(|error| {
                Error::io("spool::create", error).with_context("dir", dir.display())
            })
        });
        let file = made.await.unwrap_or_else(|error| Err(lost(error)))?;
        let spool = Spool { file: Arc::new(file), held: Mutex::default() };
        Ok(Self { inner, spool: Arc::new(spool) })
    }

    /// Adds bytes of the blob that were read before it was spooled, so that they need not be asked
    /// for again. Bytes past the end of the blob are not taken.
    pub async fn seed(&self, at: u64, bytes: Bytes) {
        let fits = at.checked_add(bytes.len() as u64).is_some_and(|end| end <= self.inner.size());
        if fits && !bytes.is_empty() {
            // It reports for itself.
            let _ = self.spool.write(at, bytes).await;
        }
    }

    /// Gives the spool's disk space back: nobody will check the blob any more. Reads go on from the
    /// inner source.
    pub async fn release(&self) {
        *self.spool.held.lock() = Held::broken();
        let file = Arc::clone(&self.spool.file);
        let cut = spawn_blocking(move || file.set_len(0)).await;
        if let Ok(Err(error)) = cut {
            tracing::warn!(%error, "a spool keeps its disk space until its layer is closed");
        }
    }

    /// Bytes that the spool holds.
    #[must_use]
    pub fn coverage(&self) -> u64 {
        self.spool.held.lock().ranges.len()
    }

    /// Ranges that the spool does not hold, in order. Reading them through this source fills them.
    #[must_use]
    pub fn missing(&self) -> Vec<ByteRange> {
        let whole = ByteRange::new(0..self.inner.size());
        whole.map_or_else(|_| Vec::new(), |whole| self.spool.held.lock().ranges.gaps(whole))
    }

    /// The whole blob, from its start. It reads a local file: use it off the runtime's workers.
    ///
    /// `FailedPrecondition` while something is missing, `Io` when the spool was given up.
    pub fn reader(&self) -> Result<SpoolReader> {
        let refuse = |kind, rule| {
            Error::new(kind, "spool::reader", rule).with_context("blob", self.inner.digest())
        };
        if self.spool.held.lock().broken {
            return Err(refuse(ErrorKind::Io, "the spool could not be written or read"));
        }
        let (held, size) = (self.coverage(), self.inner.size());
        if held < size {
            return Err(refuse(
                ErrorKind::FailedPrecondition,
                "the whole blob must be spooled first; read what is missing",
            )
            .with_context("missing", size - held));
        }
        Ok(SpoolReader { file: Arc::clone(&self.spool.file), at: 0, size })
    }
}

fn lost(error: tokio::task::JoinError) -> Error {
    Error::new(ErrorKind::Unexpected, "spool::run", "the blocking task did not finish")
        .with_source(error)
}

impl Spool {
    /// Writes a piece and remembers it. The task ends whether or not anybody waits for it.
    fn write(self: &Arc<Self>, at: u64, piece: Bytes) -> JoinHandle<()> {
        let spool = Arc::clone(self);
        spawn_blocking(move || {
            let Ok(range) = ByteRange::at(at, piece.len() as u64) else { return };
            match spool.file.write_all_at(&piece, at) {
                Ok(()) => spool.remember(range),
                Err(error) => spool.give_up(&error),
            }
        })
    }

    async fn read(self: &Arc<Self>, range: ByteRange) -> io::Result<Bytes> {
        let spool = Arc::clone(self);
        let read = spawn_blocking(move || {
            let mut bytes = BytesMut::zeroed(usize::try_from(range.len()).unwrap_or(0));
            let read = spool.file.read_exact_at(&mut bytes, range.start());
            read.inspect_err(|error| spool.give_up(error)).map(|()| bytes.freeze())
        });
        read.await.unwrap_or_else(|error| Err(io::Error::other(error)))
    }

    fn remember(&self, range: ByteRange) {
        let mut held = self.held.lock();
        if !held.broken {
            held.ranges.insert(range);
        }
    }

    /// Gives the spool up, and its disk space back: a full disk is why most writes fail. Blocks.
    fn give_up(&self, error: &io::Error) {
        let before = std::mem::replace(&mut *self.held.lock(), Held::broken());
        if !before.broken {
            tracing::warn!(%error, "a spool is given up; its layer will not be checked as a whole");
        }
        // Where it cannot be cut, it goes with its layer.
        let _ = self.file.set_len(0);
    }
}

/// One stream: pieces from the spool and from the inner source by turns.
struct Reading {
    source: SpoolSource,
    options: ReadOptions,
    at: u64,
    end: u64,
    /// What the spool lacks comes from here, up to this offset.
    inner: Option<(BoxStream<'static, Result<Bytes>>, u64)>,
    /// The write of the piece before. One at a time: a slow disk slows the stream.
    writing: Option<JoinHandle<()>>,
}

impl Reading {
    async fn next(mut self) -> Option<(Result<Bytes>, Self)> {
        loop {
            let rest = ByteRange::new(self.at..self.end).ok()?;
            let Some((pieces, end)) = &mut self.inner else {
                match self.decide(rest).await {
                    Some(piece) => return Some((Ok(piece), self)),
                    None => continue,
                }
            };
            let end = *end;
            let mut piece = match pieces.next().await {
                Some(Ok(piece)) => piece,
                ended => {
                    self.written().await;
                    self.at = self.end;
                    return ended.map(|error| (error, self));
                }
            };
            piece.truncate(usize::try_from(end - self.at).unwrap_or(usize::MAX));
            self.keep(&piece).await;
            if self.at == end {
                self.inner = None;
                // Who has the last piece may rely on the coverage.
                self.written().await;
            }
            return Some((Ok(piece), self));
        }
    }

    /// Reads what the spool has next, or turns to the inner source for what it lacks.
    async fn decide(&mut self, rest: ByteRange) -> Option<Bytes> {
        let spool = &self.source.spool;
        let (is_held, head) = spool.held.lock().ranges.head(rest);
        if is_held {
            let end = head.end().min(self.at + PIECE);
            let piece = ByteRange::new(self.at..end).unwrap_or(head);
            match spool.read(piece).await {
                Ok(bytes) => {
                    self.at = end;
                    return Some(bytes);
                }
                Err(_) => return None,
            }
        }
        let pieces = self.source.inner.stream(head, self.options);
        self.inner = Some((pieces, head.end()));
        None
    }

    async fn written(&mut self) {
        if let Some(writing) = self.writing.take() {
            // It reports for itself.
            let _ = writing.await;
        }
    }

    /// Starts writing a piece, after the one before.
    async fn keep(&mut self, piece: &Bytes) {
        self.written().await;
        if !self.source.spool.held.lock().broken {
            self.writing = Some(self.source.spool.write(self.at, piece.clone()));
        }
        self.at += piece.len() as u64;
    }
}

impl fmt::Display for SpoolSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpoolSource({})", self.inner)
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl BlobSource for SpoolSource {
    fn digest(&self) -> Digest {
        self.inner.digest()
    }

    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn capability(&self) -> SourceCapability {
        self.inner.capability()
    }

    fn stream(&self, range: ByteRange, options: ReadOptions) -> BoxStream<'static, Result<Bytes>> {
        if range.end() > self.size() {
            // It says what is wrong with that.
            return self.inner.stream(range, options);
        }
        let (source, at, end) = (self.clone(), range.start(), range.end());
        let reading = Reading { source, options, at, end, inner: None, writing: None };
        stream::unfold(reading, Reading::next).boxed()
    }

    async fn read_at(&self, range: ByteRange, options: ReadOptions) -> Result<Bytes> {
        collect(self.stream(range, options), self.digest(), range).await
    }
}

/// Reads a whole spooled blob from its start.
#[derive(Debug)]
pub struct SpoolReader {
    file: Arc<File>,
    at: u64,
    size: u64,
}

impl Read for SpoolReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.size - self.at).unwrap_or(usize::MAX);
        let len = buf.len().min(left);
        let read = self.file.read_at(&mut buf[..len], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use bolide_core::memory::MemoryBlob;

    use super::*;

    #[tokio::test]
    async fn a_spool_that_is_given_up_takes_no_room() {
        let blob = MemoryBlob::new(vec![7; 100_000]);
        let dir = tempfile::tempdir().expect("dir");
        let source = SpoolSource::create(Arc::new(blob), dir.path()).await.expect("made");
        let whole = ByteRange::new(0..source.size()).expect("not empty");
        source.read_at(whole, ReadOptions::default()).await.expect("read");
        let len = || source.spool.file.metadata().expect("open").len();
        assert_eq!(len(), source.size());
        // A disk that is full is the likeliest reason, and then the room is wanted elsewhere.
        source.spool.give_up(&io::ErrorKind::StorageFull.into());
        assert_eq!(len(), 0);
        source.read_at(whole, ReadOptions::default()).await.expect("from the source");
    }

    #[tokio::test]
    async fn a_spool_that_cannot_be_written_fails_no_read() {
        let bytes = Bytes::from_static(b"what the blob holds");
        // Opened for reading only.
        let file = Arc::new(File::open("/dev/null").expect("opens"));
        let spool = Arc::new(Spool { file, held: Mutex::default() });
        let source = SpoolSource { inner: Arc::new(MemoryBlob::new(bytes.clone())), spool };
        let whole = ByteRange::new(0..source.size()).expect("not empty");
        for _ in 0..2 {
            let read = source.read_at(whole, ReadOptions::default()).await;
            assert_eq!(read.expect("from the source"), bytes);
        }
        assert_eq!((source.coverage(), source.missing()), (0, vec![whole]));
        assert_eq!(source.reader().expect_err("nothing is spooled").kind(), ErrorKind::Io);
    }
}
