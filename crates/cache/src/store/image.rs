//! One layer image: a sparse file and its record.
use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::fs::FileExt as _,
    },
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bolide_core::{
    ChunkIndex, ChunkSlot, Digest, Error, ErrorKind, ImageSpec, LayerImage, Presence, Result,
    SlotWriter, VerifiedChunk,
};
use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, Notify, OwnedMutexGuard};

use super::{
    artifact, blocking,
    content::ContentIndex,
    presence::{Bits, Record},
    slot_writer::DiskSlotWriter,
};

/// A [`LayerImage`] in a file.
#[derive(Debug)]
pub(super) struct DiskLayerImage {
    pub(super) core: Arc<Core>,
}

/// What writers share with the image.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) spec: ImageSpec,
    data: File,
    bits: Bits,
    chunks: AtomicU32,
    bytes: AtomicU64,
    bytes_total: u64,
    record: Mutex<Record>,
    /// Chunks that are in `data` and not yet in the record.
    pending: Mutex<Vec<ChunkIndex>>,
    /// Who writes a slot holds its lock.
    slots: Mutex<HashMap<u32, Arc<AsyncMutex<()>>>>,
    dirty: Arc<Dirty>,
    content: Arc<ContentIndex>,
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
        dir: &Path,
        spec: ImageSpec,
        dirty: Arc<Dirty>,
        content: Arc<ContentIndex>,
    ) -> Result<Arc<Core>> {
        let io = |error| Error::io("layer_image::open", error).with_context("dir", dir.display());
        fs::create_dir_all(dir).map_err(io)?;
        let (data, record) = open_files(dir, &spec).map_err(io)?;
        let bits = Bits::new(spec.slots.len());
        let present = record.present().filter_map(|chunk| spec.slots.get(chunk.0 as usize));
        let (mut chunks, mut bytes) = (0, 0);
        for slot in present {
            bits.set(slot.index);
            chunks += 1;
            bytes += slot.key.len;
        }
        let bytes_total = spec.slots.iter().map(|slot| slot.key.len).sum();
        let core = Core {
            spec,
            data,
            bits,
            chunks: AtomicU32::new(chunks),
            bytes: AtomicU64::new(bytes),
            bytes_total,
            record: Mutex::new(record),
            pending: Mutex::default(),
            slots: Mutex::default(),
            dirty,
            content,
        };
        Ok(Arc::new(core))
    }
}

fn open_files(dir: &Path, spec: &ImageSpec) -> std::io::Result<(File, Record)> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode_private();
    let (data, record) = (dir.join("data"), dir.join("presence"));
    let found = (options.open(&data)?, options.open(&record)?);
    let sized = found.0.metadata()?.len() == spec.size;
    if let Some(record) = Record::read(found.1, spec)?.filter(|_| sized) {
        return Ok((found.0, record));
    }
    // The old files may still be open elsewhere: names are given up, not contents overwritten.
    fs::remove_file(&record)?;
    fs::remove_file(&data)?;
    let made = options.open(&data)?;
    made.set_len(spec.size)?;
    made.sync_all()?;
    let record = Record::create(options.open(&record)?, spec)?;
    artifact::sync_dir(dir)?;
    Ok((made, record))
}

trait Private {
    fn mode_private(&mut self) -> &mut Self;
}

impl Private for OpenOptions {
    fn mode_private(&mut self) -> &mut Self {
        use std::os::unix::fs::OpenOptionsExt as _;
        // Layers of private images are nobody else's business.
        self.mode(0o600)
    }
}

