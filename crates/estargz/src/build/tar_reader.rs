//! Reads a tar entry by entry, keeping the header blocks as they are.
use std::io::Read;

use bolide_core::{Error, ErrorKind, Result, Timestamp};

use super::{
    pax::{self, Records},
    sparse::{self, Sparse},
};
use crate::format;

/// Longest extension header (PAX records, long names), in bytes.
const MAX_EXTENSION: u64 = 8 << 20;
/// Size of the blocks that a tar is made of, in bytes.
pub(super) const BLOCK: usize = 512;
/// Where a header says its type; the `tar` crate does not tell 0 from `b'0'`.
const KIND: usize = 156;
/// Access and status change time in a header of old GNU tar, 12 bytes each.
const GNU_TIMES: [usize; 2] = [345, 357];

/// One entry: what its headers say, and the blocks that say it.
#[derive(Clone, Debug, Default)]
pub struct TarEntry {
    /// Header blocks, extensions included, as they stood.
    pub(crate) raw: Vec<u8>,
    /// Its path, as it stood.
    pub name: Vec<u8>,
    /// What a link names.
    pub link: Vec<u8>,
    /// Its type, as tars write it: `b'0'` for a file, `b'5'` for a directory.
    pub kind: u8,
    /// Size of its content, in bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Time of modification, in seconds since 1970, rounded.
    pub mtime: i64,
    /// Major number of a device.
    pub dev_major: u32,
    /// Minor number of a device.
    pub dev_minor: u32,
    /// Extended attributes: names and values.
    pub xattrs: Vec<(String, Vec<u8>)>,
    pub(crate) user: Vec<u8>,
    pub(crate) group: Vec<u8>,
    /// Time of modification as it stood.
    pub(crate) exact_mtime: Timestamp,
    pub(crate) atime: Option<Timestamp>,
    pub(crate) ctime: Option<Timestamp>,
    /// Which parts of the content the tar holds, when not all.
    pub(crate) sparse: Option<Sparse>,
    /// PAX records that speak of it, of global headers too.
    pub(crate) records: Records,
    /// Whether some of them are of global headers.
    pub(crate) has_globals: bool,
}

/// What comes next in a tar.
#[derive(Debug)]
pub(crate) enum Item {
    /// A global PAX header, as it stood. The entries after it say what it means for them.
    Global(Vec<u8>),
    /// The headers of an entry; its content and padding come next.
    Entry(Box<TarEntry>),
    /// The end mark, or as much of it as was read; the rest of the input comes next.
    End(Vec<u8>),
}

/// Records of PAX headers and GNU long names that wait for the entry they speak of.
#[derive(Debug, Default)]
struct Pending {
    raw: Vec<u8>,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pax: Vec<(String, Vec<u8>)>,
}

/// Reads headers one after another; it remembers the records of global ones.
#[derive(Clone, Debug, Default)]
pub(crate) struct TarReader {
    globals: Records,
}

impl TarReader {
    /// Reads what comes next. Content and padding of an entry are the caller's to read.
    pub(crate) fn next(&mut self, tar: &mut dyn Read) -> Result<Item> {
        let mut pending = Pending::default();
        loop {
            let block = match read_block(tar)? {
                Some(block) if block.iter().any(|byte| *byte != 0) => block,
                end if pending.raw.is_empty() => {
                    return Ok(Item::End(end.map(Vec::from).unwrap_or_default()));
                }
                _ => return Err(refuse("the tar ends after an extension header")),
            };
            let header = tar::Header::from_byte_slice(&block);
            check_sum(header, &block)?;
            match header.entry_type().as_byte() {
                b'g' => {
                    let content = read_extension(header, tar)?;
                    self.remember(&content)?;
                    pending.raw.extend_from_slice(&block);
                    pending.raw.extend_from_slice(&content.padded);
                    // Between an extension header and its entry it has no place of its own.
                    if pending.raw.len() == BLOCK + content.padded.len() {
                        return Ok(Item::Global(pending.raw));
                    }
                }
                b'x' | b'L' | b'K' => extend(&mut pending, header, &block, tar)?,
                kind @ (b'M' | b'V') => return Err(unsupported(kind)),
                _ => return Ok(Item::Entry(Box::new(self.entry(&block, pending, tar)?))),
            }
        }
    }

