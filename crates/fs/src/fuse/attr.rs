//! Attributes as FUSE wants them.
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bolide_core::{Device, NodeAttr, NodeKind, Timestamp};
use fuser::{FileAttr, FileType, INodeNo};

const BLOCK: u64 = 4096;

/// `stat` of a node: times of access and change are 0, as the reference has them.
pub(super) fn file_attr(ino: u64, attr: &NodeAttr) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino),
        size: attr.size,
        blocks: attr.size.div_ceil(BLOCK) * (BLOCK / 512),
        atime: UNIX_EPOCH,
        mtime: system_time(attr.mtime),
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: file_type(attr.kind),
        perm: attr.perm,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: device_number(attr.kind),
        blksize: 4096,
        flags: 0,
    }
}

pub(super) fn file_type(kind: NodeKind) -> FileType {
    match kind {
        NodeKind::File => FileType::RegularFile,
        NodeKind::Directory => FileType::Directory,
        NodeKind::Symlink => FileType::Symlink,
        NodeKind::CharDevice(_) => FileType::CharDevice,
        NodeKind::BlockDevice(_) => FileType::BlockDevice,
        NodeKind::Fifo => FileType::NamedPipe,
    }
}

/// The kernel's 32-bit form: 12 bits of major between 8 and 12 bits of minor.
fn device_number(kind: NodeKind) -> u32 {
    let (NodeKind::CharDevice(Device { major, minor })
    | NodeKind::BlockDevice(Device { major, minor })) = kind
    else {
        return 0;
    };
    (minor & 0xff) | (major & 0xfff) << 8 | (minor & !0xff) << 12
}

fn system_time(time: Timestamp) -> SystemTime {
    let whole = Duration::from_secs(time.seconds.unsigned_abs());
    let second = if time.seconds < 0 {
        UNIX_EPOCH.checked_sub(whole)
    } else {
        UNIX_EPOCH.checked_add(whole)
    };
    second.unwrap_or(UNIX_EPOCH) + Duration::from_nanos(time.nanos.into())
}
