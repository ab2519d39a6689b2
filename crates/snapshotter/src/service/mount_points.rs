//! Which mounts lie below a directory.
use std::{
    ffi::OsString,
    fs, io,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

/// Mount points at and below a directory, the oldest first. Blocks.
pub(super) fn below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let table = fs::read("/proc/self/mountinfo")?;
    Ok(mount_points(&table).filter(|path| path.starts_with(dir)).collect())
}

fn mount_points(table: &[u8]) -> impl Iterator<Item = PathBuf> + '_ {
    let lines = table.split(|byte| *byte == b'\n');
    lines
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .map(|field| PathBuf::from(OsString::from_vec(unescape(field))))
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        match tail {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] if *first == b'\\' => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
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
    fn escapes_are_read() {
        let table = b"22 1 0:21 / /proc rw shared:5 - proc proc rw\n\
            30 1 0:30 / /a\\040b\\134c rw - tmpfs tmpfs rw\n31 1 0:31 / /tail\\04 rw\n";
        let found: Vec<_> = mount_points(table).collect();
        assert_eq!(found, ["/proc", "/a b\\c", "/tail\\04"].map(PathBuf::from));
    }

    #[test]
    fn a_directory_of_a_longer_name_is_not_below() {
        let all = below(Path::new("/")).expect("read");
        assert!(all.contains(&PathBuf::from("/proc")));
        assert!(below(Path::new("/pro")).expect("read").is_empty());
    }
}
