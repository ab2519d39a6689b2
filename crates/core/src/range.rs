//! Byte ranges of blobs, and their arithmetic.
use std::{fmt, ops::Range};

use crate::{Error, ErrorKind, Result};

/// A non-empty, half-open range of bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ByteRange {
    start: u64,
    end: u64,
}

impl ByteRange {
    /// Builds a range, refusing an empty or inverted one with `OutOfRange`.
    pub fn new(range: Range<u64>) -> Result<Self> {
        if range.start >= range.end {
            return Err(Error::new(
                ErrorKind::OutOfRange,
                "range::new",
                "a byte range must hold at least one byte",
            )
            .with_context("start", range.start)
            .with_context("end", range.end));
        }
        Ok(Self { start: range.start, end: range.end })
    }

    /// Builds the range of `len` bytes at `start`; `OutOfRange` if `len` is 0 or the end overflows.
    pub fn at(start: u64, len: u64) -> Result<Self> {
        let end = start.checked_add(len).ok_or_else(|| {
            Error::new(ErrorKind::OutOfRange, "range::at", "a byte range must end below 2^64")
                .with_context("start", start)
                .with_context("len", len)
        })?;
        Self::new(start..end)
    }

    /// First byte.
    #[must_use]
    pub const fn start(self) -> u64 {
        self.start
    }

    /// One past the last byte.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.end
    }

    /// Number of bytes, at least 1.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "a range is never empty")]
    pub const fn len(self) -> u64 {
        self.end - self.start
    }

    /// Whether every byte of `other` lies in this range.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// The bytes both ranges hold.
    #[must_use]
    pub fn intersection(self, other: Self) -> Option<Self> {
        let start = self.start.max(other.start);
        let end = self.end.min(other.end);
        (start < end).then_some(Self { start, end })
    }

    /// The smallest range that holds both.
    #[must_use]
    pub fn hull(self, other: Self) -> Self {
        Self { start: self.start.min(other.start), end: self.end.max(other.end) }
    }

    /// Bytes between the two ranges; 0 when they touch or overlap.
    #[must_use]
    pub fn gap(self, other: Self) -> u64 {
        self.start.max(other.start).saturating_sub(self.end.min(other.end))
    }

    /// As the standard library's range.
    #[must_use]
    pub const fn as_range(self) -> Range<u64> {
        self.start..self.end
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

impl fmt::Debug for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> ByteRange {
        ByteRange::new(start..end).expect("not empty")
    }

    #[test]
    fn empty_inverted_and_overflowing_ranges_are_refused() {
        assert!(ByteRange::new(3..3).is_err());
        #[allow(clippy::reversed_empty_ranges, reason = "the point of the test")]
        let inverted = ByteRange::new(4..3);
        assert!(inverted.is_err());
        assert!(ByteRange::at(u64::MAX, 1).is_err());
        assert!(ByteRange::at(0, 0).is_err());
    }

    #[test]
    fn arithmetic() {
        assert_eq!(range(0, 4).gap(range(6, 8)), 2);
        assert_eq!(range(6, 8).gap(range(0, 4)), 2);
        assert_eq!(range(0, 4).gap(range(2, 8)), 0);
        assert_eq!(range(0, 4).intersection(range(2, 8)), Some(range(2, 4)));
        assert_eq!(range(0, 4).intersection(range(4, 8)), None);
        assert_eq!(range(0, 4).hull(range(6, 8)), range(0, 8));
        assert!(range(0, 4).contains(range(0, 4)));
        assert!(!range(0, 4).contains(range(0, 5)));
    }
}
