//! What a directory occupies on disk.
use std::{
    collections::HashSet,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::lifecycle::Usage;

/// `st_blocks` counts in these, whatever the file system's blocks are.
const BLOCK: u64 = 512;

/// Blocks and inodes of a tree, its root included; an inode with several names counts once. What
/// disappears while it is measured is left out: a container may be at work there. Blocks.
pub(super) fn of(root: &Path) -> io::Result<Usage> {
    let mut usage = Usage::default();
    let mut linked = HashSet::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(path) = waiting.pop() {
        let Some(meta) = present(fs::symlink_metadata(&path))? else { continue };
        if meta.is_dir() {
            waiting.extend(children(&path)?);
        } else if meta.nlink() > 1 && !linked.insert((meta.dev(), meta.ino())) {
            continue;
        }
        usage.size += meta.blocks() * BLOCK;
        usage.inodes += 1;
    }
    Ok(usage)
}

fn children(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let Some(entries) = present(fs::read_dir(dir))? else { return Ok(Vec::new()) };
    entries.map(|entry| Ok(entry?.path())).collect()
}

fn present<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hard_links_count_once() {
        let dir = tempfile::tempdir().expect("dir");
        let usage = || of(dir.path()).expect("measured");
        let empty = usage();
        assert_eq!(empty.inodes, 1);
        fs::create_dir(dir.path().join("sub")).expect("dir");
        fs::write(dir.path().join("file"), vec![7; 100_000]).expect("file");
        let one = usage();
        assert_eq!(one.inodes, 3);
        assert!(one.size >= empty.size + 100_000);
        fs::hard_link(dir.path().join("file"), dir.path().join("sub/again")).expect("link");
        assert_eq!(usage(), one);
        assert_eq!(of(&dir.path().join("gone")).expect("nothing"), Usage::default());
    }
}
