//! Sparse files of GNU tar: which parts of a file its archive holds, the others being zeros.
//!
//! Three generations are out there ("Storing Sparse Files" in the manual of GNU tar): type `S` with
//! a table in the header, PAX 0.0 and 0.1 with a table in records, PAX 1.0 with one before the
//! content.
use std::io::Read;

use bolide_core::{Error, ErrorKind, Result};

use super::{
    pax::{self, Records},
    tar_reader::{BLOCK, TarEntry, broken, padding, refuse},
};

/// Most parts of one file: what a table of 16 MiB says at its shortest.
const MAX_PARTS: usize = 1 << 20;
/// Largest file that is expanded, in bytes. A table of no parts may claim any size.
const MAX_EXPANDED: u64 = 64 << 30;
/// Where the tables of type `S` lie: in the header, and in the blocks that go on with it.
const HEADER_TABLE: (usize, usize) = (386, 4);
const CONTINUED_TABLE: (usize, usize) = (0, 21);
const IS_CONTINUED: usize = 482;
const REAL_SIZE: usize = 483;
const CONTINUED_AGAIN: usize = 504;
/// A table entry: offset and length, 12 digits each.
const NUMBER: usize = 12;

/// A file of which the archive holds only parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sparse {
    /// Offset and length of each part in the file, in bytes: in order, and apart.
    pub(super) parts: Vec<(u64, u64)>,
    /// Bytes of the archive that hold them.
    pub(super) stored: u64,
}

/// Reads the table of type `S`; `header` is the entry's own block.
pub(super) fn read_old(
    header: &[u8; BLOCK],
    entry: &mut TarEntry,
    tar: &mut dyn Read,
) -> Result<()> {
    let real = number(&header[REAL_SIZE..REAL_SIZE + NUMBER])?;
    let mut parts = Vec::new();
    let mut more = table(header, HEADER_TABLE, &mut parts)? && header[IS_CONTINUED] != 0;
    while more {
        let mut block = [0; BLOCK];
        tar.read_exact(&mut block).map_err(broken)?;
        more = table(&block, CONTINUED_TABLE, &mut parts)? && block[CONTINUED_AGAIN] != 0;
        if parts.len() > MAX_PARTS {
            return Err(too_many());
        }
    }
    install(entry, parts, real)
}

/// Takes a table's entries until one is empty; tells whether it was full.
fn table(block: &[u8; BLOCK], at: (usize, usize), parts: &mut Vec<(u64, u64)>) -> Result<bool> {
    let (start, count) = at;
    for pair in block[start..].chunks_exact(2 * NUMBER).take(count) {
        if pair[0] == 0 {
            return Ok(false);
        }
        parts.push((number(&pair[..NUMBER])?, number(&pair[NUMBER..])?));
    }
    Ok(true)
}

fn number(field: &[u8]) -> Result<u64> {
    // Octal, or base 256 as every number of GNU tar: what the size field of a header can say.
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().size.copy_from_slice(field);
    header.entry_size().map_err(broken)
}

/// Takes over what the records of an entry say of a sparse file, if they do.
pub(super) fn read_pax(
    records: &[(String, Vec<u8>)],
    entry: &mut TarEntry,
    tar: &mut dyn Read,
) -> Result<()> {
    if !records.iter().any(|(key, _)| key.starts_with("GNU.sparse.")) {
        return Ok(());
    }
    let latest: Records = records.iter().cloned().collect();
    let get = |key: &str| latest.get(key).map(Vec::as_slice);
    if let Some(name) = get("GNU.sparse.name") {
        entry.name = name.to_vec();
    }
    let real = get("GNU.sparse.realsize").or_else(|| get("GNU.sparse.size"));
    let real = real.map_or(Ok(entry.size), pax::decimal)?;
    let parts = if get("GNU.sparse.major") == Some(b"1") {
        table_before_content(entry, tar)?
    } else if let Some(map) = get("GNU.sparse.map") {
        pairs(map.split(|byte| *byte == b',').filter(|text| !text.is_empty()))?
    } else {
        // Version 0.0 repeats two keys.
        let numbers = records
            .iter()
            .filter(|(key, _)| matches!(&**key, "GNU.sparse.offset" | "GNU.sparse.numbytes"));
        pairs(numbers.map(|(_, value)| value.as_slice()))?
    };
    install(entry, parts, real)
}

fn pairs<'a>(numbers: impl Iterator<Item = &'a [u8]>) -> Result<Vec<(u64, u64)>> {
    let numbers: Vec<u64> = numbers.map(pax::decimal).collect::<Result<_>>()?;
    let pairs = numbers.chunks_exact(2);
    if pairs.remainder().is_empty() {
        Ok(pairs.map(|pair| (pair[0], pair[1])).collect())
    } else {
        Err(refuse("the table of a sparse file must name offset and length of each part"))
    }
}

