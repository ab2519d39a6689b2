//! Which entries come first, and where each lies in a spooled tar.
use std::collections::{HashMap, HashSet};

use bolide_core::{Error, ErrorKind, Result};

use super::entry::clean;
use crate::format;

/// An entry of a tar that is put in another order.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    /// Its path from the root.
    pub(super) path: Vec<u8>,
    /// The path from the root of what it is another name of.
    pub(super) target: Option<Vec<u8>>,
    /// Where its headers begin in the spool, in bytes.
    pub(super) at: u64,
    /// Which state of the global headers it was read with.
    pub(super) globals: usize,
}

/// `Exhausted` when there are more entries than readers of TOCs take.
pub(super) fn check(entries: usize) -> Result<()> {
    if u32::try_from(entries).is_ok_and(|entries| entries < format::MAX_ENTRIES) {
        return Ok(());
    }
    let rule = "a layer of more than two million entries is not put in another order";
    Err(Error::new(ErrorKind::Exhausted, "estargz::prioritize", rule))
}

/// Numbers of the entries in the order to write them, and how many of them are prioritized.
///
/// `NotFound` when a prioritized path is missing and that is not allowed.
pub(super) fn order(
    entries: &[Placed],
    prioritized: &[String],
    allow_missing: bool,
) -> Result<(Vec<usize>, usize)> {
    // Of two entries with one path the later stays.
    let by_path: HashMap<&[u8], usize> =
        entries.iter().enumerate().map(|(at, entry)| (&entry.path[..], at)).collect();
    let mut choice = Choice { entries, by_path, order: Vec::new(), chosen: HashSet::new() };
    for path in prioritized {
        let wanted = clean(path.as_bytes());
        if !choice.by_path.contains_key(&wanted[..]) && !allow_missing {
            return Err(Error::new(
                ErrorKind::NotFound,
                "estargz::prioritize",
                "a prioritized path must be in the layer, unless missing ones are allowed",
            )
            .with_context("path", path));
        }
        choice.take(&wanted);
    }
    let Choice { by_path, mut order, chosen, .. } = choice;
    let first = order.len();
    let stays = |at: &usize| by_path.get(&entries[*at].path[..]) == Some(at);
    order.extend((0..entries.len()).filter(|at| !chosen.contains(at)).filter(stays));
    Ok((order, first))
}

struct Choice<'a> {
    entries: &'a [Placed],
    by_path: HashMap<&'a [u8], usize>,
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
            let Some(at) = self.by_path.get(&path[..]).copied() else { continue };
            if needs_taken {
                self.order.push(at);
                continue;
            }
            if !self.chosen.insert(at) {
                continue;
            }
            // The root, if it has an entry, is a directory that everything lies in.
            let root = (!path.is_empty()).then(Vec::new);
            let parents = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
            let mut needs: Vec<_> = root.into_iter().collect();
            needs.extend(parents.map(|(end, _)| path[..end].to_vec()));
            needs.extend(self.entries[at].target.clone());
            todo.push((path, true));
            todo.extend(needs.into_iter().rev().map(|path| (path, false)));
        }
    }
}
