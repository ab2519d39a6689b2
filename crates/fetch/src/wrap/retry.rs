//! Tries again what may succeed, from the byte that was reached.
use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bolide_core::{
    BlobSource, ByteRange, Digest, Error, ErrorKind, ReadOptions, Result, SourceCapability,
};
use bytes::{Bytes, BytesMut};
use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use tokio::time;

/// How often and how patiently to try.
#[derive(Clone, Debug)]
pub struct RetryPolicy {
    /// Tries of one read in all, the first included. Progress does not earn more.
    pub attempts: u32,
    /// Wait before the second try; it doubles from try to try.
    pub base_delay: Duration,
    /// Longest wait. A peer that asks for more is not waited for.
    pub max_delay: Duration,
    /// Seed of the jitter, so that nodes do not come back in step and tests repeat.
    pub seed: u64,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 5,
            base_delay: Duration::from_millis(50),
            max_delay: Duration::from_secs(10),
            seed: 0,
        }
    }
}

impl RetryPolicy {
    /// How long to wait after the failure of try number `failed` (from 1); `None` to give up.
    #[must_use]
    pub fn delay(&self, failed: u32, error: &Error, salt: u64) -> Option<Duration> {
        if failed >= self.attempts || !error.is_retryable() {
            return None;
        }
        let doubled = 1u32.checked_shl(failed.saturating_sub(1)).unwrap_or(u32::MAX);
        let full = self.base_delay.saturating_mul(doubled).min(self.max_delay);
        // Half is certain, half is spread.
        let spread = mix(self.seed ^ salt ^ u64::from(failed)) >> 32;
        let spread = u32::try_from(spread).unwrap_or(u32::MAX);
        let wait = full / 2 + (full / 2).mul_f64(f64::from(spread) / f64::from(u32::MAX));
        match error.retry_after() {
            Some(asked) if asked > self.max_delay => None,
            Some(asked) => Some(wait.max(asked)),
            None => Some(wait),
        }
    }
}

impl RetryPolicy {
    /// Does `work` until it succeeds, fails for good, or was tried often enough. `about` tells works
    /// apart that fail together, so that they are not tried again in step.
    pub async fn run<T, W>(&self, about: Digest, mut work: impl FnMut() -> W) -> Result<T>
    where
        W: Future<Output = Result<T>>,
    {
        let mut failed = 0;
        loop {
            let error = match work().await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            failed += 1;
            let Some(wait) = self.delay(failed, &error, salt(about)) else {
                return Err(error.with_context("tries", failed));
            };
            tracing::debug!(%error, ?wait, tries = failed, "trying again");
            time::sleep(wait).await;
        }
    }
}

/// `SplitMix64`: spreads seeds that differ by little.
fn mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A number that differs between blobs.
pub(super) fn salt(digest: Digest) -> u64 {
    digest.as_bytes().iter().take(8).fold(0, |salt, byte| salt << 8 | u64::from(*byte))
}

/// Repeats failed reads of a source, each time only the part that has not arrived.
#[derive(Clone, Debug)]
pub struct RetrySource {
    inner: Arc<dyn BlobSource>,
    policy: RetryPolicy,
}

impl RetrySource {
    /// Reads `inner` as patiently as `policy` says.
    #[must_use]
    pub fn new(inner: Arc<dyn BlobSource>, policy: RetryPolicy) -> Self {
        Self { inner, policy }
    }
}

impl fmt::Display for RetrySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RetrySource({})", self.inner)
    }
}

struct Read {
    source: RetrySource,
    options: ReadOptions,
    /// First byte that has not arrived.
    at: u64,
    end: u64,
    failed: u32,
    pieces: Option<BoxStream<'static, Result<Bytes>>>,
}

impl Read {
    async fn next(mut self) -> Option<(Result<Bytes>, Self)> {
        loop {
            let rest = ByteRange::new(self.at..self.end).ok()?;
            let (inner, options) = (&self.source.inner, self.options);
            let pieces = self.pieces.get_or_insert_with(|| inner.stream(rest, options));
            let error = match pieces.next().await {
                Some(Ok(piece)) => {
                    self.at = self.at.saturating_add(piece.len() as u64);
                    return Some((Ok(piece), self));
                }
                Some(Err(error)) => error,
                None => early_end(inner.digest(), rest),
            };
            self.pieces = None;
            self.failed += 1;
            let salt = salt(self.source.inner.digest()) ^ self.at;
            let Some(wait) = self.source.policy.delay(self.failed, &error, salt) else {
                let error = error.with_context("tries", self.failed);
                self.at = self.end;
                return Some((Err(error), self));
            };
            tracing::debug!(%error, ?wait, tries = self.failed, "reading again");
            time::sleep(wait).await;
        }
    }
}

fn early_end(digest: Digest, rest: ByteRange) -> Error {
    Error::new(ErrorKind::Unavailable, "retry::read", "the source ended early")
        .with_context("blob", digest)
        .with_context("missing", rest)
}

/// Reads a stream into memory; `Unavailable` if it ends early.
pub(super) async fn collect(
    mut pieces: BoxStream<'static, Result<Bytes>>,
    digest: Digest,
    range: ByteRange,
) -> Result<Bytes> {
    let mut whole = Bytes::new();
    let mut joined = BytesMut::new();
    while let Some(piece) = pieces.next().await.transpose()? {
        if whole.is_empty() && joined.is_empty() {
            whole = piece;
            continue;
        }
        if joined.is_empty() {
            joined.extend_from_slice(&whole);
        }
        joined.extend_from_slice(&piece);
    }
    let read = if joined.is_empty() { whole } else { joined.freeze() };
    if read.len() as u64 == range.len() { Ok(read) } else { Err(early_end(digest, range)) }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl BlobSource for RetrySource {
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
        let (source, at, end) = (self.clone(), range.start(), range.end());
        let read = Read { source, options, at, end, failed: 0, pieces: None };
        stream::unfold(read, Read::next).boxed()
    }

    async fn read_at(&self, range: ByteRange, options: ReadOptions) -> Result<Bytes> {
        // Not the inner `read_at`: what a broken one had read would be fetched again.
        collect(self.stream(range, options), self.digest(), range).await
    }
}
