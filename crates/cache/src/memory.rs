//! A bounded cache in memory.
use async_trait::async_trait;
use bolide_core::{CacheUsage, ChunkCache, ChunkKey, Result, VerifiedChunk};
use bytes::Bytes;
use quick_cache::{Weighter, sync::Cache};

/// Chunks expected of each mebibyte of the bound; an estimate that sizes the table.
const CHUNKS_PER_MIB: u64 = 16;

#[derive(Clone, Debug)]
struct ByLength;

impl Weighter<ChunkKey, VerifiedChunk> for ByLength {
    fn weight(&self, key: &ChunkKey, _: &VerifiedChunk) -> u64 {
        key.len
    }
}

/// A [`ChunkCache`] in memory that evicts what is used least (S3-FIFO).
#[derive(Debug)]
pub struct MemoryCache {
    chunks: Cache<ChunkKey, VerifiedChunk, ByLength>,
}

impl MemoryCache {
    /// Holds at most `max_bytes` of chunk data.
    #[must_use]
    pub fn new(max_bytes: u64) -> Self {
        let expected = (max_bytes >> 20).saturating_mul(CHUNKS_PER_MIB).clamp(16, 1 << 20);
        let expected = usize::try_from(expected).unwrap_or(16);
        Self { chunks: Cache::with_weighter(expected, max_bytes, ByLength) }
    }
}

#[async_trait]
impl ChunkCache for MemoryCache {
    fn name(&self) -> &'static str {
        "memory"
    }

    async fn get(&self, key: &ChunkKey) -> Result<Option<VerifiedChunk>> {
        Ok(self.chunks.get(key))
    }

    async fn put(&self, chunk: VerifiedChunk) -> Result<()> {
        // A slice keeps the whole buffer alive that it was cut from: a member of megabytes for a
        // chunk of a kilobyte. A copy is verified again, which costs less than the inflating did.
        let own = Bytes::copy_from_slice(chunk.bytes());
        let key = chunk.key();
        self.chunks.insert(key, VerifiedChunk::verify(key, own)?);
        Ok(())
    }

    async fn remove(&self, key: &ChunkKey) -> Result<()> {
        self.chunks.remove(key);
        Ok(())
    }

    fn usage(&self) -> CacheUsage {
        CacheUsage { entries: self.chunks.len() as u64, bytes: self.chunks.weight() }
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }
}
