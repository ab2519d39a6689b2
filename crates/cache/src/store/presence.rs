//! Which chunks of an image are present: in memory for readers, on disk for later processes.
use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    sync::atomic::{AtomicU64, Ordering},
};

use bolide_core::{ChunkIndex, Digest, Digester, ImageSpec};

/// Layout: this header, then one bit a chunk, the lowest bit of a byte first.
const MAGIC: [u8; 8] = *b"bolpres1";
const HEADER: usize = 40;

/// Names the shape of an image: a record made for another is not read.
fn header(spec: &ImageSpec) -> [u8; HEADER] {
    let mut digester = Digester::new();
    digester.update(spec.toc.as_bytes());
    digester.update(&spec.size.to_le_bytes());
    for slot in &spec.slots {
        digester.update(&slot.image_offset.to_le_bytes());
        digester.update(&slot.key.len.to_le_bytes());
        digester.update(slot.key.digest.as_bytes());
    }
    let shape: Digest = digester.finish();
    let mut out = [0; HEADER];
    out[..8].copy_from_slice(&MAGIC);
    out[8..].copy_from_slice(shape.as_bytes());
    out
}

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
    file: File,
    durable: Vec<u8>,
}

impl Record {
    /// Reads the record of an image of this shape; `None` when it is of another, or cut short.
    pub(super) fn read(file: File, spec: &ImageSpec) -> std::io::Result<Option<Self>> {
        let mut found = [0; HEADER];
        let mut durable = vec![0; spec.slots.len().div_ceil(8)];
        let whole = file.metadata()?.len() == (HEADER + durable.len()) as u64;
        if !whole {
            return Ok(None);
        }
        file.read_exact_at(&mut found, 0)?;
        file.read_exact_at(&mut durable, HEADER as u64)?;
        Ok((found == header(spec)).then_some(Self { file, durable }))
    }

    /// Starts a record with nothing present.
    pub(super) fn create(file: File, spec: &ImageSpec) -> std::io::Result<Self> {
        let durable = vec![0; spec.slots.len().div_ceil(8)];
        file.write_all_at(&header(spec), 0)?;
        file.write_all_at(&durable, HEADER as u64)?;
        file.sync_all()?;
        Ok(Self { file, durable })
    }

    /// Chunks the record says are present.
    pub(super) fn present(&self) -> impl Iterator<Item = ChunkIndex> + '_ {
        let set = |at: &u32| self.durable[*at as usize / 8] >> (at % 8) & 1 == 1;
        (0..u32::try_from(self.durable.len() * 8).unwrap_or(u32::MAX)).filter(set).map(ChunkIndex)
    }

    /// Adds chunks whose data is on the disk.
    pub(super) fn add(&mut self, chunks: &[ChunkIndex]) -> std::io::Result<()> {
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
