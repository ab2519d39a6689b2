//! The operations of a read-only file system, knowing neither FUSE nor virtio.
use std::{
    ffi::OsStr,
    ops::{ControlFlow, Range},
    os::unix::ffi::OsStrExt as _,
    sync::Arc,
};

use bolide_core::{LayerView, NodeAttr, OpaqueXattr, Priority, Result};
use bytes::Bytes;

use crate::{
    Access, AccessObserver, ObservedLayer, errno,
    tree::{LayerTree, TreeEntry, TreeNode},
};

/// An errno.
pub(crate) type Errno = i32;

/// The operations of one layer.
#[derive(Debug)]
pub(crate) struct LayerOps {
    tree: LayerTree,
    view: LayerView,
    observer: Option<(Arc<dyn AccessObserver>, ObservedLayer)>,
}

/// How a read goes on.
pub(crate) enum Read {
    /// Answered at once.
    Done(Result<Bytes, Errno>),
    /// The bytes must be fetched first: call [`LayerOps::fetch`].
    Absent(bolide_core::NodeId, Range<u64>),
}

impl LayerOps {
    pub(crate) fn new(view: LayerView, opaque: OpaqueXattr) -> Result<Self> {
        let tree = LayerTree::new(Arc::clone(&view.toc), Arc::clone(&view.status), opaque)?;
        Ok(Self { tree, view, observer: None })
    }

    /// Tells an observer what is used, as of the mount of this name.
    pub(crate) fn observed(mut self, mount: &str, observer: Arc<dyn AccessObserver>) -> Self {
        let index = Arc::clone(&self.view.toc);
        self.observer = Some((observer, ObservedLayer { mount: mount.to_owned(), index }));
        self
    }

    /// Whether somebody wants to know exactly what is used.
    pub(crate) fn is_observed(&self) -> bool {
        self.observer.is_some()
    }

    /// To be called for each use of what this layer shows.
    pub(crate) fn accessed(&self, ino: u64, access: impl FnOnce() -> Access) {
        if let Some((observer, layer)) = &self.observer
            && let Some(TreeNode::Layer(node)) = self.tree.node(ino)
        {
            observer.accessed(layer, node, access());
        }
    }

    fn node(&self, ino: u64) -> Result<TreeNode, Errno> {
        self.tree.node(ino).ok_or(libc::ESTALE)
    }

    pub(crate) fn getattr(&self, ino: u64) -> Result<NodeAttr, Errno> {
        self.tree.attr(self.node(ino)?).map_err(failed)
    }

    pub(crate) fn lookup(&self, dir: u64, name: &OsStr) -> Result<Option<(u64, NodeAttr)>, Errno> {
        let Some(found) = self.tree.lookup(self.node(dir)?, name).map_err(failed)? else {
            return Ok(None);
        };
        Ok(Some((self.tree.ino(found), self.tree.attr(found).map_err(failed)?)))
    }

    pub(crate) fn list(&self, dir: u64) -> Result<Vec<TreeEntry>, Errno> {
        self.tree.list(self.node(dir)?).map_err(failed)
    }

    pub(crate) fn entry(&self, entry: &TreeEntry) -> Result<(u64, NodeAttr), Errno> {
        Ok((self.tree.ino(entry.node), self.tree.attr(entry.node).map_err(failed)?))
    }

    pub(crate) fn readlink(&self, ino: u64) -> Result<Bytes, Errno> {
        self.accessed(ino, || Access::LinkRead);
        self.tree.read_link(self.node(ino)?).map_err(failed)?.ok_or(libc::EINVAL)
    }

    /// Whether a file's content may be kept in the page cache: all but the state file's.
    pub(crate) fn is_immutable(&self, ino: u64) -> bool {
        self.tree.node(ino) != Some(TreeNode::StateFile)
    }

    /// Reads what is here. Synchronous local I/O.
    pub(crate) fn read(&self, ino: u64, range: Range<u64>) -> Read {
        self.accessed(ino, || Access::Read(range.clone()));
        match self.node(ino) {
            Ok(TreeNode::Layer(file)) => match self.view.reader.try_read(file, range.clone()) {
                Some(done) => Read::Done(done.map_err(|_| errno::READ)),
                None => Read::Absent(file, range),
            },
            Ok(TreeNode::StateFile) => Read::Done(Ok(part(&self.tree.state(), &range))),
            Ok(_) => Read::Done(Err(libc::EINVAL)),
            Err(errno) => Read::Done(Err(errno)),
        }
    }

    /// Reads after fetching.
    pub(crate) async fn fetch(
        &self,
        file: bolide_core::NodeId,
        range: Range<u64>,
    ) -> Result<Bytes, Errno> {
        let read = self.view.reader.read(file, range, Priority::OnDemand).await;
        read.map_err(|_| errno::READ)
    }

    pub(crate) fn getxattr(&self, ino: u64, name: &OsStr) -> Result<Vec<u8>, Errno> {
        let mut found = None;
        let mut visit = |held: &OsStr, value: &[u8]| {
            if held == name {
                found = Some(value.to_vec());
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        };
        self.tree.for_each_xattr(self.node(ino)?, &mut visit).map_err(failed)?;
        found.ok_or(libc::ENODATA)
    }

    /// Names of the extended attributes, each ended by a zero byte.
    pub(crate) fn listxattr(&self, ino: u64) -> Result<Vec<u8>, Errno> {
        let mut names = Vec::new();
        let mut visit = |name: &OsStr, _: &[u8]| {
            names.extend_from_slice(name.as_bytes());
            names.push(0);
            ControlFlow::Continue(())
        };
        self.tree.for_each_xattr(self.node(ino)?, &mut visit).map_err(failed)?;
        Ok(names)
    }
}

#[allow(clippy::needless_pass_by_value, reason = "it is passed to map_err")]
fn failed(error: bolide_core::Error) -> Errno {
    errno::of(error.kind())
}

fn part(content: &[u8], range: &Range<u64>) -> Bytes {
    let at = |offset| usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
    Bytes::copy_from_slice(&content[at(range.start)..at(range.end)])
}
