//! Goes through a tar from entry to entry.
use std::io::{self, Read};

use bolide_core::Result;

use super::tar_reader::{TarEntry, cut_short, next_entry, padding};

/// The entries of a tar in their order, read as layers are: extended attributes keep every byte,
/// and a number that is left out is 0.
///
/// Reading from it reads the payload of the entry that came last.
#[derive(Debug)]
pub struct TarEntries<R> {
    tar: R,
    /// Payload not read yet, in bytes.
    left: u64,
    padding: u64,
}

impl<R: Read> TarEntries<R> {
    /// At the start of a tar that is not compressed.
    pub fn new(tar: R) -> Self {
        Self { tar, left: 0, padding: 0 }
    }

    /// The next entry, past what was not read of the one before; `None` when all of the input was
    /// read. `Malformed` when it is no tar or cut short, `Unsupported` for sparse files.
    pub fn next_entry(&mut self) -> Result<Option<TarEntry>> {
        let rest = self.left + self.padding;
        let passed = io::copy(&mut (&mut self.tar).take(rest), &mut io::sink());
        match passed {
            Ok(passed) if passed == rest => {}
            Ok(_) => return Err(cut_short()),
            Err(error) => return Err(cut_short().with_source(error)),
        }
        let entry = next_entry(&mut self.tar)?;
        self.left = entry.as_ref().map_or(0, |entry| entry.size);
        self.padding = padding(self.left);
        Ok(entry)
    }
}

impl<R: Read> Read for TarEntries<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = (&mut self.tar).take(self.left).read(buffer)?;
        if read == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= read as u64;
        Ok(read)
    }
}
