//! Writes one chunk in pieces.
use std::sync::Arc;

use super::core::{Claim, Core};
use crate::blocking::blocking;
use async_trait::async_trait;
use bolide_core::{ChunkProof, ChunkSlot, Error, ErrorKind, Result, SlotWriter};
use bytes::Bytes;

/// Holds the slot as long as it lives, or one of its writes.
#[derive(Debug)]
pub(super) struct DiskSlotWriter {
    core: Arc<Core>,
    slot: ChunkSlot,
    written: u64,
    /// A write failed or was given up: what the slot holds is not known.
    torn: bool,
    claim: Arc<Claim>,
}

impl DiskSlotWriter {
    pub(super) fn new(core: Arc<Core>, slot: ChunkSlot, claim: Claim) -> Self {
        Self { core, slot, written: 0, torn: false, claim: Arc::new(claim) }
    }
}

fn torn(slot: &ChunkSlot) -> Error {
    Error::new(
        ErrorKind::FailedPrecondition,
        "layer_image::write",
        "an earlier write of the chunk failed; begin anew",
    )
    .with_context("chunk", slot.index.0)
}

#[async_trait]
impl SlotWriter for DiskSlotWriter {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let (offset, len) = (self.written, bytes.len() as u64);
        if self.torn {
            return Err(torn(&self.slot));
        }
        if offset.checked_add(len).is_none_or(|end| end > self.slot.key.len) {
            return Err(Error::new(
                ErrorKind::Malformed,
                "layer_image::write",
                "more bytes than the chunk has",
            ));
        }
        let (core, slot, claim) = (Arc::clone(&self.core), self.slot, Arc::clone(&self.claim));
        self.torn = true;
        blocking(move || {
            // The write outlives a caller that gives up; nobody else may have the slot until then.
            let _claim = claim;
            core.write(&slot, offset, &bytes)
        })
        .await?;
        self.torn = false;
        self.written += len;
        Ok(())
    }

    async fn commit(self: Box<Self>, proof: ChunkProof) -> Result<()> {
        if self.torn {
            return Err(torn(&self.slot));
        }
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
