//! Applies the policies to whatever an opener opens, and to the opening itself.
use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bolide_core::{BlobOpener, BlobRef, BlobSource, OpenedBlob, Result};
use tokio::{sync::Semaphore, time};

use super::{
    LimitSource, Meter, MeteredSource, RetryPolicy, RetrySource, TimeoutSource, limit::acquire,
    retry::salt, timeout::elapsed,
};

/// An opener with policies. From the inside out: timeout, meter, limit, retry, so that a read that
/// waits to be tried again holds no permit, and each try is counted.
#[derive(Clone, Debug)]
pub struct WrapOpener {
    inner: Arc<dyn BlobOpener>,
    idle_timeout: Option<Duration>,
    meter: Option<Meter>,
    permits: Option<Arc<Semaphore>>,
    retry: Option<RetryPolicy>,
}

impl WrapOpener {
    /// Wraps `inner` without any policy yet.
    #[must_use]
    pub fn new(inner: Arc<dyn BlobOpener>) -> Self {
        Self { inner, idle_timeout: None, meter: None, permits: None, retry: None }
    }

    /// Bounds the wait for the next bytes, and for the whole of an opening.
    #[must_use]
    pub fn with_idle_timeout(mut self, idle: Duration) -> Self {
        self.idle_timeout = Some(idle);
        self
    }

    /// Counts reads and openings.
    #[must_use]
    pub fn with_meter(mut self, meter: Meter) -> Self {
        self.meter = Some(meter);
        self
    }

    /// Bounds what is in flight by `permits`, which may be shared with other openers.
    #[must_use]
    pub fn with_limit(mut self, permits: Arc<Semaphore>) -> Self {
        self.permits = Some(permits);
        self
    }

    /// Tries again what may succeed.
    #[must_use]
    pub fn with_retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = Some(policy);
        self
    }

    async fn open_once(&self, blob: BlobRef, tail_hint: u64) -> Result<OpenedBlob> {
        let _permit = match &self.permits {
            Some(permits) => Some(acquire(Arc::clone(permits)).await?),
            None => None,
        };
        let open = self.inner.open(blob, tail_hint);
        let opened = match self.idle_timeout {
            Some(idle) => time::timeout(idle, open).await.unwrap_or_else(|_| {
                Err(elapsed("timeout::open", idle).with_context("blob", blob.digest))
            }),
            None => open.await,
        };
        if let Some(meter) = &self.meter {
            meter.started();
            match &opened {
                Ok(opened) => meter.arrived(&Ok(opened.tail.clone())),
                Err(error) => meter.arrived(&Err(error.clone())),
            }
        }
        opened
    }

    fn wrap(&self, mut source: Arc<dyn BlobSource>) -> Arc<dyn BlobSource> {
        if let Some(idle) = self.idle_timeout {
            source = Arc::new(TimeoutSource::new(source, idle));
        }
        if let Some(meter) = &self.meter {
            source = Arc::new(MeteredSource::new(source, meter.clone()));
        }
        if let Some(permits) = &self.permits {
            source = Arc::new(LimitSource::new(source, Arc::clone(permits)));
        }
        if let Some(policy) = &self.retry {
            source = Arc::new(RetrySource::new(source, policy.clone()));
        }
        source
    }
}

#[async_trait]
impl BlobOpener for WrapOpener {
    async fn open(&self, blob: BlobRef, tail_hint: u64) -> Result<OpenedBlob> {
        let mut failed = 0;
        loop {
            let error = match self.open_once(blob, tail_hint).await {
                Ok(opened) => {
                    let source = self.wrap(opened.source);
                    return Ok(OpenedBlob { source, tail: opened.tail });
                }
                Err(error) => error,
            };
            failed += 1;
            let policy = self.retry.as_ref();
            let wait = policy.and_then(|policy| policy.delay(failed, &error, salt(blob.digest)));
            let Some(wait) = wait else { return Err(error.with_context("tries", failed)) };
            tracing::debug!(%error, ?wait, tries = failed, "opening again");
            time::sleep(wait).await;
        }
    }
}
