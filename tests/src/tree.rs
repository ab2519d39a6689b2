//! What a mounted tree shows, name by name, so that two can be compared.
use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{FileTypeExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use rustix::fs::{lgetxattr, llistxattr};

use crate::image::{hex, sha256_of};

/// Everything a program can learn of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// File type and permissions, as in `st_mode`.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Bytes of a regular file or symbolic link. File systems disagree on directories.
    pub size: Option<u64>,
    /// Names of the same inode. File systems disagree on directories.
    pub links: Option<u64>,
    /// Modification time in whole seconds.
    pub mtime: i64,
    /// Device number of a device node, else 0.
    pub device: u64,
    /// Where a symbolic link points.
    pub target: Option<PathBuf>,
    /// Digest of a regular file's content.
    pub digest: Option<String>,
    /// Extended attributes in hexadecimal.
    pub xattrs: BTreeMap<OsString, String>,
}

/// A tree as it is seen through a mount.
#[derive(Debug, Default)]
pub struct Tree {
    /// Every name below the root, relative to it.
    pub nodes: BTreeMap<PathBuf, Node>,
    /// Names of regular files that share an inode with another, by the first of them.
    pub hard_links: BTreeMap<PathBuf, Vec<PathBuf>>,
}

impl Tree {
    /// Reads a whole tree, contents included. The root's own attributes are left out: an image
    /// need not say them.
    pub fn read(root: &Path) -> Result<Self> {
        let mut tree = Self::default();
        let mut inodes = BTreeMap::<(u64, u64), Vec<PathBuf>>::new();
        let mut directories = vec![PathBuf::new()];
        while let Some(directory) = directories.pop() {
            let full = root.join(&directory);
            for entry in fs::read_dir(&full).with_context(|| full.display().to_string())? {
                let name = directory.join(entry?.file_name());
                let path = root.join(&name);
                let meta = path.symlink_metadata().with_context(|| path.display().to_string())?;
                if meta.is_dir() {
                    directories.push(name.clone());
                } else if meta.nlink() > 1 {
                    inodes.entry((meta.dev(), meta.ino())).or_default().push(name.clone());
                }
                tree.nodes.insert(name, Node::read(&path, &meta)?);
            }
        }
        for (_, mut names) in inodes {
            names.sort();
            if let Some(first) = names.first().cloned() {
                tree.hard_links.insert(first, names);
            }
        }
        Ok(tree)
    }

    /// Differences in words, at most `limit` of them; empty when the trees show the same.
    #[must_use]
    pub fn differences(&self, other: &Self, limit: usize) -> Vec<String> {
        let mut found = Vec::new();
        for (name, node) in &self.nodes {
            match other.nodes.get(name) {
                None => found.push(format!("{}: missing in the second", name.display())),
                Some(same) if same == node => {}
                Some(changed) => {
                    found.push(format!("{}:\n  {node:?}\n  {changed:?}", name.display()));
                }
            }
        }
        let extra = other.nodes.keys().filter(|name| !self.nodes.contains_key(*name));
        found.extend(extra.map(|name| format!("{}: missing in the first", name.display())));
        if self.hard_links != other.hard_links {
            found.push(format!("hard links:\n  {:?}\n  {:?}", self.hard_links, other.hard_links));
        }
        found.truncate(limit);
        found
    }
}

impl Node {
    fn read(path: &Path, meta: &fs::Metadata) -> Result<Self> {
        let kind = meta.file_type();
        let is_device = kind.is_block_device() || kind.is_char_device();
        Ok(Self {
            mode: meta.mode(),
            owner: (meta.uid(), meta.gid()),
            size: (kind.is_file() || kind.is_symlink()).then_some(meta.len()),
            links: (!kind.is_dir()).then_some(meta.nlink()),
            mtime: meta.mtime(),
            device: if is_device { meta.rdev() } else { 0 },
            target: if kind.is_symlink() { Some(fs::read_link(path)?) } else { None },
            digest: if kind.is_file() { Some(sha256_of(path)?) } else { None },
            xattrs: xattrs(path).with_context(|| path.display().to_string())?,
        })
    }
}

/// Attributes of the file itself, without those that overlayfs keeps for its own use.
fn xattrs(path: &Path) -> Result<BTreeMap<OsString, String>> {
    let mut names = vec![0_u8; 64 << 10];
    let length = match llistxattr(path, &mut names[..]) {
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        length => length.context("llistxattr")?,
    };
    let mut found = BTreeMap::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let name = std::ffi::OsStr::from_bytes(name);
        if name.as_bytes().starts_with(b"trusted.overlay.") {
            continue;
        }
        let mut value = vec![0_u8; 64 << 10];
        let length = lgetxattr(path, name, &mut value[..]).context("lgetxattr")?;
        found.insert(name.to_owned(), hex(&value[..length]));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn sample(dir: &Path) {
        fs::create_dir(dir.join("d")).expect("dir");
        fs::write(dir.join("d/a"), "content").expect("file");
        fs::hard_link(dir.join("d/a"), dir.join("b")).expect("link");
        symlink("d/a", dir.join("s")).expect("symlink");
        let mtime = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1);
        for name in ["d/a", "d"] {
            let file = fs::File::open(dir.join(name)).expect("open");
            file.set_modified(mtime).expect("mtime");
        }
        let at = rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 };
        let times = rustix::fs::Timestamps { last_access: at, last_modification: at };
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(rustix::fs::CWD, dir.join("s"), &times, flags).expect("mtime");
    }

    #[test]
    fn equal_trees_show_no_difference_and_each_change_shows() {
        let (one, two) = (tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir"));
        sample(one.path());
        sample(two.path());
        let read = |dir: &tempfile::TempDir| Tree::read(dir.path()).expect("reads");
        let first = read(&one);
        assert_eq!(first.nodes.len(), 4);
        assert_eq!(first.hard_links[Path::new("b")].len(), 2);
        assert_eq!(first.differences(&read(&two), 9), Vec::<String>::new());

        let changed = two.path().join("d/a");
        fs::set_permissions(&changed, fs::Permissions::from_mode(0o600)).expect("chmod");
        assert_eq!(first.differences(&read(&two), 9).len(), 2, "two names of one file");
        fs::remove_file(two.path().join("s")).expect("removed");
        let found = first.differences(&read(&two), 9).join("\n");
        assert!(found.contains("s: missing in the second"), "{found}");
    }
}
