//! Everything a change must pass, in the order of how soon it fails.
use std::path::Path;

use anyhow::Result;

use crate::{
    deps, e2e, packages,
    shell::{self, cargo},
    tally::Tally,
    tidy,
};

/// Code that only a feature compiles is checked as well.
const FEATURES: &str = "--all-features";

/// Runs every check, then every test, and prints how many tests passed.
pub(crate) fn run(root: &Path) -> Result<()> {
    packages::ensure()?;
    shell::run(&mut cargo(root, &["fmt", "--all", "--check"]))?;
    tidy::run(root)?;
    deps::run(root)?;
    let mut clippy = cargo(root, &["clippy", "--workspace", "--all-targets"]);
    shell::run(clippy.arg(FEATURES).args(["--", "--deny", "warnings"]))?;
    let mut doc = cargo(root, &["doc", "--workspace", "--no-deps", "--quiet"]);
    shell::run(doc.arg(FEATURES).env("RUSTDOCFLAGS", "--deny warnings"))?;

    let mut tally = Tally::default();
    let mut tests = cargo(root, &["test", "--workspace", "--exclude", "bolide-e2e"]);
    tally.run(tests.arg(FEATURES).arg("--no-fail-fast"))?;
    e2e::run_or_skip(root, &mut tally)?;
    tally.close()
}
