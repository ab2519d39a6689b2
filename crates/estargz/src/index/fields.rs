//! From the fields of one TOC entry to values, each rule with its error.
use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bolide_core::{Device, Digest, Error, ErrorKind, NodeKind, Result, Timestamp};

use super::{
    Xattrs,
    chunks::{Content, RawChunk},
};
use crate::{format, time, toc::TocEntry};

/// The parts of a path, as `clean("/" + name)` gives them: `..` cannot leave the root.
pub(crate) fn clean(path: &[u8]) -> Result<Vec<&[u8]>> {
    if path.len() > format::MAX_PATH {
        return Err(refuse("a path may have 4096 bytes"));
    }
    if path.contains(&0) {
        return Err(refuse("a path may not hold a zero byte"));
    }
    let mut parts = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part if part.len() > format::MAX_NAME => {
                return Err(refuse("a name may have 255 bytes"));
            }
            part => parts.push(part),
        }
    }
    Ok(parts)
}

/// The path of an entry, as bytes.
pub(crate) fn name_of(entry: &TocEntry) -> Result<Cow<'_, [u8]>> {
    bytes_of(&entry.name, &entry.name_bytes)
}

/// The target of a link, as bytes.
pub(crate) fn link_of(entry: &TocEntry) -> Result<Cow<'_, [u8]>> {
    bytes_of(&entry.link_name, &entry.link_name_bytes)
}

/// The bytes win: the text shows of them what can be shown.
fn bytes_of<'a>(text: &'a str, bytes: &str) -> Result<Cow<'a, [u8]>> {
    if bytes.is_empty() {
        return Ok(Cow::Borrowed(text.as_bytes()));
    }
    let decoded = STANDARD.decode(bytes);
    decoded.map(Cow::Owned).map_err(|_| refuse("the bytes of a name must be base64"))
}

pub(crate) fn kind_of(entry: &TocEntry) -> Result<NodeKind> {
    let device = || -> Result<Device> {
        let part = |number, field| {
            u32::try_from(unsigned(number, field)?)
                .map_err(|_| refuse("a device number may have 32 bits"))
        };
        Ok(Device {
            major: part(entry.dev_major, "devMajor")?,
            minor: part(entry.dev_minor, "devMinor")?,
        })
    };
    match &*entry.kind {
        "dir" => Ok(NodeKind::Directory),
        // What a hard link is, its target says.
        "reg" | "hardlink" => Ok(NodeKind::File),
        "symlink" => Ok(NodeKind::Symlink),
        "char" => Ok(NodeKind::CharDevice(device()?)),
        "block" => Ok(NodeKind::BlockDevice(device()?)),
        "fifo" => Ok(NodeKind::Fifo),
        _ => Err(refuse(
            "the type of an entry must be dir, reg, symlink, hardlink, char, block, fifo or chunk",
        )
        .with_context("type", format!("{:.40?}", entry.kind))),
    }
}

pub(super) fn raw_chunk(entry: &TocEntry) -> Result<RawChunk> {
    Ok(RawChunk {
        file_offset: unsigned(entry.chunk_offset, "chunkOffset")?,
        len: unsigned(entry.chunk_size, "chunkSize")?,
        offset: unsigned(entry.offset, "offset")?,
        inner_offset: unsigned(entry.inner_offset, "innerOffset")?,
        content: content(entry)?,
    })
}

/// What vouches for a chunk.
fn content(entry: &TocEntry) -> Result<Content> {
    let parse = |text: &str| -> Result<Option<Digest>> {
        let parsed = (!text.is_empty()).then(|| text.parse()).transpose();
        parsed.map_err(|_| refuse("a payload must have a chunkDigest or digest of sha256"))
    };
    let own = parse(&entry.chunk_digest)?;
    match &*entry.chunk_type {
        "" => {}
        format::CHUNK_TYPE_ZEROS => return Ok(Content::Zeros(own)),
        _ => {
            return Err(refuse("the type of a chunk must be zeros, or not be said")
                .with_context("chunkType", format!("{:.40?}", entry.chunk_type)));
        }
    }
    if let Some(digest) = own {
        return Ok(Content::Chunk(digest));
    }
    // The one chunk of a file need not be named twice.
    let of_file = if entry.kind == "reg" { parse(&entry.digest)? } else { None };
    of_file
        .map(Content::File)
        .ok_or_else(|| refuse("a payload must have a chunkDigest or digest of sha256"))
}

pub(super) fn xattrs(entry: &TocEntry) -> Result<Xattrs> {
    let decode = |(name, value): (&String, &String)| {
        let value =
            STANDARD.decode(value).map_err(|_| refuse("the value of an xattr must be base64"))?;
        let sound = !name.is_empty() && name.len() <= format::MAX_NAME && !name.contains('\0');
        if !sound || value.len() > format::MAX_XATTR_VALUE {
            return Err(refuse("an xattr may have a name of 255 bytes and a value of 65536"));
        }
        Ok((Box::from(name.as_bytes()), value.into_boxed_slice()))
    };
    // A map of strings is sorted bytewise already.
    entry.xattrs.iter().map(decode).collect()
}

pub(crate) fn mtime(text: &str) -> Result<Timestamp> {
    if text.is_empty() {
        return Ok(Timestamp::default());
    }
    time::parse(text).ok_or_else(|| {
        refuse("a modtime must be an RFC 3339 time").with_context("modtime", format!("{text:.40?}"))
    })
}

pub(crate) fn owner(number: i64, field: &'static str) -> Result<u32> {
    u32::try_from(number)
        .map_err(|_| refuse("an owner must be a number of 32 bits").with_context(field, number))
}

pub(crate) fn unsigned(number: i64, field: &'static str) -> Result<u64> {
    u64::try_from(number)
        .map_err(|_| refuse("a number must not be negative").with_context(field, number))
}

pub(crate) fn refuse(rule: &'static str) -> Error {
    Error::new(ErrorKind::Malformed, "toc::read", rule)
}
