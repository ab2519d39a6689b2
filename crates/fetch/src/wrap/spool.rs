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

    fn piece_past(&self, range: ByteRange, options: ReadOptions) -> Option<Passing> {
        (range.end() > self.inner.size()).then(|| Passing::Through {
            pieces: self.inner.stream(range, options),
            end: range.end(),
        })
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
                Ok(()) => spool.held.lock().ranges.insert(range),
                Err(error) => spool.give_up(&error),
            }
        })
    }

    async fn read(self: &Arc<Self>, range: ByteRange) -> io::Result<Bytes> {
        let spool = Arc::clone(self);
        let read = spawn_blocking(move || {
            let mut bytes = BytesMut::zeroed(usize::try_from(range.len()).unwrap_or(0));
            spool.file.read_exact_at(&mut bytes, range.start())?;
            Ok(bytes.freeze())
        });
        read.await.unwrap_or_else(|error| Err(io::Error::other(error)))
    }

    fn give_up(&self, error: &io::Error) {
        let mut held = self.held.lock();
        if !held.broken {
            tracing::warn!(%error, "a spool is given up; its layer will not be checked as a whole");
        }
        *held = Held { broken: true, ..Held::default() };
    }
}

/// One stream: pieces from the spool and from the inner source by turns.
struct Reading {
    source: SpoolSource,
    options: ReadOptions,
    at: u64,
    end: u64,
    from: Passing,
    /// The write of the piece before. One at a time: a slow disk slows the stream.
    writing: Option<JoinHandle<()>>,
}

/// Where the next piece comes from.
enum Passing {
    /// Not known yet.
    Undecided,
    /// The inner source, up to `end`.
    Through { pieces: BoxStream<'static, Result<Bytes>>, end: u64 },
}

impl Reading {
    async fn next(mut self) -> Option<(Result<Bytes>, Self)> {
        loop {
            let rest = ByteRange::new(self.at..self.end).ok()?;
            let Passing::Through { pieces, end } = &mut self.from else {
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
                self.from = Passing::Undecided;
                // Who has the last piece may rely on the coverage.
                self.written().await;
            }
            return Some((Ok(piece), self));
        }
    }

    /// Reads what the spool has next, or turns to the inner source for what it lacks.
    async fn decide(&mut self, rest: ByteRange) -> Option<Bytes> {
        let spool = &self.source.spool;
        let (held, head) = spool.held.lock().ranges.head(rest);
        if held {
            let end = head.end().min(self.at + PIECE);
            let piece = ByteRange::new(self.at..end).unwrap_or(head);
            match spool.read(piece).await {
                Ok(bytes) => {
                    self.at = end;
                    return Some(bytes);
                }
                Err(error) => {
                    spool.give_up(&error);
                    return None;
                }
            }
        }
        let pieces = self.source.inner.stream(head, self.options);
        self.from = Passing::Through { pieces, end: head.end() };
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
        let from = self.piece_past(range, options).unwrap_or(Passing::Undecided);
        let (source, at, end) = (self.clone(), range.start(), range.end());
        let reading = Reading { source, options, at, end, from, writing: None };
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
