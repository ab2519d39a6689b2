//! Checks a layer once all of it is there: its blob digest, its diffID, its TOC against its tar.
//!
//! Every chunk was verified when it was filled. What that does not cover, the bytes between chunks
//! and a TOC that describes another tree than the tar does, is found here, and reported: nobody is
//! stopped for it.
use std::sync::Arc;

use bolide_core::{
    AccessEvent, AccessSink, Artifact, BlobSource, ByteRange, Digest, Error, ErrorKind,
    FetchRequest, LayerStore, Priority, Result, Scheduler, TocIndex,
};
use bolide_estargz::{BlobVerdict, EstargzIndex, check_blob};
use bolide_fetch::{FallbackSource, SpoolSource};
use bolide_fs::{Layer, WorkerPool};
use bolide_prefetch::Driver;
use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::{sync::Notify, task::JoinHandle};

use super::shared::Parts;

/// Share of a blob, as its divisor, that may be asked for again to complete a spool: what a node
/// had from other layers, or before a restart, never passed through it.
const MAX_REFETCH: u64 = 8;

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    /// The blob is the one its digest names.
    Checked {
        /// Digest of the uncompressed blob.
        diff_id: Digest,
        /// Where TOC and tar disagree.
        disagreements: Vec<String>,
    },
    /// It is another, or no tar, and why.
    Refused(String),
}

/// The check of one open layer.
#[derive(Debug)]
pub(super) struct WholeCheck {
    store: Arc<dyn LayerStore>,
    scheduler: Arc<dyn Scheduler>,
    workers: WorkerPool,
    access: Arc<Watcher>,
    index: Arc<EstargzIndex>,
    source: FallbackSource,
    /// `None` when there is nothing to check, or no place to keep the blob.
    spool: Option<SpoolSource>,
    verdict: Mutex<Option<Verdict>>,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// Passes on what happens on a layer, and notices its completion.
#[derive(Debug)]
struct Watcher {
    driver: Arc<Driver>,
    complete: Notify,
}

impl AccessSink for Watcher {
    fn record(&self, layer: Digest, event: AccessEvent) {
        if event == AccessEvent::Complete {
            self.complete.notify_one();
        }
        self.driver.record(layer, event);
    }
}

impl WholeCheck {
    /// Finds an earlier verdict, or makes ready for one. `tail` was read of the blob's end before.
    pub(super) async fn begin(
        parts: &Parts,
        index: &Arc<EstargzIndex>,
        source: &FallbackSource,
        tail: Bytes,
    ) -> Arc<Self> {
        let found = earlier(&*parts.store, index.digest()).await;
        let mut spool = None;
        if let (None, Some(dir)) = (&found, &parts.spool) {
            match SpoolSource::create(Arc::new(source.clone()), dir).await {
                Ok(made) => {
                    made.seed(source.size().saturating_sub(tail.len() as u64), tail).await;
                    spool = Some(made);
                }
                Err(error) => tracing::warn!(%error, "a layer will not be checked as a whole"),
            }
        }
        let access = Watcher { driver: Arc::clone(&parts.driver), complete: Notify::new() };
        Arc::new(Self {
            store: Arc::clone(&parts.store),
            scheduler: Arc::clone(&parts.scheduler),
            workers: parts.checks.clone(),
            access: Arc::new(access),
            index: Arc::clone(index),
            source: source.clone(),
            spool,
            verdict: Mutex::new(found),
            task: Mutex::default(),
        })
    }

    /// What the layer is to read from.
    pub(super) fn source(&self) -> Arc<dyn BlobSource> {
        match &self.spool {
            Some(spool) => Arc::new(spool.clone()),
            None => Arc::new(self.source.clone()),
        }
    }

    /// Whom the layer is to tell what happens.
    pub(super) fn access(&self) -> Arc<dyn AccessSink> {
        Arc::<Watcher>::clone(&self.access)
    }

    pub(super) fn verdict(&self) -> Option<Verdict> {
        self.verdict.lock().clone()
    }

    /// Waits for the layer to be complete, in a task of its own.
    pub(super) fn watch(self: &Arc<Self>, layer: &Layer) {
        let Some(spool) = self.spool.clone() else { return };
        if layer.status().presence.is_complete() {
            // All of it was here before: nothing will pass through.
            return;
        }
        let check = Arc::clone(self);
        *self.task.lock() = Some(tokio::spawn(async move {
            check.access.complete.notified().await;
            let made = check.check(&spool).await;
            spool.release().await;
            let (layer, toc) = (spool.digest(), check.index.digest());
            match made {
                Ok(Some(verdict)) => check.report(verdict, layer).await,
                Ok(None) => {
                    tracing::debug!(%layer, "too little of a layer was fetched here to check it as a whole");
                }
                Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Malformed) => {
                    check.report(Verdict::Refused(error.to_string()), layer).await;
                }
                Err(error) => {
                    tracing::warn!(%layer, %toc, %error, "a layer could not be checked as a whole");
                }
            }
        }));
    }

