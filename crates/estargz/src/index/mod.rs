//! The verified tree of one layer, held compactly.
mod builder;
mod chunks;
pub(crate) mod fields;
mod names;
mod zeros;

use std::{
    collections::HashMap,
    ffi::OsStr,
    ops::{ControlFlow, Range},
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::PathBuf,
};

use bolide_core::{
    ByteRange, ChunkIndex, ChunkSpan, Codec, Digest, Error, ErrorKind, NodeAttr, NodeId, NodeKind,
    PrefetchMark, Result, TocIndex,
};
use bytes::Bytes;

use crate::{
    BlobFacts, TocTrust,
    document::{self, Wrapping},
    format,
};
use chunks::Chunk;
pub(crate) use fields::{clean, kind_of, link_of, mtime, name_of, owner, refuse, unsigned};
use names::{Name, Names};

/// One node: 72 bytes, whatever its name.
#[derive(Clone, Debug)]
struct Node {
    attr: NodeAttr,
    parent: u32,
    name: Name,
    /// Of a directory: its part of `dirents`. Of a file: its part of `chunks`.
    range: Range<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Dirent {
    name: Name,
    node: u32,
}

type Xattrs = Vec<(Box<[u8]>, Box<[u8]>)>;

/// A validated TOC: the [`TocIndex`] of all formats of this crate.
#[derive(Debug)]
pub struct EstargzIndex {
    digest: Digest,
    codec: Codec,
    names: Names,
    nodes: Vec<Node>,
    dirents: Vec<Dirent>,
    chunks: Vec<Chunk>,
    /// Chunk numbers in blob order; empty when that is the order of numbers.
    blob_order: Vec<u32>,
    links: HashMap<u32, Bytes>,
    xattrs: HashMap<u32, Xattrs>,
    image_size: u64,
    mark: PrefetchMark,
}

impl EstargzIndex {
    /// Reads a TOC document; of [`TocTrust::Compressed`], its compressed form.
    ///
    /// The digest that vouches for it becomes the index's own
    /// ([`TocIndex::digest`](bolide_core::TocIndex::digest)), so that what is kept under that name can
    /// be found, and verified again, by whoever knows the annotation alone.
    ///
    /// `Corrupt` when its digest is not the trusted one; `Malformed`, naming the entry and the
    /// rule, when it does not describe a tree; `Exhausted` when it is too large.
    pub fn from_toc(document: &[u8], trust: TocTrust, facts: &BlobFacts) -> Result<Self> {
        let digest = Digest::of(document);
        let read = || {
            trust.check(digest)?;
            if let TocTrust::Compressed(_) = trust {
                // Vouched for, so that no footer need say how long it may be.
                let wrapping = Wrapping::Zstd { raw_size: format::MAX_TOC_BYTES };
                return Self::of_document(&document::unwrap(document, wrapping)?, digest, facts);
            }
            Self::of_document(document, digest, facts)
        };
        read().map_err(|error| error.with_context("blob", facts.blob))
    }

    /// Reads a document that was verified under the name `digest`.
    pub(crate) fn of_document(json: &[u8], digest: Digest, facts: &BlobFacts) -> Result<Self> {
        builder::build(json, digest, facts)
    }

    fn node(&self, id: NodeId) -> Result<&Node> {
        self.nodes.get(id.0 as usize).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "estargz_index::node", "the index has no such node")
                .with_context("node", id.0)
        })
    }

    fn children(&self, dir: NodeId) -> Result<&[Dirent]> {
        let node = self.node(dir)?;
        let listed = if node.attr.kind == NodeKind::Directory { node.range.clone() } else { 0..0 };
        Ok(self.dirents.get(as_usize(&listed)).unwrap_or_default())
    }

    fn file_chunks(&self, file: NodeId) -> Result<&[Chunk]> {
        let node = self.node(file)?;
        let listed = if node.attr.kind == NodeKind::File { node.range.clone() } else { 0..0 };
        Ok(self.chunks.get(as_usize(&listed)).unwrap_or_default())
    }

    fn span(&self, number: usize) -> Option<ChunkSpan> {
        let chunk = self.chunks.get(number)?;
        Some(ChunkSpan {
            index: ChunkIndex(u32::try_from(number).ok()?),
            file: NodeId(chunk.file),
            file_offset: chunk.file_offset,
            image_offset: chunk.image_offset,
            member: chunk.member,
            codec: self.codec,
            inner_offset: chunk.inner_offset,
            key: chunk.key,
        })
    }

    fn nth_in_blob(&self, position: usize) -> Option<ChunkSpan> {
        if self.blob_order.is_empty() {
            return self.span(position);
        }
        self.span(*self.blob_order.get(position)? as usize)
    }

    /// Position in blob order of the first chunk whose member starts at `offset` or later.
    fn first_at(&self, offset: u64) -> usize {
        let (mut low, mut high) = (0, self.chunks.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            match self.nth_in_blob(middle) {
                Some(span) if span.member.start() < offset => low = middle + 1,
                _ => high = middle,
            }
        }
        low
    }
}

