//! From TOC entries to an index.
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    ops::Range,
};

use bolide_core::{
    ByteRange, Codec, Digest, NodeAttr, NodeId, NodeKind, PrefetchMark, Result, Timestamp,
};
use bytes::Bytes;

use super::{
    Dirent, EstargzIndex, Node, Xattrs,
    chunks::{self, RawFile},
    fields::{clean, kind_of, link_of, mtime, name_of, owner, raw_chunk, refuse, unsigned, xattrs},
    names::{Name, Names},
};
use crate::{
    BlobFacts, format,
    toc::{self, TocEntry},
};

/// Builds the index of a document that was verified.
pub(super) fn build(json: &[u8], digest: Digest, facts: &BlobFacts) -> Result<EstargzIndex> {
    let mut builder = Builder { payload_end: facts.toc_offset, ..Builder::default() };
    builder.nodes.push(draft(NodeKind::Directory));
    let mut count = 0_u32;
    let read = toc::for_each_entry(json, &mut |entry| {
        count += 1;
        let name: String = entry.name.chars().take(200).collect();
        builder.add(&entry, count).map_err(|error| {
            error.with_context("entry", count).with_context("name", format!("{name:?}"))
        })
    });
    match read {
        Ok(()) => {
            let codec = if facts.format.is_zstd() { Codec::Zstd } else { Codec::Gzip };
            builder.finish(digest, codec)
        }
        Err(error) => Err(error.into_error()),
    }
}

struct Draft {
    attr: NodeAttr,
}

#[derive(Default)]
struct Builder {
    nodes: Vec<Draft>,
    children: HashMap<(u32, Box<[u8]>), u32>,
    files: HashMap<u32, RawFile>,
    last_file: Option<u32>,
    /// Position of a hard link's own draft, and the path of its target.
    hard_links: HashMap<u32, Vec<u8>>,
    links: HashMap<u32, Bytes>,
    xattrs: HashMap<u32, Xattrs>,
    /// Where members start.
    members: BTreeSet<u64>,
    payload_end: u64,
    mark: PrefetchMark,
}

fn draft(kind: NodeKind) -> Draft {
    let perm = if kind == NodeKind::Directory { 0o755 } else { 0 };
    let mtime = Timestamp::default();
    let attr = NodeAttr { kind, size: 0, perm, uid: 0, gid: 0, mtime, nlink: 1 };
    Draft { attr }
}

impl Builder {
    fn add(&mut self, entry: &TocEntry, count: u32) -> Result<()> {
        if count > format::MAX_ENTRIES {
            return Err(refuse("a TOC may have 2,000,000 entries"));
        }
        if entry.offset > 0 && !is_short_hole(entry) {
            self.members.insert(unsigned(entry.offset, "offset")?);
        }
        if entry.kind == "chunk" {
            return self.add_chunk(entry);
        }
        self.last_file = None;
        let name = name_of(entry)?;
        let path = clean(&name)?;
        if self.is_landmark(&path, entry)? {
            return Ok(());
        }
        let id = self.place(&path, kind_of(entry)?)?;
        self.describe(id, entry)
    }

    /// Landmarks and the TOC's own name are the format's; only in the root.
    fn is_landmark(&mut self, path: &[&[u8]], entry: &TocEntry) -> Result<bool> {
        let [name] = path else { return Ok(false) };
        if *name == format::PREFETCH_LANDMARK.as_bytes() {
            let end = unsigned(entry.offset, "offset")?;
            // A layer that says both says that nothing is worth it, as the reference has it.
            if let Ok(range) = ByteRange::new(0..end)
                && self.mark != PrefetchMark::Nothing
            {
                self.mark = PrefetchMark::UpTo(range);
            }
            return Ok(true);
        }
        if *name == format::NO_PREFETCH_LANDMARK.as_bytes() {
            self.mark = PrefetchMark::Nothing;
            return Ok(true);
        }
        Ok(*name == format::TOC_NAME.as_bytes())
    }

    /// Finds or makes the node of a path; a later entry takes the place of an earlier one.
    fn place(&mut self, path: &[&[u8]], kind: NodeKind) -> Result<u32> {
        let Some((name, parents)) = path.split_last() else {
            return if kind == NodeKind::Directory {
                Ok(0)
            } else {
                Err(refuse("the root must be a directory"))
            };
        };
        let mut dir = 0;
        for part in parents {
            dir = self.child(dir, part, NodeKind::Directory)?;
        }
        let id = self.child(dir, name, kind)?;
        self.forget(id);
        Ok(id)
    }

