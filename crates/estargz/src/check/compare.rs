//! Compares the entries of a tar with an index, one after another.
use std::{
    collections::{BTreeMap, HashSet, hash_map::RandomState},
    ffi::OsStr,
    fmt,
    hash::BuildHasher as _,
    ops::{ControlFlow, Range},
    os::unix::ffi::OsStrExt as _,
};

use bolide_core::{Device, NodeAttr, NodeId, NodeKind, Result, TocIndex};

use crate::{
    build::{entry::is_reserved, tar_reader::TarEntry},
    index::fields::clean,
};

/// Disagreements that are spelled out.
const MAX_SHOWN: usize = 100;
/// Bytes of a path or target that are shown.
const MAX_TEXT: usize = 200;
/// Seconds of the years 0 to 9999, which are all that a TOC can say.
const TIMES: std::ops::RangeInclusive<i64> = -62_167_219_200..=253_402_300_799;

/// A comparison under way.
pub(super) struct Comparison<'a> {
    toc: &'a dyn TocIndex,
    /// Hashes of the paths of the index that the tar names or implies: a name may be as long as
    /// 4096 bytes, and a collision of 64 bits only means a report that is missed.
    seen: HashSet<u64>,
    hasher: RandomState,
    /// By path: of two entries with one path the later counts.
    found: BTreeMap<Vec<u8>, String>,
    more: u64,
}

impl<'a> Comparison<'a> {
    pub(super) fn new(toc: &'a dyn TocIndex) -> Self {
        Self {
            toc,
            seen: HashSet::new(),
            hasher: RandomState::new(),
            found: BTreeMap::new(),
            more: 0,
        }
    }

    /// Compares the next entry of the tar; returns which parts of its payload must be zeros, in order.
    pub(super) fn entry(&mut self, entry: &TarEntry) -> Result<Vec<Range<u64>>> {
        if is_reserved(&entry.name) {
            return Ok(Vec::new());
        }
        let parts = clean(&entry.name)?;
        let path = parts.join(&b'/');
        self.forget(&path, entry.kind == b'5');
        let Some(node) = self.walk(&parts)? else {
            self.report(path, "it is in the tar and not in the TOC");
            return Ok(Vec::new());
        };
        if let Some(difference) = self.difference(node, entry)? {
            self.report(path, difference);
            return Ok(Vec::new());
        }
        let mut holes = Vec::new();
        self.toc.for_each_hole(node, 0..entry.size, &mut |hole| {
            holes.push(hole);
            ControlFlow::Continue(())
        })?;
        Ok(holes)
    }

    /// Notes that a hole that [`entry`](Self::entry) told of is none in the tar.
    pub(super) fn hole_is_filled(&mut self, entry: &TarEntry, at: u64) -> Result<()> {
        let path = clean(&entry.name)?.join(&b'/');
        self.report(path, format!("the TOC has a hole at {at}, the tar content"));
        Ok(())
    }

    /// Looks for names of the index that the tar does not have; returns all disagreements.
    pub(super) fn finish(mut self) -> Result<Vec<String>> {
        let mut todo = vec![(self.toc.root(), Vec::new())];
        while let Some((dir, path)) = todo.pop() {
            let mut children = Vec::new();
            self.toc.for_each_child(dir, 0, &mut |name, id| {
                children.push((name.as_bytes().to_vec(), id));
                ControlFlow::Continue(())
            })?;
            for (name, id) in children {
                let path = join(&path, &name);
                if !self.seen.contains(&self.hasher.hash_one(&path)) {
                    self.report(path.clone(), "it is in the TOC and not in the tar");
                }
                if self.toc.attr(id)?.kind == NodeKind::Directory {
                    todo.push((id, path));
                }
            }
        }
        let shown = |(path, text): (&Vec<u8>, &String)| format!("{}: {text}", show(path));
        let mut all: Vec<String> = self.found.iter().map(shown).collect();
        if self.more > 0 {
            all.push(format!("and {} more", self.more));
        }
        Ok(all)
    }

    /// An entry takes the place of an earlier one, and, unless it is a directory, of all below.
    fn forget(&mut self, path: &[u8], is_dir: bool) {
        self.found.remove(path);
        if !is_dir {
            let below = join(path, b"");
            self.found.retain(|other, _| path.is_empty() || !other.starts_with(&below));
        }
    }

    fn report(&mut self, path: Vec<u8>, text: impl Into<String>) {
        if self.found.len() < MAX_SHOWN {
            self.found.insert(path, text.into());
        } else {
            self.more += 1;
        }
    }

