//! The contract of [`ChunkCache`], clause by clause.
use std::sync::Arc;

use bolide_core::{ChunkCache, ChunkKey, VerifiedChunk};
use bytes::Bytes;
use futures::future;

use super::verdict::{Broken, Verdict, hold, succeed};
use crate::sample::noise;

/// What the suite must know of a cache.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Most bytes of chunk data the cache may hold; `None` for one whose bound is elsewhere (an
    /// object store's life-cycle rule).
    pub max_bytes: Option<u64>,
    /// Whether a small chunk that was put is found at once (a no-op cache never finds one).
    pub keeps: bool,
}

/// Runs every clause against an empty cache.
pub async fn all(cache: Arc<dyn ChunkCache>, bounds: Bounds) -> Verdict {
    miss_is_none(&*cache).await?;
    if bounds.keeps {
        get_after_put(&*cache).await?;
        survives_flush(&*cache).await?;
    }
    double_put_is_one_entry(&*cache).await?;
    remove_then_miss(&*cache).await?;
    bound_holds(&*cache, bounds).await
}

/// A key never put is a miss, not an error.
pub async fn miss_is_none(cache: &dyn ChunkCache) -> Verdict {
    let found = succeed("a miss is Ok(None)", cache.get(&ChunkKey::of(b"never put")).await)?;
    hold("a miss is Ok(None)", found.is_none(), "a chunk nobody put")
}

/// A chunk put is found with its bytes.
pub async fn get_after_put(cache: &dyn ChunkCache) -> Verdict {
    let chunk = chunk(1000, 1)?;
    succeed("get after put", cache.put(chunk.clone()).await)?;
    let found = succeed("get after put", cache.get(&chunk.key()).await)?;
    hold("get after put", found.as_ref() == Some(&chunk), format!("{found:?}"))
}

/// Flushing keeps what is held.
pub async fn survives_flush(cache: &dyn ChunkCache) -> Verdict {
    let chunk = chunk(1000, 2)?;
    succeed("flush keeps", cache.put(chunk.clone()).await)?;
    succeed("flush keeps", cache.flush().await)?;
    let found = succeed("flush keeps", cache.get(&chunk.key()).await)?;
    hold("flush keeps", found == Some(chunk), "gone after flush")
}

/// Putting twice costs no second entry.
pub async fn double_put_is_one_entry(cache: &dyn ChunkCache) -> Verdict {
    let chunk = chunk(1000, 3)?;
    succeed("idempotent", cache.put(chunk.clone()).await)?;
    let once = cache.usage();
    succeed("idempotent", cache.put(chunk).await)?;
    hold("idempotent", cache.usage() == once, format!("{:?} after {once:?}", cache.usage()))
}

/// A removed chunk is a miss; removing what is absent is no error.
pub async fn remove_then_miss(cache: &dyn ChunkCache) -> Verdict {
    let clause = "remove then miss";
    let chunk = chunk(1000, 4)?;
    succeed(clause, cache.put(chunk.clone()).await)?;
    succeed(clause, cache.remove(&chunk.key()).await)?;
    let found = succeed(clause, cache.get(&chunk.key()).await)?;
    hold(clause, found.is_none(), "found after remove")?;
    succeed(clause, cache.remove(&chunk.key()).await)
}

/// Concurrent puts of more than fits leave the cache within its bound, with right bytes.
pub async fn bound_holds(cache: &dyn ChunkCache, bounds: Bounds) -> Verdict {
    let Some(max_bytes) = bounds.max_bytes else { return Ok(()) };
    let size = usize::try_from(max_bytes / 8).unwrap_or(1 << 20).clamp(1, 1 << 20);
    let puts = (0..24).map(|seed| async move {
        let chunk = chunk(size, 100 + seed)?;
        succeed("bounded", cache.put(chunk.clone()).await)?;
        let found = succeed("bounded", cache.get(&chunk.key()).await)?;
        hold("bounded", found.is_none_or(|found| found == chunk), "other bytes")
    });
    future::try_join_all(puts).await?;
    succeed("bounded", cache.flush().await)?;
    let usage = cache.usage();
    hold("bounded", usage.bytes <= max_bytes, format!("{usage:?} over {max_bytes}"))
}

fn chunk(len: usize, seed: u64) -> Result<VerifiedChunk, Broken> {
    let bytes = Bytes::from(noise(len, seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    succeed("sample", VerifiedChunk::verify(ChunkKey::of(&bytes), bytes))
}
