//! What a sled cache keeps, drops and survives.
use bolide_testkit::{
    conformance::chunk_cache::{Bounds, all},
    sample::noise,
};
use bytes::Bytes;

use super::*;

const MAX: u64 = 4 << 20;

fn chunk(len: usize, seed: u64) -> VerifiedChunk {
    let bytes = Bytes::from(noise(len, seed * 0x9e37_79b9));
    VerifiedChunk::verify(ChunkKey::of(&bytes), bytes).expect("matches")
}

async fn open(dir: &tempfile::TempDir) -> SledCache {
    SledCache::open(dir.path(), MAX).await.expect("opens")
}

#[tokio::test]
async fn conforms() {
    let dir = tempfile::tempdir().expect("directory");
    let bounds = Bounds { max_bytes: Some(MAX), keeps: true };
    all(Arc::new(open(&dir).await), bounds).await.expect("conforms");
}

#[tokio::test]
async fn chunks_of_any_size_are_found_after_a_restart() {
    let dir = tempfile::tempdir().expect("directory");
    let cache = open(&dir).await;
    let chunks = [1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE].map(|len| chunk(len, 1 + len as u64));
    for chunk in &chunks {
        cache.put(chunk.clone()).await.expect("puts");
    }
    let usage = cache.usage();
    cache.flush().await.expect("flushes");
    drop(cache);
    let cache = open(&dir).await;
    assert_eq!(cache.usage(), usage);
    for chunk in chunks {
        assert_eq!(cache.get(&chunk.key()).await.expect("reads"), Some(chunk));
    }
}

#[tokio::test]
async fn a_smaller_bound_holds_from_the_start() {
    let dir = tempfile::tempdir().expect("directory");
    let cache = open(&dir).await;
    for seed in 0..10 {
        cache.put(chunk(1000, seed + 1)).await.expect("puts");
    }
    cache.flush().await.expect("flushes");
    drop(cache);
    let cache = SledCache::open(dir.path(), 3500).await.expect("opens");
    assert_eq!(cache.usage(), CacheUsage { entries: 3, bytes: 3000 });
    let found = cache.get(&chunk(1000, 10).key()).await.expect("reads");
    assert!(found.is_some(), "the youngest are kept");
}

#[tokio::test]
async fn what_is_found_is_kept_longer() {
    let dir = tempfile::tempdir().expect("directory");
    let cache = SledCache::open(dir.path(), 10_000).await.expect("opens");
    let favourite = chunk(1000, 1);
    for seed in 1..40 {
        cache.put(chunk(1000, seed)).await.expect("puts");
        let found = cache.get(&favourite.key()).await.expect("reads");
        assert!(found.is_some(), "evicted by chunk {seed}");
    }
}

#[tokio::test]
async fn a_damaged_chunk_is_a_miss_and_dropped() {
    let dir = tempfile::tempdir().expect("directory");
    let cache = open(&dir).await;
    let (rotten, cut) = (chunk(PIECE + 100, 1), chunk(PIECE + 100, 2));
    for chunk in [&rotten, &cut] {
        cache.put(chunk.clone()).await.expect("puts");
    }
    cache.0.db.insert(piece(&rotten.key(), 1), &b"rotten"[..]).expect("damages");
    cache.0.db.remove(piece(&cut.key(), 1)).expect("damages");
    for chunk in [&rotten, &cut] {
        assert_eq!(cache.get(&chunk.key()).await.expect("reads"), None);
    }
    assert_eq!(cache.usage(), CacheUsage::default());
    cache.put(rotten.clone()).await.expect("puts");
    assert_eq!(cache.get(&rotten.key()).await.expect("reads"), Some(rotten));
}

#[tokio::test]
async fn a_database_that_is_none_is_named() {
    let file = tempfile::NamedTempFile::new().expect("file");
    let error = SledCache::open(file.path(), MAX).await.expect_err("no directory");
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert_eq!(error.context("dir"), Some(&*file.path().display().to_string()));
}

#[tokio::test]
async fn a_crash_leaves_whole_chunks_or_none() {
    let dir = tempfile::tempdir().expect("directory");
    let cache = open(&dir).await;
    let chunks: Vec<_> = (1..=6).map(|seed| chunk(PIECE + 7, seed)).collect();
    for (at, chunk) in chunks.iter().enumerate() {
        cache.put(chunk.clone()).await.expect("puts");
        if at == 2 {
            cache.flush().await.expect("flushes");
        }
    }
    // What the files hold at this moment is what a process that died now would leave.
    let left = tempfile::tempdir().expect("directory");
    copy_tree(dir.path(), left.path());
    let next = open(&left).await;
    for (at, chunk) in chunks.iter().enumerate() {
        let found = next.get(&chunk.key()).await.expect("reads");
        assert!(found.as_ref() == Some(chunk) || (found.is_none() && at > 2), "chunk {at}");
    }
    for chunk in &chunks {
        next.put(chunk.clone()).await.expect("puts");
        assert_eq!(next.get(&chunk.key()).await.expect("reads").as_ref(), Some(chunk));
    }
}

fn copy_tree(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("lists") {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).expect("entry");
        if path.is_dir() {
            std::fs::create_dir(to.join(&name)).expect("makes");
            copy_tree(&path, &to.join(name));
        } else {
            std::fs::copy(&path, to.join(name)).expect("copies");
        }
    }
}
