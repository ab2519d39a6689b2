//! The demonstration, from a release build.
use std::path::Path;

use anyhow::Result;

use crate::shell;

/// Builds `bolide` and runs `bolide demo` with further arguments.
pub(crate) fn run(root: &Path, arguments: &[String]) -> Result<()> {
    let mut command = shell::cargo(root, &["run", "--release", "--quiet"]);
    command.args(["--package", "bolide-cli", "--bin", "bolide", "--", "demo"]).args(arguments);
    shell::run(&mut command)
}
