//! Builds programs of this repository and finds them.
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use crate::shell::{self, cargo};

/// One line of `cargo build --message-format json`.
#[derive(Debug, Deserialize)]
struct Message {
    executable: Option<PathBuf>,
}

/// Builds a program of a package, and says where it lies.
pub(crate) fn executable(
    root: &Path,
    package: &str,
    name: &str,
    options: &[&str],
) -> Result<PathBuf> {
    let mut command = cargo(root, &["build", "--package", package, "--bin", name]);
    command.args(options).args(["--message-format", "json-render-diagnostics"]);
    command.stderr(std::process::Stdio::inherit());
    shell::announce(&command);
    let output = shell::output(&mut command)?;
    ensure!(output.status.success(), "{name} does not build");
    let messages = String::from_utf8(output.stdout).context("messages of cargo")?;
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Message>(line).ok()?.executable)
        .next_back()
        .context("cargo built no executable")
}
