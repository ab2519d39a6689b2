//! A bounded cache in a sled database.
//!
//! One tree, so that every change is one batch, which sled makes whole or not at all:
//!
//! ```text
//! 'c' digest length piece   the bytes, in pieces
//! 'k' digest length         when the chunk was put or last found, a number that grows
//! 'o' that number           digest and length: the first is the first to go
//! ```
use std::{
    fmt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use ::sled::{Batch, Db, IVec};
use async_trait::async_trait;
use bolide_core::{
    CacheUsage, ChunkCache, ChunkKey, Digest, Error, ErrorKind, Result, VerifiedChunk,
};
use bytes::BytesMut;
use parking_lot::{Mutex, MutexGuard};

use crate::blocking::blocking;

/// Bytes of one value. Sled rewrites and caches values whole.
const PIECE: usize = 512 << 10;
/// Pages that sled keeps in memory, in bytes; its own default is a gibibyte.
const PAGES: u64 = 16 << 20;

/// A [`ChunkCache`] in a sled database, found again after a restart.
///
/// It evicts what was put, or found while it was old, the longest time ago. The bound is of chunk
/// data; sled's file may be larger and does not shrink. Call [`flush`](ChunkCache::flush) before
/// the last handle goes, or the drop has to write and blocks its thread.
#[derive(Clone)]
pub struct SledCache(Arc<Inner>);

struct Inner {
    db: Db,
    max_bytes: u64,
    entries: AtomicU64,
    bytes: AtomicU64,
    /// The next number. Held by whoever changes the database.
    next: Mutex<u64>,
}

impl fmt::Debug for SledCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledCache").field("usage", &self.usage()).finish_non_exhaustive()
    }
}

impl SledCache {
    /// Opens or makes a database in a directory of its own, holding at most `max_bytes` of chunk
    /// data; what is there beyond that is evicted. `FailedPrecondition` when it cannot be opened.
    pub async fn open(dir: &Path, max_bytes: u64) -> Result<Self> {
        let dir = dir.to_owned();
        let open = move || {
            let db = ::sled::Config::new().path(&dir).cache_capacity(PAGES).open();
            let db = db.map_err(|error| {
                let rule = "the database cannot be opened: another process may hold it; if it is damaged, remove the directory, it is only a cache";
                Error::new(ErrorKind::FailedPrecondition, "sled_cache::open", rule)
                    .with_context("dir", dir.display())
                    .with_source(error)
            })?;
            Inner::load(db, max_bytes)
        };
        Ok(Self(Arc::new(blocking(open).await?)))
    }
}

fn explain(operation: &'static str) -> impl Fn(::sled::Error) -> Error {
    move |error| match error {
        ::sled::Error::Io(error) => Error::io(operation, error),
        other => Error::new(ErrorKind::Io, operation, other.to_string()).with_source(other),
    }
}

fn named(kind: u8, key: &ChunkKey) -> Vec<u8> {
    let mut name = vec![kind];
    name.extend_from_slice(key.digest.as_bytes());
    name.extend_from_slice(&key.len.to_be_bytes());
    name
}

fn piece(key: &ChunkKey, number: usize) -> Vec<u8> {
    let mut name = named(b'c', key);
    name.extend_from_slice(&(number as u64).to_be_bytes());
    name
}

fn order(number: u64) -> [u8; 9] {
    let mut name = [b'o'; 9];
    name[1..].copy_from_slice(&number.to_be_bytes());
    name
}

fn number(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}

fn parse_key(bytes: &[u8]) -> Option<ChunkKey> {
    let (digest, len) = bytes.split_first_chunk::<32>()?;
    Some(ChunkKey { digest: Digest::from_bytes(*digest), len: number(len)? })
}

fn pieces(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX).div_ceil(PIECE)
}

impl Inner {
    /// Counts what an earlier process left.
    fn load(db: Db, max_bytes: u64) -> Result<Self> {
        let (mut entries, mut bytes, mut last) = (0, 0_u64, 0);
        for entry in db.scan_prefix(b"o") {
            let (name, value) = entry.map_err(explain("sled_cache::open"))?;
            entries += 1;
            bytes = bytes.saturating_add(parse_key(&value).map_or(0, |key| key.len));
            last = number(name.get(1..).unwrap_or_default()).unwrap_or(0);
        }
        let inner = Self {
            db,
            max_bytes,
            entries: AtomicU64::new(entries),
            bytes: AtomicU64::new(bytes),
            next: Mutex::new(last + 1),
        };
        inner.make_room(0, &inner.next.lock())?;
        Ok(inner)
    }

    fn when(&self, key: &ChunkKey) -> Result<Option<u64>> {
        let found = self.db.get(named(b'k', key)).map_err(explain("sled_cache::get"))?;
        Ok(found.as_deref().and_then(number))
    }

