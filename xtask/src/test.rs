//! Everything a change must pass, in the order of how soon it fails.
use std::{path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};

use crate::{deps, tidy};

/// Runs every check.
pub(crate) fn run(root: &Path) -> Result<()> {
    cargo(root, &["fmt", "--all", "--check"])?;
    tidy::run(root)?;
    deps::run(root)?;
    cargo(root, &["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"])?;
    cargo(root, &["doc", "--workspace", "--no-deps", "--quiet"])?;
    cargo(root, &["test", "--workspace", "--no-fail-fast"])
}

fn cargo(root: &Path, arguments: &[&str]) -> Result<()> {
    let line = arguments.join(" ");
    eprintln!("xtask: cargo {line}");
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let status = Command::new(cargo)
        .args(arguments)
        .current_dir(root)
        .env("RUSTDOCFLAGS", "--deny warnings")
        .status()
        .with_context(|| format!("cargo {line} cannot be started"))?;
    ensure!(status.success(), "cargo {line} failed: {status}");
    Ok(())
}
