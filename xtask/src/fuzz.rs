//! The fuzz targets, with libFuzzer.
use std::{path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::shell;

/// Memory that a target may take, in MiB: inputs are small, and so is what they may cost.
const MEMORY: u32 = 2048;

/// Runs one target, or each in turn, for so many seconds.
pub(crate) fn run(root: &Path, target: Option<&str>, seconds: u32) -> Result<()> {
    let dir = root.join("fuzz");
    if !installed() {
        bail!(
            "cargo-fuzz and a nightly toolchain are needed: \
             rustup toolchain install nightly && cargo install cargo-fuzz"
        );
    }
    let all = targets(&dir)?;
    let chosen: Vec<_> =
        all.iter().filter(|name| target.is_none_or(|target| *name == target)).collect();
    if chosen.is_empty() {
        bail!("there is no such target; there are {}", all.join(", "));
    }
    for name in chosen {
        let mut command = Command::new("cargo");
        command.current_dir(root).args(["+nightly", "fuzz", "run", name, "--"]);
        command.arg(format!("-max_total_time={seconds}")).arg(format!("-rss_limit_mb={MEMORY}"));
        shell::run(&mut command)?;
    }
    Ok(())
}

/// The names of all targets, sorted.
fn targets(dir: &Path) -> Result<Vec<String>> {
    let files = std::fs::read_dir(dir.join("fuzz_targets")).context("fuzz/fuzz_targets")?;
    let mut names = Vec::new();
    for file in files {
        let path = file?.path();
        names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

fn installed() -> bool {
    let works = |arguments: &[&str]| {
        let output = Command::new("cargo").args(arguments).output();
        output.is_ok_and(|output| output.status.success())
    };
    works(&["+nightly", "--version"]) && works(&["fuzz", "--version"])
}