    fn get(&self, key: &ChunkKey) -> Result<Option<VerifiedChunk>> {
        let Some(when) = self.when(key)? else { return Ok(None) };
        // The length is the caller's word; the database holds no larger than its bound.
        let mut bytes = BytesMut::new();
        for at in 0..pieces(key.len.min(self.max_bytes)) {
            match self.db.get(piece(key, at)).map_err(explain("sled_cache::get"))? {
                Some(piece) => bytes.extend_from_slice(&piece),
                None => break,
            }
        }
        match VerifiedChunk::verify(*key, bytes.freeze()) {
            Ok(chunk) => {
                self.freshen(key, when)?;
                Ok(Some(chunk))
            }
            // Evicted while it was read.
            Err(_) if self.when(key)? != Some(when) => Ok(None),
            Err(error) => {
                tracing::error!(%error, "a cached chunk is damaged and dropped");
                self.remove(key)?;
                Ok(None)
            }
        }
    }

    /// Keeps a chunk that was found in the older half for longer. Most finds write nothing.
    fn freshen(&self, key: &ChunkKey, when: u64) -> Result<()> {
        let mut next = self.next.lock();
        let young = next.saturating_sub(self.entries.load(Ordering::Relaxed) / 2);
        if when >= young || self.when(key)? != Some(when) {
            return Ok(());
        }
        let mut batch = Batch::default();
        batch.remove(&order(when));
        batch.insert(&order(*next), &named(b'k', key)[1..]);
        batch.insert(named(b'k', key), &next.to_be_bytes());
        *next += 1;
        self.db.apply_batch(batch).map_err(explain("sled_cache::get"))
    }

    fn put(&self, chunk: &VerifiedChunk) -> Result<()> {
        let key = chunk.key();
        if key.len > self.max_bytes {
            return Ok(());
        }
        let mut next = self.next.lock();
        if self.when(&key)?.is_some() {
            return Ok(());
        }
        self.make_room(key.len, &next)?;
        let mut batch = Batch::default();
        for (at, bytes) in chunk.bytes().chunks(PIECE).enumerate() {
            batch.insert(piece(&key, at), bytes);
        }
        batch.insert(&order(*next), &named(b'k', &key)[1..]);
        batch.insert(named(b'k', &key), &next.to_be_bytes());
        *next += 1;
        self.db.apply_batch(batch).map_err(explain("sled_cache::put"))?;
        self.entries.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(key.len, Ordering::Relaxed);
        Ok(())
    }

    /// Evicts until `wanted` more bytes fit.
    fn make_room(&self, wanted: u64, changing: &MutexGuard<'_, u64>) -> Result<()> {
        let full = || self.bytes.load(Ordering::Relaxed).saturating_add(wanted) > self.max_bytes;
        while full() {
            let oldest = self.db.scan_prefix(b"o").next();
            let Some((name, value)) = oldest.transpose().map_err(explain("sled_cache::evict"))?
            else {
                return Ok(());
            };
            self.drop_entry(&name, parse_key(&value), changing)?;
        }
        Ok(())
    }

    fn drop_entry(
        &self,
        name: &IVec,
        key: Option<ChunkKey>,
        _: &MutexGuard<'_, u64>,
    ) -> Result<()> {
        let mut batch = Batch::default();
        batch.remove(name);
        if let Some(key) = key {
            batch.remove(named(b'k', &key));
            // A length from a damaged entry names no more pieces than the bound allows.
            (0..pieces(key.len.min(self.max_bytes))).for_each(|at| batch.remove(piece(&key, at)));
        }
        self.db.apply_batch(batch).map_err(explain("sled_cache::remove"))?;
        self.entries.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(key.map_or(0, |key| key.len), Ordering::Relaxed);
        Ok(())
    }

    fn remove(&self, key: &ChunkKey) -> Result<()> {
        let changing = self.next.lock();
        let Some(when) = self.when(key)? else { return Ok(()) };
        self.drop_entry(&IVec::from(&order(when)), Some(*key), &changing)
    }
}

#[async_trait]
impl ChunkCache for SledCache {
    fn name(&self) -> &'static str {
        "sled"
    }

    async fn get(&self, key: &ChunkKey) -> Result<Option<VerifiedChunk>> {
        let (inner, key) = (Arc::clone(&self.0), *key);
        blocking(move || inner.get(&key)).await
    }

    async fn put(&self, chunk: VerifiedChunk) -> Result<()> {
        let inner = Arc::clone(&self.0);
        blocking(move || inner.put(&chunk)).await
    }

    async fn remove(&self, key: &ChunkKey) -> Result<()> {
        let (inner, key) = (Arc::clone(&self.0), *key);
        blocking(move || inner.remove(&key)).await
    }

    fn usage(&self) -> CacheUsage {
        CacheUsage {
            entries: self.0.entries.load(Ordering::Relaxed),
            bytes: self.0.bytes.load(Ordering::Relaxed),
        }
    }

    async fn flush(&self) -> Result<()> {
        let inner = Arc::clone(&self.0);
        let flush = move || inner.db.flush().map(|_| ()).map_err(explain("sled_cache::flush"));
        blocking(flush).await
    }
}

#[cfg(test)]
mod tests;
