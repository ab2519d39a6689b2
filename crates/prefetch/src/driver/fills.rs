//! What all layers share: how many hints are carried out at once, and how long nobody has read.
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bolide_core::{FetchTarget, FileReader, Priority, Result};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep, sleep_until},
};
use tracing::Instrument as _;

use super::DriverConfig;

/// Carries out hints within the node's limits.
#[derive(Debug)]
pub(super) struct Fills {
    prefetch: Semaphore,
    background: Semaphore,
    config: DriverConfig,
    began: Instant,
    /// When something was read last, in microseconds after `began`.
    last_read: AtomicU64,
}

impl Fills {
    pub(super) fn new(config: DriverConfig) -> Self {
        Self {
            prefetch: Semaphore::new(config.prefetch_fills.clamp(1, Semaphore::MAX_PERMITS)),
            background: Semaphore::new(config.background_fills.clamp(1, Semaphore::MAX_PERMITS)),
            config,
            began: Instant::now(),
            last_read: AtomicU64::new(0),
        }
    }

    /// Notes that something was read.
    pub(super) fn touch(&self) {
        let now = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.last_read.fetch_max(now, Ordering::Relaxed);
    }

    fn last_read(&self) -> Instant {
        self.began + Duration::from_micros(self.last_read.load(Ordering::Relaxed))
    }

    /// Waits until nothing has been read for the configured time; how long it has been by then.
    pub(super) async fn idle(&self) -> Duration {
        loop {
            let since = self.last_read().elapsed();
            if since >= self.config.background_delay {
                return since;
            }
            sleep_until(self.last_read() + self.config.background_delay).await;
        }
    }

    /// Carries out a prefetch hint.
    pub(super) async fn prefetch(
        self: Arc<Self>,
        reader: Arc<dyn FileReader>,
        target: FetchTarget,
    ) -> Result<()> {
        // The semaphore is never closed; were it, an unlimited fill would still be right.
        let _permit = self.prefetch.acquire().await.ok();
        let filled = reader.fill(&target, Priority::Prefetch).await.map(drop);
        if let Err(error) = &filled {
            tracing::warn!(?target, %error, "a prefetch failed; the bytes come when they are read");
        }
        filled
    }

    /// Carries out a background hint while nobody reads, again and again while failures may pass.
    pub(super) async fn background(
        self: Arc<Self>,
        reader: Arc<dyn FileReader>,
        target: FetchTarget,
    ) {
        let mut delay = self.config.retry_delay;
        loop {
            self.idle().await;
            let permit = self.background.acquire().await.ok();
            if self.last_read().elapsed() < self.config.background_delay {
                // Somebody read while this waited for its turn.
                continue;
            }
            let span = tracing::debug_span!("background", ?target);
            let filled = reader.fill(&target, Priority::Background).instrument(span).await;
            drop(permit);
            match filled {
                Ok(_) => return,
                Err(error) if error.is_retryable() => {
                    let wait = error.retry_after().unwrap_or(delay).max(delay);
                    tracing::debug!(?target, %error, ?wait, "a background fill failed; it is tried again");
                    sleep(wait).await;
                    delay = (delay * 2).min(self.config.max_retry_delay);
                }
                Err(error) => {
                    tracing::warn!(?target, %error, "a background fill failed; it is given up");
                    return;
                }
            }
        }
    }
}
