//! Writes one chunk in pieces.
use std::sync::Arc;

use async_trait::async_trait;
use bolide_core::{ChunkProof, ChunkSlot, Error, ErrorKind, Result, SlotWriter};
use bytes::Bytes;
use tokio::sync::OwnedMutexGuard;

use super::{blocking, image::Core};

/// Holds the slot's lock as long as it lives.
#[derive(Debug)]
pub(super) struct DiskSlotWriter {
    core: Arc<Core>,
    slot: ChunkSlot,
    written: u64,
    guard: Option<OwnedMutexGuard<()>>,
}

impl DiskSlotWriter {
    pub(super) fn new(core: Arc<Core>, slot: ChunkSlot, guard: OwnedMutexGuard<()>) -> Self {
        Self { core, slot, written: 0, guard: Some(guard) }
    }
}

impl Drop for DiskSlotWriter {
    fn drop(&mut self) {
        if let Some(guard) = self.guard.take() {
            self.core.release(&self.slot, guard);
        }
    }
}

#[async_trait]
impl SlotWriter for DiskSlotWriter {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let (offset, len) = (self.written, bytes.len() as u64);
        if offset + len > self.slot.key.len {
            return Err(Error::new(
                ErrorKind::Malformed,
                "layer_image::write",
                "more bytes than the chunk has",
            ));
        }
        let (core, slot) = (Arc::clone(&self.core), self.slot);
        blocking(move || core.write(&slot, offset, &bytes)).await?;
        self.written += len;
        Ok(())
    }

    async fn commit(self: Box<Self>, proof: ChunkProof) -> Result<()> {
        if proof.key() != self.slot.key || self.written != self.slot.key.len {
            return Err(Error::new(
                ErrorKind::Malformed,
                "layer_image::commit",
                "the proof is not for this chunk",
            )
            .with_context("expected", self.slot.key.digest)
            .with_context("actual", proof.key().digest));
        }
        self.core.mark(&self.slot);
        Ok(())
    }
}
