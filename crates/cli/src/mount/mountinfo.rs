//! What is mounted, by the kernel's word.
use std::{
    ffi::OsString,
    fs,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use rustix::mount::{UnmountFlags, unmount};
use tokio::io::Interest;

use super::watch::watch;

/// One mount of this process's namespace.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    id: u64,
    point: PathBuf,
}

/// Everything that is mounted, in the order of mounting.
fn mounts() -> Result<Vec<Mount>> {
    let text = fs::read("/proc/self/mountinfo").context("cannot read what is mounted")?;
    Ok(text.split(|byte| *byte == b'\n').filter_map(parse).collect())
}

fn parse(line: &[u8]) -> Option<Mount> {
    let id = std::str::from_utf8(line.split(|byte| *byte == b' ').next()?).ok()?.parse().ok()?;
    Some(Mount { id, point: mount_point(line)? })
}

/// The fifth field of a line, in which white space and backslashes are written in octal.
fn mount_point(line: &[u8]) -> Option<PathBuf> {
    let field = line.split(|byte| *byte == b' ').nth(4)?;
    let (mut name, mut left) = (Vec::with_capacity(field.len()), field);
    while let [first, rest @ ..] = left {
        let octal = rest.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        if let Some(byte) = escaped.filter(|_| *first == b'\\') {
            name.push(byte);
            left = &rest[3..];
        } else {
            name.push(*first);
            left = rest;
        }
    }
    Some(OsString::from_vec(name).into())
}

/// The id of what is mounted on a directory, the uppermost if there are several.
pub(crate) fn id_of(dir: &Path) -> Result<Option<u64>> {
    Ok(mounts()?.into_iter().rev().find(|mount| mount.point == dir).map(|mount| mount.id))
}

/// Whether the mount of this id is still there.
pub(crate) fn is_mounted(id: u64) -> Result<bool> {
    Ok(mounts()?.iter().any(|mount| mount.id == id))
}

/// Returns when the mount of this id is gone.
pub(crate) async fn gone(id: u64) -> Result<()> {
    let file = fs::File::open("/proc/self/mountinfo").context("cannot watch what is mounted")?;
    // The kernel tells of a change as of something urgent.
    let watch = watch(file.into(), Interest::PRIORITY).context("cannot watch what is mounted")?;
    while is_mounted(id)? {
        let mut changed = watch.ready(Interest::PRIORITY).await.context("the watch ended")?;
        changed.clear_ready();
    }
    Ok(())
}

/// Takes everything that is mounted on a directory and below it out of the tree of names, busy or
/// not.
pub(crate) fn detach_below(dir: &Path) -> Result<()> {
    for mount in mounts()?.iter().rev().filter(|mount| mount.point.starts_with(dir)) {
        unmount(&mount.point, UnmountFlags::DETACH)
            .with_context(|| format!("cannot unmount {}", mount.point.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_the_kernel_writes_them() {
        let line = br"36 35 98:0 / /mnt/a\040b\134c\0xx rw,noatime - ext3 /dev/root rw";
        let expected = Mount { id: 36, point: PathBuf::from(r"/mnt/a b\c\0xx") };
        assert_eq!(parse(line), Some(expected));
        assert_eq!(parse(b""), None);
        let id = id_of(Path::new("/proc")).expect("readable").expect("mounted");
        assert!(is_mounted(id).expect("readable"));
    }
}
