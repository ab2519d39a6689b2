//! Puts prioritized files first.
use std::{
    collections::{HashMap, HashSet},
    io::{Read, SeekFrom, Write},
};

use bolide_core::{Error, ErrorKind, Result};

use super::{
    BuildOptions, BuildReport, Spool, entry,
    tar_reader::{self, TarEntry},
    writer::LayerWriter,
};
use crate::format;

struct Placed {
    entry: TarEntry,
    payload: u64,
}

/// Writes the prioritized entries, the landmark, and the rest in its own order.
pub(super) fn write_prioritized(
    spool: &mut dyn Spool,
    output: &mut dyn Write,
    options: &BuildOptions,
) -> Result<BuildReport> {
    let entries = scan(spool)?;
    let first = choose(&entries, options)?;
    let mut writer = LayerWriter::new(output, options);
    for at in &first {
        write(&mut writer, spool, &entries, *at)?;
    }
    let landmark =
        if first.is_empty() { format::NO_PREFETCH_LANDMARK } else { format::PREFETCH_LANDMARK };
    writer.landmark(landmark)?;
    let done: HashSet<usize> = first.into_iter().collect();
    for at in (0..entries.len()).filter(|at| !done.contains(at)) {
        write(&mut writer, spool, &entries, at)?;
    }
    writer.finish()
}

/// Reads every header; of two entries with one path the later stays.
fn scan(mut spool: &mut dyn Spool) -> Result<Vec<Placed>> {
    let mut entries: Vec<Placed> = Vec::new();
    while let Some(entry) = tar_reader::next_entry(&mut spool)? {
        let payload = spool.stream_position().map_err(failed)?;
        let next = payload + entry.size + tar_reader::padding(entry.size);
        spool.seek(SeekFrom::Start(next)).map_err(failed)?;
        if !entry::is_reserved(&entry.name) {
            entries.push(Placed { entry, payload });
        }
    }
    let mut last = HashMap::new();
    for (at, placed) in entries.iter().enumerate() {
        last.insert(clean(&placed.entry.name), at);
    }
    let mut at = 0;
    entries.retain(|placed| {
        at += 1;
        last.get(&clean(&placed.entry.name)) == Some(&(at - 1))
    });
    Ok(entries)
}

fn choose(entries: &[Placed], options: &BuildOptions) -> Result<Vec<usize>> {
    let named = entries.iter().enumerate().map(|(at, placed)| (clean(&placed.entry.name), at));
    let mut choice =
        Choice { entries, by_path: named.collect(), order: Vec::new(), chosen: HashSet::new() };
    for path in &options.prioritized {
        let wanted = clean(path.as_bytes());
        if !choice.by_path.contains_key(&wanted) && !options.allow_missing {
            return Err(Error::new(
                ErrorKind::NotFound,
                "estargz::prioritize",
                "a prioritized path must be in the layer, unless missing ones are allowed",
            )
            .with_context("path", path));
        }
        choice.take(&wanted);
    }
    Ok(choice.order)
}

struct Choice<'a> {
    entries: &'a [Placed],
    by_path: HashMap<Vec<u8>, usize>,
    order: Vec<usize>,
    chosen: HashSet<usize>,
}

impl Choice<'_> {
    /// Takes a path, after the directories it lies in and the file it is a link to.
    ///
    /// With a stack of its own: chains of links may be longer than the thread's.
    fn take(&mut self, path: &[u8]) {
        let mut todo = vec![(path.to_vec(), false)];
        while let Some((path, needs_taken)) = todo.pop() {
            let Some(at) = self.by_path.get(&path).copied() else { continue };
            if needs_taken {
                self.order.push(at);
                continue;
            }
            if !self.chosen.insert(at) {
                continue;
            }
            let entry = &self.entries[at].entry;
            let target = (entry.kind == b'1').then(|| clean(&entry.link));
            let parents = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
            let mut needs: Vec<_> = parents.map(|(end, _)| path[..end].to_vec()).collect();
            needs.extend(target);
            todo.push((path, true));
            todo.extend(needs.into_iter().rev().map(|path| (path, false)));
        }
    }
}

fn write(
    writer: &mut LayerWriter<'_>,
    mut spool: &mut dyn Spool,
    entries: &[Placed],
    at: usize,
) -> Result<()> {
    let placed = &entries[at];
    spool.seek(SeekFrom::Start(placed.payload)).map_err(failed)?;
    writer.entry(&placed.entry, &mut spool as &mut dyn Read)
}

/// `clean("/" + path)` without the leading slash.
fn clean(path: &[u8]) -> Vec<u8> {
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

fn failed(error: std::io::Error) -> Error {
    Error::io("estargz::prioritize", error)
}
