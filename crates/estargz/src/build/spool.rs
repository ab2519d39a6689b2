//! A tar that lies compressed in a file and is read from anywhere.
use std::{
    collections::VecDeque,
    io::{self, Read, SeekFrom, Write},
};

use bolide_core::{Error, Result};

use super::Spool;

/// Size of the blocks that are compressed alone, in bytes.
const BLOCK: usize = 1 << 20;
/// Decoded blocks that are kept: files that are read one after another lie in few.
const CACHED: usize = 8;
/// Fast, and smaller than the tar by half.
const LEVEL: i32 = 1;

/// Where the blocks lie in the file, one after another, and how long they are.
#[derive(Debug, Default)]
struct Blocks {
    /// Offset of the end of each, in bytes.
    ends: Vec<u64>,
    /// Bytes that they hold once they are decoded.
    len: u64,
}

/// Fills a spool.
pub(super) struct SpoolWriter<'a> {
    file: &'a mut dyn Spool,
    compressor: zstd::bulk::Compressor<'static>,
    blocks: Blocks,
    block: Vec<u8>,
}

impl<'a> SpoolWriter<'a> {
    /// Takes an empty file.
    pub(super) fn new(file: &'a mut dyn Spool) -> Result<Self> {
        let compressor = zstd::bulk::Compressor::new(LEVEL).map_err(failed)?;
        let (blocks, block) = (Blocks::default(), Vec::with_capacity(BLOCK));
        Ok(Self { file, compressor, blocks, block })
    }

    /// How many bytes were written, in bytes.
    pub(super) fn position(&self) -> u64 {
        self.blocks.len + self.block.len() as u64
    }

    fn write_block(&mut self) -> io::Result<()> {
        let compressed = self.compressor.compress(&self.block)?;
        self.file.write_all(&compressed)?;
        let start = self.blocks.ends.last().copied().unwrap_or(0);
        self.blocks.ends.push(start + compressed.len() as u64);
        self.blocks.len += self.block.len() as u64;
        self.block.clear();
        Ok(())
    }

    /// Makes what was written readable.
    pub(super) fn finish(mut self) -> Result<SpoolReader<'a>> {
        if !self.block.is_empty() {
            self.write_block().map_err(failed)?;
        }
        let Self { file, blocks, .. } = self;
        Ok(SpoolReader { file, blocks, cache: VecDeque::new(), position: 0 })
    }
}

impl Write for SpoolWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(BLOCK - self.block.len());
        self.block.extend_from_slice(&bytes[..taken]);
        if self.block.len() == BLOCK {
            self.write_block()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a spool.
pub(super) struct SpoolReader<'a> {
    file: &'a mut dyn Spool,
    blocks: Blocks,
    /// Blocks by their number, the one used last at the end.
    cache: VecDeque<(usize, Vec<u8>)>,
    position: u64,
}

impl SpoolReader<'_> {
    /// Goes on reading at an offset of what was written, in bytes.
    pub(super) fn seek(&mut self, position: u64) {
        self.position = position;
    }

    /// Decodes a block, unless it is there.
    fn block(&mut self, number: usize) -> io::Result<&[u8]> {
        if let Some(at) = self.cache.iter().position(|(found, _)| *found == number) {
            let block = self.cache.remove(at);
            self.cache.extend(block);
        } else {
            let block = self.decode(number)?;
            if self.cache.len() == CACHED {
                self.cache.pop_front();
            }
            self.cache.push_back((number, block));
        }
        Ok(self.cache.back().map(|(_, block)| block.as_slice()).unwrap_or_default())
    }

    fn decode(&mut self, number: usize) -> io::Result<Vec<u8>> {
        let start = number.checked_sub(1).map_or(0, |before| self.blocks.ends[before]);
        let len = self.blocks.ends[number] - start;
        self.file.seek(SeekFrom::Start(start))?;
        let mut compressed = Vec::new();
        Read::take(&mut *self.file, len).read_to_end(&mut compressed)?;
        zstd::bulk::decompress(&compressed, BLOCK)
    }
}

impl Read for SpoolReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.position >= self.blocks.len {
            return Ok(0);
        }
        let number = usize::try_from(self.position / BLOCK as u64).map_err(io::Error::other)?;
        let within = usize::try_from(self.position % BLOCK as u64).map_err(io::Error::other)?;
        let read = self.block(number)?.get(within..).unwrap_or_default().read(buffer)?;
        self.position += read as u64;
        Ok(read)
    }
}

fn failed(error: io::Error) -> Error {
    Error::io("estargz::spool", error)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn what_was_written_is_read_from_anywhere() {
        let bytes: Vec<u8> = (0..5_u32 << 20).map(|at| (at / 999).to_le_bytes()[0]).collect();
        let mut file = Cursor::new(Vec::new());
        let mut writer = SpoolWriter::new(&mut file).expect("begins");
        writer.write_all(&bytes).expect("writes");
        assert_eq!(writer.position(), bytes.len() as u64);
        let mut reader = writer.finish().expect("ends");
        for start in [0, 5 << 20, (3 << 20) - 1, 1 << 20, 17, (5 << 20) - 1, 2 << 20] {
            reader.seek(start as u64);
            let mut read = Vec::new();
            reader.read_to_end(&mut read).expect("reads");
            assert!(read == bytes[start..], "from {start}");
        }
        assert!(file.get_ref().len() < bytes.len(), "compressed");
    }
}