    fn child(&mut self, dir: u32, name: &[u8], kind: NodeKind) -> Result<u32> {
        let key = (dir, Box::from(name));
        if let Some(found) = self.children.get(&key).copied() {
            let is_dir = |kind| kind == NodeKind::Directory;
            let held = self.draft(found)?.attr.kind;
            if is_dir(held) == is_dir(kind) && !self.hard_links.contains_key(&found) {
                return Ok(found);
            }
        }
        // A path of 4096 bytes implies 2047 directories: counting entries would not bound memory.
        let id = index(self.nodes.len())?;
        if id >= format::MAX_ENTRIES {
            return Err(refuse("a TOC may make 2,000,000 nodes, implied directories included"));
        }
        self.nodes.push(draft(kind));
        self.children.insert(key, id);
        Ok(id)
    }

    fn draft(&mut self, id: u32) -> Result<&mut Draft> {
        self.nodes
            .get_mut(id as usize)
            .ok_or_else(|| refuse("the TOC refers to itself in a wrong way"))
    }

    fn forget(&mut self, id: u32) {
        self.files.remove(&id);
        self.hard_links.remove(&id);
        self.links.remove(&id);
        self.xattrs.remove(&id);
    }

    fn describe(&mut self, id: u32, entry: &TocEntry) -> Result<()> {
        let kind = kind_of(entry)?;
        let attr = NodeAttr {
            kind,
            size: 0,
            perm: u16::try_from(entry.mode & 0o7777).unwrap_or(0),
            uid: owner(entry.uid, "uid")?,
            gid: owner(entry.gid, "gid")?,
            mtime: mtime(&entry.mod_time)?,
            nlink: 1,
        };
        self.draft(id)?.attr = attr;
        let xattrs = xattrs(entry)?;
        if !xattrs.is_empty() {
            self.xattrs.insert(id, xattrs);
        }
        match &*entry.kind {
            "hardlink" => self.add_hard_link(id, entry),
            "symlink" => self.add_symlink(id, entry),
            "reg" => self.add_file(id, entry),
            _ => Ok(()),
        }
    }

    fn add_hard_link(&mut self, id: u32, entry: &TocEntry) -> Result<()> {
        let target = clean(&link_of(entry)?)?.join(&b'/');
        self.xattrs.remove(&id);
        self.hard_links.insert(id, target);
        Ok(())
    }

    fn add_symlink(&mut self, id: u32, entry: &TocEntry) -> Result<()> {
        let target = link_of(entry)?;
        if target.is_empty() || target.len() >= format::MAX_PATH {
            return Err(refuse("the target of a symbolic link must have 1 to 4095 bytes"));
        }
        self.draft(id)?.attr.size = target.len() as u64;
        self.links.insert(id, Bytes::copy_from_slice(&target));
        Ok(())
    }

    fn add_file(&mut self, id: u32, entry: &TocEntry) -> Result<()> {
        let size = unsigned(entry.size, "size")?;
        if size > format::MAX_FILE_SIZE {
            return Err(refuse("a file may have 2^62 bytes"));
        }
        self.draft(id)?.attr.size = size;
        if size == 0 {
            return Ok(());
        }
        self.files.insert(id, RawFile { node: id, size, chunks: vec![raw_chunk(entry)?] });
        self.last_file = Some(id);
        Ok(())
    }

    fn add_chunk(&mut self, entry: &TocEntry) -> Result<()> {
        let chunk = raw_chunk(entry)?;
        let file = self.last_file.and_then(|id| self.files.get_mut(&id));
        let file =
            file.ok_or_else(|| refuse("a chunk must follow a regular file that is not empty"))?;
        file.chunks.push(chunk);
        Ok(())
    }

    fn find(&self, path: &[u8]) -> Option<u32> {
        let mut parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty());
        parts.try_fold(0, |dir, part| self.children.get(&(dir, Box::from(part))).copied())
    }

    /// The file that each hard link stands for, through links to links.
    fn resolve(&self) -> Result<HashMap<u32, u32>> {
        let mut resolved = HashMap::new();
        for link in self.hard_links.keys() {
            // Each link is walked once: a chain ends where an earlier walk has been.
            let mut chain = HashSet::new();
            let mut at = *link;
            while let Some(target) = self.hard_links.get(&at) {
                if let Some(known) = resolved.get(&at) {
                    at = *known;
                    break;
                }
                if !chain.insert(at) {
                    return Err(refuse("a hard link must lead to a file, not to itself"));
                }
                at = self.find(target).ok_or_else(|| {
                    refuse("the target of a hard link must be in the layer")
                        .with_context("target", String::from_utf8_lossy(target))
                })?;
            }
            let found = self.nodes.get(at as usize);
            if found.is_none_or(|node| node.attr.kind == NodeKind::Directory) {
                return Err(refuse("a hard link must lead to a file, not to a directory"));
            }
            resolved.extend(chain.into_iter().map(|link| (link, at)));
        }
        Ok(resolved)
    }

    fn finish(mut self, digest: Digest, codec: Codec) -> Result<EstargzIndex> {
        let targets = self.resolve()?;
        let mut tree = Tree::grow(&self, &targets)?;
        let files = tree.number.iter().filter_map(|(old, new)| {
            self.files.remove(old).map(|file| RawFile { node: *new, ..file })
        });
        let layout = chunks::lay_out(files.collect(), &self.members, self.payload_end)?;
        for (node, range) in layout.files {
            if let Some(node) = tree.nodes.get_mut(node as usize) {
                node.range = range;
            }
        }
        let renumber = |id: u32| tree.number.get(&id).copied();
        let mark = match self.mark {
            PrefetchMark::UpTo(range) if range.end() > self.payload_end => {
                return Err(refuse("the landmark must lie before the TOC"));
            }
            mark => mark,
        };
        Ok(EstargzIndex {
            digest,
            codec,
            links: self
                .links
                .into_iter()
                .filter_map(|(id, link)| Some((renumber(id)?, link)))
                .collect(),
            xattrs: self
                .xattrs
                .into_iter()
                .filter_map(|(id, list)| Some((renumber(id)?, list)))
                .collect(),
            names: tree.names,
            nodes: tree.nodes,
            dirents: tree.dirents,
            chunks: layout.chunks,
            blob_order: layout.blob_order,
            image_size: layout.image_size,
            mark,
        })
    }
}

