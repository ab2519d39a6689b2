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
    /// Prints for a person: what was compared, and a table.
    pub(super) fn print(&self, containerd: bool) -> Result<()> {
        let link = match &self.link {
            Some(link) => format!("{link} round trip"),
            None => "as it is: a registry that speaks TLS is not slowed down".to_owned(),
        };
        let (full, lazy) = if containerd {
            ("ctr pulls it into overlayfs and runs it", "bolide pull, and ctr runs it at once")
        } else {
            (
                "everything is fetched and unpacked, then the program runs",
                "the program runs at once",
            )
        };
        let mounter = &self.mounter;
        output::line(&format!("\nimage   {}", self.image))?;
        output::line(&format!("link    {link}"))?;
        output::line(&format!("full    {full}"))?;
        output::line(&format!("lazy    {lazy}; what it reads is fetched then ({mounter})"))?;
        if self.lazy.optimized.is_some() {
            output::line("hints   lazy, and the layers begin with what the program uses first")?;
        }
        self.print_table()?;
        let (how, best) = match self.lazy.optimized.as_deref() {
            Some(optimized) => ("With hints", optimized),
            None => ("Lazily", &self.lazy),
        };
        let (needed, total) = (HumanBytes(best.touched_bytes), HumanBytes(best.total_bytes));
        output::line(&format!("\nOf {total} of files the program needed {needed}."))?;
        let time = 100.0 * best.way.seconds / self.full.seconds;
        let bytes = best.way.bytes.saturating_mul(100) / self.full.bytes.max(1);
        output::line(&format!(
            "{how} it was done in {time:.0} % of the time, with {bytes} % of the bytes."
        ))
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
        output::line("")?;
        line("", &["full", "lazy", "hints"][..ways.len()])?;
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
