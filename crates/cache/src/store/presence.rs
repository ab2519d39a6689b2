//! Which chunks of an image are present: in memory for readers, on disk for later processes.
use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
};

use bolide_core::{ChunkIndex, Digest};

use super::disk::StoreFile;

/// Layout: this, the digest of the image's shape, then one bit a chunk, the lowest bit of a byte first.
const MAGIC: [u8; 8] = *b"bolpres1";
const HEADER: usize = 40;

/// The bits that readers ask. Lock-free.
#[derive(Debug)]
pub(super) struct Bits(Vec<AtomicU64>);

impl Bits {
    pub(super) fn new(chunks: usize) -> Self {
        Self((0..chunks.div_ceil(64)).map(|_| AtomicU64::new(0)).collect())
    }

    pub(super) fn get(&self, chunk: ChunkIndex) -> bool {
        let word = self.0.get(chunk.0 as usize / 64);
        // Acquire: whoever sees the bit sees the data written before it.
        word.is_some_and(|word| word.load(Ordering::Acquire) >> (chunk.0 % 64) & 1 == 1)
    }

    /// Sets a bit; whether it was clear before.
    pub(super) fn set(&self, chunk: ChunkIndex) -> bool {
        let bit = 1 << (chunk.0 % 64);
        let word = self.0.get(chunk.0 as usize / 64);
        word.is_some_and(|word| word.fetch_or(bit, Ordering::AcqRel) & bit == 0)
    }
}

/// The record on disk.
#[derive(Debug)]
pub(super) struct Record {
    file: Box<dyn StoreFile>,
    durable: Vec<u8>,
}

/// A record with nothing present, for an image of this shape.
pub(super) fn blank(shape: Digest, chunks: usize) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(shape.as_bytes());
    out.resize(HEADER + chunks.div_ceil(8), 0);
    out
}

impl Record {
    /// Reads the record of an image of this shape; `None` when it is of another, or cut short.
    pub(super) fn read(
        file: Box<dyn StoreFile>,
        shape: Digest,
        chunks: usize,
    ) -> io::Result<Option<Self>> {
        let len = HEADER + chunks.div_ceil(8);
        if file.size()? != len as u64 {
            return Ok(None);
        }
        let mut header = vec![0; len];
        file.read_exact_at(&mut header, 0)?;
        let durable = header.split_off(HEADER);
        Ok((header == blank(shape, 0)).then_some(Self { file, durable }))
    }

    /// Whether a later process finds the chunk.
    pub(super) fn has(&self, chunk: ChunkIndex) -> bool {
        let byte = self.durable.get(chunk.0 as usize / 8);
        byte.is_some_and(|byte| byte >> (chunk.0 % 8) & 1 == 1)
    }

    /// Makes durable what an earlier process may have written and not synced.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Adds chunks whose data is on the disk.
    pub(super) fn add(&mut self, chunks: &[ChunkIndex]) -> io::Result<()> {
        for chunk in chunks {
            if let Some(byte) = self.durable.get_mut(chunk.0 as usize / 8) {
                *byte |= 1 << (chunk.0 % 8);
            }
        }
        let changed = chunks.iter().map(|chunk| chunk.0 as usize / 8);
        let Some((first, last)) = changed.clone().min().zip(changed.max()) else { return Ok(()) };
        let bytes = self.durable.get(first..=last).unwrap_or_default();
        self.file.write_all_at(bytes, (HEADER + first) as u64)?;
        self.file.sync_data()
    }
}
