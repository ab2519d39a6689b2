//! Cuts the bytes of a tar into members and segments: a function of the tar and the options alone,
//! so that the blob does not depend on the number of threads.
//!
//! A member begins with each chunk and holds whatever follows it in the tar, up to the next one. A
//! segment takes members until it has [`SEGMENT`] bytes. A member that is larger than [`PART`] (a
//! large chunk, or thousands of headers) is spread over segments of its own.
use std::{io::Read, mem, ops::Range};

use bolide_core::{Error, ErrorKind, Result};

use super::{
    draft::Draft,
    segment::{Chunk, Cut, End, Field, Segment, Shape, Trace},
    sparse::Payload,
    tar_reader::cut_short,
};
use crate::format;

/// Size at which a segment takes no more members, in bytes: a chunk of the usual size.
pub(super) const SEGMENT: usize = 4 << 20;
/// Largest part of a member that one thread compresses, in bytes: a chunk of the usual size, and
/// the headers after it.
pub(super) const PART: usize = 5 << 20;

/// Takes finished segments, and TOC entries that go past the threads which compress: they may
/// speak of later segments.
pub(super) type Emit<'a> = dyn FnMut(Segment, Vec<Draft>) -> Result<()> + 'a;

/// Plans one layer.
pub(super) struct Planner<'a> {
    emit: &'a mut Emit<'a>,
    segment: Segment,
    drafts: Vec<Draft>,
    /// TOC entries so far, chunks included.
    entries: u32,
    style: Style,
}

/// What is wanted of the members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// Nothing: the blob is read as a whole.
    Plain,
    /// That chunks can be read alone.
    Chunked,
    /// The same, and that tar-split can be written.
    Split,
}

/// A chunk about to be planned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    /// Number of the file's TOC entry, and of the chunk's own.
    pub(super) file: u32,
    pub(super) entry: u32,
    /// Size of the chunk, in bytes; at least 1.
    pub(super) len: u64,
    /// Whether it is all of the file.
    pub(super) whole: bool,
    /// Whether the file ends with it.
    pub(super) last: bool,
    /// Whether a member has to begin here.
    pub(super) must_cut: bool,
}

impl<'a> Planner<'a> {
    pub(super) fn new(emit: &'a mut Emit<'a>, style: Style) -> Self {
        let (segment, drafts) = (Segment::default(), Vec::new());
        let mut planner = Self { emit, segment, drafts, entries: 0, style };
        planner.segment.cuts.push(Cut { at: 0, must: true });
        planner
    }

    /// Adds a TOC entry; tells its number. `Exhausted` when there are more than readers take.
    pub(super) fn draft(&mut self, draft: Draft) -> Result<u32> {
        if self.entries == format::MAX_ENTRIES {
            return Err(Error::new(
                ErrorKind::Exhausted,
                "estargz::plan",
                "a TOC may have two million entries, chunks included; take larger chunks, or \
                 another layer for some of the files",
            ));
        }
        self.drafts.push(draft);
        self.entries += 1;
        Ok(self.entries - 1)
    }

    /// The number of the TOC entry that comes next.
    pub(super) fn next(&self) -> u32 {
        self.entries
    }

