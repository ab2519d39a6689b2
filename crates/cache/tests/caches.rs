//! Every cache keeps the contract of its trait.
use std::sync::Arc;

use bolide_cache::{MemoryCache, NoopCache, TieredCache};
use bolide_core::memory::MapCache;
use bolide_testkit::conformance::chunk_cache::{Bounds, all};

const MAX: u64 = 1 << 20;

#[tokio::test]
async fn memory_cache_conforms() {
    let bounds = Bounds { max_bytes: Some(MAX), keeps: true };
    all(Arc::new(MemoryCache::new(MAX)), bounds).await.expect("conforms");
}

#[tokio::test]
async fn noop_cache_conforms() {
    let bounds = Bounds { max_bytes: Some(MAX), keeps: false };
    all(Arc::new(NoopCache), bounds).await.expect("conforms");
}

#[tokio::test]
async fn tiered_cache_conforms() {
    let tiers =
        TieredCache::new(vec![Arc::new(MemoryCache::new(MAX / 4)), Arc::new(MapCache::new(MAX))]);
    let bounds = Bounds { max_bytes: Some(MAX), keeps: true };
    all(Arc::new(tiers), bounds).await.expect("conforms");
}
