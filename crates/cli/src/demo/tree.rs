//! From paths of this machine to the entries of an image in which they work as they do here.
//!
//! Every symbolic link on the way to a path becomes an entry too, so that merged directories such
//! as `/lib` and alternatives such as `/usr/bin/python3` come along by themselves.
use std::{
    collections::{HashSet, VecDeque},
    ffi::OsString,
    fs, io,
    path::{Component, Path, PathBuf},
};

/// Links followed on the way to one path, as the kernel has it.
const MAX_LINKS: usize = 40;

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Directory,
    Symlink(PathBuf),
    /// A regular file; its content is read when it is written.
    File,
}

/// The entries of one layer, parents first.
pub(crate) type Entries = Vec<(PathBuf, Entry)>;

/// Collects entries, each once for all the layers of an image.
#[derive(Debug, Default)]
pub(crate) struct Collector {
    known: HashSet<PathBuf>,
    entries: Entries,
    bytes: u64,
}

impl Collector {
    /// The entries since this was asked last: one layer.
    pub(crate) fn take(&mut self) -> Entries {
        self.bytes = 0;
        std::mem::take(&mut self.entries)
    }

    /// Bytes of the files among the entries of this layer.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds what is at an absolute path, following links; tells its real path, or `None` when there
    /// is nothing that an image can hold, or nothing this user may read.
    pub(crate) fn add(&mut self, path: &Path) -> io::Result<Option<PathBuf>> {
        let mut real = PathBuf::from("/");
        let mut left: VecDeque<OsString> = names(path);
        let mut links = 0;
        while let Some(name) = left.pop_front() {
            if name == ".." {
                real.pop();
                continue;
            }
            let next = real.join(&name);
            let metadata = match fs::symlink_metadata(&next) {
                Err(error) if is_absence(&error) => return Ok(None),
                found => found?,
            };
            if metadata.is_symlink() {
                links += 1;
                if links > MAX_LINKS {
                    return Ok(None);
                }
                let target = fs::read_link(&next)?;
                if target.is_absolute() {
                    real = PathBuf::from("/");
                }
                for name in names(&target).into_iter().rev() {
                    left.push_front(name);
                }
                self.note(next, Entry::Symlink(target), 0);
            } else if metadata.is_dir() {
                real.clone_from(&next);
                self.note(next, Entry::Directory, 0);
            } else if metadata.is_file() && readable(&next) {
                real.clone_from(&next);
                self.note(next, Entry::File, metadata.len());
            } else {
                return Ok(None);
            }
        }
        Ok(Some(real))
    }

    /// Adds a directory and everything below it in the order of names, up to `limit` bytes of files
    /// in this layer. Links to outside are added with what they name.
    pub(crate) fn add_tree(&mut self, path: &Path, limit: u64) -> io::Result<()> {
        let Some(real) = self.add(path)? else { return Ok(()) };
        let mut left = vec![real];
        while let Some(path) = left.pop() {
            if self.bytes >= limit {
                break;
            }
            let Some(real) = self.add(&path)? else { continue };
            // A link was added with its end; what is below its end has a name of its own.
            if real == path && fs::symlink_metadata(&path)?.is_dir() {
                let mut below = match fs::read_dir(&path) {
                    Err(error) if is_absence(&error) => continue,
                    listed => listed?
                        .map(|entry| entry.map(|entry| entry.path()))
                        .collect::<io::Result<Vec<_>>>()?,
                };
                below.sort_unstable_by(|one, other| other.cmp(one));
                left.append(&mut below);
            }
        }
        Ok(())
    }

    fn note(&mut self, path: PathBuf, entry: Entry, bytes: u64) {
        if self.known.insert(path.clone()) {
            self.bytes += bytes;
            self.entries.push((path, entry));
        }
    }
}

fn names(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir))
        .map(|part| part.as_os_str().to_owned())
        .collect()
}

/// Whether a path is to be left out rather than to be complained about.
fn is_absence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied | io::ErrorKind::NotADirectory
    )
}

fn readable(path: &Path) -> bool {
    fs::File::open(path).is_ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_come_with_what_they_name_and_nothing_comes_twice() {
        let dir = tempfile::tempdir().expect("dir");
        let root = dir.path().canonicalize().expect("real path");
        fs::create_dir_all(root.join("usr/lib")).expect("dirs");
        fs::write(root.join("usr/lib/x.so.1.2"), "library").expect("file");
        symlink("usr/lib", root.join("lib")).expect("link");
        symlink("x.so.1.2", root.join("usr/lib/x.so.1")).expect("link");
        symlink(root.join("lib/x.so.1"), root.join("absolute")).expect("link");
        symlink("loop", root.join("loop")).expect("link");

        let mut collector = Collector::default();
        let real = collector.add(&root.join("absolute")).expect("added");
        assert_eq!(real, Some(root.join("usr/lib/x.so.1.2")));
        let entries = collector.take();
        let below: Vec<_> = entries
            .iter()
            .filter_map(|(path, entry)| Some((path.strip_prefix(&root).ok()?.to_str()?, entry)))
            .filter(|(path, _)| !path.is_empty())
            .collect();
        assert_eq!(
            below,
            [
                ("absolute", &Entry::Symlink(root.join("lib/x.so.1"))),
                ("lib", &Entry::Symlink("usr/lib".into())),
                ("usr", &Entry::Directory),
                ("usr/lib", &Entry::Directory),
                ("usr/lib/x.so.1", &Entry::Symlink("x.so.1.2".into())),
                ("usr/lib/x.so.1.2", &Entry::File),
            ]
        );
        assert_eq!(collector.add(&root.join("loop")).expect("left out"), None);
        assert_eq!(collector.add(&root.join("absent")).expect("left out"), None);
        collector.take();
        collector.add_tree(&root, u64::MAX).expect("added");
        assert!(collector.take().is_empty(), "everything is known");
    }

    #[test]
    fn a_tree_ends_at_its_limit() {
        let dir = tempfile::tempdir().expect("dir");
        for name in ["c", "a", "b"] {
            fs::write(dir.path().join(name), [0; 10]).expect("file");
        }
        let mut collector = Collector::default();
        collector.add_tree(dir.path(), 20).expect("added");
        assert_eq!(collector.bytes(), 20);
        let files: Vec<_> = collector
            .take()
            .into_iter()
            .filter(|(_, entry)| *entry == Entry::File)
            .filter_map(|(path, _)| path.file_name().map(OsString::from))
            .collect();
        assert_eq!(files, ["a", "b"]);
    }
}