    /// Records of a global header take the place of earlier ones; an empty value takes one away.
    fn remember(&mut self, content: &Extension) -> Result<()> {
        let mut records = Vec::new();
        pax::read(content.payload(), &mut records)?;
        for (key, value) in records {
            if value.is_empty() {
                self.globals.remove(&key);
            } else {
                self.globals.insert(key, value);
            }
        }
        let size: usize = self.globals.iter().map(|(key, value)| key.len() + value.len()).sum();
        if size as u64 > MAX_EXTENSION {
            return Err(refuse("the global headers of a tar may say 8 MiB"));
        }
        Ok(())
    }

    fn entry(&self, block: &[u8; BLOCK], pending: Pending, tar: &mut dyn Read) -> Result<TarEntry> {
        let own = pending.pax;
        let mut records = self.globals.clone();
        records.extend(own.iter().cloned());
        let mut entry = read_header(block)?;
        entry.raw = pending.raw;
        entry.raw.extend_from_slice(block);
        entry.name = pending.name.unwrap_or(entry.name);
        entry.link = pending.link.unwrap_or(entry.link);
        pax::apply(&mut entry, &records)?;
        if entry.kind == b'S' {
            sparse::read_old(block, &mut entry, tar)?;
        } else {
            sparse::read_pax(&own, &mut entry, tar)?;
        }
        entry.records = records;
        entry.has_globals = !self.globals.is_empty();
        if entry.kind == 0 {
            // Tars older than POSIX have no type for directories.
            entry.kind = if entry.name.ends_with(b"/") && entry.size == 0 { b'5' } else { b'0' };
        }
        if !matches!(entry.kind, b'0' | b'7') {
            // Links, devices and directories have no content, whatever their size field says.
            entry.size = 0;
        }
        if entry.size > format::MAX_FILE_SIZE {
            return Err(refuse("a file may have 2^62 bytes").with_context("size", entry.size));
        }
        Ok(entry)
    }
}

/// Bytes that follow a payload of `size` bytes up to the next header.
pub(crate) fn padding(size: u64) -> u64 {
    size.next_multiple_of(BLOCK as u64) - size
}

/// A block; `None` at the end of the input.
fn read_block(tar: &mut dyn Read) -> Result<Option<[u8; BLOCK]>> {
    let mut block = [0; BLOCK];
    let mut filled = 0;
    while filled < BLOCK {
        match tar.read(&mut block[filled..]) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(refuse("the tar is cut short inside a header")),
            Ok(read) => filled += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(broken(error)),
        }
    }
    Ok(Some(block))
}

fn check_sum(header: &tar::Header, block: &[u8; BLOCK]) -> Result<()> {
    let sum: u32 = block[..148].iter().chain(&block[156..]).map(|byte| u32::from(*byte)).sum();
    let expected = sum + 8 * u32::from(b' ');
    match header.cksum() {
        Ok(found) if found == expected => Ok(()),
        _ => Err(refuse("a tar header does not match its checksum; the layer is not a tar")),
    }
}

/// The content of an extension header, filled up to whole blocks.
struct Extension {
    padded: Vec<u8>,
    size: usize,
}

impl Extension {
    fn payload(&self) -> &[u8] {
        &self.padded[..self.size]
    }
}

fn read_extension(header: &tar::Header, tar: &mut dyn Read) -> Result<Extension> {
    let size = header.entry_size().map_err(broken)?;
    if size > MAX_EXTENSION {
        return Err(refuse("an extension header of a tar may have 8 MiB"));
    }
    let wanted = size + padding(size);
    let mut padded = Vec::new();
    tar.take(wanted).read_to_end(&mut padded).map_err(broken)?;
    if padded.len() as u64 == wanted {
        Ok(Extension { padded, size: usize::try_from(size).unwrap_or(0) })
    } else {
        Err(refuse("the tar is cut short inside an extension header"))
    }
}

