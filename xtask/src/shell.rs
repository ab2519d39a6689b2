//! Starting other programs: always shown, never through a shell.
use std::{
    path::Path,
    process::{Command, Output},
};

use anyhow::{Context as _, Result, ensure};

/// The cargo that runs this task, in the root of the repository.
pub(crate) fn cargo(root: &Path, arguments: &[&str]) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(arguments).current_dir(root);
    command
}

/// Runs to the end; a status other than success is an error that names the command.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    announce(command);
    let status = command.status().with_context(|| format!("{} cannot start", shown(command)))?;
    ensure!(status.success(), "{} failed: {status}", shown(command));
    Ok(())
}

/// Runs to the end and returns what it printed, whatever its status.
pub(crate) fn output(command: &mut Command) -> Result<Output> {
    command.output().with_context(|| format!("{} cannot start", shown(command)))
}

/// Says on standard error what is about to run.
pub(crate) fn announce(command: &Command) {
    eprintln!("xtask: {}", shown(command));
}

/// The command as a person would type it.
pub(crate) fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    std::iter::once(program)
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}
