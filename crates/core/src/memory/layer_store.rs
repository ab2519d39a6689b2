//! A layer store in memory.
use std::{
    collections::BTreeMap,
    os::fd::BorrowedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;

use super::layer_writer::MemorySlotWriter;
use crate::{
    Artifact, ChunkIndex, ChunkSlot, Digest, Error, ErrorKind, ImageSpec, LayerImage, LayerStore,
    LayerUsage, Presence, Result, SlotWriter, VerifiedChunk,
};

#[derive(Debug, Default)]
struct Held {
    images: BTreeMap<Digest, Arc<MemoryLayerImage>>,
    artifacts: BTreeMap<(Digest, Artifact), Bytes>,
}

/// A [`LayerStore`] that lives and dies with the process.
#[derive(Debug, Default)]
pub struct MemoryLayerStore {
    held: Mutex<Held>,
}

impl MemoryLayerStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl LayerStore for MemoryLayerStore {
    async fn open(&self, spec: ImageSpec) -> Result<Arc<dyn LayerImage>> {
        spec.check()?;
        let mut held = self.held();
        let found = held.images.get(&spec.toc).filter(|image| image.spec == spec);
        let image = found.cloned().unwrap_or_else(|| Arc::new(MemoryLayerImage::new(spec)));
        held.images.insert(image.spec.toc, Arc::clone(&image));
        Ok(image)
    }

    async fn copy_local(&self, target: &dyn LayerImage, slot: &ChunkSlot) -> Result<bool> {
        let found = self.held().images.values().find_map(|image| image.chunk(slot));
        let Some(bytes) = found else { return Ok(false) };
        target.fill(slot, VerifiedChunk::verify(slot.key, bytes)?).await?;
        Ok(true)
    }

    async fn put_artifact(&self, toc: Digest, artifact: Artifact, bytes: Bytes) -> Result<()> {
        self.held().artifacts.insert((toc, artifact), bytes);
        Ok(())
    }

    async fn artifact(&self, toc: Digest, artifact: Artifact) -> Result<Option<Bytes>> {
        Ok(self.held().artifacts.get(&(toc, artifact)).cloned())
    }

    async fn remove(&self, toc: Digest) -> Result<()> {
        let mut held = self.held();
        held.images.remove(&toc);
        held.artifacts.retain(|(owner, _), _| *owner != toc);
        Ok(())
    }

    async fn list(&self) -> Result<Vec<LayerUsage>> {
        let held = self.held();
        let usage = held.images.values().map(|image| {
            let presence = image.presence();
            LayerUsage { toc: image.spec.toc, disk_bytes: presence.bytes, presence }
        });
        Ok(usage.collect())
    }
}

/// A [`LayerImage`] whose chunks are held one by one.
#[derive(Debug)]
pub struct MemoryLayerImage {
    spec: ImageSpec,
    chunks: Arc<Mutex<BTreeMap<ChunkIndex, Bytes>>>,
}

impl MemoryLayerImage {
    /// An image with nothing present.
    #[must_use]
    pub fn new(spec: ImageSpec) -> Self {
        Self { spec, chunks: Arc::default() }
    }

    fn chunks(&self) -> MutexGuard<'_, BTreeMap<ChunkIndex, Bytes>> {
        self.chunks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn chunk(&self, wanted: &ChunkSlot) -> Option<Bytes> {
        let slot = self.spec.slots.iter().find(|slot| slot.key == wanted.key)?;
        self.chunks().get(&slot.index).cloned()
    }

    fn check(&self, slot: &ChunkSlot) -> Result<()> {
        if self.spec.slots.get(slot.index.0 as usize) == Some(slot) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Malformed,
            "memory_layer_image::check",
            "the chunk is not one of this layer image",
        )
        .with_context("chunk", slot.index.0))
    }
}

#[async_trait]
impl LayerImage for MemoryLayerImage {
    fn toc_digest(&self) -> Digest {
        self.spec.toc
    }

    fn is_present(&self, chunk: ChunkIndex) -> bool {
        self.chunks().contains_key(&chunk)
    }

    fn presence(&self) -> Presence {
        let chunks = self.chunks();
        Presence {
            chunks: u32::try_from(chunks.len()).unwrap_or(u32::MAX),
            chunks_total: u32::try_from(self.spec.slots.len()).unwrap_or(u32::MAX),
            bytes: chunks.values().map(|bytes| bytes.len() as u64).sum(),
            bytes_total: self.spec.slots.iter().map(|slot| slot.key.len).sum(),
        }
    }

    fn try_read(&self, slot: &ChunkSlot, offset: u64, buf: &mut [u8]) -> Result<bool> {
        let Some(bytes) = self.chunks().get(&slot.index).cloned() else { return Ok(false) };
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(buf.len());
        let wanted = bytes.get(start..end).ok_or_else(|| {
            Error::new(
                ErrorKind::OutOfRange,
                "memory_layer_image::read",
                "past the end of the chunk",
            )
            .with_context("offset", offset)
        })?;
        buf.copy_from_slice(wanted);
        Ok(true)
    }

    async fn fill(&self, slot: &ChunkSlot, chunk: VerifiedChunk) -> Result<()> {
        self.check(slot)?;
        if chunk.key() != slot.key {
            return Err(Error::new(
                ErrorKind::Malformed,
                "memory_layer_image::fill",
                "the chunk is not the one that belongs in the slot",
            )
            .with_context("expected", slot.key.digest)
            .with_context("actual", chunk.key().digest));
        }
        self.chunks().insert(slot.index, chunk.into_bytes());
        Ok(())
    }

    async fn writer(&self, slot: &ChunkSlot) -> Result<Option<Box<dyn SlotWriter>>> {
        self.check(slot)?;
        if self.is_present(slot.index) {
            return Ok(None);
        }
        Ok(Some(Box::new(MemorySlotWriter::new(*slot, Arc::clone(&self.chunks)))))
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    async fn sync(&self) -> Result<()> {
        Ok(())
    }
}
