//! What is mounted, by the kernel's word.
use std::{
    ffi::OsString,
    fs, io,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use rustix::mount::{UnmountFlags, unmount};

/// Directories on which something is mounted, in the order of mounting.
fn mount_points() -> io::Result<Vec<PathBuf>> {
    let text = fs::read("/proc/self/mountinfo")?;
    Ok(text.split(|byte| *byte == b'\n').filter_map(mount_point).collect())
}

/// The fifth field of a line, in which white space and backslashes are written in octal.
fn mount_point(line: &[u8]) -> Option<PathBuf> {
    let field = line.split(|byte| *byte == b' ').nth(4)?;
    let (mut name, mut left) = (Vec::with_capacity(field.len()), field);
    while let [first, rest @ ..] = left {
        let octal = rest.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match escaped.filter(|_| *first == b'\\') {
            Some(byte) => {
                name.push(byte);
                left = &rest[3..];
            }
            None => {
                name.push(*first);
                left = rest;
            }
        }
    }
    Some(OsString::from_vec(name).into())
}

/// Whether something is mounted on a directory.
pub(crate) fn is_mounted(dir: &Path) -> Result<bool> {
    let points = mount_points().context("cannot read what is mounted")?;
    Ok(points.iter().any(|point| point == dir))
}

/// Takes everything that is mounted on a directory and below it out of the tree of names, busy or
/// not.
pub(crate) fn detach_below(dir: &Path) -> Result<()> {
    let points = mount_points().context("cannot read what is mounted")?;
    for point in points.iter().rev().filter(|point| point.starts_with(dir)) {
        unmount(point, UnmountFlags::DETACH)
            .with_context(|| format!("cannot unmount {}", point.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_the_kernel_writes_them() {
        let line = br"36 35 98:0 / /mnt/a\040b\134c\0xx rw,noatime - ext3 /dev/root rw";
        assert_eq!(mount_point(line), Some(PathBuf::from(r"/mnt/a b\c\0xx")));
        assert_eq!(mount_point(b""), None);
        assert!(is_mounted(Path::new("/proc")).expect("readable"));
    }
}
