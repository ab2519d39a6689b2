//! The directories snapshots are shown from: `<root>/snapshots/<id>/{fs,work}`.
use std::{
    collections::HashSet,
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, lchown},
    path::{Path, PathBuf},
    sync::Arc,
};

use bolide_core::{Error, ErrorKind, Result};
use parking_lot::Mutex;

use super::{disk_usage, mount_points};
use crate::{blocking::blocking, lifecycle::Usage};

/// A directory that is not complete has this before its id.
const DRAFT: &str = "new-";
/// Says that what lies beside it is bolide's, and bolide's to delete.
const MARK: &str = ".bolide";

/// The directories below `<root>/snapshots`. A clone is the same thing.
#[derive(Clone, Debug)]
pub(super) struct Directories {
    base: PathBuf,
    building: Arc<Mutex<HashSet<u64>>>,
}

/// A directory whose snapshot is not in the metadata yet. While this lives, it is not a stray.
#[derive(Debug)]
pub(super) struct Building {
    pub(super) id: u64,
    building: Arc<Mutex<HashSet<u64>>>,
}

impl Drop for Building {
    fn drop(&mut self) {
        self.building.lock().remove(&self.id);
    }
}

/// An entry of the base directory.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Id of the snapshot it belongs to, if its name says one.
    pub(super) id: Option<u64>,
    /// Whether it was being made.
    pub(super) is_draft: bool,
    path: PathBuf,
}

/// What is wanted of a new directory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) id: u64,
    /// Whether overlayfs will need a work directory.
    pub(super) writable: bool,
    /// Id of the snapshot whose root's owner gets this root, too.
    pub(super) owner: Option<u64>,
}

impl Directories {
    /// Makes the base directory, or takes it up again. Blocks.
    ///
    /// `Config` when it holds what bolide did not put there: what no snapshot needs is deleted, and
    /// another program's snapshots are none that bolide knows.
    pub(super) fn open(root: &Path) -> Result<Self> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(root.join("snapshots"));
        let base = made.and_then(|()| root.join("snapshots").canonicalize());
        let base = base.map_err(|error| failed("directories::open", root, error))?;
        let is_plain = base.to_str().is_some_and(|path| !path.contains([':', ',', '\\']));
        if !is_plain {
            return Err(Error::new(
                ErrorKind::Config,
                "directories::open",
                "the root must be UTF-8 without colon, comma and backslash, which mean something \
                 else in the options of overlayfs",
            )
            .with_context("root", root.display()));
        }
        claim(&base)?;
        Ok(Self { base, building: Arc::default() })
    }

    /// A snapshot's content.
    pub(super) fn fs(&self, id: u64) -> PathBuf {
        self.of(id).join("fs")
    }

    /// A snapshot's work directory for overlayfs.
    pub(super) fn work(&self, id: u64) -> PathBuf {
        self.of(id).join("work")
    }

    fn of(&self, id: u64) -> PathBuf {
        self.base.join(id.to_string())
    }

    /// Makes the directory of a snapshot that will be added to the metadata.
    pub(super) async fn make(&self, wanted: Wanted) -> Result<Building> {
        let Wanted { id, .. } = wanted;
        self.building.lock().insert(id);
        let building = Building { id, building: Arc::clone(&self.building) };
        let directories = self.clone();
        blocking("directories::make", move || {
            let draft = directories.base.join(format!("{DRAFT}{id}"));
            let made = directories
                .fill(&draft, wanted)
                .and_then(|()| fs::rename(&draft, directories.of(id)));
            made.map_err(|error| {
                // What cannot be removed either is left to Cleanup.
                let _ = fs::remove_dir_all(&draft);
                failed("directories::make", &draft, error)
            })
        })
        .await?;
        Ok(building)
    }

    fn fill(&self, draft: &Path, wanted: Wanted) -> io::Result<()> {
        directory(draft, 0o700)?;
        let content = draft.join("fs");
        directory(&content, 0o755)?;
        if wanted.writable {
            directory(&draft.join("work"), 0o711)?;
        }
        let Some(owner) = wanted.owner else { return Ok(()) };
        let owner = fs::metadata(self.fs(owner))?;
        lchown(&content, Some(owner.uid()), Some(owner.gid()))
    }

    /// Makes sure that a layer has a directory to be mounted on.
    pub(super) async fn ensure(&self, id: u64) -> Result<()> {
        let content = self.fs(id);
        blocking("directories::ensure", move || {
            fs::create_dir_all(&content)
                .map_err(|error| failed("directories::ensure", &content, error))
        })
        .await
    }

    /// What a snapshot's content occupies.
    pub(super) async fn usage(&self, id: u64) -> Result<Usage> {
        let content = self.fs(id);
        blocking("directories::usage", move || {
            disk_usage::of(&content).map_err(|error| failed("directories::usage", &content, error))
        })
        .await
    }

    /// Everything that lies there now, except what is being made. Ask the metadata afterwards:
    /// what was being made before is in there by then.
    pub(super) async fn entries(&self) -> Result<Vec<Entry>> {
        let directories = self.clone();
        blocking("directories::entries", move || {
            let read = fs::read_dir(&directories.base).and_then(Iterator::collect);
            let read: Vec<fs::DirEntry> =
                read.map_err(|error| failed("directories::entries", &directories.base, error))?;
            let building = directories.building.lock();
            let entries = read.into_iter().filter(|entry| entry.file_name() != MARK);
            let entries = entries.map(|entry| Entry::new(&entry));
            Ok(entries.filter(|entry| entry.id.is_none_or(|id| !building.contains(&id))).collect())
        })
        .await
    }

    /// Removes an entry. `FailedPrecondition` while something is mounted there, whose files are
    /// not ours to remove.
    pub(super) async fn remove(&self, entry: Entry) -> Result<()> {
        blocking("directories::remove", move || remove(&entry.path)).await
    }

    /// Removes what was made for a snapshot that came to nothing.
    pub(super) async fn discard(&self, building: Building) {
        let path = self.of(building.id);
        if let Err(error) = blocking("directories::discard", move || remove(&path)).await {
            tracing::warn!(%error, "a directory is left to Cleanup");
        }
    }

    /// Detaches every mount below, the youngest first: the processes behind them have died.
    pub(super) async fn detach_mounts(&self) -> Result<()> {
        let base = self.base.clone();
        blocking("directories::detach_mounts", move || {
            let mounts = mount_points::below(&base);
            let mounts =
                mounts.map_err(|error| failed("directories::detach_mounts", &base, error))?;
            for target in mounts.iter().rev() {
                if let Err(error) = bolide_fs::detach(target) {
                    tracing::warn!(%error, "a mount of an earlier run is left");
                }
            }
            Ok(())
        })
        .await
    }
}

