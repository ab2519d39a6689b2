//! A set of bytes, kept as ranges that neither touch nor overlap.
use std::collections::BTreeMap;

use bolide_core::ByteRange;

/// A set of bytes of a blob.
#[derive(Clone, Debug, Default)]
pub(super) struct RangeSet {
    /// End of each range by its start.
    ranges: BTreeMap<u64, u64>,
    len: u64,
}

impl RangeSet {
    /// Adds bytes.
    pub(super) fn insert(&mut self, range: ByteRange) {
        let (mut start, mut end) = (range.start(), range.end());
        while let Some((&before, &to)) = self.ranges.range(..=end).next_back() {
            if to < start {
                break;
            }
            self.ranges.remove(&before);
            self.len -= to - before;
            (start, end) = (start.min(before), end.max(to));
        }
        self.ranges.insert(start, end);
        self.len += end - start;
    }

    /// Number of bytes.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Whether the set holds the first byte of `range`, and how much of `range` from there on is
    /// alike.
    pub(super) fn head(&self, range: ByteRange) -> (bool, ByteRange) {
        let at = range.start();
        let before = self.ranges.range(..=at).next_back();
        let (held, end) = match before.filter(|(_, end)| **end > at) {
            Some((_, end)) => (true, *end),
            None => (false, self.ranges.range(at..).next().map_or(u64::MAX, |(start, _)| *start)),
        };
        // `end` lies after `at`: the head is not empty.
        (held, ByteRange::new(at..end.min(range.end())).unwrap_or(range))
    }

    /// The parts of `whole` that the set does not hold, in order.
    pub(super) fn gaps(&self, whole: ByteRange) -> Vec<ByteRange> {
        let mut gaps = Vec::new();
        let mut rest = Some(whole);
        while let Some(range) = rest {
            let (held, head) = self.head(range);
            if !held {
                gaps.push(head);
            }
            rest = ByteRange::new(head.end()..whole.end()).ok();
        }
        gaps
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_a_set_of_bytes(steps in vec((0..60u64, 1..20u64), 1..20)) {
            let (mut set, mut model) = (RangeSet::default(), [false; 80]);
            for (start, len) in steps {
                let range = ByteRange::at(start, len).expect("not empty");
                set.insert(range);
                for at in range.as_range() {
                    model[usize::try_from(at).expect("small")] = true;
                }
                let held = model.iter().filter(|held| **held).count();
                prop_assert_eq!(set.len(), held as u64);
                let gaps = set.gaps(ByteRange::new(0..80).expect("not empty"));
                let missing: Vec<u64> = gaps.iter().flat_map(|gap| gap.as_range()).collect();
                let expected: Vec<u64> =
                    (0..80).filter(|at| !model[usize::try_from(*at).expect("small")]).collect();
                prop_assert_eq!(missing, expected);
                prop_assert!(gaps.windows(2).all(|pair| pair[0].end() < pair[1].start()));
            }
        }
    }
}