/// Version 1.0: a count and pairs, each number a line, filled up to a whole block.
fn table_before_content(entry: &mut TarEntry, tar: &mut dyn Read) -> Result<Vec<(u64, u64)>> {
    let mut text = Vec::new();
    let mut numbers: Vec<u64> = Vec::new();
    let mut wanted = 1;
    while numbers.len() < wanted {
        let Some(line) = text.iter().position(|byte| *byte == b'\n') else {
            let mut block = [0; BLOCK];
            entry.size = entry.size.checked_sub(BLOCK as u64).ok_or_else(|| {
                refuse("the table of a sparse file must lie inside of its content")
            })?;
            tar.read_exact(&mut block).map_err(broken)?;
            text.extend_from_slice(&block);
            if text.len() > 2 * BLOCK {
                return Err(refuse("a number in the table of a sparse file is too long"));
            }
            continue;
        };
        numbers.push(pax::decimal(&text[..line])?);
        text.drain(..=line);
        if numbers.len() == 1 {
            let count = usize::try_from(numbers[0]).unwrap_or(usize::MAX);
            if count > MAX_PARTS {
                return Err(too_many());
            }
            wanted = 1 + 2 * count;
        }
    }
    Ok(numbers[1..].chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

/// Makes an entry the file that it stands for.
fn install(entry: &mut TarEntry, mut parts: Vec<(u64, u64)>, real: u64) -> Result<()> {
    // An empty part at the end only says where the file ends.
    parts.retain(|(_, len)| *len > 0);
    let mut end = 0;
    for (offset, len) in &parts {
        let next = offset.checked_add(*len).filter(|next| *offset >= end && *next <= real);
        end = next.ok_or_else(|| {
            refuse("the parts of a sparse file must follow each other inside of it")
        })?;
    }
    let held: u64 = parts.iter().map(|(_, len)| len).sum();
    if real > MAX_EXPANDED {
        return Err(Error::new(
            ErrorKind::Exhausted,
            "tar::sparse",
            "a sparse file is written whole and may have 64 GiB then; leave it out of the layer",
        )
        .with_context("size", real));
    }
    if held > entry.size {
        return Err(refuse("a sparse file must have the content that its table names"));
    }
    entry.kind = b'0';
    entry.sparse = Some(Sparse { parts, stored: entry.size });
    entry.size = real;
    Ok(())
}

fn too_many() -> Error {
    refuse("a sparse file may have a million parts")
}

/// Reads the content of an entry, holes included, from the tar that holds it.
#[derive(Debug, Default)]
pub(super) struct Payload {
    /// Parts that are not read to their end yet, the next one last.
    parts: Vec<(u64, u64)>,
    /// Size of the file, and how much of it was read, in bytes.
    size: u64,
    position: u64,
    /// Bytes that the tar still holds for this entry, without padding, and the padding.
    stored: u64,
    padding: u64,
}

impl Payload {
    pub(super) fn new(entry: &TarEntry) -> Self {
        let (mut parts, stored) = match &entry.sparse {
            Some(sparse) => (sparse.parts.clone(), sparse.stored),
            None => (vec![(0, entry.size)], entry.size),
        };
        parts.reverse();
        Self { parts, size: entry.size, position: 0, stored, padding: padding(stored) }
    }

    /// Of content that is all there, and nothing after it.
    pub(super) fn of(size: u64) -> Self {
        Self { parts: vec![(0, size)], size, stored: size, ..Self::default() }
    }

    /// Content left to read, in bytes.
    pub(super) fn left(&self) -> u64 {
        self.size - self.position
    }

    /// Adds up to `wanted` bytes of content to `out`; `UnexpectedEof` when the tar ends before.
    pub(super) fn read(
        &mut self,
        tar: &mut dyn Read,
        wanted: u64,
        out: &mut Vec<u8>,
    ) -> std::io::Result<()> {
        let end = self.position + wanted.min(self.left());
        while self.position < end {
            let Some((offset, len)) = self.parts.last_mut() else {
                zeros(out, end - self.position);
                self.position = end;
                break;
            };
            if *offset > self.position {
                let hole = (*offset).min(end) - self.position;
                zeros(out, hole);
                self.position += hole;
                continue;
            }
            let take = (*len).min(end - self.position);
            let read = tar.take(take).read_to_end(out)? as u64;
            if read < take {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            (*offset, *len) = (*offset + take, *len - take);
            self.position += take;
            self.stored -= take;
            if *len == 0 {
                self.parts.pop();
            }
        }
        Ok(())
    }

    /// Passes over what was not read, up to the next header.
    pub(super) fn skip(&mut self, tar: &mut dyn Read) -> std::io::Result<()> {
        let rest = std::mem::take(&mut self.stored) + std::mem::take(&mut self.padding);
        self.position = self.size;
        if std::io::copy(&mut tar.take(rest), &mut std::io::sink())? < rest {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}

fn zeros(out: &mut Vec<u8>, len: u64) {
    // Callers ask for pieces, not for whole files.
    out.resize(out.len() + usize::try_from(len).unwrap_or(usize::MAX), 0);
}
