//! Who shows an image on a directory: what `bolide umount` and the next `bolide mount` must know.
use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt as _, fs::DirBuilderExt as _},
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use bolide_core::Digest;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

/// Gone after a restart of the machine, as mounts are. Only root mounts where others see it.
const DIR: &str = "/run/bolide/mounts";

/// One image on a directory.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    /// The directory.
    pub(super) target: PathBuf,
    /// What is mounted there.
    pub(super) mount: u64,
    /// Where its layers lie.
    pub(super) work: PathBuf,
    process: i32,
    /// When that process was started, since its number may be another's by now.
    started: u64,
}

impl Record {
    /// This process shows an image on `target`.
    pub(super) fn of_this_process(target: &Path, mount: u64, work: &Path) -> Result<Self> {
        let process = Pid::as_raw(Some(rustix::process::getpid()));
        let started = start_time(process).context("cannot read /proc")?;
        Ok(Self { target: target.to_owned(), mount, work: work.to_owned(), process, started })
    }

    /// The record of a directory, if there is one.
    pub(super) fn find(target: &Path) -> Result<Option<Self>> {
        let path = path(target, "json");
        match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            read => {
                let named = || path.display().to_string();
                serde_json::from_slice(&read.with_context(named)?).map(Some).with_context(named)
            }
        }
    }

    /// Keeps it until [`remove`](Self::remove).
    pub(super) fn write(&self) -> Result<()> {
        let dir = make_dir()?;
        let failed = || format!("cannot write to {}", dir.display());
        let file = tempfile::NamedTempFile::new_in(&dir).with_context(failed)?;
        fs::write(file.path(), serde_json::to_vec(self)?).with_context(failed)?;
        file.persist(path(&self.target, "json")).with_context(failed)?;
        Ok(())
    }

    /// Forgets it and the log beside it.
    pub(super) fn remove(&self) -> Result<()> {
        for kind in ["json", "log"] {
            let path = path(&self.target, kind);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| path.display().to_string());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A hold on the process, if it still lives.
    pub(super) fn process(&self) -> Option<OwnedFd> {
        let held = pidfd_open(Pid::from_raw(self.process)?, PidfdFlags::NONBLOCK).ok()?;
        // Asked after it is held: what the number means cannot change any more.
        (start_time(self.process) == Some(self.started)).then_some(held)
    }
}

/// Where a process that shows an image in the background complains.
pub(super) fn log_path(target: &Path) -> Result<PathBuf> {
    make_dir().map(|_| path(target, "log"))
}

fn make_dir() -> Result<PathBuf> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(DIR);
    made.with_context(|| format!("cannot make {DIR}"))?;
    Ok(PathBuf::from(DIR))
}

fn path(target: &Path, kind: &str) -> PathBuf {
    let name = Digest::of(target.as_os_str().as_bytes()).hex();
    Path::new(DIR).join(format!("{name}.{kind}"))
}

/// In clock ticks since the machine's start; the 22nd field, the second of which may hold anything.
fn start_time(process: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start() {
        let mut record = Record::of_this_process(Path::new("/x"), 1, Path::new("/y")).expect("me");
        assert!(record.process().is_some());
        record.started += 1;
        assert!(record.process().is_none(), "another process of the same number");
    }
}
