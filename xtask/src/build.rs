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

/// A program of this repository.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Program {
    /// Package it is of.
    pub(crate) package: &'static str,
    /// Name of the executable.
    pub(crate) name: &'static str,
}

/// The command under test.
pub(crate) const BOLIDE: Program = Program { package: "bolide-cli", name: "bolide" };

/// Builds programs and says where they lie, in the same order. Built at once, they share what they
/// depend on; one by one, each would have it built with features of its own.
pub(crate) fn executables<const N: usize>(
    root: &Path,
    programs: [Program; N],
    options: &[&str],
) -> Result<[PathBuf; N]> {
    let mut command = cargo(root, &["build"]);
    for Program { package, name } in programs {
        command.args(["--package", package, "--bin", name]);
    }
    command.args(options).args(["--message-format", "json-render-diagnostics"]);
    command.stderr(std::process::Stdio::inherit());
    shell::announce(&command);
    let output = shell::output(&mut command)?;
    ensure!(output.status.success(), "the build failed");
    let messages = String::from_utf8(output.stdout).context("messages of cargo")?;
    let built: Vec<_> = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Message>(line).ok()?.executable)
        .collect();
    let found = programs.map(|program| built.iter().find(|path| path.ends_with(program.name)));
    ensure!(found.iter().all(Option::is_some), "cargo built no executable of {programs:?}");
    Ok(found.map(|path| path.cloned().unwrap_or_default()))
}
