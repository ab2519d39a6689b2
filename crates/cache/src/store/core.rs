//! What an image and its writers share: the data, which chunks of it are there, and who writes.
use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
};

use bolide_core::{ChunkIndex, ChunkSlot, Digest, Error, ErrorKind, ImageSpec, Presence, Result};
use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, Notify, OwnedMutexGuard};

use super::{
    disk::{Disk, StoreFile},
    files::Files,
    presence::{Bits, Record},
    shape::Shape,
    shape_file::Head,
};

/// An open image.
#[derive(Debug)]
pub(super) struct Core {
    shape: Shape,
    data: Arc<dyn StoreFile>,
    bits: Bits,
    chunks: AtomicU32,
    bytes: AtomicU64,
    record: Mutex<Record>,
    /// Chunks that are in `data` and not yet in the record.
    pending: Mutex<Vec<ChunkIndex>>,
    /// Who writes a slot holds its lock.
    slots: Mutex<HashMap<u32, Arc<AsyncMutex<()>>>>,
    /// Weak, because it holds images in turn.
    dirty: Weak<Dirty>,
    /// A sync of `data` failed: the kernel may have dropped any page written until then, and a later
    /// sync would succeed without them.
    failed: AtomicBool,
    /// No other store opens the root as long as anyone can write here.
    _lock: Arc<dyn StoreFile>,
}

/// The right to write one slot. Whatever may still write holds it, also when nobody waits for that
/// any more.
#[derive(Debug)]
pub(super) struct Claim {
    core: Arc<Core>,
    chunk: ChunkIndex,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        drop(self.guard.take());
        let mut slots = self.core.slots.lock();
        // The lock goes when nobody waits for it.
        if slots.get(&self.chunk.0).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            slots.remove(&self.chunk.0);
        }
    }
}

/// What an image shares with its store.
#[derive(Clone, Debug)]
pub(super) struct Home {
    pub(super) dirty: Weak<Dirty>,
    pub(super) lock: Arc<dyn StoreFile>,
}

/// Images that hold chunks which are not yet durable. It keeps them alive until they are, whoever
/// else lets go of them.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    pub(super) changed: Notify,
    cores: Mutex<Vec<Arc<Core>>>,
}

impl Dirty {
    pub(super) fn take(&self) -> Vec<Arc<Core>> {
        std::mem::take(&mut *self.cores.lock())
    }

    /// Keeps an image whose sync failed for the next round, whenever that comes.
    pub(super) fn keep(&self, core: Arc<Core>) {
        self.cores.lock().push(core);
    }

    fn add(&self, core: Arc<Core>) {
        self.cores.lock().push(core);
        self.changed.notify_one();
    }
}

impl Core {
    /// Opens the image of a directory, or makes it anew when what is there is not of this shape.
    pub(super) fn open(
        disk: &dyn Disk,
        dir: &Path,
        spec: &ImageSpec,
        shape: Shape,
        home: Home,
    ) -> Result<(Arc<Core>, Head)> {
        let files = Files::open(disk, dir, spec, &shape).map_err(|error| {
            Error::io("layer_image::open", error)
                .with_context("dir", dir.display())
                .with_context("bytes", spec.size)
        })?;
        let bits = Bits::new(shape.chunks());
        let (mut chunks, mut bytes) = (0, 0);
        for slot in spec.slots.iter().filter(|slot| files.record.has(slot.index)) {
            bits.set(slot.index);
            chunks += 1;
            bytes += slot.key.len;
        }
        let core = Core {
            shape,
            data: files.data,
            bits,
            chunks: AtomicU32::new(chunks),
            bytes: AtomicU64::new(bytes),
            record: Mutex::new(files.record),
            pending: Mutex::default(),
            slots: Mutex::default(),
            dirty: home.dirty,
            failed: AtomicBool::new(false),
            _lock: home.lock,
        };
        Ok((Arc::new(core), files.head))
    }

    pub(super) fn toc(&self) -> Digest {
        self.shape.toc
    }

    pub(super) fn data(&self) -> &Arc<dyn StoreFile> {
        &self.data
    }

    /// Whether the image was made for a spec of this shape.
    pub(super) fn is_of(&self, shape: &Shape) -> bool {
        self.shape.digest == shape.digest
    }

    /// Whether a chunk is present and its bytes can be believed to be still there.
    pub(super) fn is_readable(&self, chunk: ChunkIndex) -> bool {
        self.is_present(chunk)
            && (!self.failed.load(Ordering::Acquire) || self.record.lock().has(chunk))
    }