    /// Finds a path and marks it, and the directories it implies, as seen.
    fn walk(&mut self, parts: &[&[u8]]) -> Result<Option<NodeId>> {
        let mut node = self.toc.root();
        let mut path = Vec::new();
        for part in parts {
            let Some(found) = self.toc.lookup(node, OsStr::from_bytes(part))? else {
                return Ok(None);
            };
            node = found;
            path = join(&path, part);
            self.seen.insert(self.hasher.hash_one(&path));
        }
        Ok(Some(node))
    }

    /// What of an entry is not as the index has it; the first thing is enough.
    fn difference(&mut self, node: NodeId, entry: &TarEntry) -> Result<Option<String>> {
        if entry.kind == b'1' {
            let target = self.find(&clean(&entry.link)?)?;
            let same = target == Some(node);
            return Ok((!same).then(|| {
                format!("the tar has a hard link to {}, the TOC another file", show(&entry.link))
            }));
        }
        let attr = self.toc.attr(node)?;
        if let Some(difference) = attributes(&attr, entry) {
            return Ok(Some(difference));
        }
        if attr.kind == NodeKind::Symlink {
            let target = self.toc.read_link(node)?;
            if target != entry.link {
                return Ok(Some(differ("target", show(&entry.link), show(&target))));
            }
        }
        self.xattrs(node, entry)
    }

    fn find(&self, parts: &[&[u8]]) -> Result<Option<NodeId>> {
        let mut node = self.toc.root();
        for part in parts {
            match self.toc.lookup(node, OsStr::from_bytes(part))? {
                Some(found) => node = found,
                None => return Ok(None),
            }
        }
        Ok(Some(node))
    }

    fn xattrs(&self, node: NodeId, entry: &TarEntry) -> Result<Option<String>> {
        let mut rest: BTreeMap<&[u8], &[u8]> =
            entry.xattrs.iter().map(|(name, value)| (name.as_bytes(), &value[..])).collect();
        let mut wrong = None;
        self.toc.for_each_xattr(node, &mut |name, value| {
            if rest.remove(name.as_bytes()) == Some(value) {
                return ControlFlow::Continue(());
            }
            wrong = Some(name.as_bytes().to_vec());
            ControlFlow::Break(())
        })?;
        let wrong = wrong.or_else(|| rest.into_keys().next().map(<[u8]>::to_vec));
        Ok(wrong.map(|name| format!("the extended attribute {} differs", show(&name))))
    }
}

/// Compares what both have for every kind of entry.
fn attributes(attr: &NodeAttr, entry: &TarEntry) -> Option<String> {
    let device = Device { major: entry.dev_major, minor: entry.dev_minor };
    let kind = match entry.kind {
        0 | b'0' | b'7' => NodeKind::File,
        b'2' => NodeKind::Symlink,
        b'3' => NodeKind::CharDevice(device),
        b'4' => NodeKind::BlockDevice(device),
        b'5' => NodeKind::Directory,
        b'6' => NodeKind::Fifo,
        other => {
            return Some(format!(
                "entries of type {:?} have no place in a layer",
                char::from(other)
            ));
        }
    };
    if kind != attr.kind {
        return Some(differ("type", format!("{kind:?}"), format!("{:?}", attr.kind)));
    }
    if kind == NodeKind::File && entry.size != attr.size {
        return Some(differ("size", entry.size, attr.size));
    }
    if entry.mode & 0o7777 != u32::from(attr.perm) {
        let octal = |mode: u32| format!("{mode:#o}");
        return Some(differ("mode", octal(entry.mode & 0o7777), octal(attr.perm.into())));
    }
    let owners = ((entry.uid, entry.gid), (u64::from(attr.uid), u64::from(attr.gid)));
    if owners.0 != owners.1 {
        return Some(differ("owner", format!("{:?}", owners.0), format!("{:?}", owners.1)));
    }
    // The tar's time is rounded, the TOC's cut where it has nanoseconds.
    let rounded = attr.mtime.seconds + i64::from(attr.mtime.nanos >= 500_000_000);
    let sayable = if TIMES.contains(&entry.mtime) { entry.mtime } else { 0 };
    let same = sayable == rounded || sayable == attr.mtime.seconds;
    (!same).then(|| differ("modification time", entry.mtime, attr.mtime.seconds))
}

fn differ(what: &str, tar: impl fmt::Display, toc: impl fmt::Display) -> String {
    format!("{what} is {tar} in the tar and {toc} in the TOC")
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}

fn show(text: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(text.get(..MAX_TEXT).unwrap_or(text)))
}
