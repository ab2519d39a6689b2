//! From a tar entry to a TOC entry.
use std::collections::{BTreeMap, HashMap};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bolide_core::{Error, ErrorKind, Result};

use super::tar_reader::TarEntry;
use crate::{format, time, toc::TocEntry};

/// What the TOC says of a tar entry, without its payload.
pub(super) fn describe(entry: &TarEntry) -> Result<TocEntry> {
    let kind = kind(entry)?;
    let linked = matches!(kind, "hardlink" | "symlink");
    let device = matches!(kind, "char" | "block");
    let link: &[u8] = if linked { &entry.link } else { b"" };
    Ok(TocEntry {
        kind: kind.to_owned(),
        size: if kind == "reg" { signed(entry.size) } else { 0 },
        mod_time: time::format(entry.mtime).unwrap_or_default(),
        link_name: text(link),
        mode: i64::from(entry.mode & 0o7777),
        uid: signed(entry.uid),
        gid: signed(entry.gid),
        dev_major: if device { i64::from(entry.dev_major) } else { 0 },
        dev_minor: if device { i64::from(entry.dev_minor) } else { 0 },
        xattrs: xattrs(entry),
        name: text(&entry.name),
        name_bytes: bytes_unless_text(&entry.name),
        link_name_bytes: bytes_unless_text(link),
        ..TocEntry::default()
    })
}

/// Its type, as TOCs write it.
pub(super) fn kind(entry: &TarEntry) -> Result<&'static str> {
    Ok(match entry.kind {
        b'0' | b'7' => "reg",
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
            .with_context("name", text(&entry.name)));
        }
    })
}

pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn xattrs(entry: &TarEntry) -> BTreeMap<String, String> {
    entry.xattrs.iter().map(|(name, value)| (name.clone(), STANDARD.encode(value))).collect()
}

/// JSON holds only UTF-8: each byte that is none becomes U+FFFD, as in documents written in Go.
pub(super) fn text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    text
}

fn bytes_unless_text(bytes: &[u8]) -> String {
    if str::from_utf8(bytes).is_ok() { String::new() } else { STANDARD.encode(bytes) }
}

/// Names of owners and groups, of which a TOC tells only news: a reader carries the last one of
/// each number forward.
#[derive(Debug, Default)]
pub(super) struct Owners {
    users: HashMap<u64, Vec<u8>>,
    groups: HashMap<u64, Vec<u8>>,
}

impl Owners {
    /// Names the owner and the group of an entry where that is news.
    pub(super) fn name(&mut self, entry: &TarEntry, described: &mut TocEntry) {
        described.user_name = if_changed(&mut self.users, entry.uid, &entry.user);
        described.group_name = if_changed(&mut self.groups, entry.gid, &entry.group);
    }
}

fn if_changed(last: &mut HashMap<u64, Vec<u8>>, number: u64, name: &[u8]) -> String {
    if name.is_empty() || last.get(&number).is_some_and(|last| last == name) {
        return String::new();
    }
    last.insert(number, name.to_vec());
    text(name)
}

/// Whether the entry belongs to the format: an earlier TOC or landmark, to be written anew.
pub(crate) fn is_reserved(name: &[u8]) -> bool {
    let path = clean(name);
    let reserved = [format::TOC_NAME, format::PREFETCH_LANDMARK, format::NO_PREFETCH_LANDMARK];
    reserved.iter().any(|name| name.as_bytes() == path)
}

/// `clean("/" + path)` without the leading slash.
pub(super) fn clean(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_are_shown_and_kept() {
        assert_eq!(text(b"a\xe2\x82b\xff"), "a\u{fffd}\u{fffd}b\u{fffd}");
        assert_eq!(bytes_unless_text("ä".as_bytes()), "");
        assert_eq!(bytes_unless_text(b"\xff"), "/w==");
    }

    #[test]
    fn names_of_owners_are_told_once() {
        let mut owners = Owners::default();
        let mut told = Vec::new();
        for (uid, user) in [(1, "a"), (1, "a"), (2, "b"), (1, ""), (1, "c"), (1, "c"), (2, "b")] {
            let user = user.as_bytes().to_vec();
            let mut described = TocEntry::default();
            owners.name(&TarEntry { uid, user, ..TarEntry::default() }, &mut described);
            told.push(described.user_name);
        }
        assert_eq!(told, ["a", "", "b", "", "c", "", ""]);
    }
}
