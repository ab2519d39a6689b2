//! A network namespace with a name, which outlives the process that made it.
use std::{
    fs::File,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use rustix::mount::mount_bind;
use tokio::process::Command;

use super::{
    program::finish,
    unshare::{Namespaces, unshare},
};

/// Which file to make the name.
#[derive(Debug, clap::Args)]
pub(crate) struct NetnsArgs {
    file: PathBuf,
}

/// Leaves the network of this process, which ends thereupon.
pub(super) fn run(args: &NetnsArgs) -> Result<()> {
    unshare(Namespaces::Network).context("cannot make a network namespace")?;
    mount_bind("/proc/self/ns/net", &args.file).context("cannot name a network namespace")
}

/// Makes a network namespace, which lives as long as `file` is mounted.
pub(crate) async fn make_netns(file: &Path) -> Result<()> {
    File::create(file).with_context(|| format!("cannot make {}", file.display()))?;
    // A process of its own: this one keeps its network.
    let made = finish(Command::new("/proc/self/exe").args(["internal", "netns"]).arg(file)).await?;
    let complaint = String::from_utf8_lossy(&made.stderr.start).trim_end().to_owned();
    anyhow::ensure!(made.status.success(), "{}", complaint.trim_start_matches("bolide: "));
    Ok(())
}