    /// Ends the task.
    pub(super) async fn end(&self) {
        let task = self.task.lock().take();
        if let Some(task) = task {
            task.abort();
            // Aborted or not, it has ended; what it found was reported.
            let _ = task.await;
        }
    }

    /// `None` when more would have to be fetched again than a check is worth.
    async fn check(&self, spool: &SpoolSource) -> Result<Option<Verdict>> {
        let missing = joined(spool.missing(), spool.capability().merge_gap);
        let refetch: u64 = missing.iter().map(|range| range.len()).sum();
        if refetch > spool.size() / MAX_REFETCH {
            return Ok(None);
        }
        for gap in missing {
            self.fetch(spool, gap).await?;
        }
        let (mut blob, index) = (spool.reader()?, Arc::clone(&self.index));
        let expected = spool.digest();
        let checked = self.workers.run(move || check_blob(&mut blob, expected, &*index));
        let BlobVerdict { diff_id, disagreements, .. } = checked.await?;
        Ok(Some(Verdict::Checked { diff_id, disagreements }))
    }

    /// Reads a gap through the spool, behind everybody else.
    async fn fetch(&self, spool: &SpoolSource, gap: ByteRange) -> Result<()> {
        let mut start = gap.start();
        while start < gap.end() {
            let end = gap.end().min(start.saturating_add(self.scheduler.max_len()));
            let request = FetchRequest {
                source: Arc::new(spool.clone()),
                range: ByteRange::new(start..end)?,
                priority: Priority::Background,
            };
            self.scheduler.fetch(request).await?;
            start = end;
        }
        Ok(())
    }

    async fn report(&self, verdict: Verdict, layer: Digest) {
        match &verdict {
            Verdict::Refused(error) => {
                tracing::error!(%layer, error, "a layer failed the check of its whole blob");
            }
            Verdict::Checked { diff_id, disagreements } => {
                for disagreement in disagreements {
                    tracing::error!(%layer, disagreement, "the TOC of a layer disagrees with its tar");
                }
                let disagreements = disagreements.len();
                tracing::info!(%layer, %diff_id, disagreements, "a layer was checked as a whole");
            }
        }
        if let Err(error) = keep(&*self.store, self.index.digest(), &verdict).await {
            tracing::warn!(%layer, %error, "the check of a layer is not remembered");
        }
        *self.verdict.lock() = Some(verdict);
    }
}

/// Joins gaps that lie so near to each other that one request for both is cheaper than two.
fn joined(gaps: Vec<ByteRange>, distance: u64) -> Vec<ByteRange> {
    let mut joined: Vec<ByteRange> = Vec::with_capacity(gaps.len());
    for gap in gaps {
        let last = joined.last_mut().filter(|last| gap.start() - last.end() <= distance);
        let both = last.as_ref().and_then(|last| ByteRange::new(last.start()..gap.end()).ok());
        match (last, both) {
            (Some(last), Some(both)) => *last = both,
            _ => joined.push(gap),
        }
    }
    joined
}

async fn earlier(store: &dyn LayerStore, toc: Digest) -> Option<Verdict> {
    // What cannot be read is found out again.
    let bytes = store.artifact(toc, Artifact::Verdict).await.ok().flatten()?;
    serde_json::from_slice(&bytes).ok()
}

async fn keep(store: &dyn LayerStore, toc: Digest, verdict: &Verdict) -> Result<()> {
    let bytes = serde_json::to_vec(verdict)
        .map_err(|error| Error::new(ErrorKind::Unexpected, "whole::keep", error.to_string()))?;
    store.put_artifact(toc, Artifact::Verdict, bytes.into()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_gaps_become_one_request() {
        let gap = |start, end| ByteRange::new(start..end).expect("a range");
        let gaps = vec![gap(0, 10), gap(15, 20), gap(30, 40), gap(41, 50), gap(100, 101)];
        assert_eq!(joined(gaps, 5), [gap(0, 20), gap(30, 50), gap(100, 101)]);
        assert_eq!(joined(Vec::new(), 5), []);
    }
}
