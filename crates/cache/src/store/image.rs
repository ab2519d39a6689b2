//! A layer image in a file.
use std::{os::fd::BorrowedFd, sync::Arc};

use async_trait::async_trait;
use bolide_core::{
    ChunkIndex, ChunkSlot, Digest, Error, ErrorKind, LayerImage, Presence, Result, SlotWriter,
    VerifiedChunk,
};

use super::{core::Core, slot_writer::DiskSlotWriter};
use crate::blocking::blocking;

/// A [`LayerImage`] in a file.
#[derive(Debug)]
pub(super) struct DiskLayerImage {
    pub(super) core: Arc<Core>,
}

#[async_trait]
impl LayerImage for DiskLayerImage {
    fn toc_digest(&self) -> Digest {
        self.core.toc()
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
        self.core.data().descriptor()
    }

    async fn sync(&self) -> Result<()> {
        let core = Arc::clone(&self.core);
        blocking(move || core.make_durable()).await
    }
}
