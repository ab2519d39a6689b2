//! Bounds the wait for the next bytes.
use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bolide_core::{
    BlobSource, ByteRange, Digest, Error, ErrorKind, ReadOptions, Result, SourceCapability,
};
use bytes::Bytes;
use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use tokio::time;

/// Fails a read as `Unavailable` when nothing arrives for a while. A slow read that moves goes on.
#[derive(Clone, Debug)]
pub struct TimeoutSource {
    inner: Arc<dyn BlobSource>,
    idle: Duration,
}

impl TimeoutSource {
    /// Gives each piece of a read `idle` to arrive.
    #[must_use]
    pub fn new(inner: Arc<dyn BlobSource>, idle: Duration) -> Self {
        Self { inner, idle }
    }
}

/// The error of a wait that was too long.
pub(super) fn elapsed(operation: &'static str, idle: Duration) -> Error {
    Error::new(ErrorKind::Unavailable, operation, "nothing arrived in time")
        .with_context("idle_ms", idle.as_millis())
}

impl fmt::Display for TimeoutSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TimeoutSource({})", self.inner)
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl BlobSource for TimeoutSource {
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
        let idle = self.idle;
        let pieces = Some(self.inner.stream(range, options));
        stream::unfold(pieces, move |pieces| async move {
            let mut pieces = pieces?;
            match time::timeout(idle, pieces.next()).await {
                Ok(Some(Ok(piece))) => Some((Ok(piece), Some(pieces))),
                Ok(Some(Err(error))) => Some((Err(error), None)),
                Ok(None) => None,
                Err(_) => {
                    let error = elapsed("timeout::read", idle).with_context("range", range);
                    Some((Err(error), None))
                }
            }
        })
        .boxed()
    }

    async fn read_at(&self, range: ByteRange, options: ReadOptions) -> Result<Bytes> {
        super::retry::collect(self.stream(range, options), self.digest(), range).await
    }
}
