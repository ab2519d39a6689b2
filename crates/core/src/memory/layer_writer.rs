//! Collects one chunk of a layer image in memory.
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

use crate::{ChunkIndex, ChunkProof, ChunkSlot, Error, ErrorKind, Result, SlotWriter};

#[derive(Debug)]
pub(super) struct MemorySlotWriter {
    slot: ChunkSlot,
    collected: BytesMut,
    chunks: Arc<Mutex<BTreeMap<ChunkIndex, Bytes>>>,
}

impl MemorySlotWriter {
    pub(super) fn new(slot: ChunkSlot, chunks: Arc<Mutex<BTreeMap<ChunkIndex, Bytes>>>) -> Self {
        Self { slot, collected: BytesMut::new(), chunks }
    }
}

#[async_trait]
impl SlotWriter for MemorySlotWriter {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.collected.extend_from_slice(&bytes);
        Ok(())
    }

    async fn commit(self: Box<Self>, proof: ChunkProof) -> Result<()> {
        if proof.key() != self.slot.key || self.collected.len() as u64 != self.slot.key.len {
            return Err(Error::new(
                ErrorKind::Malformed,
                "memory_layer_image::commit",
                "the proof is not for this chunk",
            )
            .with_context("expected", self.slot.key.digest)
            .with_context("actual", proof.key().digest));
        }
        let mut chunks = self.chunks.lock().unwrap_or_else(PoisonError::into_inner);
        chunks.insert(self.slot.index, self.collected.freeze());
        Ok(())
    }
}
