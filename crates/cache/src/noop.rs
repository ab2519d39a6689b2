//! A cache that holds nothing.
use async_trait::async_trait;
use bolide_core::{CacheUsage, ChunkCache, ChunkKey, Result, VerifiedChunk};

/// A [`ChunkCache`] that misses always: shows what a tier is worth.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoopCache;

#[async_trait]
impl ChunkCache for NoopCache {
    fn name(&self) -> &'static str {
        "noop"
    }

    async fn get(&self, _: &ChunkKey) -> Result<Option<VerifiedChunk>> {
        Ok(None)
    }

    async fn put(&self, _: VerifiedChunk) -> Result<()> {
        Ok(())
    }

    async fn remove(&self, _: &ChunkKey) -> Result<()> {
        Ok(())
    }

    fn usage(&self) -> CacheUsage {
        CacheUsage::default()
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }
}
