//! Repository tasks: `cargo xtask --help`.
#![forbid(unsafe_code)]
mod bench;
mod build;
mod demo;
mod deps;
mod e2e;
mod fuzz;
mod images;
mod packages;
mod shell;
mod tally;
mod test;
mod tidy;

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

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
    /// Everything a change must pass; installs system packages when it may.
    #[command(alias = "ci")]
    Test,
    /// End-to-end tests alone.
    E2e {
        /// Runs only the tests whose name holds this.
        filter: Option<String>,
    },
    /// Builds the images of the end-to-end tests; prints where they lie, python's first.
    Images,
    /// Runs the demonstration from a release build.
    Demo {
        /// Passed on to `bolide demo`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Measures cold starts, the file system and conversions, in release profile.
    Bench {
        /// `cold`, `fs`, `convert` or `all`; `--runs N`; `--json`; `--write` for docs/BENCHMARKS.md.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Fuzz targets with libFuzzer; needs cargo-fuzz and a nightly toolchain.
    Fuzz {
        /// One target; all in turn if none is named.
        target: Option<String>,
        /// How long each runs.
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
    /// Module docs, length of files and functions.
    Tidy,
    /// Compares dependencies between crates with the drawing in ARCHITECTURE.md.
    Deps,
}

fn main() -> Result<()> {
    let root = root()?;
    match Arguments::parse().task {
        Task::Test => test::run(&root),
        Task::E2e { filter } => e2e::run(&root, filter.as_deref()),
        Task::Images => {
            packages::ensure()?;
            for recipe in &images::ALL {
                writeln!(std::io::stdout(), "{}", images::build(&root, recipe)?.display())?;
            }
            Ok(())
        }
        Task::Demo { arguments } => demo::run(&root, &arguments),
        Task::Bench { arguments } => bench::run(&root, &arguments),
        Task::Fuzz { target, seconds } => fuzz::run(&root, target.as_deref(), seconds),
        Task::Tidy => tidy::run(&root),
        Task::Deps => deps::run(&root),
    }
}

fn root() -> Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(here.parent().context("xtask lies in the repository")?.to_owned())
}
