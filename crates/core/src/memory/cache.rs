//! A chunk cache in a map.
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;

use crate::{CacheUsage, ChunkCache, ChunkKey, Result, VerifiedChunk};

/// A [`ChunkCache`] over a map that refuses what does not fit: the simplest that keeps the
/// contract. Products use `bolide_cache::MemoryCache`, which evicts.
#[derive(Debug)]
pub struct MapCache {
    chunks: Mutex<HashMap<ChunkKey, VerifiedChunk>>,
    max_bytes: u64,
}

impl MapCache {
    /// Holds at most `max_bytes` of chunk data.
    #[must_use]
    pub fn new(max_bytes: u64) -> Self {
        Self { chunks: Mutex::default(), max_bytes }
    }

    fn chunks(&self) -> MutexGuard<'_, HashMap<ChunkKey, VerifiedChunk>> {
        // No code panics while it holds the lock; a poisoned map is still a right one.
        self.chunks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bytes_of(chunks: &HashMap<ChunkKey, VerifiedChunk>) -> u64 {
    chunks.keys().map(|key| key.len).sum()
}

#[async_trait]
impl ChunkCache for MapCache {
    fn name(&self) -> &'static str {
        "map"
    }

    async fn get(&self, key: &ChunkKey) -> Result<Option<VerifiedChunk>> {
        Ok(self.chunks().get(key).cloned())
    }

    async fn put(&self, chunk: VerifiedChunk) -> Result<()> {
        let mut chunks = self.chunks();
        if bytes_of(&chunks).saturating_add(chunk.key().len) <= self.max_bytes {
            chunks.insert(chunk.key(), chunk);
        }
        Ok(())
    }

    async fn remove(&self, key: &ChunkKey) -> Result<()> {
        self.chunks().remove(key);
        Ok(())
    }

    fn usage(&self) -> CacheUsage {
        let chunks = self.chunks();
        CacheUsage { entries: chunks.len() as u64, bytes: bytes_of(&chunks) }
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }
}
