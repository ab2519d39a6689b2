//! Goes through a tar from entry to entry.
use std::io::{self, Read};

use bolide_core::Result;

use super::{
    sparse::Payload,
    tar_reader::{Item, TarEntry, TarReader, cut_short},
};

/// Largest piece of content held at once, in bytes.
const PIECE: u64 = 64 * 1024;

/// The entries of a tar in their order, read as layers are: extended attributes keep every byte,
/// a number that is left out is 0, records of global headers count, sparse files are whole.
///
/// Reading from it reads the content of the entry that came last.
#[derive(Debug)]
pub struct TarEntries<R> {
    tar: R,
    reader: TarReader,
    payload: Payload,
    /// Content that was taken from the payload and not given out yet, from `given` on.
    piece: Vec<u8>,
    given: usize,
}

impl<R: Read> TarEntries<R> {
    /// At the start of a tar that is not compressed.
    pub fn new(tar: R) -> Self {
        let (reader, payload) = (TarReader::default(), Payload::default());
        Self { tar, reader, payload, piece: Vec::new(), given: 0 }
    }

    /// The next entry, past what was not read of the one before; `None` when all of the input was
    /// read. `Malformed` when it is no tar or cut short.
    pub fn next_entry(&mut self) -> Result<Option<TarEntry>> {
        self.payload.skip(&mut self.tar).map_err(cut_short)?;
        self.piece.clear();
        self.given = 0;
        loop {
            match self.reader.next(&mut self.tar)? {
                Item::Global(_) => {}
                Item::Entry(entry) => {
                    self.payload = Payload::new(&entry);
                    return Ok(Some(*entry));
                }
                Item::End(_) => {
                    // Reading the padding lets a decompressor check its sum.
                    io::copy(&mut self.tar, &mut io::sink()).map_err(cut_short)?;
                    return Ok(None);
                }
            }
        }
    }
}

impl<R: Read> Read for TarEntries<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.given == self.piece.len() {
            self.piece.clear();
            self.given = 0;
            self.payload.read(&mut self.tar, PIECE, &mut self.piece)?;
        }
        let read = (&self.piece[self.given..]).read(buffer)?;
        self.given += read;
        Ok(read)
    }
}
