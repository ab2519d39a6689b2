//! A shared cache keeps the contract over any store, and trusts none.
#![cfg(feature = "object-store")]
use std::sync::Arc;

use bolide_cache::ObjectStoreCache;
use bolide_core::{ChunkCache as _, ChunkKey, VerifiedChunk};
use bolide_testkit::conformance::chunk_cache::{Bounds, all};
use bytes::Bytes;
use object_store::{
    ObjectStore, ObjectStoreExt as _, local::LocalFileSystem, memory::InMemory, path::Path,
};

const BOUNDS: Bounds = Bounds { max_bytes: None, keeps: true };

fn chunk() -> VerifiedChunk {
    let bytes = Bytes::from_static(b"shared");
    VerifiedChunk::verify(ChunkKey::of(&bytes), bytes).expect("matches")
}

#[tokio::test]
async fn conforms_in_memory() {
    let cache = ObjectStoreCache::new(Arc::new(InMemory::new()), "");
    all(Arc::new(cache), BOUNDS).await.expect("conforms");
}

#[tokio::test]
async fn conforms_in_a_directory() {
    let dir = tempfile::tempdir().expect("directory");
    let store = LocalFileSystem::new_with_prefix(dir.path()).expect("store");
    let cache = ObjectStoreCache::new(Arc::new(store), "below/this");
    all(Arc::new(cache), BOUNDS).await.expect("conforms");
}

#[tokio::test]
async fn nodes_share_what_one_has_put() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let one = ObjectStoreCache::new(Arc::clone(&store), "fleet");
    let two = ObjectStoreCache::new(store, "fleet");
    one.put(chunk()).await.expect("puts");
    assert_eq!(two.get(&chunk().key()).await.expect("reads"), Some(chunk()));
    let hex = chunk().key().digest.hex();
    let expected = Path::from(format!("fleet/chunks/sha256/{}/{hex}-6", &hex[..2]));
    assert_eq!(one.path(&chunk().key()), expected);
}

#[tokio::test]
async fn a_damaged_object_is_a_miss_and_makes_room_for_the_right_one() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let cache = ObjectStoreCache::new(Arc::clone(&store), "");
    let path = cache.path(&chunk().key());
    for damage in [&b"shares"[..], b"", b"share", b"shared and more"] {
        store.put(&path, damage.to_vec().into()).await.expect("damages");
        assert_eq!(cache.get(&chunk().key()).await.expect("reads"), None, "{damage:?}");
        cache.put(chunk()).await.expect("puts");
        assert_eq!(cache.get(&chunk().key()).await.expect("reads"), Some(chunk()));
    }
}

#[tokio::test]
async fn a_store_that_fails_is_an_error_not_a_miss() {
    let dir = tempfile::tempdir().expect("directory");
    let store = LocalFileSystem::new_with_prefix(dir.path()).expect("store");
    let cache = ObjectStoreCache::new(Arc::new(store), "");
    std::fs::write(dir.path().join("chunks"), "in the way").expect("file");
    assert!(cache.put(chunk()).await.is_err());
}
