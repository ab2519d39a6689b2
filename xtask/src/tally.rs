//! Tests counted over several runs of cargo.
use std::{
    collections::BTreeSet,
    fmt,
    io::{self, BufRead, BufReader, Write as _},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::shell;

/// Outcomes of tests so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
    /// Runs that ended badly without a failed test, as when one does not compile.
    broken: u64,
    /// Tests of the program under way that found out by themselves that they cannot run here.
    skipping: BTreeSet<String>,
}

impl Tally {
    /// Runs a `cargo test`, shows what it prints, and adds what it counted.
    pub(crate) fn run(&mut self, command: &mut Command) -> Result<()> {
        shell::announce(command);
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{} cannot start", shell::shown(command)))?;
        let output = child.stdout.take().context("standard output was asked for")?;
        let failed_before = self.failed;
        let mut shown = io::stdout().lock();
        for line in BufReader::new(output).split(b'\n') {
            let line = line?;
            shown.write_all(&line)?;
            shown.write_all(b"\n")?;
            self.add(&String::from_utf8_lossy(&line));
        }
        if !child.wait()?.success() && self.failed == failed_before {
            self.broken += 1;
        }
        Ok(())
    }

    /// Counts tests that could not be run here.
    pub(crate) fn skip(&mut self, tests: u64) {
        self.skipped += tests;
    }

    /// Reads `test result: ok. 3 passed; 0 failed; 1 ignored; …`, and `SKIPPED test: reason`, which
    /// `bolide_testkit::skip` says of tests that end as passed; other lines count nothing.
    fn add(&mut self, line: &str) {
        if let Some((_, rest)) = line.split_once("SKIPPED ")
            && let Some((test, _)) = rest.split_once(": ")
        {
            self.skipping.insert(test.to_owned());
        }
        let Some((_, counts)) =
            line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for count in counts.split("; ") {
            let Some((number, what)) = count.split_once(' ') else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.skipped += number,
                _ => {}
            }
        }
        let skipped = std::mem::take(&mut self.skipping).len() as u64;
        self.passed = self.passed.saturating_sub(skipped);
        self.skipped += skipped;
    }

    /// Prints the closing line; fails if anything did.
    pub(crate) fn close(self) -> Result<()> {
        writeln!(io::stdout(), "{self}")?;
        self.verdict()
    }

    fn verdict(&self) -> Result<()> {
        if self.failed > 0 || self.broken > 0 {
            bail!("{} tests failed, {} test runs broke", self.failed, self.broken);
        }
        Ok(())
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_results_are_summed() {
        let mut tally = Tally::default();
        tally.add("running 4 tests");
        tally.add("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out");
        tally.add("test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 9 filtered out");
        assert_eq!(tally.to_string(), "4 passed, 2 failed, 1 skipped");
        tally.skip(2);
        assert_eq!(tally.to_string(), "4 passed, 2 failed, 3 skipped");
    }

    #[test]
    fn tests_that_skip_themselves_are_not_passed() {
        let mut tally = Tally::default();
        for _ in 0..2 {
            tally.add("test mounts ... SKIPPED mounts: mounting needs root");
        }
        tally.add("SKIPPED runs: runc is not installed");
        tally.add("test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
        tally.add("test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
        assert_eq!(tally.to_string(), "2 passed, 0 failed, 2 skipped");
    }

    #[test]
    fn a_run_that_breaks_without_a_failed_test_fails_the_whole() {
        let mut tally = Tally::default();
        tally.run(&mut Command::new("true")).expect("starts");
        tally.verdict().expect("nothing failed");
        tally.run(&mut Command::new("false")).expect("starts");
        tally.verdict().expect_err("a run broke");
    }
}
