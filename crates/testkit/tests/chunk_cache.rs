//! The suite of chunk caches passes the memory double, and each clause fails a double that breaks it.
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use bolide_core::{
    CacheUsage, ChunkCache, ChunkKey, Error, ErrorKind, Result, VerifiedChunk, memory::MapCache,
};
use bolide_testkit::conformance::{
    Broken,
    chunk_cache::{Bounds, all},
};
use bytes::Bytes;

const BOUNDS: Bounds = Bounds { max_bytes: Some(1 << 20), keeps: true };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    InventsChunks,
    FailsOnMiss,
    ForgetsPuts,
    OtherChunk,
    ForgetsOnFlush,
    CountsTwice,
    KeepsRemoved,
    FailsOnAbsent,
    Unbounded,
}

#[derive(Debug)]
struct Faulty {
    inner: MapCache,
    fault: Fault,
    puts: AtomicU64,
}

fn stranger() -> Option<VerifiedChunk> {
    let bytes = Bytes::from_static(b"stranger");
    VerifiedChunk::verify(ChunkKey::of(&bytes), bytes).ok()
}

fn refused() -> Error {
    Error::new(ErrorKind::NotFound, "faulty_cache", "there is no such chunk")
}

#[async_trait]
impl ChunkCache for Faulty {
    fn name(&self) -> &'static str {
        "faulty"
    }

    async fn get(&self, key: &ChunkKey) -> Result<Option<VerifiedChunk>> {
        let found = self.inner.get(key).await?;
        match self.fault {
            Fault::InventsChunks => Ok(found.or_else(stranger)),
            Fault::FailsOnMiss if found.is_none() => Err(refused()),
            Fault::OtherChunk if found.is_some() => Ok(stranger()),
            _ => Ok(found),
        }
    }

    async fn put(&self, chunk: VerifiedChunk) -> Result<()> {
        self.puts.fetch_add(1, Ordering::SeqCst);
        match self.fault {
            Fault::ForgetsPuts => Ok(()),
            _ => self.inner.put(chunk).await,
        }
    }

    async fn remove(&self, key: &ChunkKey) -> Result<()> {
        match self.fault {
            Fault::KeepsRemoved => Ok(()),
            Fault::FailsOnAbsent if self.inner.get(key).await?.is_none() => Err(refused()),
            _ => self.inner.remove(key).await,
        }
    }

    fn usage(&self) -> CacheUsage {
        let usage = self.inner.usage();
        match self.fault {
            Fault::CountsTwice => CacheUsage { entries: self.puts.load(Ordering::SeqCst), ..usage },
            _ => usage,
        }
    }

    async fn flush(&self) -> Result<()> {
        if self.fault == Fault::ForgetsOnFlush {
            for seed in [1_u64, 2] {
                let noise =
                    bolide_testkit::sample::noise(1000, seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                self.inner.remove(&ChunkKey::of(&noise)).await?;
            }
        }
        self.inner.flush().await
    }
}

#[tokio::test]
async fn map_cache_conforms() {
    all(Arc::new(MapCache::new(1 << 20)), BOUNDS).await.expect("conforms");
}

#[tokio::test]
async fn every_clause_can_fail() {
    let cases = [
        (Fault::InventsChunks, "a miss is Ok(None)"),
        (Fault::FailsOnMiss, "a miss is Ok(None)"),
        (Fault::ForgetsPuts, "get after put"),
        (Fault::OtherChunk, "get after put"),
        (Fault::ForgetsOnFlush, "flush keeps"),
        (Fault::CountsTwice, "idempotent"),
        (Fault::KeepsRemoved, "remove then miss"),
        (Fault::FailsOnAbsent, "remove then miss"),
        (Fault::Unbounded, "bounded"),
    ];
    for (fault, clause) in cases {
        let max = if fault == Fault::Unbounded { 64 << 20 } else { 1 << 20 };
        let faulty = Faulty { inner: MapCache::new(max), fault, puts: AtomicU64::new(0) };
        let verdict = all(Arc::new(faulty), BOUNDS).await;
        assert_eq!(verdict.as_ref().err().map(Broken::clause), Some(clause), "{fault:?}");
    }
}
