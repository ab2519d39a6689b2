//! Counts what goes to the network.
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bolide_core::{BlobSource, ByteRange, Digest, ReadOptions, Result, SourceCapability};
use bytes::Bytes;
use futures::{StreamExt as _, stream::BoxStream};
use tracing::Instrument as _;

#[derive(Debug, Default)]
struct Counters {
    requests: AtomicU64,
    bytes: AtomicU64,
    errors: AtomicU64,
}

/// Counters that any number of sources add to. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Meter(Arc<Counters>);

impl Meter {
    /// Starts at zero.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads started.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.0.requests.load(Ordering::Relaxed)
    }

    /// Bytes that arrived.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// Reads that failed.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.0.errors.load(Ordering::Relaxed)
    }

    /// Counts what is read outside of a source, a manifest for example, as one read.
    pub async fn count(&self, read: impl Future<Output = Result<Bytes>>) -> Result<Bytes> {
        self.started();
        let read = read.await;
        self.arrived(&read);
        read
    }

    pub(super) fn started(&self) {
        self.0.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn arrived(&self, piece: &Result<Bytes>) {
        match piece {
            Ok(piece) => self.0.bytes.fetch_add(piece.len() as u64, Ordering::Relaxed),
            Err(_) => self.0.errors.fetch_add(1, Ordering::Relaxed),
        };
    }
}

/// Counts the reads of a source and gives each a tracing span.
#[derive(Clone, Debug)]
pub struct MeteredSource {
    inner: Arc<dyn BlobSource>,
    meter: Meter,
}

impl MeteredSource {
    /// Adds the reads of `inner` to `meter`.
    #[must_use]
    pub fn new(inner: Arc<dyn BlobSource>, meter: Meter) -> Self {
        Self { inner, meter }
    }

    fn span(&self, range: ByteRange, options: ReadOptions) -> tracing::Span {
        let (blob, priority) = (self.inner.digest(), options.priority.name());
        tracing::debug_span!("blob_read", %blob, %range, priority)
    }
}

impl fmt::Display for MeteredSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MeteredSource({})", self.inner)
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl BlobSource for MeteredSource {
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
        self.meter.started();
        let span = self.span(range, options);
        let meter = self.meter.clone();
        let mut pieces = span.in_scope(|| self.inner.stream(range, options));
        futures::stream::poll_fn(move |task| {
            let polled = span.in_scope(|| pieces.poll_next_unpin(task));
            if let std::task::Poll::Ready(Some(piece)) = &polled {
                meter.arrived(piece);
            }
            polled
        })
        .boxed()
    }

    async fn read_at(&self, range: ByteRange, options: ReadOptions) -> Result<Bytes> {
        self.meter.started();
        let read = self.inner.read_at(range, options).instrument(self.span(range, options)).await;
        self.meter.arrived(&read);
        read
    }
}
