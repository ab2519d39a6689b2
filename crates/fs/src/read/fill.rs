//! Makes chunks present: from this node where it has them, else over the network.
use std::sync::{Arc, atomic::Ordering};

use bolide_core::{
    AccessEvent, ByteRange, ChunkSpan, Error, ErrorKind, FetchRequest, Fetched, Priority, Result,
    VerifiedChunk,
};
use futures::{
    StreamExt as _, TryStreamExt as _,
    future::{BoxFuture, ready},
    stream::{self, FuturesUnordered},
};
use tokio::runtime::Handle;
use tracing::Instrument as _;

use super::{
    decode,
    flights::{Urgency, Work},
    pipeline::Pipeline,
    plan,
    stream_fill::StreamFill,
};

/// Largest decoded member held in memory, in bytes; larger ones are streamed.
const MAX_DECODED: u64 = 64 << 20;

/// A fetch that was asked for before its turn.
pub(super) struct Asked {
    priority: Priority,
    answer: BoxFuture<'static, Result<Fetched>>,
}

/// A member to be filled.
pub(super) type Member = (ByteRange, Option<Asked>);

impl Pipeline {
    /// Makes the chunks of these members present. A corrupt one fails the whole, after the others:
    /// what else fails will fail them too.
    pub(super) async fn fill_members(
        &self,
        members: impl IntoIterator<Item = Member>,
        priority: Priority,
    ) -> Result<()> {
        let filling = members.into_iter().map(|(member, asked)| {
            let pipeline = self.clone();
            let work = move |urgency| -> Work {
                // The task is another; its trace is that of who started it.
                let filled = async move { pipeline.fill_member(member, asked, urgency).await };
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

    async fn fill_member(
        &self,
        member: ByteRange,
        asked: Option<Asked>,
        urgency: Urgency,
    ) -> Result<()> {
        let filled = self.try_fill_member(member, asked, urgency).await;
        if let Err(error) = &filled {
            tracing::error!(blob = %self.parts.source.digest(), %member, %error, "a member cannot be filled");
        }
        *self.last_error.lock() = filled.as_ref().err().map(ToString::to_string);
        self.note_completion();
        filled
    }

    /// Tells, once, that nothing is missing any more.
    fn note_completion(&self) {
        let complete = self.parts.image.presence().is_complete();
        if complete && !self.complete.swap(true, Ordering::Relaxed) {
            self.note(|| AccessEvent::Complete);
        }
    }

    async fn try_fill_member(
        &self,
        member: ByteRange,
        asked: Option<Asked>,
        mut urgency: Urgency,
    ) -> Result<()> {
        let wanted = match &asked {
            // That the node does not have it was seen when it was asked for.
            Some(_) => self.not_present(member)?,
            None => self.absent(member).await?,
        };
        if wanted.is_empty() {
            return Ok(());
        }
        if self.is_streamed(member, &wanted) {
            return self.fill_streamed(member, wanted, &mut urgency).await;
        }
        self.fill_held(member, wanted, asked, &mut urgency).await
    }

    /// The chunks of a member that this node does not have, after copying what another layer or a
    /// cache tier holds.
    async fn absent(&self, member: ByteRange) -> Result<Vec<ChunkSpan>> {
        let mut absent = Vec::new();
        for span in self.not_present(member)? {
            if !self.fill_from_node(&span).await {
                absent.push(span);
            }
        }
        Ok(absent)
    }

    /// The chunks of a member that are not in the layer image.
    fn not_present(&self, member: ByteRange) -> Result<Vec<ChunkSpan>> {
        let mut spans = plan::chunks_of(&*self.parts.index, member)?;
        spans.retain(|span| !self.parts.image.is_present(span.index));
        Ok(spans)
    }

    /// Whether a member is too large to be held.
    fn is_streamed(&self, member: ByteRange, wanted: &[ChunkSpan]) -> bool {
        let decoded = wanted.iter().map(decode::end_of).max().unwrap_or(0);
        member.len() > self.parts.scheduler.max_len() || decoded > MAX_DECODED
    }

    /// Asks for the members that must come over the network, for all of them before the first is
    /// sent: what lies together comes with one request.
    ///
    /// Those that are streamed come last and are not asked for yet: their requests would wait for
    /// the room of answers that nobody takes before them.
    pub(super) async fn ask(
        &self,
        members: Vec<ByteRange>,
        priority: Priority,
    ) -> Result<Vec<Member>> {
        let looked = members.into_iter().map(|member| async move {
            let absent = self.absent(member).await?;
            let streamed = self.is_streamed(member, &absent);
            Ok((!absent.is_empty()).then_some((member, streamed)))
        });
        let looked = stream::iter(looked).buffered(self.parts.config.fill_concurrency.max(1));
        let absent = looked.try_filter_map(|found: Option<_>| ready(Ok(found)));
        let absent: Vec<(ByteRange, bool)> =
            self.flights.unless_stopped(absent.try_collect()).await??;
        // What was copied here may have been the last.
        self.note_completion();
        let (streamed, held): (Vec<_>, Vec<_>) =
            absent.into_iter().partition(|(_, is_streamed)| *is_streamed);
        let requests = held.iter().map(|(member, _)| self.request(*member, priority)).collect();
        let asked = Arc::clone(&self.parts.scheduler).fetch_all(requests);
        let asked = asked.into_iter().map(|answer| Some(Asked { priority, answer }));
        let held = held.into_iter().map(|(member, _)| member).zip(asked);
        Ok(held.chain(streamed.into_iter().map(|(member, _)| (member, None))).collect())
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
    async fn fetch(
        &self,
        range: ByteRange,
        asked: Option<Asked>,
        urgency: &mut Urgency,
    ) -> Result<Fetched> {
        let priority = *urgency.borrow();
        let blob = self.parts.source.digest();
        let span = tracing::debug_span!("fetch", %blob, %range, len = range.len(), priority = priority.name());
        self.fetch_hurried(range, asked, urgency).instrument(span).await
    }

    async fn fetch_hurried(
        &self,
        range: ByteRange,
        before: Option<Asked>,
        urgency: &mut Urgency,
    ) -> Result<Fetched> {
        let ask = |priority| self.parts.scheduler.fetch(self.request(range, priority));
        let now = *urgency.borrow_and_update();
        let mut asked = FuturesUnordered::new();
        if before.as_ref().is_none_or(|before| now < before.priority) {
            asked.push(ask(now));
        }
        asked.extend(before.map(|before| before.answer));
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
        asked: Option<Asked>,
        urgency: &mut Urgency,
    ) -> Result<()> {
        let parts = &self.parts;
        let fetched = self.fetch(member, asked, urgency).await?;
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
            let fetched = self.fetch(range, None, urgency).await?;
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
}
