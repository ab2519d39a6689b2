//! A bounded store of verified chunks.
use std::fmt;

use async_trait::async_trait;

use crate::{ChunkKey, Result, VerifiedChunk};

/// How full a cache is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheUsage {
    /// Entries held.
    pub entries: u64,
    /// Bytes of chunk data held.
    pub bytes: u64,
}

/// A bounded store of verified chunks, keyed by content: a tier asked before the network.
///
/// # Contract
///
/// * **A miss is `Ok(None)`**; `Err` means the medium failed. Callers log an error and go to the
///   source: a broken cache slows reads, it never fails or changes them.
/// * **Only verified bytes come out.** An implementation over a medium it does not trust (disk,
///   shared directory, peer) re-verifies on the way out, drops what does not match, and reports
///   a miss.
/// * **Crash-safe.** After a crash an entry is either whole or absent.
/// * **Idempotent.** Putting a key twice is allowed and cheap; contents are equal by definition.
/// * **Bounded.** The implementation keeps its own limit. It may refuse a put silently.
/// * **No single-flight.** Joining concurrent misses is the read pipeline's work.
#[async_trait]
pub trait ChunkCache: fmt::Debug + Send + Sync + 'static {
    /// Short name for logs and metrics, for example `"memory"`.
    fn name(&self) -> &'static str;

    /// Looks a chunk up.
    async fn get(&self, key: &ChunkKey) -> Result<Option<VerifiedChunk>>;

    /// Offers a chunk to the cache.
    async fn put(&self, chunk: VerifiedChunk) -> Result<()>;

    /// Drops one entry, present or not.
    async fn remove(&self, key: &ChunkKey) -> Result<()>;

    /// How full the cache is. May lag behind concurrent puts.
    fn usage(&self) -> CacheUsage;

    /// Finishes pending writes. Called once, before the process ends.
    async fn flush(&self) -> Result<()>;
}
