//! What is kept in memory of an image's shape: enough to know its slots, no more.
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use bolide_core::{ChunkSlot, Digest, Digester, ImageSpec};

/// The shape of an image, a few bytes a chunk: a spec takes 56.
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) toc: Digest,
    /// Of every number, place and digest: equal for equal specs only.
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) bytes_total: u64,
    /// A mark of each slot. Slots come from the layer's own index; the marks tell a mistaken one, and
    /// what is read is trusted for its digest, not for its mark.
    marks: Vec<u64>,
}

impl Shape {
    pub(super) fn of(spec: &ImageSpec) -> Self {
        let mut digester = Digester::new();
        digester.update(spec.toc.as_bytes());
        digester.update(&spec.size.to_le_bytes());
        for slot in &spec.slots {
            digester.update(&slot.image_offset.to_le_bytes());
            digester.update(&slot.key.len.to_le_bytes());
            digester.update(slot.key.digest.as_bytes());
        }
        Self {
            toc: spec.toc,
            digest: digester.finish(),
            size: spec.size,
            bytes_total: spec.slots.iter().map(|slot| slot.key.len).sum(),
            marks: spec.slots.iter().map(mark).collect(),
        }
    }

    pub(super) fn chunks(&self) -> usize {
        self.marks.len()
    }

    /// Whether a slot is one of the image's.
    pub(super) fn has(&self, slot: &ChunkSlot) -> bool {
        self.marks.get(slot.index.0 as usize) == Some(&mark(slot))
    }
}

fn mark(slot: &ChunkSlot) -> u64 {
    let mut hasher = DefaultHasher::new();
    (slot.image_offset, slot.key).hash(&mut hasher);
    hasher.finish()
}
