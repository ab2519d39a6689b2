//! A layer's tree as overlayfs wants to see it.
//!
//! OCI whiteouts become what overlayfs understands: `.wh.x` a character device 0:0 named `x`,
//! `.wh..wh..opq` an attribute of its directory (OCI image-spec, layer; Linux, overlayfs). The
//! hidden state directory of stargz-snapshotter is here too.
mod state;

use std::{
    collections::{HashMap, HashSet},
    ffi::{OsStr, OsString},
    ops::ControlFlow,
    os::unix::ffi::OsStrExt as _,
    sync::Arc,
};

use bolide_core::{
    Device, NodeAttr, NodeId, NodeKind, OpaqueXattr, Result, StatusSource, TocIndex,
};

pub(crate) use state::{STATE_DIR, StateFile};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// A node that a mounter shows. Its inode number is the same after every mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum TreeNode {
    /// A node of the index.
    Layer(NodeId),
    /// What hides a file of lower layers, in place of the index's marker.
    Whiteout(NodeId),
    /// The hidden directory in the root.
    StateDir,
    /// The file in it.
    StateFile,
}

const ROOT_INO: u64 = 1;
const STATE_DIR_INO: u64 = 2;
const STATE_FILE_INO: u64 = 3;

/// One name in a directory.
#[derive(Clone, Debug)]
pub(crate) struct TreeEntry {
    pub(crate) name: OsString,
    pub(crate) node: TreeNode,
}

/// Whether a whiteout may stand for this name: not for what no directory can hold, nor for other
/// markers (`.wh..wh.plnk` of aufs).
fn may_be_hidden(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    !matches!(bytes, b"" | b"." | b"..") && !bytes.starts_with(WHITEOUT)
}

/// The tree of one layer.
#[derive(Debug)]
pub(crate) struct LayerTree {
    index: Arc<dyn TocIndex>,
    state: StateFile,
    /// Whiteout markers, by the node of the index.
    whiteouts: HashSet<NodeId>,
    /// Whiteouts that are shown, by directory.
    hidden: HashMap<NodeId, Vec<(OsString, NodeId)>>,
    opaque: HashSet<NodeId>,
    opaque_xattr: &'static str,
}

impl LayerTree {
    /// Looks once through the index for whiteouts.
    pub(crate) fn new(
        index: Arc<dyn TocIndex>,
        status: Arc<dyn StatusSource>,
        opaque: OpaqueXattr,
    ) -> Result<Self> {
        let opaque_xattr = match opaque {
            OpaqueXattr::Trusted => "trusted.overlay.opaque",
            OpaqueXattr::User => "user.overlay.opaque",
        };
        let mut tree = Self {
            index,
            state: StateFile::new(status),
            whiteouts: HashSet::new(),
            hidden: HashMap::new(),
            opaque: HashSet::new(),
            opaque_xattr,
        };
        let mut todo = vec![tree.index.root()];
        while let Some(dir) = todo.pop() {
            todo.extend(tree.scan(dir)?);
        }
        Ok(tree)
    }

