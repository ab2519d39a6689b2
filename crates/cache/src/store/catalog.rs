//! Finds chunks by content in any image of the node, open or not.
//!
//! What is kept in memory is a filter of two bytes a chunk; the places are looked up in the shape
//! files. Layers that an earlier process left are read when something is first looked for.
use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use bolide_core::{
    ChunkIndex, ChunkKey, ChunkSlot, Digest, ErrorKind, LayerImage, Result, SlotFill,
};
use bytes::Bytes;
use parking_lot::RwLock;

use super::{Shared, disk::StoreFile, files, shape_file::Head};
use crate::blocking::blocking;

/// Largest piece copied at once, in bytes.
const PIECE: u64 = 1 << 20;
/// Places tried for one chunk. More are copies of each other.
const MAX_PLACES: usize = 4;

/// The head of a layer's shape file, once it was read; `None` when it cannot be.
type Shelf = Arc<OnceLock<Option<Head>>>;

/// The layers on the disk.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    shelves: RwLock<BTreeMap<Digest, Shelf>>,
}

impl Catalog {
    /// Layers that an earlier process left.
    pub(super) fn of(layers: impl Iterator<Item = Digest>) -> Self {
        let shelves = layers.map(|toc| (toc, Shelf::default())).collect();
        Self { shelves: RwLock::new(shelves) }
    }

    /// Adds a layer that was opened.
    pub(super) fn add(&self, toc: Digest, head: Head) {
        let read = OnceLock::from(Some(head));
        self.shelves.write().insert(toc, Arc::new(read));
    }

    /// Looks no longer into a layer.
    pub(super) fn forget(&self, toc: Digest) {
        self.shelves.write().remove(&toc);
    }

    /// Layers that may have a chunk. Asks memory only.
    fn candidates(&self, key: &ChunkKey) -> Vec<(Digest, Shelf)> {
        let may = |shelf: &Shelf| match shelf.get() {
            Some(head) => head.as_ref().is_some_and(|head| head.filter.may_have(key)),
            None => true,
        };
        let shelves = self.shelves.read();
        let found = shelves.iter().filter(|(_, shelf)| may(shelf));
        found.map(|(toc, shelf)| (*toc, Arc::clone(shelf))).collect()
    }
}

/// Where a chunk lies.
#[derive(Debug)]
struct Place {
    toc: Digest,
    slot: ChunkSlot,
    data: Arc<dyn StoreFile>,
}

impl Shared {
    /// Fills `slot` of `target` from wherever its content lies.
    pub(super) async fn copy(
        self: &Arc<Self>,
        target: &dyn LayerImage,
        slot: &ChunkSlot,
    ) -> Result<bool> {
        if target.is_present(slot.index) {
            return Ok(true);
        }
        let candidates = self.catalog.candidates(&slot.key);
        if candidates.is_empty() {
            return Ok(false);
        }
        let (shared, key) = (Arc::clone(self), slot.key);
        for place in blocking(move || Ok(shared.places(&key, &candidates))).await? {
            if self.copy_from(place, target, slot).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn places(&self, key: &ChunkKey, candidates: &[(Digest, Shelf)]) -> Vec<Place> {
        let mut places = Vec::new();
        for (toc, shelf) in candidates {
            let head = shelf.get_or_init(|| {
                let head = files::read_head(&*self.disk, &self.dir(*toc));
                let head = head.inspect_err(|error| {
                    tracing::warn!(%toc, %error, "the shape of a layer cannot be read");
                });
                head.ok().flatten().map(|(_, head)| head)
            });
            let Some(head) = head.as_ref().filter(|head| head.filter.may_have(key)) else {
                continue;
            };
            match self.look_into(*toc, head, key) {
                Ok(found) => places.extend(found),
                Err(error) => tracing::warn!(%toc, %error, "a layer cannot be looked into"),
            }
            if places.len() >= MAX_PLACES {
                break;
            }
        }
        places.truncate(MAX_PLACES);
        places
    }

    /// Where a layer holds a chunk at this moment.
    fn look_into(&self, toc: Digest, head: &Head, key: &ChunkKey) -> std::io::Result<Vec<Place>> {
        let (disk, dir) = (&*self.disk, self.dir(toc));
        let seat = self.seat(toc);
        // An image that is being made or removed has nothing to offer.
        let Some(live) = seat.try_lock() else { return Ok(Vec::new()) };
        let Some(shape) = files::open_shape(disk, &dir)? else { return Ok(Vec::new()) };
        let slots = head.find(&*shape, key)?;
        let places = |data: Arc<dyn StoreFile>, has: &dyn Fn(ChunkIndex) -> bool| {
            let there = slots.iter().filter(|slot| has(slot.index));
            there.map(|slot| Place { toc, slot: *slot, data: Arc::clone(&data) }).collect()
        };
        if slots.is_empty() {
            return Ok(Vec::new());
        }
        if let Some(core) = live.upgrade() {
            return Ok(places(Arc::clone(core.data()), &|chunk| core.is_readable(chunk)));
        }
        let Some(record) = files::read_record(disk, &dir, head)? else { return Ok(Vec::new()) };
        if !slots.iter().any(|slot| record.has(slot.index)) {
            return Ok(Vec::new());
        }
        Ok(places(disk.open(&dir.join(files::DATA))?.into(), &|chunk| record.has(chunk)))
    }

    async fn copy_from(
        &self,
        from: Place,
        target: &dyn LayerImage,
        slot: &ChunkSlot,
    ) -> Result<bool> {
        let Some(mut fill) = SlotFill::begin(target, slot).await? else { return Ok(true) };
        let mut done = 0;
        while done < slot.key.len {
            let len = PIECE.min(slot.key.len - done);
            let (data, offset) = (Arc::clone(&from.data), from.slot.image_offset + done);
            let piece = blocking(move || {
                let mut buf = vec![0; usize::try_from(len).unwrap_or(0)];
                Ok(data.read_exact_at(&mut buf, offset).map(|()| Bytes::from(buf)))
            });
            match piece.await? {
                Ok(piece) => fill.write(piece).await?,
                Err(error) => {
                    self.distrust(&from, &error);
                    return Ok(false);
                }
            }
            done += len;
        }
        match fill.finish().await {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                self.distrust(&from, &error);
                Ok(false)
            }
            finished => finished.map(|()| true),
        }
    }

    /// The medium changed bytes since they were verified: it is asked for no other of that layer.
    fn distrust(&self, from: &Place, error: &dyn std::fmt::Display) {
        tracing::error!(toc = %from.toc, chunk = from.slot.index.0, %error, "a stored chunk is damaged");
        self.catalog.forget(from.toc);
    }
}
