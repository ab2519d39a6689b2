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
    FetchRequest, FetchTarget, Fetched, FileReader, FillReport, LayerImage, LayerStatus,
    LayerStore, NodeId, Priority, Result, Scheduler, StatusSource, TocIndex, VerifiedChunk,
};
use bytes::Bytes;
use futures::{
    StreamExt as _,
    stream::{self, FuturesUnordered},
};
use parking_lot::Mutex;
use tokio::{runtime::Handle, time::timeout};
use tracing::Instrument as _;

use super::{
    ReadConfig, WorkerPool, decode,
    flights::{Flights, Urgency, Work},
    gather, plan,
    stream_fill::StreamFill,
};

/// Largest decoded member held in memory, in bytes; larger ones are streamed.
const MAX_DECODED: u64 = 64 << 20;

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
    parts: Arc<Parts>,
    flights: Flights,
    fetched: Arc<AtomicU64>,
    last_error: Arc<Mutex<Option<String>>>,
    /// Whether it was told that nothing is missing any more.
    complete: Arc<AtomicBool>,
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

    /// Makes the chunks of these members present. A corrupt one fails the whole, after the others:
    /// what else fails will fail them too.
    async fn fill_members(&self, members: Vec<ByteRange>, priority: Priority) -> Result<()> {
        let filling = members.into_iter().map(|member| {
            let pipeline = self.clone();
            let work = move |urgency| -> Work {
                // The task is another; its trace is that of who started it.
                let filled = async move { pipeline.fill_member(member, urgency).await };
                Box::pin(filled.in_current_span())
            };
            self.flights.join(member.start(), priority, work)
        });
        let mut filling =
            stream::iter(filling).buffer_unordered(self.parts.config.fill_concurrency.max(1));
        let mut all = Ok(());
        while let Some(filled) = filling.next().await {
            match filled {
                Err(error) if error.kind() == ErrorKind::Corrupt => all = all.and(Err(error)),
                other => other?,
            }
        }
        all
    }

    /// The same, for a process that does not wait for ever.
    async fn fill_in_time(&self, members: Vec<ByteRange>, priority: Priority) -> Result<()> {
        let deadline = self.parts.config.on_demand_timeout;
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

    async fn fill_member(&self, member: ByteRange, urgency: Urgency) -> Result<()> {
        let filled = self.try_fill_member(member, urgency).await;
        if let Err(error) = &filled {
            tracing::error!(blob = %self.parts.source.digest(), %member, %error, "a member cannot be filled");
        }
        *self.last_error.lock() = filled.as_ref().err().map(ToString::to_string);
        let complete = self.parts.image.presence().is_complete();
        if complete && !self.complete.swap(true, Ordering::Relaxed) {
            self.note(|| AccessEvent::Complete);
        }
        filled
    }

    async fn try_fill_member(&self, member: ByteRange, mut urgency: Urgency) -> Result<()> {
        let mut wanted = Vec::new();
        for span in plan::chunks_of(&*self.parts.index, member)? {
            if !self.parts.image.is_present(span.index) && !self.fill_from_node(&span).await {
                wanted.push(span);
            }
        }
        let decoded = wanted.iter().map(decode::end_of).max().unwrap_or(0);
        if wanted.is_empty() {
            return Ok(());
        }
        if member.len() > self.parts.scheduler.max_len() || decoded > MAX_DECODED {
            return self.fill_streamed(member, wanted, &mut urgency).await;
        }
        self.fill_held(member, wanted, &mut urgency).await
    }

    /// Finds a chunk in another layer's image or in a cache tier. A failure there is only a miss.
    async fn fill_from_node(&self, span: &ChunkSpan) -> bool {
        let parts = &self.parts;
        match parts.store.copy_local(&*parts.image, &span.slot()).await {
            Ok(true) => return true,
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "a chunk of another layer cannot be copied"),
        }
        for cache in &parts.caches {
            let filled = match cache.get(&span.key).await {
                Ok(Some(chunk)) => parts.image.fill(&span.slot(), chunk).await.map(|()| true),
                Ok(None) => Ok(false),
                Err(error) => Err(error),
            };
            match filled {
                Ok(true) => return true,
                Ok(false) => {}
                Err(error) => tracing::warn!(cache = cache.name(), %error, "a cache tier failed"),
            }
        }
        false
    }

    fn request(&self, range: ByteRange, priority: Priority) -> FetchRequest {
        FetchRequest { source: Arc::clone(&self.parts.source), range, priority }
    }

    /// Fetches. When somebody in more of a hurry joins, asks again with that urgency: the scheduler
    /// joins equal ranges and takes it over. The first answer counts.
    async fn fetch(&self, range: ByteRange, urgency: &mut Urgency) -> Result<Fetched> {
        let priority = *urgency.borrow();
        let blob = self.parts.source.digest();
        let span = tracing::debug_span!("fetch", %blob, %range, len = range.len(), priority = priority.name());
        self.fetch_hurried(range, urgency).instrument(span).await
    }

    async fn fetch_hurried(&self, range: ByteRange, urgency: &mut Urgency) -> Result<Fetched> {
        let ask = |priority| self.parts.scheduler.fetch(self.request(range, priority));
        let mut asked = FuturesUnordered::from_iter([ask(*urgency.borrow_and_update())]);
        let fetched = loop {
            tokio::select! {
                biased;
                Some(fetched) = asked.next() => break fetched?,
                Ok(()) = urgency.changed() => asked.push(ask(*urgency.borrow_and_update())),
            }
        };
        self.fetched.fetch_add(range.len(), Ordering::Relaxed);
        Ok(fetched)
    }

    async fn fill_held(
        &self,
        member: ByteRange,
        wanted: Vec<ChunkSpan>,
        urgency: &mut Urgency,
    ) -> Result<()> {
        let parts = &self.parts;
        let fetched = self.fetch(member, urgency).await?;
        let spans = wanted.clone();
        let decoded = parts
            .workers
            .run_in_turn(urgency, move || Ok(decode::decode(fetched.bytes(), &spans)))
            .instrument(tracing::debug_span!("decode", chunks = wanted.len()))
            .await?;
        let span = tracing::debug_span!("write", chunks = wanted.len());
        self.write_all(&wanted, decoded).instrument(span).await
    }

    /// Puts chunks where readers find them, as far as they were decoded.
    async fn write_all(
        &self,
        wanted: &[ChunkSpan],
        decoded: Vec<Result<VerifiedChunk>>,
    ) -> Result<()> {
        let parts = &self.parts;
        let mut all = Ok(());
        for (span, chunk) in wanted.iter().zip(decoded) {
            let chunk = match chunk {
                Ok(chunk) => chunk,
                Err(error) => {
                    all = all.and(Err(self.explain(error, Some(span))));
                    continue;
                }
            };
            parts.image.fill(&span.slot(), chunk.clone()).await?;
            for cache in &parts.caches {
                if let Err(error) = cache.put(chunk.clone()).await {
                    tracing::warn!(cache = cache.name(), %error, "a cache tier failed");
                }
            }
        }
        all
    }

    async fn fill_streamed(
        &self,
        member: ByteRange,
        wanted: Vec<ChunkSpan>,
        urgency: &mut Urgency,
    ) -> Result<()> {
        let parts = &self.parts;
        let chunks = wanted.len();
        let mut fill = StreamFill::new(Arc::clone(&parts.image), wanted)?;
        let mut start = member.start();
        while start < member.end() && !fill.is_done() {
            let end = member.end().min(start.saturating_add(parts.scheduler.max_len()));
            let range = ByteRange::new(start..end)?;
            let fetched = self.fetch(range, urgency).await?;
            let runtime = Handle::current();
            // Inflating and hashing compute; a worker of the pool may wait for the writes between.
            let push = move || {
                let pushed = runtime.block_on(fill.push(fetched.bytes()));
                Ok((fill, pushed))
            };
            // Decoding and writing take turns in it.
            let span = tracing::debug_span!("decode", chunks, %range);
            let pushed = parts.workers.run_in_turn(urgency, push).instrument(span).await?;
            let (pushed_to, pushed) = pushed;
            fill = pushed_to;
            pushed.map_err(|error| self.explain(error, fill.current()))?;
            start = end;
        }
        fill.finish().map_err(|error| self.explain(error, fill.current()))
    }

    /// Says which layer, file and chunk a failure is about.
    fn explain(&self, error: Error, span: Option<&ChunkSpan>) -> Error {
        let error = error.with_context("blob", self.parts.source.digest());
        let Some(span) = span else { return error };
        error
            .with_context("file", self.parts.index.path(span.file).unwrap_or_default().display())
            .with_context("chunk", span.index.0)
            .with_context("chunk_offset", span.file_offset)
    }

    fn note(&self, event: impl FnOnce() -> AccessEvent) {
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
