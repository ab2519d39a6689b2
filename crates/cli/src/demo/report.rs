//! The two ways side by side, for people and programs.
use anyhow::{Result, ensure};
use indicatif::HumanBytes;
use serde::Serialize;

use super::way::{LazyWay, Way};
use crate::{output, sandbox::Finished};

/// What `--json` prints.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// What was run.
    pub(super) image: String,
    /// What showed its layers.
    pub(super) mounter: &'static str,
    /// Between registry and machine; `None` when the registry is elsewhere.
    pub(super) link: Option<String>,
    pub(super) full: Way,
    pub(super) lazy: LazyWay,
}

impl Report {
    /// Prints a table.
    pub(super) fn print(&self) -> Result<()> {
        output::line(&format!("image     {}", self.image))?;
        if let Some(link) = &self.link {
            output::line(&format!("link      {link}"))?;
        }
        output::line(&format!("mounter   {}\n", self.mounter))?;
        let (full, lazy) = (&self.full, &self.lazy.way);
        let seconds = |seconds: f64| format!("{seconds:.2} s");
        let bytes = |bytes: u64| HumanBytes(bytes).to_string();
        row("", "full", "lazy")?;
        row("received", &bytes(full.bytes), &bytes(lazy.bytes))?;
        row("requests", &full.requests.to_string(), &lazy.requests.to_string())?;
        row("ready after", &seconds(full.pull_seconds), &seconds(lazy.pull_seconds))?;
        row("run", &seconds(full.run_seconds), &seconds(lazy.run_seconds))?;
        row("total", &seconds(full.seconds), &seconds(lazy.seconds))?;
        row("exit code", &full.exit.to_string(), &lazy.exit.to_string())?;
        let (touched, total) = (bytes(self.lazy.touched_bytes), bytes(self.lazy.total_bytes));
        output::line(&format!("\nThe program touched {touched} of {total}."))
    }
}

fn row(name: &str, full: &str, lazy: &str) -> Result<()> {
    output::line(&format!("{name:<12} {full:>14} {lazy:>14}"))
}

/// Fails unless the program did the same both times, and succeeded.
pub(super) fn check(full: &Finished, lazy: &Finished) -> Result<()> {
    ensure!(
        full.stdout.digest == lazy.stdout.digest && full.status == lazy.status,
        "the program did not do the same both times\nfull, {}:\n{}lazy, {}:\n{}",
        full.status,
        said(full),
        lazy.status,
        said(lazy),
    );
    ensure!(lazy.status.success(), "the program failed, {}:\n{}", lazy.status, said(lazy));
    Ok(())
}

fn said(program: &Finished) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}", text(&program.stdout.start), text(&program.stderr.start))
}
