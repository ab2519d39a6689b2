//! Reads file content: what is present from the layer image, the rest after filling it.
use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bolide_core::{
    AccessEvent, AccessSink, BlobSource, ByteRange, ChunkCache, ChunkSpan, Error, ErrorKind,
    FetchTarget, FileReader, FillReport, LayerImage, LayerStatus, LayerStore, NodeId, Priority,
    Result, Scheduler, StatusSource, TocIndex,
};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::timeout;
use tracing::Instrument as _;

use super::{ReadConfig, WorkerPool, flights::Flights, gather, plan};

/// What a pipeline is made of.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) index: Arc<dyn TocIndex>,
    pub(crate) image: Arc<dyn LayerImage>,
    pub(crate) store: Arc<dyn LayerStore>,
    pub(crate) source: Arc<dyn BlobSource>,
    pub(crate) scheduler: Arc<dyn Scheduler>,
    pub(crate) caches: Vec<Arc<dyn ChunkCache>>,
    pub(crate) access: Option<Arc<dyn AccessSink>>,
    pub(crate) workers: WorkerPool,
    pub(crate) config: ReadConfig,
}

/// The read pipeline of one layer.
#[derive(Clone, Debug)]
pub(crate) struct Pipeline {
    pub(super) parts: Arc<Parts>,
    pub(super) flights: Flights,
    pub(super) fetched: Arc<AtomicU64>,
    pub(super) last_error: Arc<Mutex<Option<String>>>,
    /// Whether it was told that nothing is missing any more.
    pub(super) complete: Arc<AtomicBool>,
}

impl Pipeline {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            parts: Arc::new(parts),
            flights: Flights::default(),
            fetched: Arc::default(),
            last_error: Arc::default(),
            complete: Arc::default(),
        }
    }

    /// Stops fetches under way and waits for their end.
    pub(crate) async fn close(&self) {
        self.flights.close().await;
    }

    fn missing<'a>(&'a self, spans: &'a [ChunkSpan]) -> impl Iterator<Item = &'a ChunkSpan> {
        spans.iter().filter(|span| !self.parts.image.is_present(span.index))
    }

    /// The same, for a process that does not wait for ever.
    async fn fill_in_time(&self, members: Vec<ByteRange>, priority: Priority) -> Result<()> {
        let deadline = self.parts.config.on_demand_timeout;
        let members = members.into_iter().map(|member| (member, None));
        let filled = timeout(deadline, self.fill_members(members, priority)).await;
        filled.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::Unavailable,
                "pipeline::read",
                "the bytes did not arrive in time",
            )
            .with_context("blob", self.parts.source.digest())
            .with_context("seconds", deadline.as_secs()))
        })
    }

    pub(super) fn note(&self, event: impl FnOnce() -> AccessEvent) {
        if let Some(access) = &self.parts.access {
            access.record(self.parts.index.digest(), event());
        }
    }

    /// The part of a wish that lies inside the file.
    fn clamp(&self, file: NodeId, range: &Range<u64>) -> Result<Range<u64>> {
        let size = self.parts.index.attr(file)?.size;
        let end = range.end.min(size);
        gather::check(range.start.min(end)..end)
    }
}

#[async_trait]
impl FileReader for Pipeline {
    fn try_read(&self, file: NodeId, range: Range<u64>) -> Option<Result<Bytes>> {
        let read = || -> Result<Option<Bytes>> {
            let range = self.clamp(file, &range)?;
            let spans = plan::spans(&*self.parts.index, file, range.clone())?;
            if self.missing(&spans).next().is_some() {
                return Ok(None);
            }
            gather::gather(&*self.parts.image, &spans, &range)
        };
        let found = read().transpose()?;
        self.note(|| AccessEvent::Read { file, range, hit: true });
        Some(found)
    }

    async fn read(&self, file: NodeId, range: Range<u64>, priority: Priority) -> Result<Bytes> {
        let range = self.clamp(file, &range)?;
        let spans = plan::spans(&*self.parts.index, file, range.clone())?;
        let members = plan::members(self.missing(&spans));
        self.note(|| AccessEvent::Read { file, range: range.clone(), hit: members.is_empty() });
        // What is there already costs no span.
        if !members.is_empty() {
            let span = tracing::debug_span!(
                "read_on_demand",
                blob = %self.parts.source.digest(),
                file = %self.parts.index.path(file).unwrap_or_default().display(),
                offset = range.start,
                len = range.end - range.start,
                chunks = self.missing(&spans).count(),
                fetched_bytes = members.iter().map(|member| member.len()).sum::<u64>(),
            );
            let filled = self.fill_in_time(members, priority).instrument(span).await;
            // A neighbour in the same member may be what failed.
            if self.missing(&spans).next().is_some() {
                filled?;
            }
        }
        let image = Arc::clone(&self.parts.image);
        let read = move || gather::gather(&*image, &spans, &range);
        self.parts.workers.run(read).await?.ok_or_else(|| {
            Error::new(
                ErrorKind::Unexpected,
                "pipeline::read",
                "a chunk is absent after it was filled",
            )
        })
    }

    async fn fill(&self, target: &FetchTarget, priority: Priority) -> Result<FillReport> {
        let spans = plan::target_spans(&*self.parts.index, target)?;
        let members = plan::members(self.missing(&spans));
        let missing = self.missing(&spans).count();
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let report = FillReport {
            chunks: count(spans.len()),
            hits: count(spans.len() - missing),
            fetched_bytes: members.iter().map(|member| member.len()).sum(),
        };
        let members = self.ask(members, priority).await?;
        self.fill_members(members, priority).await?;
        Ok(report)
    }
}

impl StatusSource for Pipeline {
    fn status(&self) -> LayerStatus {
        LayerStatus {
            blob: self.parts.source.digest(),
            toc: self.parts.index.digest(),
            blob_size: self.parts.source.size(),
            fetched_bytes: self.fetched.load(Ordering::Relaxed),
            presence: self.parts.image.presence(),
            error: self.last_error.lock().clone(),
        }
    }
}
