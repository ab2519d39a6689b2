//! Read-ahead for readers that go through a file in order.
use std::ops::Range;

use bolide_core::{
    AccessEvent, Digest, FetchHint, FetchTarget, HintSink, NodeId, Prefetcher, Priority, TocIndex,
};

/// Read-ahead of a reader that was just found to be sequential, in bytes.
const FIRST_WINDOW: u64 = 128 << 10;
/// Longest read-ahead, in bytes.
const LAST_WINDOW: u64 = 4 << 20;
/// The kernel sends the reads of one reader from several threads: one may overtake others by its
/// own read-ahead, so reads this near, in bytes, still count as in order.
const SLACK: u64 = 256 << 10;
/// Files tracked at once; the one read longest ago is forgotten for a new one.
const TRACKED: usize = 128;

/// Hints at what follows, in a window that grows from 128 KiB to 4 MiB while a reader advances.
///
/// The first read of a file says nothing of the reader; the second one in order makes the first
/// hint. A read elsewhere closes the window.
#[derive(Clone, Debug, Default)]
pub struct SequentialPolicy {
    /// In the order of their last read, the latest last.
    readers: Vec<Reader>,
}

/// What is known of the reader of one file.
#[derive(Clone, Copy, Debug)]
struct Reader {
    layer: Digest,
    file: NodeId,
    /// Where the farthest read in order ended.
    reached: u64,
    /// How far hints went.
    hinted: u64,
    /// Size of the next window; 0 before the reader is known to be sequential.
    window: u64,
}

impl Reader {
    /// Takes note of a read; the bytes to fetch, when the window has run down to its half.
    fn advance(&mut self, read: &Range<u64>) -> Option<Range<u64>> {
        let in_order = read.start <= self.reached.saturating_add(SLACK)
            && read.end.saturating_add(SLACK) >= self.reached;
        if !in_order {
            *self = Self { reached: read.end, hinted: 0, window: 0, ..*self };
            return None;
        }
        if read.end <= self.reached {
            return None;
        }
        self.reached = read.end;
        self.window = self.window.max(FIRST_WINDOW);
        let start = self.hinted.max(self.reached);
        if start - self.reached > self.window / 2 {
            return None;
        }
        let end = self.reached.saturating_add(self.window);
        self.window = (self.window * 2).min(LAST_WINDOW);
        self.hinted = end;
        Some(start..end)
    }
}

impl SequentialPolicy {
    /// Tracks no file yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn note(&mut self, layer: Digest, file: NodeId, read: &Range<u64>) -> Option<Range<u64>> {
        let known = self.readers.iter().position(|r| r.layer == layer && r.file == file);
        let Some(at) = known else {
            if self.readers.len() == TRACKED {
                self.readers.remove(0);
            }
            self.readers.push(Reader { layer, file, reached: read.end, hinted: 0, window: 0 });
            return None;
        };
        let reader = &mut self.readers[at];
        let ahead = reader.advance(read);
        self.readers[at..].rotate_left(1);
        ahead
    }
}

