//! A disk in memory that records every change, fails on demand, and can be crashed.
use std::{collections::BTreeSet, io, os::fd::BorrowedFd, path::Path, sync::Arc};

use parking_lot::{Mutex, MutexGuard};

use super::{
    super::disk::{Disk, StoreFile},
    tree::{Call, Ino, ROOT, Tree},
};

/// How one call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// `EIO`, half of a write done; what a sync did not write is gone.
    Io,
    /// `ENOSPC`, half of a write done.
    Full,
    /// A write does half, without an error.
    Short,
}

/// A mistake in the order of writes that the checks must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mistake {
    /// The data is not synced before its record is written.
    DataNotSynced,
    /// Small files are not synced before they get their name.
    SmallFilesNotSynced,
    /// Names are never synced.
    NamesNotSynced,
    /// A sync that failed is called a success.
    FailureHidden,
}

#[derive(Debug)]
struct State {
    now: Tree,
    /// What of a file was synced.
    synced: Tree,
    log: Vec<Call>,
    next: Ino,
    /// Calls that change something, those that failed included.
    calls: usize,
    fault: Option<(usize, Fault)>,
    killed_after: Option<usize>,
    mistake: Option<Mistake>,
    data_files: BTreeSet<Ino>,
}

/// A [`Disk`] in memory.
#[derive(Clone, Debug)]
pub(super) struct ModelDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct ModelFile {
    disk: ModelDisk,
    ino: Ino,
}

fn error(kind: io::ErrorKind) -> io::Error {
    kind.into()
}

impl State {
    /// Begins a call that changes something: does it fail?
    fn begin(&mut self) -> io::Result<Option<Fault>> {
        self.alive()?;
        self.calls += 1;
        if self.killed_after.is_some_and(|last| self.calls > last) {
            return Err(io::Error::other("killed"));
        }
        let own = self.fault.filter(|(at, _)| *at + 1 == self.calls);
        Ok(own.map(|(_, fault)| fault))
    }

    fn alive(&self) -> io::Result<()> {
        match self.killed_after {
            Some(last) if self.calls > last => Err(io::Error::other("killed")),
            _ => Ok(()),
        }
    }

    /// Begins a call that either happens or fails.
    fn begin_whole(&mut self) -> io::Result<()> {
        match self.begin()? {
            Some(Fault::Io) => Err(io::Error::from_raw_os_error(5)),
            Some(Fault::Full) => Err(error(io::ErrorKind::StorageFull)),
            Some(Fault::Short) | None => Ok(()),
        }
    }

    fn done(&mut self, call: Call) {
        self.now.apply(&call);
        self.log.push(call);
    }

    fn walk(&self, path: &Path) -> io::Result<Ino> {
        let mut ino = ROOT;
        for part in path.components().skip(1) {
            let entries = self.now.dirs.get(&ino).ok_or(error(io::ErrorKind::NotADirectory))?;
            let name = part.as_os_str().to_str().expect("UTF-8");
            ino = *entries.get(name).ok_or(error(io::ErrorKind::NotFound))?;
        }
        Ok(ino)
    }

    fn parent(&self, path: &Path) -> io::Result<(Ino, String)> {
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
        Ok((self.walk(path.parent().expect("a parent"))?, name.to_owned()))
    }

    fn fresh(&mut self) -> Ino {
        self.next += 1;
        self.next
    }
}