    /// Adds headers, padding, or whatever else is no content.
    pub(super) fn bytes(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let room = self.room()?.min(bytes.len());
            let start = self.segment.bytes.len();
            self.segment.bytes.extend_from_slice(&bytes[..room]);
            if self.style == Style::Split {
                self.segment.trace.push(Trace::Raw(start..start + room));
            }
            bytes = &bytes[room..];
        }
        Ok(())
    }

    /// Adds what is left of a tar as it is.
    pub(super) fn rest(&mut self, tar: &mut dyn Read) -> Result<()> {
        loop {
            let mut piece = Vec::new();
            tar.take(64 * 1024).read_to_end(&mut piece).map_err(cut_short)?;
            if piece.is_empty() {
                return Ok(());
            }
            self.bytes(&piece)?;
        }
    }

    /// Adds content that has no chunks.
    pub(super) fn content(&mut self, payload: &mut Payload, tar: &mut dyn Read) -> Result<()> {
        while payload.left() > 0 {
            self.take(payload.left(), payload, tar)?;
        }
        Ok(())
    }

    /// Adds a chunk.
    pub(super) fn chunk(
        &mut self,
        extent: Extent,
        payload: &mut Payload,
        tar: &mut dyn Read,
    ) -> Result<()> {
        let fits = extent.len <= PART as u64;
        self.cut(extent.len, extent.must_cut)?;
        let fields: &[Field] = match (fits, extent.whole) {
            (false, _) => &[],
            (true, true) => &[Field::Chunk, Field::File],
            (true, false) => &[Field::Chunk],
        };
        let start = self.segment.bytes.len();
        self.segment.chunks.push(Chunk { entry: extent.entry, range: start..start, fields });
        let mut left = extent.len;
        while left > 0 {
            let taken = self.take(left, payload, tar)?;
            if left == extent.len
                && let Some(chunk) = self.segment.chunks.last_mut()
            {
                chunk.range = taken.clone();
            }
            left -= taken.len() as u64;
            let trace =
                |entry, field, last| Trace::Digest { range: taken.clone(), entry, field, last };
            if !fits {
                self.segment.trace.push(trace(extent.entry, Field::Chunk, left == 0));
            }
            if !(fits && extent.whole) {
                self.segment.trace.push(trace(extent.file, Field::File, left == 0 && extent.last));
            }
        }
        Ok(())
    }

    /// Takes up to `wanted` bytes of content into the segment; tells where they lie in it.
    fn take(
        &mut self,
        wanted: u64,
        payload: &mut Payload,
        tar: &mut dyn Read,
    ) -> Result<Range<usize>> {
        let room = self.room()?;
        let start = self.segment.bytes.len();
        payload.read(tar, wanted.min(room as u64), &mut self.segment.bytes).map_err(cut_short)?;
        let range = start..self.segment.bytes.len();
        if self.style == Style::Split {
            self.segment.trace.push(Trace::Content(range.clone()));
        }
        Ok(range)
    }

    /// Tells tar-split that an entry and its content are complete.
    pub(super) fn entry(&mut self, name: &[u8], size: u64) {
        if self.style == Style::Split {
            self.segment.trace.push(Trace::Entry { name: name.to_vec(), size });
        }
    }

    /// Ends the member with the content of a file, so that its end can be told.
    pub(super) fn end(&mut self, entry: u32) -> Result<()> {
        let at = self.segment.bytes.len();
        self.segment.ends.push(End { entry, at });
        self.cut(0, true)
    }

    /// Begins a member, of which `len` bytes are known to come.
    fn cut(&mut self, len: u64, must: bool) -> Result<()> {
        if let Shape::Part { last, .. } = &mut self.segment.shape {
            *last = true;
            self.flush(Shape::Whole)?;
        }
        let at = self.segment.bytes.len();
        if at > 0 && at as u64 + len > SEGMENT as u64 {
            self.flush(Shape::Whole)?;
        }
        let at = self.segment.bytes.len();
        match self.segment.cuts.last_mut() {
            Some(cut) if cut.at == at => cut.must |= must,
            _ => self.segment.cuts.push(Cut { at, must }),
        }
        Ok(())
    }

    /// Room in the segment, in bytes; at least 1.
    fn room(&mut self) -> Result<usize> {
        let most = if self.style == Style::Plain { SEGMENT } else { PART };
        if self.segment.bytes.len() >= most {
            self.spill()?;
        }
        Ok(most - self.segment.bytes.len())
    }

    /// Makes room inside of a member.
    fn spill(&mut self) -> Result<()> {
        if self.style == Style::Plain {
            // Nobody asks where its members begin.
            return self.flush(Shape::Whole);
        }
        let begin = self.segment.cuts.last().map_or(0, |cut| cut.at);
        if self.segment.shape == Shape::Whole {
            if begin > 0 {
                let tail = split_off(&mut self.segment, begin);
                let full = mem::replace(&mut self.segment, tail);
                return (self.emit)(full, mem::take(&mut self.drafts));
            }
            self.segment.shape = Shape::Part { first: true, last: false };
        }
        self.flush(Shape::Part { first: false, last: false })
    }

    /// Emits the segment and begins the next.
    fn flush(&mut self, next: Shape) -> Result<()> {
        let mut segment = Segment { shape: next, ..Segment::default() };
        if next == Shape::Whole {
            segment.cuts.push(Cut { at: 0, must: true });
        }
        let full = mem::replace(&mut self.segment, segment);
        (self.emit)(full, mem::take(&mut self.drafts))
    }

    /// Emits what is left.
    pub(super) fn finish(mut self) -> Result<()> {
        if let Shape::Part { last, .. } = &mut self.segment.shape {
            *last = true;
        }
        let nothing = self.segment.bytes.is_empty() && self.segment.shape == Shape::Whole;
        if nothing && self.drafts.is_empty() { Ok(()) } else { self.flush(Shape::Whole) }
    }
}

/// Splits the last member, which begins at `begin`, off into a segment of its own.
fn split_off(segment: &mut Segment, begin: usize) -> Segment {
    let bytes = segment.bytes.split_off(begin);
    segment.cuts.retain(|cut| cut.at < begin);
    let at = segment.chunks.partition_point(|chunk| chunk.range.start < begin);
    let mut chunks = segment.chunks.split_off(at);
    // What completes an entry stands after its bytes, so that it goes with them.
    let mut events = segment.trace.iter_mut();
    let at = events.position(|event| event.range().is_some_and(|range| range.start >= begin));
    let mut trace = segment.trace.split_off(at.unwrap_or(segment.trace.len()));
    let ranges = trace.iter_mut().filter_map(Trace::range);
    for range in ranges.chain(chunks.iter_mut().map(|chunk| &mut chunk.range)) {
        *range = range.start - begin..range.end - begin;
    }
    let cuts = vec![Cut { at: 0, must: true }];
    Segment { bytes, cuts, chunks, trace, ..Segment::default() }
}
