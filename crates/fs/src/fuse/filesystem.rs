//! FUSE requests to operations. Nothing here blocks on the network: what is absent is fetched by a
//! task, which answers the request when it is done.
use std::{ffi::OsStr, io, sync::Arc, time::Duration};

use fuser::{
    Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};
use tokio::runtime::Handle;

use super::{
    attr::{file_attr, file_type},
    listings::{Listing, Listings},
};
use crate::{
    Access,
    ops::{LayerOps, Read},
    tree::TreeEntry,
};

/// A layer never changes: what the kernel knows of it stays true as long as it is mounted.
const FOREVER: Duration = Duration::from_hours(10 * 365 * 24);
const ONCE: Generation = Generation(0);
/// Larger read-ahead hurts: it waits for what nobody wants yet.
const READ_AHEAD: u32 = 1 << 20;
/// Less than a page: the kernel asks for what is wanted, and for nothing else.
const NO_READ_AHEAD: u32 = 1;

/// Serves one layer.
#[derive(Debug)]
pub(super) struct LayerFilesystem {
    ops: Arc<LayerOps>,
    runtime: Handle,
    max_background: u16,
    listings: Listings,
}

impl LayerFilesystem {
    pub(super) fn new(ops: Arc<LayerOps>, runtime: Handle, max_background: u16) -> Self {
        Self { ops, runtime, max_background, listings: Listings::default() }
    }

    fn listing(&self, ino: INodeNo, handle: FileHandle) -> Result<Listing, Errno> {
        if let Some(held) = self.listings.get(handle.0) {
            return Ok(held);
        }
        self.ops.list(ino.0).map(Arc::new).map_err(Errno::from_i32)
    }

    fn ttl(&self, ino: u64) -> Duration {
        if self.ops.is_immutable(ino) { FOREVER } else { Duration::ZERO }
    }
}

/// Entries from an offset on, each with the offset that follows it.
fn from_offset(listed: &[TreeEntry], offset: u64) -> impl Iterator<Item = (u64, &TreeEntry)> {
    let skip = usize::try_from(offset).unwrap_or(usize::MAX);
    (offset + 1..).zip(listed.iter().skip(skip))
}

fn answer_xattr(found: Result<Vec<u8>, i32>, size: u32, reply: ReplyXattr) {
    match found {
        Err(errno) => reply.error(Errno::from_i32(errno)),
        Ok(value) => match u32::try_from(value.len()) {
            Ok(len) if size == 0 => reply.size(len),
            Ok(len) if len <= size => reply.data(&value),
            _ => reply.error(Errno::ERANGE),
        },
    }
}

fn answer_read(found: Result<bytes::Bytes, i32>, reply: ReplyData) {
    match found {
        Ok(bytes) => reply.data(&bytes),
        Err(errno) => reply.error(Errno::from_i32(errno)),
    }
}

impl Filesystem for LayerFilesystem {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = InitFlags::FUSE_ASYNC_READ
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_MAX_PAGES;
        // One flag the kernel lacks would have them all refused.
        let known = wanted & config.capabilities();
        if config.add_capabilities(known).is_err() {
            tracing::warn!("the kernel refused FUSE capabilities it had offered");
        }
        let ahead = if self.ops.is_observed() { NO_READ_AHEAD } else { READ_AHEAD };
        // The kernel may offer less.
        if let Err(most) = config.set_max_readahead(ahead) {
            let _ = config.set_max_readahead(most);
        }
        // 0 is refused, and only 0: it leaves the default.
        let _ = config.set_max_background(self.max_background);
        let _ = config.set_congestion_threshold(self.max_background / 4 * 3);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.ops.lookup(parent.0, name) {
            Ok(Some((ino, attr))) => {
                reply.entry_with_ttls(&self.ttl(ino), &FOREVER, &file_attr(ino, &attr), ONCE);
            }
            // Inode 0 lets the kernel remember that there is nothing.
            Ok(None) => {
                let nothing = bolide_core::NodeAttr {
                    kind: bolide_core::NodeKind::File,
                    size: 0,
                    perm: 0,
                    uid: 0,
                    gid: 0,
                    mtime: bolide_core::Timestamp::default(),
                    nlink: 0,
                };
                reply.entry(&FOREVER, &file_attr(0, &nothing), ONCE);
            }
            Err(errno) => reply.error(Errno::from_i32(errno)),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.ops.getattr(ino.0) {
            Ok(attr) => reply.attr(&self.ttl(ino.0), &file_attr(ino.0, &attr)),
            Err(errno) => reply.error(Errno::from_i32(errno)),
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        answer_read(self.ops.readlink(ino.0), reply);
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.ops.accessed(ino.0, || Access::Opened);
        let flags = if self.ops.is_immutable(ino.0) {
            FopenFlags::FOPEN_KEEP_CACHE
        } else {
            FopenFlags::FOPEN_DIRECT_IO
        };
        reply.opened(FileHandle(0), flags);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.ops.read(ino.0, offset..offset.saturating_add(size.into())) {
            Read::Done(done) => answer_read(done, reply),
            Read::Absent(file, range) => {
                let ops = Arc::clone(&self.ops);
                // The task ends with its answer or the read's deadline; the kernel holds the
                // request until then, and the mount with it.
                self.runtime.spawn(async move { answer_read(ops.fetch(file, range).await, reply) });
            }
        }
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.ops.accessed(ino.0, || Access::Opened);
        match self.listings.open(ino.0, || self.ops.list(ino.0)) {
            Ok(handle) => {
                let flags = FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE;
                reply.opened(FileHandle(handle), flags);
            }
            Err(errno) => reply.error(Errno::from_i32(errno)),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        self.ops.accessed(ino.0, || Access::Listed);
        let listed = match self.listing(ino, handle) {
            Ok(listed) => listed,
            Err(errno) => return reply.error(errno),
        };
        for (next, entry) in from_offset(&listed, offset) {
            let Ok((ino, attr)) = self.ops.entry(entry) else { return reply.error(Errno::EIO) };
            if reply.add(INodeNo(ino), next, file_type(attr.kind), &entry.name) {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        self.ops.accessed(ino.0, || Access::Listed);
        let listed = match self.listing(ino, handle) {
            Ok(listed) => listed,
            Err(errno) => return reply.error(errno),
        };
        for (next, entry) in from_offset(&listed, offset) {
            let Ok((ino, attr)) = self.ops.entry(entry) else { return reply.error(Errno::EIO) };
            if reply.add(
                INodeNo(ino),
                next,
                &entry.name,
                &self.ttl(ino),
                &file_attr(ino, &attr),
                ONCE,
            ) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.listings.close(handle.0);
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(0, 0, 0, 0, 0, 4096, 255, 4096);
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        answer_xattr(self.ops.getxattr(ino.0, name), size, reply);
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        answer_xattr(self.ops.listxattr(ino.0), size, reply);
    }
}