impl Entry {
    fn new(entry: &fs::DirEntry) -> Self {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let (id, is_draft) = match name.strip_prefix(DRAFT) {
            Some(id) => (id, true),
            None => (&*name, false),
        };
        Self { id: id.parse().ok(), is_draft, path: entry.path() }
    }
}

/// Marks a directory as bolide's. It is marked while it is empty, before anything else is made in it.
fn claim(base: &Path) -> Result<()> {
    let error = |error| failed("directories::open", base, error);
    let mark = base.join(MARK);
    if mark.try_exists().map_err(error)? {
        return Ok(());
    }
    if fs::read_dir(base).map_err(error)?.next().is_some() {
        return Err(Error::new(
            ErrorKind::Config,
            "directories::open",
            "the directory holds snapshots of another program, which bolide would delete: choose \
             another root",
        )
        .with_context("directory", base.display()));
    }
    fs::File::create_new(&mark).and_then(|mark| mark.sync_all()).map_err(error)
}

/// Modes are as given, whatever the umask.
fn directory(path: &Path, mode: u32) -> io::Result<()> {
    fs::create_dir(path)?;
    fs::set_permissions(path, Permissions::from_mode(mode))
}

fn remove(path: &Path) -> Result<()> {
    let error = |error| failed("directories::remove", path, error);
    if let Some(mount) = mount_points::below(path).map_err(error)?.first() {
        return Err(Error::new(
            ErrorKind::FailedPrecondition,
            "directories::remove",
            "something is mounted there",
        )
        .with_context("mount", mount.display()));
    }
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.map_err(error)
}

/// Never `NotFound` or `AlreadyExists`: to a client they would speak of the snapshot.
fn failed(operation: &'static str, path: &Path, error: io::Error) -> Error {
    let kind = match Error::io(operation, io::Error::from(error.kind())).kind() {
        ErrorKind::Exhausted => ErrorKind::Exhausted,
        _ => ErrorKind::Io,
    };
    Error::new(kind, operation, error.to_string())
        .with_context("path", path.display())
        .with_source(error)
}
