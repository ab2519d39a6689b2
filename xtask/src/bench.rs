//! The measurements, from a release build.
use std::{path::Path, process::Command};

use anyhow::{Result, bail};

use crate::{build, e2e, images, packages, shell};

/// Where the figures of a run are kept for readers.
const DOCUMENT: &str = "docs/BENCHMARKS.md";

/// Builds what is measured and what measures, and runs it with further arguments.
pub(crate) fn run(root: &Path, arguments: &[String]) -> Result<()> {
    if let Some(reason) = e2e::obstacle() {
        bail!("nothing can be measured here: {reason}");
    }
    packages::ensure()?;
    let layout = images::run(root)?;
    let binary = build::executable(root, "bolide-cli", "bolide", &["--release"])?;
    let bench = build::executable(root, "bolide-e2e", "bolide-bench", &["--release"])?;
    let mut command = Command::new(bench);
    command.env("BOLIDE_E2E_LAYOUT", layout).env("BOLIDE_E2E_BINARY", binary);
    command.env("BOLIDE_BENCH_DOCUMENT", root.join(DOCUMENT));
    shell::run(command.args(arguments))
}
