//! Describes a layer in a few lines and gives its index and its blob.
use std::{
    collections::BTreeMap,
    ffi::OsStr,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use super::{MemoryBlob, MemoryToc, toc::Node};
use crate::{
    ByteRange, ChunkIndex, ChunkKey, ChunkSpan, Codec, Digest, Error, ErrorKind, NodeAttr, NodeId,
    NodeKind, PrefetchMark, Result, Timestamp,
};

const BLOCK: u64 = 4096;

/// Metadata of a node to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeMeta {
    /// Permission bits.
    pub perm: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Timestamp,
    /// Extended attributes.
    pub xattrs: Vec<(String, Vec<u8>)>,
}

impl Default for NodeMeta {
    fn default() -> Self {
        Self { perm: 0o644, uid: 0, gid: 0, mtime: Timestamp::default(), xattrs: Vec::new() }
    }
}

impl NodeMeta {
    /// Metadata with these permission bits, owned by root.
    #[must_use]
    pub fn with_perm(perm: u16) -> Self {
        Self { perm, ..Self::default() }
    }
}

/// A layer in memory: an index and the blob it describes.
#[derive(Clone, Debug)]
pub struct MemoryLayer {
    /// Its tree.
    pub toc: Arc<MemoryToc>,
    /// Its blob: the chunks one after another, uncompressed, one member each.
    pub blob: MemoryBlob,
}

/// Describes a layer, path by path. Missing parents are made as directories of mode 0755.
#[derive(Debug)]
pub struct MemoryLayerBuilder {
    nodes: Vec<Node>,
    chunks: Vec<ChunkSpan>,
    blob: Vec<u8>,
    image_size: u64,
    chunk_size: usize,
    mark: PrefetchMark,
}

impl Default for MemoryLayerBuilder {
    fn default() -> Self {
        Self::new(64 * 1024)
    }
}

impl MemoryLayerBuilder {
    /// Starts with an empty root; files are cut into chunks of `chunk_size` bytes, at least 1.
    #[must_use]
    pub fn new(chunk_size: usize) -> Self {
        Self {
            nodes: vec![node(
                NodeKind::Directory,
                PathBuf::new(),
                NodeId(0),
                NodeMeta::with_perm(0o755),
            )],
            chunks: Vec::new(),
            blob: Vec::new(),
            image_size: 0,
            chunk_size: chunk_size.max(1),
            mark: PrefetchMark::Absent,
        }
    }

    /// Adds a directory, or gives an implied one its metadata.
    pub fn directory(mut self, path: &str, meta: NodeMeta) -> Result<Self> {
        let id = self.make_directories(Path::new(path))?;
        let found = self.at(id);
        found.attr = NodeAttr { nlink: found.attr.nlink, ..attr(NodeKind::Directory, &meta) };
        found.xattrs = xattrs(meta);
        Ok(self)
    }

    /// Adds a file.
    pub fn file(self, path: &str, content: &[u8], meta: NodeMeta) -> Result<Self> {
        self.sparse_file(path, &[(0, content)], meta)
    }

    /// Adds a file of holes and content: each piece is so many zeros of a hole, and what follows it.
    pub fn sparse_file(
        mut self,
        path: &str,
        pieces: &[(u64, &[u8])],
        meta: NodeMeta,
    ) -> Result<Self> {
        let id = self.add(path, NodeKind::File, meta)?;
        let too_many = |_| refuse("too many chunks", path);
        let first = u32::try_from(self.chunks.len()).map_err(too_many)?;
        let mut size = 0;
        for (hole, content) in pieces {
            size += hole;
            self.add_content(id, size, content)?;
            size += content.len() as u64;
        }
        self.image_size += size.next_multiple_of(BLOCK);
        let end = u32::try_from(self.chunks.len()).map_err(too_many)?;
        let node = self.at(id);
        node.attr.size = size;
        node.chunks = first..end;
        Ok(self)
    }

    /// Adds a symbolic link.
    pub fn symlink(mut self, path: &str, target: &str) -> Result<Self> {
        let id = self.add(path, NodeKind::Symlink, NodeMeta::with_perm(0o777))?;
        let node = self.at(id);
        node.attr.size = target.len() as u64;
        node.link = Bytes::copy_from_slice(target.as_bytes());
        Ok(self)
    }

    /// Adds a device or a named pipe.
    pub fn special(mut self, path: &str, kind: NodeKind, meta: NodeMeta) -> Result<Self> {
        self.add(path, kind, meta)?;
        Ok(self)
    }

    /// Adds another name of a file that was added before.
    pub fn hard_link(mut self, path: &str, target: &str) -> Result<Self> {
        let id = self
            .find(Path::new(target))
            .ok_or_else(|| refuse("the target of a hard link must exist", target))?;
        let path = Path::new(path);
        let parent = self.make_directories(path.parent().unwrap_or(Path::new("")))?;
        self.attach(parent, path, id)?;
        self.at(id).attr.nlink += 1;
        Ok(self)
    }

