//! An index held in plain structures.
use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    ops::{ControlFlow, Range},
    path::PathBuf,
};

use bytes::Bytes;

use crate::{
    ByteRange, ChunkIndex, ChunkSpan, Digest, Error, ErrorKind, NodeAttr, NodeId, NodeKind,
    PrefetchMark, Result, TocIndex,
};

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) attr: NodeAttr,
    pub(super) path: PathBuf,
    pub(super) parent: NodeId,
    pub(super) children: BTreeMap<OsString, NodeId>,
    pub(super) link: Bytes,
    pub(super) xattrs: BTreeMap<OsString, Vec<u8>>,
    pub(super) chunks: Range<u32>,
}

/// A [`TocIndex`] over plain structures, made by
/// [`MemoryLayerBuilder`](crate::memory::MemoryLayerBuilder).
#[derive(Clone, Debug)]
pub struct MemoryToc {
    pub(super) digest: Digest,
    pub(super) nodes: Vec<Node>,
    pub(super) chunks: Vec<ChunkSpan>,
    pub(super) image_size: u64,
    pub(super) mark: PrefetchMark,
}

impl MemoryToc {
    fn node(&self, id: NodeId) -> Result<&Node> {
        self.nodes.get(id.0 as usize).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "memory_toc::node", "the index has no such node")
                .with_context("node", id.0)
        })
    }

    fn span(&self, index: ChunkIndex) -> Result<ChunkSpan> {
        self.chunks.get(index.0 as usize).copied().ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "memory_toc::chunk", "the index has no such chunk")
                .with_context("chunk", index.0)
        })
    }
}

impl TocIndex for MemoryToc {
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
        Ok(self.node(node)?.path.clone())
    }

    fn lookup(&self, parent: NodeId, name: &OsStr) -> Result<Option<NodeId>> {
        Ok(self.node(parent)?.children.get(name).copied())
    }

    fn parent(&self, dir: NodeId) -> Result<NodeId> {
        Ok(self.node(dir)?.parent)
    }

    fn for_each_child(
        &self,
        dir: NodeId,
        skip: usize,
        visit: &mut dyn FnMut(&OsStr, NodeId) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut children = self.node(dir)?.children.iter().skip(skip);
        let _ = children.try_for_each(|(name, id)| visit(name, *id));
        Ok(())
    }

    fn read_link(&self, node: NodeId) -> Result<Bytes> {
        let node = self.node(node)?;
        if node.attr.kind != NodeKind::Symlink {
            return Err(Error::new(
                ErrorKind::FailedPrecondition,
                "memory_toc::read_link",
                "the node is not a symbolic link",
            ));
        }
        Ok(node.link.clone())
    }

    fn for_each_xattr(
        &self,
        node: NodeId,
        visit: &mut dyn FnMut(&OsStr, &[u8]) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut xattrs = self.node(node)?.xattrs.iter();
        let _ = xattrs.try_for_each(|(name, value)| visit(name, value));
        Ok(())
    }

    fn for_each_chunk(
        &self,
        file: NodeId,
        range: Range<u64>,
        visit: &mut dyn FnMut(ChunkSpan) -> ControlFlow<()>,
    ) -> Result<()> {
        for index in self.node(file)?.chunks.clone() {
            let span = self.span(ChunkIndex(index))?;
            let overlaps =
                span.file_offset < range.end && range.start < span.file_offset + span.key.len;
            if overlaps && visit(span).is_break() {
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
        // The builder numbers chunks in blob order.
        let wanted = |span: &&ChunkSpan| range.as_range().contains(&span.member.start());
        let _ = self.chunks.iter().filter(wanted).try_for_each(|span| visit(*span));
        Ok(())
    }

    fn chunk_count(&self) -> u32 {
        // The builder stops at u32::MAX chunks.
        u32::try_from(self.chunks.len()).unwrap_or(u32::MAX)
    }

    fn chunk(&self, index: ChunkIndex) -> Result<ChunkSpan> {
        self.span(index)
    }

    fn image_size(&self) -> u64 {
        self.image_size
    }

    fn prefetch_mark(&self) -> PrefetchMark {
        self.mark
    }
}
