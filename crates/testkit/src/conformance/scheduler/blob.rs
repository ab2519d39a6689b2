//! Blobs whose bytes come when a clause lets them, and fetches of them under way.
use std::{sync::Arc, time::Duration};

use bolide_core::{BlobSource, ByteRange, FetchRequest, Fetched, Priority, Result, Scheduler};
use bytes::Bytes;
use tokio::task::JoinHandle;

use super::super::verdict::Broken;
use crate::{fault::GatedSource, sample::noise};

pub(super) const KIB: u64 = 1024;
/// Size of the blobs of this suite, in bytes.
pub(super) const SIZE: u64 = 512 * KIB;

/// Merge gap of the blobs of this suite, in bytes.
pub(super) const GAP: u64 = 4 * KIB;

/// How long an answer that should come may take, on the paused clock, before it counts as lost.
pub(super) const PATIENCE: Duration = Duration::from_hours(1);

/// Waits until every task waits: the paused clock does not move before.
pub(super) async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

pub(super) struct Blob {
    pub(super) source: Arc<GatedSource>,
    bytes: Bytes,
}

impl Blob {
    pub(super) fn closed(seed: u64) -> Self {
        let bytes = Bytes::from(noise(usize::try_from(SIZE).unwrap_or(0), seed * 0x9e37_79b9));
        Self { source: Arc::new(GatedSource::new(bytes.clone(), GAP)), bytes }
    }

    pub(super) fn open(seed: u64) -> Self {
        let blob = Self::closed(seed);
        blob.source.open();
        blob
    }

    pub(super) fn truth(&self, range: std::ops::Range<u64>) -> Bytes {
        let bound = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
        self.bytes.slice(bound(range.start)..bound(range.end))
    }

    /// Asks in a task of its own, so that it is polled whatever the clause does.
    pub(super) fn fetch(
        &self,
        scheduler: &Arc<dyn Scheduler>,
        range: std::ops::Range<u64>,
        priority: Priority,
    ) -> Waiting {
        let (scheduler, source) = (Arc::clone(scheduler), Arc::clone(&self.source));
        let fetch = async move {
            let source = source as Arc<dyn BlobSource>;
            scheduler.fetch(FetchRequest { source, range: ByteRange::new(range)?, priority }).await
        };
        Waiting(tokio::spawn(fetch))
    }
}

/// A fetch under way; dropped with this.
pub(super) struct Waiting(JoinHandle<Result<Fetched>>);

impl Waiting {
    pub(super) async fn answer(mut self, clause: &'static str) -> Result<Result<Fetched>, Broken> {
        let answer = tokio::time::timeout(PATIENCE, &mut self.0).await;
        let answer = answer.map_err(|_| Broken::new(clause, "a request waits for ever"))?;
        answer.map_err(|error| Broken::new(clause, error))
    }

    pub(super) fn is_answered(&self) -> bool {
        self.0.is_finished()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.abort();
    }
}
