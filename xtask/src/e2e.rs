//! The end-to-end tests: real containerd, registry, runc and kernel.
use std::{path::Path, process::Command};

use anyhow::{Result, bail, ensure};

use crate::{
    build, images, packages,
    shell::{self, cargo},
    tally::Tally,
};

/// Package of the tests.
const PACKAGE: &str = "bolide-e2e";

/// Builds what the tests need and runs them; fails when this machine cannot.
pub(crate) fn run(root: &Path, filter: Option<&str>) -> Result<()> {
    if let Some(reason) = obstacle() {
        bail!("the end-to-end tests cannot run here: {reason}");
    }
    let mut tally = Tally::default();
    execute(root, filter, &mut tally)?;
    tally.close()
}

/// Runs the tests, or counts them as skipped and says why.
pub(crate) fn run_or_skip(root: &Path, tally: &mut Tally) -> Result<()> {
    match obstacle() {
        None => execute(root, None, tally),
        Some(reason) => {
            let tests = count(root)?;
            eprintln!("xtask: {tests} end-to-end tests skipped: {reason}");
            tally.skip(tests);
            Ok(())
        }
    }
}

/// What the machine lacks and no package brings.
pub(crate) fn obstacle() -> Option<&'static str> {
    if !packages::is_root() {
        return Some("containerd needs root; run as root");
    }
    if std::fs::File::open("/dev/fuse").is_err() {
        return Some("/dev/fuse cannot be opened");
    }
    None
}

fn execute(root: &Path, filter: Option<&str>, tally: &mut Tally) -> Result<()> {
    packages::ensure()?;
    let [binary] = build::executables(root, [build::BOLIDE], &[])?;
    let mut command = tests(root);
    command.args(filter);
    // One at a time: each has a containerd of its own, and some measure what the registry sends.
    command.args(["--include-ignored", "--test-threads=1", "--nocapture"]);
    for recipe in &images::ALL {
        command.env(recipe.variable, images::build(root, recipe)?);
    }
    command.env("BOLIDE_E2E_BINARY", binary);
    tally.run(&mut command)
}

fn tests(root: &Path) -> Command {
    cargo(root, &["test", "--package", PACKAGE, "--no-fail-fast", "--"])
}

fn count(root: &Path) -> Result<u64> {
    let output = shell::output(tests(root).arg("--list"))?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let listed = String::from_utf8_lossy(&output.stdout);
    Ok(listed.lines().filter(|line| line.ends_with(": test")).count() as u64)
}
