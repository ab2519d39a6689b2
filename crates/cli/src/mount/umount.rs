//! `bolide umount`: ends what `bolide mount` shows on a directory.
use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use rustix::{
    io::Errno,
    mount::{UnmountFlags, unmount},
};
use tokio::{io::Interest, time::timeout};

use super::{record::Record, shown::remove_leftovers, watch::watch};

/// Longest wait for the other process to clean up.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Args)]
pub(crate) struct UmountArgs {
    /// Directory that shows an image
    dir: PathBuf,
}

pub(crate) async fn run(args: UmountArgs) -> Result<()> {
    let target = real_name(&args.dir)?;
    let record = Record::find(&target)?;
    let shown = args.dir.display();
    let record =
        record.with_context(|| format!("bolide mount has nothing mounted on {shown} here"))?;
    let Some(process) = record.process() else {
        return forget(&record);
    };
    match unmount(&target, UnmountFlags::empty()) {
        Err(Errno::BUSY) => bail!("{shown} is in use: end what uses it, and try again"),
        // The other process ends already.
        Err(Errno::INVAL) => {}
        done => done.with_context(|| format!("cannot unmount {shown}"))?,
    }
    ended(process, &target).await
}

/// The name that a record is kept under. The kernel cannot be asked for it where the process behind
/// a mount died.
pub(super) fn real_name(dir: &Path) -> Result<PathBuf> {
    dir.canonicalize()
        .or_else(|_| std::path::absolute(dir))
        .with_context(|| format!("cannot find {}", dir.display()))
}

/// Removes what is left of a mount whose process has ended otherwise.
pub(super) fn forget(record: &Record) -> Result<()> {
    remove_leftovers(&record.target, record.mount, &record.work)?;
    record.remove()
}

/// The other process sees that its mount is gone, cleans up and ends.
async fn ended(process: OwnedFd, target: &Path) -> Result<()> {
    let process = watch(process, Interest::READABLE)?;
    let waited = timeout(PATIENCE, process.readable()).await;
    let waited = waited.with_context(|| {
        format!("{} is unmounted, but the process behind it does not end", target.display())
    })?;
    waited.map(drop).context("cannot wait for the process behind the mount")
}
