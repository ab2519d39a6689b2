//! Opens the layers of an image before they are asked for, all in parallel.
//!
//! containerd asks for one layer after the other. Each costs a round trip, unless it was opened
//! while the first was.
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bolide_core::{BlobOpener, BlobRef, Digest, Error, ErrorKind, OpenedBlob, Result};
use bolide_estargz::TAIL_HINT;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;

/// Layers held open for whoever asks next: an image has fewer than 128, each holds 128 KiB.
const MAX_HELD: usize = 128;
/// Requests sent at once.
const CONCURRENCY: usize = 8;
/// What nobody asked for until then was not the next layer.
const MAX_AGE: Duration = Duration::from_mins(2);

type Key = (String, Digest);

#[derive(Debug)]
struct Opening {
    begun: Instant,
    /// Whether its request was sent.
    is_sent: Arc<AtomicBool>,
    /// Ends the request when it is dropped.
    task: AbortOnDropHandle<Result<OpenedBlob>>,
}

/// Blobs that were opened ahead, by the reference of their image and their digest.
#[derive(Debug)]
pub(super) struct Ahead {
    held: Mutex<HashMap<Key, Opening>>,
    permits: Arc<Semaphore>,
}

impl Ahead {
    pub(super) fn new() -> Self {
        Self { held: Mutex::default(), permits: Arc::new(Semaphore::new(CONCURRENCY)) }
    }

    /// Begins to open `blobs` of the image that `reference` names.
    pub(super) fn begin(&self, reference: &str, opener: &Arc<dyn BlobOpener>, blobs: &[Digest]) {
        let mut held = self.held.lock();
        held.retain(|_, opening| opening.begun.elapsed() < MAX_AGE);
        for &digest in blobs {
            let key = (reference.to_owned(), digest);
            if held.len() >= MAX_HELD || held.contains_key(&key) {
                continue;
            }
            let (opener, permits) = (Arc::clone(opener), Arc::clone(&self.permits));
            let is_sent = Arc::new(AtomicBool::new(false));
            let sent = Arc::clone(&is_sent);
            let task = tokio::spawn(async move {
                // The semaphore is never closed; were it, opening at once would still be right.
                let _permit = permits.acquire().await.ok();
                sent.store(true, Ordering::Relaxed);
                opener.open(BlobRef { digest, size: None }, TAIL_HINT).await
            });
            let task = AbortOnDropHandle::new(task);
            held.insert(key, Opening { begun: Instant::now(), is_sent, task });
        }
    }

    /// The blob, if it was opened ahead. Who takes it has it alone. What still waits for its turn is
    /// given up: those before it may be another registry's, which does not answer.
    pub(super) async fn take(&self, reference: &str, blob: Digest) -> Option<Result<OpenedBlob>> {
        let opening = self.held.lock().remove(&(reference.to_owned(), blob))?;
        if !opening.is_sent.load(Ordering::Relaxed) {
            return None;
        }
        Some(opening.task.await.unwrap_or_else(|error| {
            Err(Error::new(ErrorKind::Unexpected, "ahead::take", error.to_string()))
        }))
    }

    /// Lets go of everything.
    pub(super) fn clear(&self) {
        self.held.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use bolide_core::memory::MemoryBlob;

    use super::*;

    #[tokio::test]
    async fn what_was_begun_is_taken_once() {
        let blob = MemoryBlob::new(vec![7; 1000]);
        let opener: Arc<dyn BlobOpener> = Arc::new(blob.clone());
        let digest = bolide_core::BlobSource::digest(&blob);
        let ahead = Ahead::new();
        ahead.begin("image", &opener, &[digest, digest]);
        tokio::task::yield_now().await;
        assert!(ahead.take("other", digest).await.is_none());
        let taken = ahead.take("image", digest).await.expect("begun").expect("opens");
        assert_eq!(taken.tail.len(), 1000);
        assert!(ahead.take("image", digest).await.is_none());
    }

    /// A registry that does not answer.
    #[derive(Debug)]
    struct Silent;

    #[async_trait::async_trait]
    impl BlobOpener for Silent {
        async fn open(&self, _: BlobRef, _: u64) -> Result<OpenedBlob> {
            std::future::pending().await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_registry_keeps_nobody_elses_layer_waiting() {
        let silent: Arc<dyn BlobOpener> = Arc::new(Silent);
        let digests: Vec<_> = (0..20_u32).map(|n| Digest::of(&n.to_le_bytes())).collect();
        let ahead = Ahead::new();
        ahead.begin("silent", &silent, &digests);
        tokio::task::yield_now().await;
        let blob = MemoryBlob::new(vec![7; 10]);
        let digest = bolide_core::BlobSource::digest(&blob);
        let opener: Arc<dyn BlobOpener> = Arc::new(blob);
        ahead.begin("other", &opener, &[digest]);
        let taken = tokio::time::timeout(Duration::from_mins(1), ahead.take("other", digest)).await;
        taken.expect("whoever asks may open it without waiting");
    }

    #[tokio::test]
    async fn what_is_held_is_bounded() {
        let opener: Arc<dyn BlobOpener> = Arc::new(MemoryBlob::new(vec![7; 10]));
        let digests: Vec<_> = (0..1000_u32).map(|n| Digest::of(&n.to_le_bytes())).collect();
        let ahead = Ahead::new();
        ahead.begin("image", &opener, &digests);
        assert_eq!(ahead.held.lock().len(), MAX_HELD);
        ahead.clear();
        assert!(ahead.held.lock().is_empty());
    }
}
