//! Leaves the terminal: another process shows the image, and this one ends when it is shown.
use std::{
    env,
    ffi::OsString,
    fs::File,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use super::record;

/// What the other process is told by, in place of `--background`.
pub(super) const DETACHED: &str = "--detached";

/// Starts this command again as a process of its own, and waits until the image is shown.
pub(super) fn start(target: &Path) -> Result<()> {
    let log = record::log_path(target)?;
    let complaints = File::create(&log).with_context(|| log.display().to_string())?;
    let mut child = Command::new("/proc/self/exe")
        .args(arguments(env::args_os().skip(1)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(complaints)
        .spawn()
        .context("cannot start a process")?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line).context("cannot read what it says")?;
    }
    if line.is_empty() {
        child.wait().context("cannot wait for the process")?;
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        std::fs::remove_file(&log).with_context(|| log.display().to_string())?;
        bail!("{}", said.trim_end().trim_start_matches("bolide: "));
    }
    crate::output::line(line.trim_end())
}

fn arguments(given: impl Iterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    given.map(|argument| if argument == "--background" { DETACHED.into() } else { argument })
}

/// Leaves the session of the terminal.
pub(super) fn detach() -> Result<()> {
    rustix::process::setsid().map(drop).context("cannot leave the session")
}
