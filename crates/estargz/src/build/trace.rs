//! The stage that sees all of the tar in its order: diffID, digests of what no segment holds as a
//! whole, tar-split.
use std::ops::Range;

use bolide_core::{Digest, Digester, Result};

use super::{
    segment::{Field, Segment, Trace},
    tar_split::TarSplit,
};

/// Digests under way.
#[derive(Debug, Default)]
pub(super) struct Tracer {
    diff: Digester,
    size: u64,
    file: Digester,
    chunk: Digester,
    found: Vec<(u32, Field, Digest)>,
    split: Option<TarSplit>,
}

/// What the stage found out.
#[derive(Debug)]
pub(super) struct Traced {
    /// Digest of the tar as far as the segments hold it; a TOC inside of it comes after that.
    pub(super) diff: Digester,
    /// Size of the same, in bytes.
    pub(super) size: u64,
    /// TOC entries whose digests are complete now.
    pub(super) digests: Vec<(u32, Field, Digest)>,
    pub(super) split: Option<TarSplit>,
}

impl Tracer {
    /// With tar-split or without.
    pub(super) fn new(split: Option<TarSplit>) -> Self {
        Self { split, ..Self::default() }
    }

    /// Takes the next segment.
    pub(super) fn see(&mut self, segment: &Segment) -> Result<()> {
        self.diff.update(&segment.bytes);
        self.size += segment.bytes.len() as u64;
        let bytes = |range: &Range<usize>| &segment.bytes[range.clone()];
        for event in &segment.trace {
            match (event, &mut self.split) {
                (Trace::Digest { range, entry, field, last }, _) => {
                    let digester = match field {
                        Field::File => &mut self.file,
                        Field::Chunk => &mut self.chunk,
                    };
                    digester.update(bytes(range));
                    if *last {
                        let digest = std::mem::take(digester).finish();
                        self.found.push((*entry, *field, digest));
                    }
                }
                (Trace::Raw(range), Some(split)) => split.raw(bytes(range)),
                (Trace::Content(range), Some(split)) => split.content(bytes(range)),
                (Trace::Entry { name, size }, Some(split)) => split.entry(name, *size)?,
                (_, None) => {}
            }
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Traced {
        let Self { diff, size, found, split, .. } = self;
        Traced { diff, size, digests: found, split }
    }
}