fn extend(
    pending: &mut Pending,
    header: &tar::Header,
    block: &[u8],
    tar: &mut dyn Read,
) -> Result<()> {
    let content = read_extension(header, tar)?;
    pending.raw.extend_from_slice(block);
    pending.raw.extend_from_slice(&content.padded);
    if pending.raw.len() as u64 > 2 * MAX_EXTENSION {
        return Err(refuse("the extension headers of one entry may have 16 MiB"));
    }
    let text = || content.payload().split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
    match header.entry_type().as_byte() {
        b'L' => pending.name = Some(text()),
        b'K' => pending.link = Some(text()),
        _ => pax::read(content.payload(), &mut pending.pax)?,
    }
    Ok(())
}

/// What the block itself says.
fn read_header(block: &[u8; BLOCK]) -> Result<TarEntry> {
    let header = tar::Header::from_byte_slice(block);
    let old = header.as_old();
    // A negative time is stored in two's complement.
    let mtime = number(&old.mtime, header.mtime())?.cast_signed();
    let gnu_time = |at: usize| -> Result<Option<Timestamp>> {
        let field = &block[at..at + 12];
        if header.as_gnu().is_none() || field[0] == 0 {
            return Ok(None);
        }
        let mut scratch = tar::Header::new_gnu();
        scratch.as_old_mut().mtime.copy_from_slice(field);
        let seconds = number(field, scratch.mtime())?.cast_signed();
        Ok(Some(Timestamp { seconds, nanos: 0 }))
    };
    Ok(TarEntry {
        name: header.path_bytes().into_owned(),
        link: header.link_name_bytes().unwrap_or_default().into_owned(),
        kind: block[KIND],
        size: header.entry_size().map_err(broken)?,
        mode: number(&old.mode, header.mode())?,
        uid: number(&old.uid, header.uid())?,
        gid: number(&old.gid, header.gid())?,
        mtime,
        exact_mtime: Timestamp { seconds: mtime, nanos: 0 },
        atime: gnu_time(GNU_TIMES[0])?,
        ctime: gnu_time(GNU_TIMES[1])?,
        user: header.username_bytes().unwrap_or_default().to_vec(),
        group: header.groupname_bytes().unwrap_or_default().to_vec(),
        dev_major: header.device_major().unwrap_or_default().unwrap_or_default(),
        dev_minor: header.device_minor().unwrap_or_default().unwrap_or_default(),
        ..TarEntry::default()
    })
}

/// A field that is blank says 0: some tools leave out what they do not know.
fn number<T: Default>(field: &[u8], parsed: std::io::Result<T>) -> Result<T> {
    let blank = field.iter().all(|byte| matches!(byte, 0 | b' '));
    if blank { Ok(T::default()) } else { parsed.map_err(broken) }
}

fn unsupported(kind: u8) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "tar::next_entry",
        "multi-volume parts, volume labels and sparse files are not read here; repack the layer",
    )
    .with_context("type", char::from(kind))
}

/// Reading failed: a decompressor found its input broken, or the system failed.
pub(super) fn broken(error: std::io::Error) -> Error {
    use std::io::ErrorKind::{InvalidData, InvalidInput, Other, UnexpectedEof};
    match error.kind() {
        UnexpectedEof | InvalidData | InvalidInput | Other => {
            refuse("the layer must be a whole tar, alone or compressed by gzip or zstd")
                .with_source(error)
        }
        _ => Error::io("tar::read", error),
    }
}

/// Reading content failed.
pub(super) fn cut_short(error: std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => refuse("the tar is cut short inside a file"),
        _ => broken(error),
    }
}

pub(super) fn refuse(rule: &'static str) -> Error {
    Error::new(ErrorKind::Malformed, "tar::next_entry", rule)
}