    /// The slot must be the spec's own.
    pub(super) fn check(&self, slot: &ChunkSlot) -> Result<()> {
        if self.shape.has(slot) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Malformed,
            "layer_image::check",
            "the chunk is not one of this layer",
        )
        .with_context("toc", self.shape.toc)
        .with_context("chunk", slot.index.0))
    }

    /// Waits until nobody else writes the slot.
    pub(super) async fn claim(self: &Arc<Self>, slot: &ChunkSlot) -> Claim {
        let lock = Arc::clone(self.slots.lock().entry(slot.index.0).or_default());
        // Made first: it tidies up as well when this future is dropped while it waits.
        let mut claim = Claim { core: Arc::clone(self), chunk: slot.index, guard: None };
        claim.guard = Some(lock.lock_owned().await);
        claim
    }

    pub(super) fn write(&self, slot: &ChunkSlot, offset: u64, bytes: &[u8]) -> Result<()> {
        self.data.write_all_at(bytes, slot.image_offset + offset).map_err(|error| {
            Error::io("layer_image::write", error)
                .with_context("toc", self.shape.toc)
                .with_context("chunk", slot.index.0)
        })
    }

    /// Marks a chunk whose verified bytes were written.
    pub(super) fn mark(self: &Arc<Self>, slot: &ChunkSlot) {
        if self.bits.set(slot.index) {
            self.chunks.fetch_add(1, Ordering::Relaxed);
            self.bytes.fetch_add(slot.key.len, Ordering::Relaxed);
            let mut pending = self.pending.lock();
            if let Some(dirty) = self.dirty.upgrade().filter(|_| pending.is_empty()) {
                dirty.add(Arc::clone(self));
            }
            pending.push(slot.index);
        }
    }

    pub(super) fn presence(&self) -> Presence {
        Presence {
            chunks: self.chunks.load(Ordering::Relaxed),
            chunks_total: u32::try_from(self.shape.chunks()).unwrap_or(u32::MAX),
            bytes: self.bytes.load(Ordering::Relaxed),
            bytes_total: self.shape.bytes_total,
        }
    }

    pub(super) fn is_present(&self, chunk: ChunkIndex) -> bool {
        self.bits.get(chunk)
    }

    pub(super) fn read(&self, slot: &ChunkSlot, offset: u64, buf: &mut [u8]) -> Result<bool> {
        self.check(slot)?;
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > slot.key.len) {
            return Err(Error::new(
                ErrorKind::OutOfRange,
                "layer_image::read",
                "past the end of the chunk",
            )
            .with_context("offset", offset)
            .with_context("len", buf.len()));
        }
        if !self.is_present(slot.index) {
            return Ok(false);
        }
        self.data.read_exact_at(buf, slot.image_offset + offset).map_err(|error| {
            Error::io("layer_image::read", error).with_context("toc", self.shape.toc)
        })?;
        // Asked after the read: a sync that fails meanwhile may have dropped what was read.
        if self.is_readable(slot.index) {
            return Ok(true);
        }
        Err(Error::new(
            ErrorKind::Io,
            "layer_image::read",
            "the chunk was written before a sync failed, so it may be lost; check the disk",
        )
        .with_context("toc", self.shape.toc)
        .with_context("chunk", slot.index.0))
    }

    /// Syncs the data, then records what it holds.
    pub(super) fn make_durable(&self) -> Result<()> {
        let io = |error| Error::io("layer_image::sync", error).with_context("toc", self.shape.toc);
        // The lock keeps two syncs apart, or the second could record what the first still writes.
        let mut record = self.record.lock();
        let pending = std::mem::take(&mut *self.pending.lock());
        if self.failed.load(Ordering::Relaxed) {
            return Err(Error::new(
                ErrorKind::Io,
                "layer_image::sync",
                "an earlier sync failed, so nothing more of this image is recorded until it is opened again; check the disk",
            )
            .with_context("toc", self.shape.toc));
        }
        if pending.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.data.sync_data() {
            self.failed.store(true, Ordering::Release);
            return Err(io(error));
        }
        let recorded = record.add(&pending);
        if recorded.is_err() {
            // The data is safe; only the record is to be written again.
            let mut waiting = self.pending.lock();
            let added = std::mem::take(&mut *waiting);
            *waiting = pending.into_iter().chain(added).collect();
        }
        recorded.map_err(io)
    }

    /// Whether another sync may succeed.
    pub(super) fn may_sync(&self) -> bool {
        !self.failed.load(Ordering::Relaxed)
    }
}
