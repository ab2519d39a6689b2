//! Several caches as one.
use std::sync::Arc;

use async_trait::async_trait;
use bolide_core::{CacheUsage, ChunkCache, ChunkKey, Result, VerifiedChunk};

/// Asks its tiers in order, the fastest first, and copies what a slower one had to the faster.
///
/// A tier that fails is passed over: a broken cache slows reads, it never fails them.
#[derive(Clone, Debug)]
pub struct TieredCache {
    tiers: Vec<Arc<dyn ChunkCache>>,
}

impl TieredCache {
    /// Stacks `tiers`, the fastest first.
    #[must_use]
    pub fn new(tiers: Vec<Arc<dyn ChunkCache>>) -> Self {
        Self { tiers }
    }
}

/// Passes over a failure, leaving a trace of it.
fn forgive<T>(tier: &dyn ChunkCache, result: Result<T>) -> Option<T> {
    result.inspect_err(|error| tracing::warn!(tier = tier.name(), %error, "cache tier failed")).ok()
}

#[async_trait]
impl ChunkCache for TieredCache {
    fn name(&self) -> &'static str {
        "tiered"
    }

    async fn get(&self, key: &ChunkKey) -> Result<Option<VerifiedChunk>> {
        for (depth, tier) in self.tiers.iter().enumerate() {
            let Some(chunk) = forgive(&**tier, tier.get(key).await).flatten() else { continue };
            for faster in &self.tiers[..depth] {
                forgive(&**faster, faster.put(chunk.clone()).await);
            }
            return Ok(Some(chunk));
        }
        Ok(None)
    }

    async fn put(&self, chunk: VerifiedChunk) -> Result<()> {
        for tier in &self.tiers {
            forgive(&**tier, tier.put(chunk.clone()).await);
        }
        Ok(())
    }

    async fn remove(&self, key: &ChunkKey) -> Result<()> {
        for tier in &self.tiers {
            forgive(&**tier, tier.remove(key).await);
        }
        Ok(())
    }

    fn usage(&self) -> CacheUsage {
        // Every tier may hold the same chunk; the largest says how much is held at least.
        let usages = self.tiers.iter().map(|tier| tier.usage());
        usages.max_by_key(|usage| usage.bytes).unwrap_or_default()
    }

    async fn flush(&self) -> Result<()> {
        for tier in &self.tiers {
            forgive(&**tier, tier.flush().await);
        }
        Ok(())
    }
}
