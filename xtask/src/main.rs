//! Repository tasks: `cargo xtask --help`.
#![forbid(unsafe_code)]
mod deps;
mod test;
mod tidy;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

/// Repository tasks.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Everything a change must pass.
    Test,
    /// Module docs, length of files and functions.
    Tidy,
    /// Compares dependencies between crates with the drawing in ARCHITECTURE.md.
    Deps,
}

fn main() -> Result<()> {
    let root = root()?;
    match Arguments::parse().task {
        Task::Test => test::run(&root),
        Task::Tidy => tidy::run(&root),
        Task::Deps => deps::run(&root),
    }
}

fn root() -> Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(here.parent().context("xtask lies in the repository")?.to_owned())
}
