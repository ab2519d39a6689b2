//! Bounds the reads in flight.
use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bolide_core::{
    BlobSource, ByteRange, Digest, Error, ErrorKind, ReadOptions, Result, SourceCapability,
};
use bytes::Bytes;
use futures::{
    StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Holds a permit for each read, from its request to its last byte. Sources that share a semaphore
/// share the bound.
#[derive(Clone, Debug)]
pub struct LimitSource {
    inner: Arc<dyn BlobSource>,
    permits: Arc<Semaphore>,
}

impl LimitSource {
    /// Reads `inner` while holding one of `permits`.
    #[must_use]
    pub fn new(inner: Arc<dyn BlobSource>, permits: Arc<Semaphore>) -> Self {
        Self { inner, permits }
    }
}

/// Waits for a permit; `FailedPrecondition` once the semaphore is closed.
pub(super) async fn acquire(permits: Arc<Semaphore>) -> Result<OwnedSemaphorePermit> {
    permits.acquire_owned().await.map_err(|error| {
        Error::new(ErrorKind::FailedPrecondition, "limit::acquire", "the limiter was shut down")
            .with_source(error)
    })
}

impl fmt::Display for LimitSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LimitSource({})", self.inner)
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl BlobSource for LimitSource {
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
        let Self { inner, permits } = self.clone();
        stream::once(async move {
            let permit = acquire(permits).await?;
            // The permit lives in the closure, and with it as long as the stream.
            Ok(inner.stream(range, options).inspect(move |_| {
                let _ = &permit;
            }))
        })
        .try_flatten()
        .boxed()
    }

    async fn read_at(&self, range: ByteRange, options: ReadOptions) -> Result<Bytes> {
        let _permit = acquire(Arc::clone(&self.permits)).await?;
        self.inner.read_at(range, options).await
    }
}
