//! Reads a tar entry by entry, keeping the header blocks as they are.
use std::io::Read;

use bolide_core::{Error, ErrorKind, Result};

use crate::format;

/// Longest extension header (PAX records, long names), in bytes.
const MAX_EXTENSION: u64 = 8 << 20;
const BLOCK: usize = 512;

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
    /// Size of its payload, in bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Time of modification, in seconds since 1970.
    pub mtime: i64,
    pub(crate) user: String,
    pub(crate) group: String,
    /// Major number of a device.
    pub dev_major: u32,
    /// Minor number of a device.
    pub dev_minor: u32,
    /// Extended attributes: names and values.
    pub xattrs: Vec<(String, Vec<u8>)>,
}

/// Records of PAX headers and GNU long names that wait for the entry they speak of.
#[derive(Debug, Default)]
struct Pending {
    raw: Vec<u8>,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pax: Vec<(String, Vec<u8>)>,
}

/// Reads the next entry; `None` at the end of the archive. Payload and padding are the caller's.
pub(crate) fn next_entry(tar: &mut dyn Read) -> Result<Option<TarEntry>> {
    let mut pending = Pending::default();
    loop {
        let Some(block) = read_block(tar)? else {
            return if pending.raw.is_empty() {
                Ok(None)
            } else {
                Err(refuse("the tar ends after an extension header"))
            };
        };
        let header = tar::Header::from_byte_slice(&block);
        check_sum(header, &block)?;
        let kind = header.entry_type().as_byte();
        match kind {
            b'x' | b'L' | b'K' => extend(&mut pending, kind, header, &block, tar)?,
            // Global headers speak of all entries; what they say of ours is comments in practice.
            b'g' => skip_global(header, tar)?,
            b'S' | b'M' | b'V' => return Err(unsupported(kind)),
            _ => return describe(header, &block, pending).map(Some),
        }
    }
}

/// Bytes that follow a payload of `size` bytes up to the next header.
pub(crate) fn padding(size: u64) -> u64 {
    size.next_multiple_of(BLOCK as u64) - size
}