    /// Sets what the author says of prefetching: everything added so far, as a landmark would.
    pub fn landmark(mut self) -> Result<Self> {
        self.mark = PrefetchMark::UpTo(ByteRange::at(0, self.blob.len() as u64)?);
        Ok(self)
    }

    /// The layer.
    #[must_use]
    pub fn build(self) -> MemoryLayer {
        let blob = MemoryBlob::new(self.blob);
        // A TOC in memory has no document; what it says is as good a name.
        let digest =
            Digest::of(format!("{:?}{:?}{:?}", self.nodes, self.chunks, self.mark).as_bytes());
        let toc = MemoryToc {
            digest,
            nodes: self.nodes,
            chunks: self.chunks,
            image_size: self.image_size,
            mark: self.mark,
        };
        MemoryLayer { toc: Arc::new(toc), blob }
    }

    fn at(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.0 as usize]
    }

    fn find(&self, path: &Path) -> Option<NodeId> {
        path.components().try_fold(NodeId(0), |dir, name| {
            self.nodes[dir.0 as usize].children.get(name.as_os_str()).copied()
        })
    }

    fn add(&mut self, path: &str, kind: NodeKind, meta: NodeMeta) -> Result<NodeId> {
        // Parents first: they take the numbers before this node's.
        let parent = self.make_directories(Path::new(path).parent().unwrap_or(Path::new("")))?;
        let id = self.next_id(path)?;
        self.attach(parent, Path::new(path), id)?;
        self.nodes.push(node(kind, PathBuf::from(path), parent, meta));
        Ok(id)
    }

    fn next_id(&self, path: impl std::fmt::Display) -> Result<NodeId> {
        let id = u32::try_from(self.nodes.len()).map_err(|_| refuse("too many nodes", path))?;
        Ok(NodeId(id))
    }

    fn attach(&mut self, parent: NodeId, path: &Path, id: NodeId) -> Result<()> {
        let name =
            path.file_name().ok_or_else(|| refuse("a path must name something", path.display()))?;
        if self.at(parent).attr.kind != NodeKind::Directory {
            return Err(refuse("a parent must be a directory", path.display()));
        }
        if self.at(parent).children.insert(name.to_owned(), id).is_some() {
            return Err(refuse("a path may be added once", path.display()));
        }
        Ok(())
    }

    fn make_directories(&mut self, path: &Path) -> Result<NodeId> {
        let mut dir = NodeId(0);
        let mut walked = PathBuf::new();
        for name in path.components().map(|part| part.as_os_str().to_owned()) {
            walked.push(&name);
            dir = match self.at(dir).children.get(&name) {
                Some(found) => *found,
                None => self.make_directory(dir, &name, walked.clone())?,
            };
        }
        Ok(dir)
    }

    fn make_directory(&mut self, parent: NodeId, name: &OsStr, path: PathBuf) -> Result<NodeId> {
        if self.at(parent).attr.kind != NodeKind::Directory {
            return Err(refuse("a parent must be a directory", path.display()));
        }
        let id = self.next_id(path.display())?;
        self.nodes.push(node(NodeKind::Directory, path, parent, NodeMeta::with_perm(0o755)));
        let above = self.at(parent);
        above.children.insert(name.to_owned(), id);
        above.attr.nlink += 1;
        Ok(id)
    }

    /// Cuts content into chunks, from `start` in its file.
    fn add_content(&mut self, file: NodeId, start: u64, content: &[u8]) -> Result<()> {
        for (number, piece) in content.chunks(self.chunk_size).enumerate() {
            let file_offset = start + (number * self.chunk_size) as u64;
            let index =
                u32::try_from(self.chunks.len()).map_err(|_| refuse("too many chunks", file.0))?;
            self.chunks.push(ChunkSpan {
                index: ChunkIndex(index),
                file,
                file_offset,
                image_offset: self.image_size + file_offset,
                member: ByteRange::at(self.blob.len() as u64, piece.len() as u64)?,
                codec: Codec::Stored,
                inner_offset: 0,
                key: ChunkKey::of(piece),
            });
            self.blob.extend_from_slice(piece);
        }
        Ok(())
    }
}

fn attr(kind: NodeKind, meta: &NodeMeta) -> NodeAttr {
    let nlink = if kind == NodeKind::Directory { 2 } else { 1 };
    NodeAttr {
        kind,
        size: 0,
        perm: meta.perm,
        uid: meta.uid,
        gid: meta.gid,
        mtime: meta.mtime,
        nlink,
    }
}

fn xattrs(meta: NodeMeta) -> BTreeMap<std::ffi::OsString, Vec<u8>> {
    meta.xattrs.into_iter().map(|(name, value)| (name.into(), value)).collect()
}

fn node(kind: NodeKind, path: PathBuf, parent: NodeId, meta: NodeMeta) -> Node {
    Node {
        attr: attr(kind, &meta),
        path,
        parent,
        children: BTreeMap::new(),
        link: Bytes::new(),
        xattrs: xattrs(meta),
        chunks: 0..0,
    }
}

fn refuse(rule: &'static str, path: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Malformed, "memory_layer::build", rule).with_context("path", path)
}
