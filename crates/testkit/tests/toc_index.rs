//! The suite of indexes passes the memory double, and each clause fails a double that breaks it.
use std::{
    ffi::OsStr,
    ops::{ControlFlow, Range},
    path::PathBuf,
    sync::Arc,
};

use bolide_core::{
    ByteRange, ChunkIndex, ChunkSpan, Digest, NodeAttr, NodeId, Result, TocIndex, memory::MemoryToc,
};
use bolide_testkit::{
    conformance::{Broken, toc_index::all},
    sample,
};
use bytes::Bytes;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Miscounts,
    KnowsEveryNode,
    KnowsEveryChunk,
    Backwards,
    NeverEnds,
    WrongParent,
    WrongPath,
    AttributesBackwards,
    IgnoresSkip,
    FindsNothing,
    FindsAnything,
    DropsLastChunk,
    IgnoresRange,
    HidesHoles,
    Misplaced,
    BlobBackwards,
    BlobTwice,
}

#[derive(Debug)]
struct Faulty {
    inner: Arc<MemoryToc>,
    fault: Fault,
}

type Visit<'a, T> = &'a mut dyn FnMut(T) -> ControlFlow<()>;

impl Faulty {
    /// Shows `items`, as the fault wants it.
    fn show<T>(&self, items: Vec<T>, visit: Visit<'_, T>) {
        for item in items {
            if visit(item).is_break() && self.fault != Fault::NeverEnds {
                break;
            }
        }
    }
}

fn spans(walk: impl FnOnce(Visit<'_, ChunkSpan>) -> Result<()>) -> Result<Vec<ChunkSpan>> {
    let mut spans = Vec::new();
    walk(&mut |span| {
        spans.push(span);
        ControlFlow::Continue(())
    })?;
    Ok(spans)
}

impl TocIndex for Faulty {
    fn digest(&self) -> Digest {
        self.inner.digest()
    }

    fn root(&self) -> NodeId {
        self.inner.root()
    }

    fn len(&self) -> usize {
        self.inner.len() + usize::from(self.fault == Fault::Miscounts)
    }

    fn attr(&self, node: NodeId) -> Result<NodeAttr> {
        let known = if self.fault == Fault::KnowsEveryNode { self.root() } else { node };
        self.inner.attr(node).or_else(|_| self.inner.attr(known))
    }

    fn path(&self, node: NodeId) -> Result<PathBuf> {
        let path = self.inner.path(node)?;
        Ok(if self.fault == Fault::WrongPath { path.join("below") } else { path })
    }

    fn lookup(&self, parent: NodeId, name: &OsStr) -> Result<Option<NodeId>> {
        let found = self.inner.lookup(parent, name)?;
        Ok(match self.fault {
            Fault::FindsNothing => None,
            Fault::FindsAnything => found.or(Some(parent)),
            _ => found,
        })
    }

    fn parent(&self, dir: NodeId) -> Result<NodeId> {
        if self.fault == Fault::WrongParent {
            return Ok(dir);
        }
        self.inner.parent(dir)
    }

    fn for_each_child(
        &self,
        dir: NodeId,
        skip: usize,
        visit: &mut dyn FnMut(&OsStr, NodeId) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut children = Vec::new();
        let skip = if self.fault == Fault::IgnoresSkip { 0 } else { skip };
        self.inner.for_each_child(dir, skip, &mut |name, id| {
            children.push((name.to_owned(), id));
            ControlFlow::Continue(())
        })?;
        if self.fault == Fault::Backwards {
            children.reverse();
        }
        self.show(children, &mut |(name, id)| visit(&name, id));
        Ok(())
    }

    fn read_link(&self, node: NodeId) -> Result<Bytes> {
        self.inner.read_link(node)
    }

    fn for_each_xattr(
        &self,
        node: NodeId,
        visit: &mut dyn FnMut(&OsStr, &[u8]) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut xattrs = Vec::new();
        self.inner.for_each_xattr(node, &mut |name, value| {
            xattrs.push((name.to_owned(), value.to_owned()));
            ControlFlow::Continue(())
        })?;
        if self.fault == Fault::AttributesBackwards {
            xattrs.reverse();
        }
        self.show(xattrs, &mut |(name, value)| visit(&name, &value));
        Ok(())
    }

    fn for_each_chunk(
        &self,
        file: NodeId,
        range: Range<u64>,
        visit: &mut dyn FnMut(ChunkSpan) -> ControlFlow<()>,
    ) -> Result<()> {
        let range = if self.fault == Fault::IgnoresRange { 0..u64::MAX } else { range };
        let mut spans = spans(|visit| self.inner.for_each_chunk(file, range, visit))?;
        if self.fault == Fault::DropsLastChunk {
            spans.pop();
        }
        self.show(spans, visit);
        Ok(())
    }

    fn for_each_hole(
        &self,
        file: NodeId,
        range: Range<u64>,
        visit: &mut dyn FnMut(Range<u64>) -> ControlFlow<()>,
    ) -> Result<()> {
        if self.fault == Fault::HidesHoles {
            return Ok(());
        }
        self.inner.for_each_hole(file, range, visit)
    }

    fn for_each_chunk_in_blob(
        &self,
        range: ByteRange,
        visit: &mut dyn FnMut(ChunkSpan) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut spans = spans(|visit| self.inner.for_each_chunk_in_blob(range, visit))?;
        match self.fault {
            Fault::BlobBackwards => spans.reverse(),
            Fault::BlobTwice => spans.extend(spans.last().copied()),
            _ => {}
        }
        self.show(spans, visit);
        Ok(())
    }

    fn chunk_count(&self) -> u32 {
        self.inner.chunk_count()
    }

    fn chunk(&self, index: ChunkIndex) -> Result<ChunkSpan> {
        let known = if self.fault == Fault::KnowsEveryChunk { ChunkIndex(0) } else { index };
        let mut span = self.inner.chunk(index).or_else(|_| self.inner.chunk(known))?;
        span.image_offset += u64::from(self.fault == Fault::Misplaced);
        Ok(span)
    }

    fn image_size(&self) -> u64 {
        self.inner.image_size()
    }
}

#[test]
fn memory_toc_conforms() {
    let layer = sample::every_kind().expect("sample");
    all(&*layer.toc).expect("conforms");
}

#[test]
fn every_clause_can_fail() {
    let cases = [
        (Fault::Miscounts, "len counts nodes"),
        (Fault::KnowsEveryNode, "total"),
        (Fault::KnowsEveryChunk, "total"),
        (Fault::Backwards, "ordered"),
        (Fault::NeverEnds, "break ends a walk"),
        (Fault::WrongParent, "parent"),
        (Fault::WrongPath, "parent"),
        (Fault::AttributesBackwards, "attributes in order"),
        (Fault::IgnoresSkip, "resumable"),
        (Fault::FindsNothing, "lookup"),
        (Fault::FindsAnything, "lookup"),
        (Fault::DropsLastChunk, "tiled"),
        (Fault::IgnoresRange, "tiled"),
        (Fault::HidesHoles, "tiled"),
        (Fault::Misplaced, "laid out"),
        (Fault::BlobBackwards, "blob order"),
        (Fault::BlobTwice, "blob order"),
    ];
    let layer = sample::every_kind().expect("sample");
    for (fault, clause) in cases {
        let verdict = all(&Faulty { inner: Arc::clone(&layer.toc), fault });
        assert_eq!(verdict.as_ref().err().map(Broken::clause), Some(clause), "{fault:?}");
    }
}