impl Prefetcher for SequentialPolicy {
    fn name(&self) -> &'static str {
        "sequential"
    }

    fn start(&mut self, _: &dyn TocIndex, _: &mut dyn HintSink) {}

    fn observe(&mut self, layer: &dyn TocIndex, event: &AccessEvent, out: &mut dyn HintSink) {
        let AccessEvent::Read { file, range, .. } = event else { return };
        if range.start >= range.end {
            return;
        }
        let Some(ahead) = self.note(layer.digest(), *file, range) else { return };
        // An event may name a file the index does not know; then there is nothing to hint at.
        let Ok(attr) = layer.attr(*file) else { return };
        let range = ahead.start..ahead.end.min(attr.size);
        if range.start < range.end {
            let target = FetchTarget::File { file: *file, range };
            out.push(FetchHint { layer: layer.digest(), target, priority: Priority::Prefetch });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, sync::Arc};

    use bolide_core::memory::{MemoryLayerBuilder, MemoryToc, NodeMeta};

    use super::*;

    const KIB: u64 = 1 << 10;

    fn layer(size: usize) -> (Arc<MemoryToc>, NodeId) {
        let layer = MemoryLayerBuilder::default()
            .file("f", &vec![7; size], NodeMeta::default())
            .expect("a file")
            .build();
        let file = layer.toc.lookup(layer.toc.root(), OsStr::new("f")).expect("lookup");
        (layer.toc, file.expect("f exists"))
    }

    fn replay(toc: &MemoryToc, file: NodeId, reads: &[Range<u64>]) -> Vec<Range<u64>> {
        let mut policy = SequentialPolicy::new();
        let mut hints = Vec::new();
        for range in reads {
            let event = AccessEvent::Read { file, range: range.clone(), hit: false };
            policy.observe(toc, &event, &mut hints);
        }
        let range = |hint: FetchHint| match hint.target {
            FetchTarget::File { range, .. } => range,
            FetchTarget::Blob(_) => panic!("only files are hinted at"),
        };
        hints.into_iter().map(range).collect()
    }

    fn in_order(size: u64, step: u64) -> Vec<Range<u64>> {
        (0..size / step).map(|n| n * step..(n + 1) * step).collect()
    }

    #[test]
    fn the_window_grows_and_hints_neither_overlap_nor_leave_the_file() {
        let size = 16 << 20;
        let (toc, file) = layer(size);
        let size = size as u64;
        let hints = replay(&toc, file, &in_order(size, 64 * KIB));
        assert_eq!(hints[0], 128 * KIB..256 * KIB, "the second read in order");
        assert!(hints.windows(2).all(|pair| pair[0].end == pair[1].start), "{hints:?}");
        assert_eq!(hints.last().expect("hints").end, size);
        let longest = hints.iter().map(|hint| hint.end - hint.start).max().expect("hints");
        assert!(longest > 1024 * KIB && longest <= LAST_WINDOW, "{longest}");
        assert!(hints.len() < 20, "a hint per window, not per read");
    }

    #[test]
    fn random_reads_and_single_reads_hint_at_nothing() {
        let (toc, file) = layer(8 << 20);
        let reads = [5, 1, 7, 3, 0, 6].map(|at| at << 20..(at << 20) + 4096);
        assert!(replay(&toc, file, &reads).is_empty());
        assert!(replay(&toc, file, &reads[..1]).is_empty());
    }

    #[test]
    fn reads_that_overtake_each_other_stay_in_order() {
        let (toc, file) = layer(4 << 20);
        let mut reads = in_order(4 << 20, 128 * KIB);
        for pair in reads.chunks_exact_mut(2) {
            pair.swap(0, 1);
        }
        let hints = replay(&toc, file, &reads);
        // A read that ran ahead of the window needs no hint for its own bytes.
        assert!(hints.windows(2).all(|pair| pair[0].end <= pair[1].start), "{hints:?}");
        assert_eq!(hints.last().expect("hints").end, 4 << 20);
    }

    #[test]
    fn a_replayed_trace_gives_the_same_hints() {
        let (toc, file) = layer(8 << 20);
        let mut reads = in_order(2 << 20, 32 * KIB);
        reads.extend([6, 4].map(|at: u64| at << 20..(at << 20) + 4096));
        reads.extend(in_order(1 << 20, 16 * KIB));
        let first = replay(&toc, file, &reads);
        assert!(!first.is_empty());
        assert_eq!(first, replay(&toc, file, &reads));
    }

    #[test]
    fn the_table_of_readers_is_bounded() {
        let (toc, _) = layer(1);
        let mut policy = SequentialPolicy::new();
        for number in 0..10 * TRACKED {
            let file = NodeId(u32::try_from(number).expect("few files"));
            let event = AccessEvent::Read { file, range: 0..4096, hit: true };
            policy.observe(&*toc, &event, &mut Vec::new());
        }
        assert_eq!(policy.readers.len(), TRACKED);
    }
}