impl ModelDisk {
    /// A disk that holds `tree`, durably.
    pub(super) fn new(tree: Tree, mistake: Option<Mistake>) -> Self {
        let last = tree.dirs.keys().chain(tree.files.keys()).max().copied();
        Self(Arc::new(Mutex::new(State {
            synced: tree.clone(),
            now: tree,
            log: Vec::new(),
            next: last.unwrap_or(ROOT),
            calls: 0,
            fault: None,
            killed_after: None,
            mistake,
            data_files: BTreeSet::new(),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }

    /// Lets the call of this number fail.
    pub(super) fn fail_at(&self, call: usize, fault: Fault) {
        self.state().fault = Some((call, fault));
    }

    /// Refuses every call after this many: the process is dead, the machine is not.
    pub(super) fn kill_after(&self, calls: usize) {
        self.state().killed_after = Some(calls);
    }

    /// Serves another process.
    pub(super) fn revive(&self) {
        self.state().killed_after = None;
    }

    /// Calls begun so far that change something.
    pub(super) fn calls(&self) -> usize {
        self.state().calls
    }

    /// Changes so far.
    pub(super) fn changes(&self) -> usize {
        self.state().log.len()
    }

    pub(super) fn log(&self) -> Vec<Call> {
        self.state().log.clone()
    }

    fn file(&self, ino: Ino) -> Box<dyn StoreFile> {
        Box::new(ModelFile { disk: self.clone(), ino })
    }
}

impl Disk for ModelDisk {
    fn lock(&self, _: &Path) -> io::Result<Arc<dyn StoreFile>> {
        self.state().alive()?;
        Ok(Arc::new(ModelFile { disk: self.clone(), ino: Ino::MAX }))
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        let (parent, name) = state.parent(dir)?;
        if state.walk(dir).is_ok() {
            return Err(error(io::ErrorKind::AlreadyExists));
        }
        state.begin_whole()?;
        let ino = state.fresh();
        state.done(Call::CreateDir { dir: parent, name, ino });
        Ok(())
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn StoreFile>> {
        let state = self.state();
        state.alive()?;
        let ino = state.walk(path)?;
        Ok(self.file(ino))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn StoreFile>> {
        let mut state = self.state();
        let (dir, name) = state.parent(path)?;
        state.begin_whole()?;
        if let Ok(ino) = state.walk(path) {
            state.done(Call::SetLen { ino, len: 0 });
            return Ok(self.file(ino));
        }
        let ino = state.fresh();
        if name == "data" {
            state.data_files.insert(ino);
        }
        state.done(Call::Create { dir, name, ino });
        Ok(self.file(ino))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        let ino = state.walk(from)?;
        let ((dir, from), (same, to)) = (state.parent(from)?, state.parent(to)?);
        assert_eq!(dir, same, "the store renames within a directory");
        state.begin_whole()?;
        state.done(Call::Rename { dir, from, to, ino });
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.walk(path)?;
        let (dir, name) = state.parent(path)?;
        state.begin_whole()?;
        state.done(Call::Remove { dir, name });
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        let ino = state.walk(path)?;
        if !state.now.dirs.get(&ino).is_some_and(std::collections::BTreeMap::is_empty) {
            return Err(error(io::ErrorKind::DirectoryNotEmpty));
        }
        let (dir, name) = state.parent(path)?;
        state.begin_whole()?;
        state.done(Call::Remove { dir, name });
        Ok(())
    }

    fn names(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.state();
        state.alive()?;
        let entries = state.now.dirs.get(&state.walk(dir)?);
        Ok(entries.ok_or(error(io::ErrorKind::NotADirectory))?.keys().cloned().collect())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        let dir = state.walk(dir)?;
        state.begin_whole()?;
        if state.mistake != Some(Mistake::NamesNotSynced) {
            state.done(Call::SyncDir { dir });
        }
        Ok(())
    }

    fn occupied(&self, path: &Path) -> io::Result<u64> {
        let state = self.state();
        let ino = state.walk(path)?;
        Ok(state.now.files.get(&ino).map_or(0, |file| file.len() as u64))
    }
}

impl StoreFile for ModelFile {
    fn size(&self) -> io::Result<u64> {
        let state = self.disk.state();
        state.alive()?;
        Ok(state.now.files.get(&self.ino).map_or(0, |file| file.len() as u64))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.begin_whole()?;
        state.done(Call::SetLen { ino: self.ino, len });
        Ok(())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.disk.state();
        state.alive()?;
        let file = state.now.files.get(&self.ino).map(Vec::as_slice).unwrap_or_default();
        let rest = file.get(usize::try_from(offset).expect("small")..).unwrap_or_default();
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.state();
        let fault = state.begin()?;
        let len = if fault.is_some() { bytes.len().div_ceil(2) } else { bytes.len() };
        state.done(Call::Write { ino: self.ino, offset, bytes: bytes[..len].to_vec() });
        match fault {
            Some(Fault::Io) => Err(io::Error::from_raw_os_error(5)),
            Some(Fault::Full) => Err(error(io::ErrorKind::StorageFull)),
            Some(Fault::Short) | None => Ok(len),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        let ino = self.ino;
        let is_data = state.data_files.contains(&ino);
        let fault = state.begin()?.filter(|fault| *fault != Fault::Short);
        if fault.is_some() {
            // What was not written is dropped from memory too, as if it had been evicted.
            let len = state.now.file(ino).len();
            let mut kept = state.synced.files.get(&ino).cloned().unwrap_or_default();
            kept.resize(len, 0);
            *state.now.file(ino) = kept;
            state.done(Call::SyncFailed { ino });
            return match state.mistake {
                Some(Mistake::FailureHidden) => Ok(()),
                _ => Err(io::Error::from_raw_os_error(5)),
            };
        }
        let ignored = match state.mistake {
            Some(Mistake::DataNotSynced) => is_data,
            Some(Mistake::SmallFilesNotSynced) => !is_data,
            _ => false,
        };
        if !ignored {
            let content = state.now.file(ino).clone();
            state.synced.files.insert(ino, content);
            state.done(Call::Sync { ino });
        }
        Ok(())
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