impl Core {
    /// The slot must be the spec's own.
    pub(super) fn check(&self, slot: &ChunkSlot) -> Result<()> {
        if self.spec.slots.get(slot.index.0 as usize) == Some(slot) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Malformed,
            "layer_image::check",
            "the chunk is not one of this layer",
        )
        .with_context("toc", self.spec.toc)
        .with_context("chunk", slot.index.0))
    }

    /// Waits until nobody else writes the slot.
    pub(super) async fn claim(&self, slot: &ChunkSlot) -> OwnedMutexGuard<()> {
        let lock = Arc::clone(self.slots.lock().entry(slot.index.0).or_default());
        lock.lock_owned().await
    }

    /// Gives the slot up; its lock goes when nobody waits for it.
    pub(super) fn release(&self, slot: &ChunkSlot, guard: OwnedMutexGuard<()>) {
        drop(guard);
        let mut slots = self.slots.lock();
        if slots.get(&slot.index.0).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            slots.remove(&slot.index.0);
        }
    }

    pub(super) fn write(&self, slot: &ChunkSlot, offset: u64, bytes: &[u8]) -> Result<()> {
        self.data.write_all_at(bytes, slot.image_offset + offset).map_err(|error| {
            Error::io("layer_image::write", error)
                .with_context("toc", self.spec.toc)
                .with_context("chunk", slot.index.0)
        })
    }

    /// Marks a chunk whose verified bytes were written.
    pub(super) fn mark(self: &Arc<Self>, slot: &ChunkSlot) {
        if self.bits.set(slot.index) {
            self.chunks.fetch_add(1, Ordering::Relaxed);
            self.bytes.fetch_add(slot.key.len, Ordering::Relaxed);
            let mut pending = self.pending.lock();
            if pending.is_empty() {
                self.dirty.add(Arc::clone(self));
            }
            pending.push(slot.index);
        }
    }

    pub(super) fn presence(&self) -> Presence {
        Presence {
            chunks: self.chunks.load(Ordering::Relaxed),
            chunks_total: u32::try_from(self.spec.slots.len()).unwrap_or(u32::MAX),
            bytes: self.bytes.load(Ordering::Relaxed),
            bytes_total: self.bytes_total,
        }
    }

    pub(super) fn is_present(&self, chunk: ChunkIndex) -> bool {
        self.bits.get(chunk)
    }

    pub(super) fn read(&self, slot: &ChunkSlot, offset: u64, buf: &mut [u8]) -> Result<bool> {
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
            Error::io("layer_image::read", error).with_context("toc", self.spec.toc)
        })?;
        Ok(true)
    }

    /// Syncs the data, then records what it holds.
    pub(super) fn make_durable(&self) -> Result<()> {
        let io = |error| Error::io("layer_image::sync", error).with_context("toc", self.spec.toc);
        // The lock keeps two syncs apart, or the second could record what the first still writes.
        let mut record = self.record.lock();
        let pending = std::mem::take(&mut *self.pending.lock());
        if pending.is_empty() {
            return Ok(());
        }
        let synced = self.data.sync_data().and_then(|()| record.add(&pending));
        if synced.is_err() {
            let mut waiting = self.pending.lock();
            let added = std::mem::take(&mut *waiting);
            *waiting = pending.into_iter().chain(added).collect();
        }
        synced.map_err(io)
    }
}

#[async_trait]
impl LayerImage for DiskLayerImage {
    fn toc_digest(&self) -> Digest {
        self.core.spec.toc
    }

    fn is_present(&self, chunk: ChunkIndex) -> bool {
        self.core.is_present(chunk)
    }

    fn presence(&self) -> Presence {
        self.core.presence()
    }

    fn try_read(&self, slot: &ChunkSlot, offset: u64, buf: &mut [u8]) -> Result<bool> {
        self.core.read(slot, offset, buf)
    }

    async fn fill(&self, slot: &ChunkSlot, chunk: VerifiedChunk) -> Result<()> {
        self.core.check(slot)?;
        if chunk.key() != slot.key {
            return Err(Error::new(
                ErrorKind::Malformed,
                "layer_image::fill",
                "the chunk is not the slot's",
            )
            .with_context("expected", slot.key.digest)
            .with_context("actual", chunk.key().digest));
        }
        let guard = self.core.claim(slot).await;
        let (core, own) = (Arc::clone(&self.core), *slot);
        let written = blocking(move || {
            if !core.is_present(own.index) {
                core.write(&own, 0, chunk.bytes())?;
                core.mark(&own);
            }
            Ok(())
        });
        let written = written.await;
        self.core.release(slot, guard);
        if written.is_ok() {
            self.core.content.add(&self.core, slot);
        }
        written
    }

    async fn writer(&self, slot: &ChunkSlot) -> Result<Option<Box<dyn SlotWriter>>> {
        self.core.check(slot)?;
        let guard = self.core.claim(slot).await;
        if self.core.is_present(slot.index) {
            self.core.release(slot, guard);
            return Ok(None);
        }
        Ok(Some(Box::new(DiskSlotWriter::new(Arc::clone(&self.core), *slot, guard))))
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.core.data.as_fd())
    }

    async fn sync(&self) -> Result<()> {
        let core = Arc::clone(&self.core);
        blocking(move || core.make_durable()).await
    }
}
