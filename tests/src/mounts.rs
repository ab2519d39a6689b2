//! Mounts below a directory, and getting rid of them.
use std::{
    ffi::OsString,
    fs,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use rustix::mount::{UnmountFlags, unmount};

/// Mount points below a directory, the oldest first.
pub fn below(dir: &Path) -> Result<Vec<PathBuf>> {
    let table = fs::read("/proc/self/mountinfo").context("/proc/self/mountinfo")?;
    let dir = dir.canonicalize().with_context(|| dir.display().to_string())?;
    Ok(mount_points(&table).filter(|path| path.starts_with(&dir)).collect())
}

/// Detaches every mount below a directory, the youngest first.
pub fn detach_below(dir: &Path) -> Result<()> {
    for path in below(dir)?.iter().rev() {
        unmount(path, UnmountFlags::DETACH).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// Detaches what is left mounted when the daemons are gone, so the directory can be removed.
#[derive(Debug)]
pub struct MountsBelow(pub PathBuf);

impl Drop for MountsBelow {
    fn drop(&mut self) {
        if let Err(error) = detach_below(&self.0) {
            eprintln!("e2e: mounts are left: {error:#}");
        }
    }
}

fn mount_points(table: &[u8]) -> impl Iterator<Item = PathBuf> + '_ {
    table
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .map(|field| PathBuf::from(OsString::from_vec(unescape(field))))
}

/// Space, tab, newline and backslash are written in octal.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = |digits: &[u8]| {
            let text = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(text, 8).ok()
        };
        match tail.split_at_checked(3) {
            Some((digits, after)) if *first == b'\\' && octal(digits).is_some() => {
                bytes.extend(octal(digits));
                rest = after;
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_with_their_escapes() {
        let table = b"22 1 0:21 / /proc rw shared:5 - proc proc rw\n\
            30 1 0:30 / /a\\040b\\134c rw - tmpfs tmpfs rw\n";
        let found: Vec<_> = mount_points(table).collect();
        assert_eq!(found, [PathBuf::from("/proc"), PathBuf::from("/a b\\c")]);
    }
}
