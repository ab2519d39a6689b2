//! Parts of a layer, as they go from the thread that reads it to those that compress.
use std::ops::Range;

/// Uncompressed bytes that one thread digests and compresses: some MiB.
#[derive(Debug, Default)]
pub(super) struct Segment {
    pub(super) bytes: Vec<u8>,
    pub(super) shape: Shape,
    /// Where members begin, in order: the first at 0 unless one goes on here.
    pub(super) cuts: Vec<Cut>,
    /// Chunks that begin here; each at a cut, or where one may be.
    pub(super) chunks: Vec<Chunk>,
    /// Where the content of a file ends, of those whose TOC entry says so.
    pub(super) ends: Vec<End>,
    /// What is to be done with the bytes in the order of the tar.
    pub(super) trace: Vec<Trace>,
}

/// Which members a segment holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Shape {
    /// Some members, each from its begin to its end.
    #[default]
    Whole,
    /// A part of one that is too large for one thread.
    Part {
        /// Whether the member begins here.
        first: bool,
        /// Whether it ends here.
        last: bool,
    },
}

/// Where a member may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// Offset in the segment, in bytes.
    pub(super) at: usize,
    /// Whether one has to, however small the member before it is.
    pub(super) must: bool,
}

/// A chunk: the content of a file from somewhere on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    /// Number of its TOC entry.
    pub(super) entry: u32,
    /// As much of it as this segment holds.
    pub(super) range: Range<usize>,
    /// Which fields of the TOC entry its digest goes into, if the segment holds all of it.
    pub(super) fields: &'static [Field],
}

/// The end of a file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    /// Number of the file's TOC entry.
    pub(super) entry: u32,
    /// Offset in the segment, in bytes; there is a cut, or the segment's end.
    pub(super) at: usize,
}

/// A field of a TOC entry that holds a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    /// Of the file.
    File,
    /// Of the chunk.
    Chunk,
}

/// What is known only by going through all of the tar in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trace {
    /// Content of a file or a chunk that no segment holds as a whole.
    Digest {
        /// The bytes.
        range: Range<usize>,
        /// Number of the TOC entry whose field the digest goes into.
        entry: u32,
        /// The field.
        field: Field,
        /// Whether it is complete with these bytes.
        last: bool,
    },
    /// Bytes that tar-split keeps as they are.
    Raw(Range<usize>),
    /// Content of a file, of which tar-split keeps a sum.
    Content(Range<usize>),
    /// An entry whose headers and content were all named before.
    Entry {
        /// Its path.
        name: Vec<u8>,
        /// Size of its content, in bytes.
        size: u64,
    },
}

impl Trace {
    /// The bytes that it speaks of, if any.
    pub(super) fn range(&mut self) -> Option<&mut Range<usize>> {
        match self {
            Self::Digest { range, .. } | Self::Raw(range) | Self::Content(range) => Some(range),
            Self::Entry { .. } => None,
        }
    }
}