    /// Takes note of a directory's whiteouts; returns its subdirectories.
    fn scan(&mut self, dir: NodeId) -> Result<Vec<NodeId>> {
        let mut children = Vec::new();
        self.index.for_each_child(dir, 0, &mut |name, id| {
            children.push((name.to_owned(), id));
            ControlFlow::Continue(())
        })?;
        let mut directories = Vec::new();
        for (name, id) in children {
            let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT) else {
                if self.index.attr(id)?.kind == NodeKind::Directory {
                    directories.push(id);
                }
                continue;
            };
            self.whiteouts.insert(id);
            let hidden = OsStr::from_bytes(hidden);
            if name.as_bytes() == OPAQUE {
                self.opaque.insert(dir);
            } else if may_be_hidden(hidden) && self.index.lookup(dir, hidden)?.is_none() {
                // A real file of the same layer wins over its whiteout.
                self.hidden.entry(dir).or_default().push((hidden.to_owned(), id));
            }
        }
        Ok(directories)
    }

    /// The content of the state file at this moment.
    pub(crate) fn state(&self) -> Vec<u8> {
        self.state.content()
    }

    pub(crate) fn ino(&self, node: TreeNode) -> u64 {
        match node {
            TreeNode::Layer(id) if id == self.index.root() => ROOT_INO,
            TreeNode::Layer(id) | TreeNode::Whiteout(id) => u64::from(id.0) + STATE_FILE_INO + 1,
            TreeNode::StateDir => STATE_DIR_INO,
            TreeNode::StateFile => STATE_FILE_INO,
        }
    }

    /// The node of an inode number that was given out.
    pub(crate) fn node(&self, ino: u64) -> Option<TreeNode> {
        match ino {
            ROOT_INO => Some(TreeNode::Layer(self.index.root())),
            STATE_DIR_INO => Some(TreeNode::StateDir),
            STATE_FILE_INO => Some(TreeNode::StateFile),
            ino => {
                let id = NodeId(u32::try_from(ino.checked_sub(STATE_FILE_INO + 1)?).ok()?);
                Some(if self.whiteouts.contains(&id) {
                    TreeNode::Whiteout(id)
                } else {
                    TreeNode::Layer(id)
                })
            }
        }
    }

    pub(crate) fn attr(&self, node: TreeNode) -> Result<NodeAttr> {
        match node {
            TreeNode::Layer(id) => self.index.attr(id),
            TreeNode::Whiteout(id) => {
                let kind = NodeKind::CharDevice(Device { major: 0, minor: 0 });
                let mtime = self.index.attr(id)?.mtime;
                Ok(NodeAttr { kind, size: 0, perm: 0, uid: 0, gid: 0, mtime, nlink: 1 })
            }
            TreeNode::StateDir => Ok(state::dir_attr()),
            TreeNode::StateFile => Ok(self.state.attr()),
        }
    }

    pub(crate) fn lookup(&self, dir: TreeNode, name: &OsStr) -> Result<Option<TreeNode>> {
        let dir = match dir {
            TreeNode::Layer(dir) => dir,
            TreeNode::StateDir if name == self.state.name() => {
                return Ok(Some(TreeNode::StateFile));
            }
            _ => return Ok(None),
        };
        if dir == self.index.root() && name == STATE_DIR {
            return Ok(Some(TreeNode::StateDir));
        }
        if name.as_bytes().starts_with(WHITEOUT) {
            return Ok(None);
        }
        if let Some(found) = self.index.lookup(dir, name)? {
            return Ok(Some(TreeNode::Layer(found)));
        }
        // In the order of the index, which is that of their names.
        let hidden = self.hidden.get(&dir).map_or(&[][..], Vec::as_slice);
        let found = hidden.binary_search_by(|(hidden, _)| hidden.as_os_str().cmp(name));
        Ok(found.ok().map(|at| TreeNode::Whiteout(hidden[at].1)))
    }

    /// The names in a directory, "." and ".." first, the state directory left out.
    pub(crate) fn list(&self, dir: TreeNode) -> Result<Vec<TreeEntry>> {
        let entry = |name: &OsStr, node| TreeEntry { name: name.to_owned(), node };
        let above = match dir {
            TreeNode::Layer(id) => TreeNode::Layer(self.index.parent(id)?),
            _ => TreeNode::Layer(self.index.root()),
        };
        let mut listed = vec![entry(".".as_ref(), dir), entry("..".as_ref(), above)];
        match dir {
            TreeNode::Layer(id) => {
                self.index.for_each_child(id, 0, &mut |name, child| {
                    if !name.as_bytes().starts_with(WHITEOUT) {
                        listed.push(entry(name, TreeNode::Layer(child)));
                    }
                    ControlFlow::Continue(())
                })?;
                let hidden = self.hidden.get(&id).into_iter().flatten();
                listed.extend(hidden.map(|(name, id)| entry(name, TreeNode::Whiteout(*id))));
            }
            _ => listed.push(entry(self.state.name(), TreeNode::StateFile)),
        }
        Ok(listed)
    }

    pub(crate) fn read_link(&self, node: TreeNode) -> Result<Option<bytes::Bytes>> {
        match node {
            TreeNode::Layer(id) if self.index.attr(id)?.kind == NodeKind::Symlink => {
                Ok(Some(self.index.read_link(id)?))
            }
            _ => Ok(None),
        }
    }

    /// Visits a node's extended attributes; that of an opaque directory comes first.
    pub(crate) fn for_each_xattr(
        &self,
        node: TreeNode,
        visit: &mut dyn FnMut(&OsStr, &[u8]) -> ControlFlow<()>,
    ) -> Result<()> {
        let TreeNode::Layer(id) = node else { return Ok(()) };
        if self.opaque.contains(&id) && visit(self.opaque_xattr.as_ref(), b"y").is_break() {
            return Ok(());
        }
        self.index.for_each_xattr(id, visit)
    }
}
