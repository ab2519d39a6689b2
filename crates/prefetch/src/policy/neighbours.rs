//! Small files that lie beside those which are read.
//!
//! A program that starts reads hundreds of small files, one after the other, and waits a round trip
//! for each. Those it reads next lie mostly in the same directories: modules of one language, plugins
//! of one program. Layers keep the files of a directory together, so that they come cheaply.
use std::{collections::VecDeque, ops::ControlFlow};

use bolide_core::{
    AccessEvent, ByteRange, ChunkSpan, Digest, FetchHint, FetchTarget, HintSink, NodeId,
    PrefetchMark, Prefetcher, Priority, TocIndex,
};

/// Bytes of a blob hinted at when a directory is read from for the first time. They take less time
/// than a round trip, down to 13 Mbit/s at 20 ms.
const FIRST: u64 = 32 << 10;
/// Bytes hinted at with every further read from the directory.
const AGAIN: u64 = 64 << 10;
/// Farthest a neighbour may lie in the blob, in bytes: what is looked through is bounded by it.
const REACH: u64 = 512 << 10;
/// Chunks looked at for one event, so that the smallest files do not make it long.
const LOOKS: usize = 256;
/// A member larger than this, in bytes of the blob, says nothing of its neighbours: who reads it is
/// not reading one small file after the other.
const LARGE: u64 = 512 << 10;
/// Directories tracked at once; the one read from longest ago is forgotten for a new one.
const TRACKED: usize = 128;
/// Hinted parts of one directory that are remembered.
const PARTS: usize = 16;
/// Bytes that may be hinted at before anything was read.
const CREDIT: u64 = 512 << 10;

/// Hints at the neighbours of small files that are read: those that follow in the blob first.
///
/// What it hints at stays below half a mebibyte and half of what was read, so that a program that
/// reads one file of each directory does not cost much more than it did.
#[derive(Clone, Debug, Default)]
pub struct NeighbourPolicy {
    /// In the order of their last read, the latest last.
    directories: VecDeque<Directory>,
    /// Bytes of the blob that were read, and hinted at.
    read: u64,
    hinted: u64,
}

#[derive(Clone, Debug)]
struct Directory {
    layer: Digest,
    node: NodeId,
    /// Parts of the blob that were read or hinted at, in order of time.
    known: VecDeque<ByteRange>,
}

impl Directory {
    fn knows(&self, member: ByteRange) -> bool {
        self.known.iter().any(|part| part.contains(member))
    }

    fn note(&mut self, part: ByteRange) {
        let touches = |known: &ByteRange| known.gap(part) == 0;
        if let Some(known) = self.known.iter_mut().find(|known| touches(known)) {
            *known = known.hull(part);
            return;
        }
        if self.known.len() == PARTS {
            self.known.pop_front();
        }
        self.known.push_back(part);
    }
}

impl NeighbourPolicy {
    /// Tracks no directory yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The directory, as the latest one; whether something was read from it before.
    fn touch(&mut self, layer: Digest, node: NodeId) -> (Directory, bool) {
        let at = self.directories.iter().position(|d| d.layer == layer && d.node == node);
        if let Some(known) = at.and_then(|at| self.directories.remove(at)) {
            return (known, true);
        }
        if self.directories.len() == TRACKED {
            self.directories.pop_front();
        }
        (Directory { layer, node, known: VecDeque::new() }, false)
    }

    /// Bytes that may still be hinted at.
    fn credit(&self) -> u64 {
        (CREDIT + self.read / 2).saturating_sub(self.hinted)
    }

    fn read_small(&mut self, index: &dyn TocIndex, span: &ChunkSpan, out: &mut dyn HintSink) {
        let Ok(parent) = index.parent(span.file) else { return };
        let (mut directory, again) = self.touch(index.digest(), parent);
        directory.note(span.member);
        let room = if again { AGAIN } else { FIRST }.min(self.credit());
        for part in wanted(index, &directory, span.member, room) {
            directory.note(part);
            self.hinted = self.hinted.saturating_add(part.len());
            let target = FetchTarget::Blob(part);
            if !out.push(FetchHint { layer: index.digest(), target, priority: Priority::Prefetch })
            {
                break;
            }
        }
        self.directories.push_back(directory);
    }
}