/// The reachable nodes, numbered in the order of a walk.
#[derive(Default)]
struct Tree {
    names: Names,
    nodes: Vec<Node>,
    dirents: Vec<Dirent>,
    /// From a draft's number to a node's.
    number: HashMap<u32, u32>,
}

impl Tree {
    fn grow(builder: &Builder, targets: &HashMap<u32, u32>) -> Result<Self> {
        let mut listed: HashMap<u32, Vec<(&[u8], u32)>> = HashMap::new();
        for ((dir, name), id) in &builder.children {
            listed.entry(*dir).or_default().push((name, targets.get(id).copied().unwrap_or(*id)));
        }
        let mut tree = Self::default();
        tree.node(builder, 0, 0, b"")?;
        let mut todo = vec![0];
        while let Some(old) = todo.pop() {
            let Some(mut children) = listed.remove(&old) else { continue };
            children.sort_unstable();
            todo.extend(tree.directory(builder, old, &children)?);
        }
        tree.names.shrink();
        tree.dirents.shrink_to_fit();
        tree.nodes.shrink_to_fit();
        Ok(tree)
    }

    /// Lists the children of a directory; returns those that are directories themselves.
    fn directory(
        &mut self,
        builder: &Builder,
        old: u32,
        children: &[(&[u8], u32)],
    ) -> Result<Vec<u32>> {
        let dir = self.number.get(&old).copied().unwrap_or(0);
        let start = index(self.dirents.len())?;
        let mut directories = Vec::new();
        for (name, child) in children {
            let (node, name) = match self.number.get(child).copied() {
                Some(node) => (node, self.names.push(name)?),
                None => self.node(builder, *child, dir, name)?,
            };
            let found = self.at(node)?;
            if found.attr.kind == NodeKind::Directory {
                directories.push(*child);
                self.at(dir)?.attr.nlink += 1;
            } else {
                found.attr.nlink += 1;
            }
            self.dirents.push(Dirent { name, node });
        }
        self.at(dir)?.range = start..index(self.dirents.len())?;
        Ok(directories)
    }

    fn node(
        &mut self,
        builder: &Builder,
        old: u32,
        parent: u32,
        name: &[u8],
    ) -> Result<(u32, Name)> {
        let draft =
            builder.nodes.get(old as usize).ok_or_else(|| refuse("a child without a node"))?;
        let number = index(self.nodes.len())?;
        let name = self.names.push(name)?;
        let is_dir = draft.attr.kind == NodeKind::Directory;
        // Names are counted as they are listed; a directory has "." and its name in its parent.
        let attr = NodeAttr { nlink: if is_dir { 2 } else { 0 }, ..draft.attr };
        self.nodes.push(Node { attr, parent, name, range: Range::default() });
        self.number.insert(old, number);
        Ok((number, name))
    }

    fn at(&mut self, node: u32) -> Result<&mut Node> {
        self.nodes.get_mut(NodeId(node).0 as usize).ok_or_else(|| refuse("a node without a number"))
    }
}

/// Whether an entry is a hole whose zeros, compressed, are a few bytes in the blob. They ride along
/// with the member before them, so that a blob whose chunks were all fetched was fetched as a whole.
fn is_short_hole(entry: &TocEntry) -> bool {
    // A block of zstd gives 128 KiB for four bytes.
    const SHORT: i64 = 16 << 20;
    entry.chunk_type == format::CHUNK_TYPE_ZEROS && (1..SHORT).contains(&entry.chunk_size)
}

fn index(count: usize) -> Result<u32> {
    u32::try_from(count).map_err(|_| refuse("too many nodes"))
}
