//! Finds chunks by content in any image of the node.
use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use bolide_core::{ChunkKey, ChunkSlot, Digest, LayerImage, Result, SlotFill};
use bytes::Bytes;
use parking_lot::Mutex;

use super::{blocking, image::Core};

/// Largest piece copied at once, in bytes.
const PIECE: u64 = 1 << 20;

/// Chunk content to a place: the first 8 bytes of a digest to image and chunk number, so that a
/// chunk costs some 24 bytes. What is found is verified as it is copied; a collision is a miss.
#[derive(Debug, Default)]
pub(super) struct ContentIndex {
    places: Mutex<HashMap<u64, (Weak<Core>, u32)>>,
}

fn prefix(key: &ChunkKey) -> u64 {
    let first = key.digest.as_bytes().first_chunk().copied().unwrap_or_default();
    u64::from_le_bytes(first)
}

impl ContentIndex {
    pub(super) fn add(&self, core: &Arc<Core>, slot: &ChunkSlot) {
        self.places.lock().insert(prefix(&slot.key), (Arc::downgrade(core), slot.index.0));
    }

    /// Adds what an image that was opened holds already.
    pub(super) fn add_image(&self, core: &Arc<Core>) {
        let mut places = self.places.lock();
        places.retain(|_, (holder, _)| holder.strong_count() > 0);
        for slot in core.spec.slots.iter().filter(|slot| core.is_present(slot.index)) {
            places.insert(prefix(&slot.key), (Arc::downgrade(core), slot.index.0));
        }
    }

    pub(super) fn forget(&self, toc: Digest) {
        let keep = |holder: &Weak<Core>| holder.upgrade().is_some_and(|core| core.spec.toc != toc);
        self.places.lock().retain(|_, (holder, _)| keep(holder));
    }

    fn find(&self, key: &ChunkKey) -> Option<(Arc<Core>, ChunkSlot)> {
        let (holder, index) = self.places.lock().get(&prefix(key))?.clone();
        let core = holder.upgrade()?;
        let slot = *core.spec.slots.get(index as usize)?;
        (slot.key == *key).then_some((core, slot))
    }

    /// Fills `slot` of `target` from wherever its content lies.
    pub(super) async fn copy(&self, target: &dyn LayerImage, slot: &ChunkSlot) -> Result<bool> {
        let Some((from, at)) = self.find(&slot.key) else { return Ok(false) };
        if from.spec.toc == target.toc_digest() && at.index == slot.index {
            return Ok(target.is_present(slot.index));
        }
        let Some(mut fill) = SlotFill::begin(target, slot).await? else { return Ok(true) };
        let mut done = 0;
        while done < slot.key.len {
            let len = PIECE.min(slot.key.len - done);
            let (core, offset) = (Arc::clone(&from), done);
            let piece = blocking(move || {
                let mut buf = vec![0; usize::try_from(len).unwrap_or(0)];
                Ok(core.read(&at, offset, &mut buf)?.then_some(Bytes::from(buf)))
            });
            let Some(piece) = piece.await? else { return Ok(false) };
            fill.write(piece).await?;
            done += len;
        }
        match fill.finish().await {
            Ok(()) => Ok(true),
            Err(error) => {
                // The medium changed the bytes since they were verified.
                tracing::error!(toc = %from.spec.toc, chunk = at.index.0, %error, "a stored chunk is damaged");
                self.places.lock().remove(&prefix(&slot.key));
                Ok(false)
            }
        }
    }
}