/// Whether the author of the layer put it first: who recorded what is used knows what comes next.
fn is_prioritized(layer: &dyn TocIndex, member: ByteRange) -> bool {
    matches!(layer.prefetch_mark(), PrefetchMark::UpTo(first) if first.contains(member))
}

/// The parts of the blob that hold unknown neighbours of `member`, up to `room` bytes: what follows
/// first, then what lies before, the nearest first.
fn wanted(
    index: &dyn TocIndex,
    directory: &Directory,
    member: ByteRange,
    room: u64,
) -> Vec<ByteRange> {
    let mut left = room;
    let mut parts: Vec<ByteRange> = Vec::new();
    let after = neighbours(index, directory, member.end()..member.end().saturating_add(REACH));
    let before = neighbours(index, directory, member.start().saturating_sub(REACH)..member.start());
    for found in after.into_iter().chain(before.into_iter().rev()) {
        if found.len() > left {
            break;
        }
        left -= found.len();
        match parts.last_mut() {
            Some(last) if last.gap(found) == 0 => *last = last.hull(found),
            _ => parts.push(found),
        }
    }
    parts
}

/// Members of small files of the directory, in a part of the blob, that are not known yet.
fn neighbours(
    index: &dyn TocIndex,
    directory: &Directory,
    within: std::ops::Range<u64>,
) -> Vec<ByteRange> {
    let Ok(within) = ByteRange::new(within) else { return Vec::new() };
    let mut found: Vec<ByteRange> = Vec::new();
    let mut looks = 0;
    // An index that cannot be walked has nothing to hint at; whoever reads it will hear of it.
    let _ = index.for_each_chunk_in_blob(within, &mut |span| {
        looks += 1;
        let is_beside = index.parent(span.file).is_ok_and(|parent| parent == directory.node);
        let is_new = found.last() != Some(&span.member) && !directory.knows(span.member);
        if is_beside && is_new && span.file_offset == 0 && span.member.len() <= LARGE {
            found.push(span.member);
        }
        if looks < LOOKS { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    found
}

impl Prefetcher for NeighbourPolicy {
    fn name(&self) -> &'static str {
        "neighbours"
    }

    fn start(&mut self, _: &dyn TocIndex, _: &mut dyn HintSink) {}

    fn observe(&mut self, layer: &dyn TocIndex, event: &AccessEvent, out: &mut dyn HintSink) {
        let AccessEvent::Read { file, range, .. } = event else { return };
        // The first read of a file is what tells of the next file.
        if range.start != 0 || range.end == 0 {
            return;
        }
        let mut first = None;
        let found = layer.for_each_chunk(*file, 0..1, &mut |span| {
            first = Some(span);
            ControlFlow::Break(())
        });
        // An event may name a file the index does not know.
        let (Ok(()), Some(span)) = (found, first) else { return };
        if is_prioritized(layer, span.member) {
            return;
        }
        // Read once more, a file counts once more: the bound is generous, not exact.
        self.read = self.read.saturating_add(span.member.len());
        if span.member.len() <= LARGE {
            self.read_small(layer, &span, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, ffi::OsStr};

    use bolide_core::memory::{MemoryLayer, MemoryLayerBuilder, NodeMeta};

    use super::*;

    /// Files of `size` bytes that do not compress, by their paths.
    fn layer(files: &[String], size: usize) -> MemoryLayer {
        let file = |builder: MemoryLayerBuilder, (number, path): (usize, &String)| {
            let seed = u64::try_from(number).expect("few files") * 2;
            let content = bolide_testkit::sample::noise(size, seed);
            builder.file(path, &content, NodeMeta::default())
        };
        let builder = MemoryLayerBuilder::new(1 << 20);
        files.iter().enumerate().try_fold(builder, file).expect("a layer").build()
    }

    fn names(directory: &str, count: usize) -> Vec<String> {
        (0..count).map(|n| format!("{directory}/f{n:03}")).collect()
    }

    fn find(index: &dyn TocIndex, path: &str) -> NodeId {
        path.split('/').fold(index.root(), |dir, name| {
            index.lookup(dir, OsStr::new(name)).expect("lookup").expect("exists")
        })
    }

    fn read(policy: &mut NeighbourPolicy, layer: &MemoryLayer, path: &str) -> Vec<ByteRange> {
        let mut hints = Vec::new();
        let event = AccessEvent::Read { file: find(&*layer.toc, path), range: 0..1, hit: false };
        policy.observe(&*layer.toc, &event, &mut hints);
        let part = |hint: FetchHint| match hint.target {
            FetchTarget::Blob(range) => range,
            FetchTarget::File { .. } => panic!("only the blob is hinted at"),
        };
        hints.into_iter().map(part).collect()
    }

    fn member(layer: &MemoryLayer, path: &str) -> ByteRange {
        let mut found = None;
        let visit = &mut |span: ChunkSpan| {
            found = Some(span.member);
            ControlFlow::Break(())
        };
        layer.toc.for_each_chunk(find(&*layer.toc, path), 0..1, visit).expect("chunks");
        found.expect("a chunk")
    }

    #[test]
    fn files_that_follow_in_the_directory_are_hinted_at_and_none_twice() {
        let layer = layer(&names("d", 40), 8 << 10);
        let mut policy = NeighbourPolicy::new();
        let first = read(&mut policy, &layer, "d/f010");
        assert_eq!(first.len(), 1);
        assert_eq!(first[0].start(), member(&layer, "d/f010").end());
        assert!(first[0].len() <= FIRST && first[0].len() > FIRST - (9 << 10), "{first:?}");
        let more = read(&mut policy, &layer, "d/f011");
        assert_eq!(more[0].start(), first[0].end(), "from where the first hint ended");
        assert!(more[0].len() > first[0].len());
        assert!(
            read(&mut policy, &layer, "d/f011")
                .iter()
                .all(|part| part.gap(first[0]) > 0 || part.intersection(first[0]).is_none())
        );
    }

    #[test]
    fn what_lies_before_comes_when_nothing_follows() {
        let layer = layer(&names("d", 10), 4 << 10);
        let mut policy = NeighbourPolicy::new();
        let hinted = read(&mut policy, &layer, "d/f009");
        assert_eq!(hinted.len(), 1);
        assert_eq!(hinted[0].end(), member(&layer, "d/f009").start());
    }

    #[test]
    fn another_directory_and_a_large_file_say_nothing() {
        let mut files = names("a", 3);
        files.extend(names("b", 3));
        let layer = layer(&files, 4 << 10);
        let hinted = read(&mut NeighbourPolicy::new(), &layer, "a/f001");
        let others: BTreeSet<_> = (0..3).map(|n| member(&layer, &format!("b/f{n:03}"))).collect();
        let beside = |part: &ByteRange| others.iter().all(|b| part.intersection(*b).is_none());
        assert!(!hinted.is_empty() && hinted.iter().all(beside), "{hinted:?}");
        let large = self::layer(&names("d", 3), 600 << 10);
        assert!(read(&mut NeighbourPolicy::new(), &large, "d/f000").is_empty());
    }

    #[test]
    fn a_reader_of_one_file_of_each_directory_costs_half_as_much_again_at_most() {
        let files: Vec<_> = (0..200).flat_map(|d| names(&format!("d{d:03}"), 20)).collect();
        let layer = layer(&files, 8 << 10);
        let mut policy = NeighbourPolicy::new();
        let (mut read_bytes, mut hinted) = (0, 0);
        for d in 0..200 {
            let path = format!("d{d:03}/f007");
            read_bytes += member(&layer, &path).len();
            hinted += read(&mut policy, &layer, &path).iter().map(|part| part.len()).sum::<u64>();
        }
        assert!(hinted <= CREDIT + read_bytes / 2, "{hinted} hinted at, {read_bytes} read");
    }
}