/// A header block; `None` at the two zero blocks or the end of the input.
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
    if block.iter().all(|byte| *byte == 0) {
        // What follows the end mark is padding; reading it lets the decompressor check its sum.
        std::io::copy(tar, &mut std::io::sink()).map_err(broken)?;
        return Ok(None);
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

fn read_extension(header: &tar::Header, tar: &mut dyn Read) -> Result<Vec<u8>> {
    let size = header.entry_size().map_err(broken)?;
    if size > MAX_EXTENSION {
        return Err(refuse("an extension header of a tar may have 8 MiB"));
    }
    let padded = size + padding(size);
    let mut content = Vec::new();
    tar.take(padded).read_to_end(&mut content).map_err(broken)?;
    if content.len() as u64 == padded {
        Ok(content)
    } else {
        Err(refuse("the tar is cut short inside an extension header"))
    }
}

fn extend(
    pending: &mut Pending,
    kind: u8,
    header: &tar::Header,
    block: &[u8],
    tar: &mut dyn Read,
) -> Result<()> {
    let content = read_extension(header, tar)?;
    pending.raw.extend_from_slice(block);
    pending.raw.extend_from_slice(&content);
    if pending.raw.len() as u64 > 2 * MAX_EXTENSION {
        return Err(refuse("the extension headers of one entry may have 16 MiB"));
    }
    // The size was checked against the content's length.
    let size = usize::try_from(header.entry_size().map_err(broken)?).unwrap_or(0);
    let payload = &content[..size];
    let text = payload.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
    match kind {
        b'L' => pending.name = Some(text),
        b'K' => pending.link = Some(text),
        _ => {
            let mut rest = payload;
            while !rest.is_empty() {
                let (key, value);
                (key, value, rest) = pax_record(rest)?;
                pending.pax.push((key.to_owned(), value.to_vec()));
            }
        }
    }
    Ok(())
}

/// Splits `length key=value\n` off: key, value, rest. The length counts the whole record, so that a
/// value may hold any byte; `tar::PaxExtensions` splits at line ends and loses binary xattrs.
fn pax_record(records: &[u8]) -> Result<(&str, &[u8], &[u8])> {
    let malformed = || refuse("a PAX record must be \"length key=value\" and a line end");
    let space = records.iter().position(|byte| *byte == b' ').ok_or_else(malformed)?;
    let len: usize = str::from_utf8(&records[..space])
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(malformed)?;
    let (record, rest) = records.split_at_checked(len).ok_or_else(malformed)?;
    let body =
        record.get(space + 1..).and_then(|body| body.strip_suffix(b"\n")).ok_or_else(malformed)?;
    let equals = body.iter().position(|byte| *byte == b'=').ok_or_else(malformed)?;
    let key = str::from_utf8(&body[..equals]).map_err(|_| refuse("a PAX key must be UTF-8"))?;
    Ok((key, &body[equals + 1..], rest))
}

fn skip_global(header: &tar::Header, tar: &mut dyn Read) -> Result<()> {
    read_extension(header, tar).map(drop)
}

fn describe(header: &tar::Header, block: &[u8], mut pending: Pending) -> Result<TarEntry> {
    pending.raw.extend_from_slice(block);
    let text =
        |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
    let mut entry = TarEntry {
        name: pending.name.unwrap_or_else(|| header.path_bytes().into_owned()),
        link: pending
            .link
            .unwrap_or_else(|| header.link_name_bytes().unwrap_or_default().into_owned()),
        kind: header.entry_type().as_byte(),
        size: header.entry_size().map_err(broken)?,
        mode: number(&header.as_old().mode, header.mode())?,
        uid: number(&header.as_old().uid, header.uid())?,
        gid: number(&header.as_old().gid, header.gid())?,
        // A negative time is stored in two's complement.
        mtime: number(&header.as_old().mtime, header.mtime())?.cast_signed(),
        user: text(header.username_bytes()),
        group: text(header.groupname_bytes()),
        dev_major: header.device_major().unwrap_or_default().unwrap_or_default(),
        dev_minor: header.device_minor().unwrap_or_default().unwrap_or_default(),
        raw: pending.raw,
        xattrs: Vec::new(),
    };
    for (key, value) in pending.pax {
        apply(&mut entry, &key, value)?;
    }
    if !matches!(entry.kind, b'0' | 0 | b'7') {
        // Links, devices and directories have no payload, whatever their size field says.
        entry.size = 0;
    }
    if entry.size > format::MAX_FILE_SIZE {
        return Err(refuse("a file may have 2^62 bytes").with_context("size", entry.size));
    }
    Ok(entry)
}

/// One PAX record (POSIX.1-2001 pax, "Extended Header"); keys that no layer needs are kept in the
/// header blocks and otherwise passed over.
fn apply(entry: &mut TarEntry, key: &str, value: Vec<u8>) -> Result<()> {
    let text = || str::from_utf8(&value).map_err(|_| refuse("a PAX number must be text"));
    let number =
        || -> Result<u64> { text()?.parse().map_err(|_| refuse("a PAX number must be decimal")) };
    match key {
        "path" => entry.name = value,
        "linkpath" => entry.link = value,
        "size" => entry.size = number()?,
        "uid" => entry.uid = number()?,
        "gid" => entry.gid = number()?,
        "uname" => entry.user = String::from_utf8_lossy(&value).into_owned(),
        "gname" => entry.group = String::from_utf8_lossy(&value).into_owned(),
        "mtime" => entry.mtime = seconds(text()?)?,
        key if key.starts_with("GNU.sparse.") => return Err(unsupported(b'S')),
        key => {
            if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
                entry.xattrs.push((name.to_owned(), value));
            }
        }
    }
    Ok(())
}

/// Rounds `[-]seconds[.fraction]` to whole seconds, as the reference does.
fn seconds(text: &str) -> Result<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let parsed: i64 = whole.parse().map_err(|_| refuse("a PAX time must be decimal"))?;
    let up = fraction.as_bytes().first().is_some_and(|digit| *digit >= b'5');
    Ok(if up { parsed + if text.starts_with('-') { -1 } else { 1 } } else { parsed })
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
        "sparse files, multi-volume parts and volume labels are not converted; repack the layer",
    )
    .with_context("type", char::from(kind))
}

fn broken(error: std::io::Error) -> Error {
    refuse("the layer must be a whole tar, alone or compressed by gzip or zstd").with_source(error)
}

pub(super) fn cut_short() -> Error {
    refuse("the tar is cut short inside a file")
}

fn refuse(rule: &'static str) -> Error {
    Error::new(ErrorKind::Malformed, "tar::next_entry", rule)
}
