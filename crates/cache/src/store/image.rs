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
        Arc, Weak,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
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
    /// Weak, because it holds images in turn.
    dirty: Weak<Dirty>,
    content: Arc<ContentIndex>,
    /// A sync of `data` failed: the kernel may have dropped any page written until then, and a later
    /// sync would succeed without them.
    failed: AtomicBool,
    /// No other store opens the root as long as anyone can write here.
    _lock: Arc<File>,
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
    pub(super) content: Arc<ContentIndex>,
    pub(super) lock: Arc<File>,
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
    pub(super) fn open(dir: &Path, spec: ImageSpec, home: Home) -> Result<Arc<Core>> {
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
            dirty: home.dirty,
            content: home.content,
            failed: AtomicBool::new(false),
            _lock: home.lock,
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
    // The old record must be gone before there is new data it would speak of.
    fs::remove_file(&record)?;
    fs::remove_file(&data)?;
    artifact::sync_dir(dir)?;
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
            if let Some(dirty) = self.dirty.upgrade().filter(|_| pending.is_empty()) {
                dirty.add(Arc::clone(self));
            }
            pending.push(slot.index);
            drop(pending);
            self.content.add(self, slot);
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
        if self.failed.load(Ordering::Relaxed) {
            return Err(Error::new(
                ErrorKind::Io,
                "layer_image::sync",
                "an earlier sync failed, so nothing more of this image is recorded until it is opened again; check the disk",
            )
            .with_context("toc", self.spec.toc));
        }
        if pending.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.data.sync_data() {
            self.failed.store(true, Ordering::Relaxed);
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
        let claim = self.core.claim(slot).await;
        let (core, own) = (Arc::clone(&self.core), *slot);
        blocking(move || {
            // The work outlives a caller that gives up, so the claim goes with the work.
            let _claim = claim;
            if !core.is_present(own.index) {
                core.write(&own, 0, chunk.bytes())?;
                core.mark(&own);
            }
            Ok(())
        })
        .await
    }

    async fn writer(&self, slot: &ChunkSlot) -> Result<Option<Box<dyn SlotWriter>>> {
        self.core.check(slot)?;
        let claim = self.core.claim(slot).await;
        if self.core.is_present(slot.index) {
            return Ok(None);
        }
        Ok(Some(Box::new(DiskSlotWriter::new(Arc::clone(&self.core), *slot, claim))))
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.core.data.as_fd())
    }

    async fn sync(&self) -> Result<()> {
        let core = Arc::clone(&self.core);
        blocking(move || core.make_durable()).await
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use bolide_core::ChunkKey;

    use super::*;

    #[test]
    fn nothing_is_recorded_once_a_sync_failed() {
        let dir = tempfile::tempdir().expect("directory");
        let home = Home {
            dirty: Weak::new(),
            content: Arc::default(),
            lock: Arc::new(tempfile::tempfile().expect("lock")),
        };
        let slot = ChunkSlot { index: ChunkIndex(0), image_offset: 0, key: ChunkKey::of(b"chunk") };
        let spec = ImageSpec { toc: Digest::of(b"toc"), size: 4096, slots: vec![slot] };
        let mut core = Core::open(dir.path(), spec.clone(), home.clone()).expect("opens");
        core.write(&slot, 0, b"chunk").expect("writes");
        core.mark(&slot);
        // A pipe cannot be synced; the data file that returns afterwards can.
        let (pipe, _writer) = std::io::pipe().expect("pipe");
        // The content index refers to the image weakly, which `get_mut` refuses.
        home.content.forget(spec.toc);
        let pipe = File::from(OwnedFd::from(pipe));
        let inner = Arc::get_mut(&mut core).expect("nobody else");
        let data = std::mem::replace(&mut inner.data, pipe);
        assert!(core.make_durable().is_err());
        Arc::get_mut(&mut core).expect("nobody else").data = data;
        assert!(core.make_durable().is_err(), "a later sync proves nothing of earlier writes");
        drop(core);
        let again = Core::open(dir.path(), spec, home).expect("opens");
        assert!(!again.is_present(slot.index));
    }
}
