//! A blob source with one fault.
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bolide_core::{
    BlobSource, ByteRange, Digest, Error, ErrorKind, ReadOptions, Result, SourceCapability,
};
use bytes::Bytes;
use futures::{
    StreamExt as _, future,
    stream::{self, BoxStream},
};

/// How a [`FaultySource`] misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceFault {
    /// It does not; it only counts.
    None,
    /// The byte at this offset of the blob is flipped.
    Flipped(u64),
    /// Every stream ends one byte early, without an error.
    Short,
    /// The first so many streams fail as `Unavailable`, after half of their bytes.
    Broken(u64),
    /// Nothing ever arrives.
    Stalled,
    /// Every stream fails as `NotFound`: the place lost the blob.
    Gone,
    /// Bytes past the end are answered with zeros.
    Unbounded,
    /// It says that the blob is one byte longer.
    WrongSize,
    /// Every other stream starts one byte late.
    Unsteady,
    /// Streams panic when they are polled.
    Panics,
}

/// A source around another that misbehaves in one way, and counts requests and bytes.
#[derive(Debug)]
pub struct FaultySource {
    inner: Arc<dyn BlobSource>,
    fault: SourceFault,
    requests: AtomicU64,
    bytes: Arc<AtomicU64>,
}

impl FaultySource {
    /// Wraps `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn BlobSource>, fault: SourceFault) -> Self {
        Self { inner, fault, requests: AtomicU64::new(0), bytes: Arc::default() }
    }

    /// Streams asked for so far.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }

    /// Bytes delivered so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::SeqCst)
    }

    fn delivered(
        &self,
        range: ByteRange,
        options: ReadOptions,
    ) -> BoxStream<'static, Result<Bytes>> {
        let count = Arc::clone(&self.bytes);
        let counted = self.inner.stream(range, options).inspect(move |piece| {
            let len = piece.as_ref().map_or(0, |piece| piece.len() as u64);
            count.fetch_add(len, Ordering::SeqCst);
        });
        counted.boxed()
    }

    fn partly(
        &self,
        range: ByteRange,
        len: u64,
        options: ReadOptions,
    ) -> BoxStream<'static, Result<Bytes>> {
        match ByteRange::at(range.start(), len) {
            Ok(part) => self.delivered(part, options),
            Err(_) => stream::empty().boxed(),
        }
    }
}

impl fmt::Display for FaultySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Faulty({:?}, {})", self.fault, self.inner)
    }
}

#[async_trait]
impl BlobSource for FaultySource {
    fn digest(&self) -> Digest {
        self.inner.digest()
    }

    fn size(&self) -> u64 {
        self.inner.size() + u64::from(self.fault == SourceFault::WrongSize)
    }

    fn capability(&self) -> SourceCapability {
        self.inner.capability()
    }

    fn stream(&self, range: ByteRange, options: ReadOptions) -> BoxStream<'static, Result<Bytes>> {
        let number = self.requests.fetch_add(1, Ordering::SeqCst);
        match self.fault {
            SourceFault::Flipped(at) => flip(self.delivered(range, options), range.start(), at),
            SourceFault::Short => self.partly(range, range.len() - 1, options),
            SourceFault::Broken(times) if number < times => {
                let half = self.partly(range, range.len() / 2, options);
                half.chain(stream::iter([Err(broken(range))])).boxed()
            }
            SourceFault::Panics => {
                stream::once(async { panic!("a source that panics on purpose") }).boxed()
            }
            SourceFault::Stalled => stream::once(future::pending()).boxed(),
            SourceFault::Gone => stream::iter([Err(gone(range))]).boxed(),
            SourceFault::Unbounded if range.end() > self.inner.size() => {
                let zeros = vec![0; usize::try_from(range.len()).unwrap_or(0)];
                stream::iter([Ok(Bytes::from(zeros))]).boxed()
            }
            SourceFault::Unsteady if number % 2 == 1 => {
                let late =
                    ByteRange::new(range.start().saturating_sub(1)..range.end().saturating_sub(1));
                self.delivered(late.unwrap_or(range), options)
            }
            _ => self.delivered(range, options),
        }
    }
}

fn flip(
    pieces: BoxStream<'static, Result<Bytes>>,
    start: u64,
    at: u64,
) -> BoxStream<'static, Result<Bytes>> {
    let mut position = start;
    let flipped = pieces.map(move |piece| {
        let mut bytes = Vec::from(piece?);
        let inside = at.checked_sub(position).and_then(|offset| usize::try_from(offset).ok());
        if let Some(byte) = inside.and_then(|offset| bytes.get_mut(offset)) {
            *byte ^= 1;
        }
        position += bytes.len() as u64;
        Ok(Bytes::from(bytes))
    });
    flipped.boxed()
}

fn gone(range: ByteRange) -> Error {
    Error::new(ErrorKind::NotFound, "faulty_source::stream", "the server does not have it")
        .with_context("range", range)
}

fn broken(range: ByteRange) -> Error {
    Error::new(ErrorKind::Unavailable, "faulty_source::stream", "the connection broke")
        .with_context("range", range)
}