fn as_usize(range: &Range<u32>) -> Range<usize> {
    range.start as usize..range.end as usize
}

impl TocIndex for EstargzIndex {
    fn digest(&self) -> Digest {
        self.digest
    }

    fn root(&self) -> NodeId {
        NodeId(0)
    }

    fn len(&self) -> usize {
        self.nodes.len()
    }

    fn attr(&self, node: NodeId) -> Result<NodeAttr> {
        Ok(self.node(node)?.attr)
    }

    fn path(&self, node: NodeId) -> Result<PathBuf> {
        let mut parts = Vec::new();
        let mut at = node;
        // The builder makes a tree, so that this ends at the root.
        while at != self.root() {
            let node = self.node(at)?;
            parts.push(self.names.get(node.name));
            at = NodeId(node.parent);
        }
        parts.reverse();
        Ok(PathBuf::from(std::ffi::OsString::from_vec(parts.join(&b'/'))))
    }

    fn lookup(&self, parent: NodeId, name: &OsStr) -> Result<Option<NodeId>> {
        let children = self.children(parent)?;
        let wanted = name.as_bytes();
        let found = children.binary_search_by(|entry| self.names.get(entry.name).cmp(wanted));
        Ok(found.ok().and_then(|at| children.get(at)).map(|entry| NodeId(entry.node)))
    }

    fn parent(&self, dir: NodeId) -> Result<NodeId> {
        Ok(NodeId(self.node(dir)?.parent))
    }

    fn for_each_child(
        &self,
        dir: NodeId,
        skip: usize,
        visit: &mut dyn FnMut(&OsStr, NodeId) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut rest = self.children(dir)?.get(skip..).unwrap_or_default().iter();
        let _ = rest.try_for_each(|entry| {
            visit(OsStr::from_bytes(self.names.get(entry.name)), NodeId(entry.node))
        });
        Ok(())
    }

    fn read_link(&self, node: NodeId) -> Result<Bytes> {
        self.node(node)?;
        self.links.get(&node.0).cloned().ok_or_else(|| {
            Error::new(
                ErrorKind::FailedPrecondition,
                "estargz_index::read_link",
                "the node is not a symbolic link",
            )
            .with_context("node", node.0)
        })
    }

    fn for_each_xattr(
        &self,
        node: NodeId,
        visit: &mut dyn FnMut(&OsStr, &[u8]) -> ControlFlow<()>,
    ) -> Result<()> {
        self.node(node)?;
        let mut listed = self.xattrs.get(&node.0).into_iter().flatten();
        let _ = listed.try_for_each(|(name, value)| visit(OsStr::from_bytes(name), value));
        Ok(())
    }

    fn for_each_chunk(
        &self,
        file: NodeId,
        range: Range<u64>,
        visit: &mut dyn FnMut(ChunkSpan) -> ControlFlow<()>,
    ) -> Result<()> {
        let chunks = self.file_chunks(file)?;
        let first = self.node(file)?.range.start as usize;
        let skip = chunks.partition_point(|chunk| chunk.file_offset + chunk.key.len <= range.start);
        let wanted = chunks.iter().enumerate().skip(skip);
        for (at, _) in wanted.take_while(|(_, chunk)| chunk.file_offset < range.end) {
            if self.span(first + at).is_some_and(|span| visit(span).is_break()) {
                break;
            }
        }
        Ok(())
    }

    fn for_each_chunk_in_blob(
        &self,
        range: ByteRange,
        visit: &mut dyn FnMut(ChunkSpan) -> ControlFlow<()>,
    ) -> Result<()> {
        let from = self.first_at(range.start());
        let spans = (from..self.chunks.len()).map_while(|position| self.nth_in_blob(position));
        let mut wanted = spans.take_while(|span| span.member.start() < range.end());
        let _ = wanted.try_for_each(visit);
        Ok(())
    }

    fn chunk_count(&self) -> u32 {
        // The builder refuses more.
        u32::try_from(self.chunks.len()).unwrap_or(u32::MAX)
    }

    fn chunk(&self, index: ChunkIndex) -> Result<ChunkSpan> {
        self.span(index.0 as usize).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "estargz_index::chunk", "the index has no such chunk")
                .with_context("chunk", index.0)
        })
    }

    fn image_size(&self) -> u64 {
        self.image_size
    }

    fn prefetch_mark(&self) -> PrefetchMark {
        self.mark
    }
}
