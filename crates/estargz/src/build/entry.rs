//! From a tar entry to a TOC entry.
use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bolide_core::{Error, ErrorKind, Result};

use super::tar_reader::TarEntry;
use crate::{format, time, toc::TocEntry};

/// What the TOC says of a tar entry, without its payload.
pub(super) fn describe(entry: &TarEntry) -> Result<TocEntry> {
    let name = text(&entry.name, "a path")?;
    let kind = match entry.kind {
        b'0' | 0 | b'7' => "reg",
        b'1' => "hardlink",
        b'2' => "symlink",
        b'3' => "char",
        b'4' => "block",
        b'5' => "dir",
        b'6' => "fifo",
        other => {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "estargz::describe",
                "a layer may hold files, links, devices, directories and fifos",
            )
            .with_context("type", char::from(other))
            .with_context("name", name));
        }
    };
    let linked = matches!(kind, "hardlink" | "symlink");
    let device = matches!(kind, "char" | "block");
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    Ok(TocEntry {
        kind: kind.to_owned(),
        size: if kind == "reg" { signed(entry.size) } else { 0 },
        mod_time: time::format(entry.mtime).unwrap_or_default(),
        link_name: if linked { text(&entry.link, "the target of a link")? } else { String::new() },
        mode: i64::from(entry.mode & 0o7777),
        uid: signed(entry.uid),
        gid: signed(entry.gid),
        user_name: entry.user.clone(),
        group_name: entry.group.clone(),
        dev_major: if device { i64::from(entry.dev_major) } else { 0 },
        dev_minor: if device { i64::from(entry.dev_minor) } else { 0 },
        xattrs: xattrs(entry),
        name,
        ..TocEntry::default()
    })
}

fn xattrs(entry: &TarEntry) -> BTreeMap<String, String> {
    entry.xattrs.iter().map(|(name, value)| (name.clone(), STANDARD.encode(value))).collect()
}

/// JSON holds only UTF-8.
fn text(bytes: &[u8], what: &'static str) -> Result<String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| {
        Error::new(
            ErrorKind::Unsupported,
            "estargz::describe",
            "a TOC can only hold UTF-8; rename the file",
        )
        .with_context(what, String::from_utf8_lossy(bytes))
    })
}

/// Whether the entry belongs to the format: an earlier TOC or landmark, to be written anew.
pub(crate) fn is_reserved(name: &[u8]) -> bool {
    let mut parts = name.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
    let reserved = [format::TOC_NAME, format::PREFETCH_LANDMARK, format::NO_PREFETCH_LANDMARK];
    let first = parts.next().unwrap_or_default();
    parts.next().is_none() && reserved.iter().any(|name| name.as_bytes() == first)
}
