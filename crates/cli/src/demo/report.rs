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
    pub(super) mounter: String,
    /// Between registry and machine; `None` when nothing is shaped.
    pub(super) link: Option<String>,
    pub(super) full: Way,
    pub(super) lazy: LazyWay,
}

impl Report {
    /// Prints a table.
    pub(super) fn print(&self, containerd: bool) -> Result<()> {
        let link = match &self.link {
            Some(link) => format!("{link} round trip"),
            None => "as it is: a registry that speaks TLS is not shaped".to_owned(),
        };
        let full = if containerd { "overlayfs, in containerd" } else { "unpacked" };
        let lazy = if containerd { "bolide, in containerd" } else { "mounted lazily" };
        output::line(&format!("\nimage         {}", self.image))?;
        output::line(&format!("link          {link}"))?;
        output::line(&format!("full          {full}"))?;
        output::line(&format!("lazy          {lazy}, through {}\n", self.mounter))?;
        self.print_table()?;
        let (touched, total) =
            (HumanBytes(self.lazy.touched_bytes), HumanBytes(self.lazy.total_bytes));
        output::line(&format!("\nThe program used {touched} of {total} (uncompressed)."))?;
        if self.lazy.optimized.is_some() {
            output::line("Hints are the order of first use, written into the image.")?;
        }
        Ok(())
    }

    fn print_table(&self) -> Result<()> {
        let optimized = self.lazy.optimized.as_ref();
        let ways: Vec<_> = [&self.full, &self.lazy.way]
            .into_iter()
            .chain(optimized.map(|lazy| &lazy.way))
            .collect();
        let row = |name: &str, show: &dyn Fn(&Way) -> String| {
            line(name, &ways.iter().map(|way| show(way)).collect::<Vec<_>>())
        };
        let titles = ["full", "lazy", "lazy + hints"];
        line("", &titles[..ways.len()])?;
        row("received", &|way| HumanBytes(way.bytes).to_string())?;
        row("requests", &|way| way.requests.map_or("-".to_owned(), |count| count.to_string()))?;
        row("starts after", &|way| format!("{:.2} s", way.pull_seconds))?;
        row("runs for", &|way| format!("{:.2} s", way.run_seconds))?;
        row("done after", &|way| format!("{:.2} s", way.seconds))?;
        row("exit code", &|way| way.exit.to_string())
    }
}

/// One line of the table.
fn line<T: std::fmt::Display>(name: &str, cells: &[T]) -> Result<()> {
    let cells: Vec<_> = cells.iter().map(|cell| format!(" {cell:>13}")).collect();
    output::line(&format!("{name:<12}{}", cells.concat()))
}

/// Says that the program did the same each time, and what.
pub(super) fn conclude(program: &Finished) -> Result<()> {
    let said = String::from_utf8_lossy(&program.stdout.start);
    output::line(&format!(
        "It printed the same each time:\n  {}",
        said.trim_end().replace('\n', "\n  ")
    ))
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
