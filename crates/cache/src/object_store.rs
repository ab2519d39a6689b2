//! A cache that many nodes share, in an object store.
use std::sync::Arc;

use ::object_store::{
    Error as StoreError, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload,
    path::Path,
};
use async_trait::async_trait;
use bolide_core::{CacheUsage, ChunkCache, ChunkKey, Error, ErrorKind, Result, VerifiedChunk};
use bytes::BytesMut;
use futures::StreamExt as _;

/// Largest chunk kept, in bytes: it is held in memory whole.
const MAX_CHUNK: u64 = 64 << 20;

/// A [`ChunkCache`] in an object store, under `<prefix>/chunks/sha256/<aa>/<hex>-<length>`, where
/// `aa` are the first two digits.
///
/// The store's own life-cycle rules bound it, and it does not know how full it is. What a store
/// cannot answer is an error, which the read pipeline takes for a miss.
#[derive(Clone, Debug)]
pub struct ObjectStoreCache {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
}

impl ObjectStoreCache {
    /// Keeps chunks below `prefix`, which may be empty.
    #[must_use]
    pub fn new(store: Arc<dyn ObjectStore>, prefix: impl Into<Path>) -> Self {
        Self { store, prefix: prefix.into() }
    }

    /// The key of a chunk.
    #[must_use]
    pub fn path(&self, key: &ChunkKey) -> Path {
        let hex = key.digest.hex();
        let shard = hex.get(..2).unwrap_or_default();
        let name = format!("{hex}-{}", key.len);
        ["chunks", "sha256", shard, &name].into_iter().fold(self.prefix.clone(), Path::join)
    }

    /// The object, if it has the length of the chunk.
    async fn read(&self, path: &Path, key: &ChunkKey) -> Result<Option<BytesMut>> {
        let operation = "object_store_cache::get";
        let answer = match self.store.get(path).await {
            Err(StoreError::NotFound { .. }) => return Ok(None),
            answer => answer.map_err(|error| explain(operation, error, path))?,
        };
        let mut bytes = BytesMut::new();
        if answer.meta.size != key.len {
            return Ok(Some(bytes));
        }
        let mut pieces = answer.into_stream();
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|error| explain(operation, error, path))?;
            if (bytes.len() + piece.len()) as u64 > key.len {
                break;
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(Some(bytes))
    }
}

/// Keeps the kinds a caller can act on.
fn explain(operation: &'static str, error: StoreError, path: &Path) -> Error {
    let (kind, rule) = match &error {
        StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => {
            (ErrorKind::Unauthorized, "the store refused us; check the key")
        }
        StoreError::NotSupported { .. } | StoreError::NotImplemented { .. } => {
            (ErrorKind::Unsupported, "the store cannot do this")
        }
        StoreError::InvalidPath { .. } => (ErrorKind::Config, "the prefix is not usable as a key"),
        _ => (ErrorKind::Unavailable, "the store failed"),
    };
    Error::new(kind, operation, rule).with_context("path", path).with_source(error)
}

#[async_trait]
impl ChunkCache for ObjectStoreCache {
    fn name(&self) -> &'static str {
        "object_store"
    }

    async fn get(&self, key: &ChunkKey) -> Result<Option<VerifiedChunk>> {
        if key.len > MAX_CHUNK {
            return Ok(None);
        }
        let path = self.path(key);
        let Some(bytes) = self.read(&path, key).await? else { return Ok(None) };
        match VerifiedChunk::verify(*key, bytes.freeze()) {
            Ok(chunk) => Ok(Some(chunk)),
            Err(error) => {
                tracing::error!(%path, %error, "a shared chunk is damaged and dropped");
                self.remove(key).await?;
                Ok(None)
            }
        }
    }

    async fn put(&self, chunk: VerifiedChunk) -> Result<()> {
        let key = chunk.key();
        if key.len > MAX_CHUNK {
            return Ok(());
        }
        let (path, payload) = (self.path(&key), PutPayload::from(chunk.into_bytes()));
        let absent = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let put = match self.store.put_opts(&path, payload.clone(), absent).await {
            // A store that knows no conditions: equal names are equal bytes, so nothing is lost.
            Err(StoreError::NotSupported { .. } | StoreError::NotImplemented { .. }) => {
                self.store.put(&path, payload).await
            }
            put => put,
        };
        match put {
            Ok(_) | Err(StoreError::AlreadyExists { .. }) => Ok(()),
            Err(error) => Err(explain("object_store_cache::put", error, &path)),
        }
    }

    async fn remove(&self, key: &ChunkKey) -> Result<()> {
        let path = self.path(key);
        match self.store.delete(&path).await {
            Ok(()) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(explain("object_store_cache::remove", error, &path)),
        }
    }

    fn usage(&self) -> CacheUsage {
        CacheUsage::default()
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }
}
