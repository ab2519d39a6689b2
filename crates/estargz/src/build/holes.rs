//! Finds the holes of a file: runs of zeros, which containers/storage makes no room for.
use std::ops::Range;

/// Shortest run that is a hole, in bytes, as containers/storage has it.
const HOLE: usize = 1 << 10;
/// How much of a file is looked at in one piece, in bytes: a hole does not go beyond it.
pub(super) const WINDOW: u64 = 4 << 20;

/// Splits bytes into holes and what lies between: ranges in order, and whether each is a hole.
pub(super) fn split(bytes: &[u8]) -> Vec<(Range<usize>, bool)> {
    let mut parts = Vec::new();
    let mut data = 0;
    let mut at = 0;
    while at < bytes.len() {
        let Some(zero) = bytes[at..].iter().position(|byte| *byte == 0) else { break };
        let start = at + zero;
        let rest = bytes[start..].iter().position(|byte| *byte != 0);
        let end = rest.map_or(bytes.len(), |len| start + len);
        if end - start >= HOLE {
            if data < start {
                parts.push((data..start, false));
            }
            parts.push((start..end, true));
            data = end;
        }
        at = end;
    }
    if data < bytes.len() {
        parts.push((data..bytes.len(), false));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_runs_of_zeros_are_holes() {
        let bytes = [vec![0; HOLE], vec![1; 5], vec![0; HOLE - 1], vec![1; 2], vec![0; 2 * HOLE]];
        let ends = bytes.iter().scan(0, |end, run| {
            *end += run.len();
            Some(*end)
        });
        let ends: Vec<usize> = ends.collect();
        let expected = [(0..ends[0], true), (ends[0]..ends[3], false), (ends[3]..ends[4], true)];
        assert_eq!(split(&bytes.concat()), expected);
        assert_eq!(split(b"abc"), [(0..3, false)]);
        assert_eq!(split(&[0; 10]), [(0..10, false)]);
        assert_eq!(split(b""), []);
    }
}
