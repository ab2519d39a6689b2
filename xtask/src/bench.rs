//! The measurements, from a release build.
use std::{path::Path, process::Command};

use anyhow::{Result, bail};

use crate::{
    build::{self, Program},
    e2e, images, packages, shell,
};

const BENCH: Program = Program { package: "bolide-e2e", name: "bolide-bench" };
/// Where the figures of a run are kept for readers.
const DOCUMENT: &str = "docs/BENCHMARKS.md";

/// Builds what is measured and what measures, and runs it with further arguments.
pub(crate) fn run(root: &Path, arguments: &[String]) -> Result<()> {
    if let Some(reason) = e2e::obstacle() {
        bail!("nothing can be measured here: {reason}");
    }
    packages::ensure()?;
    let layout = images::build(root, &images::PYTHON)?;
    let programs = [build::BOLIDE, BENCH];
    let [binary, bench] = build::executables(root, programs, &["--release"])?;
    let mut command = Command::new(bench);
    command.env(images::PYTHON.variable, layout).env("BOLIDE_E2E_BINARY", binary);
    command.env("BOLIDE_BENCH_DOCUMENT", root.join(DOCUMENT));
    shell::run(command.args(arguments))
}
