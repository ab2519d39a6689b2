//! `bolide config`: the configuration of the daemon, and where it is read from.
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use bolide_snapshotter::Config;
use clap::Subcommand;

use crate::output;

/// Where the daemon looks for its configuration.
pub(crate) const DEFAULT_PATH: &str = "/etc/bolide/config.toml";
/// Longest configuration, in bytes.
const MAX_CONFIG: u64 = 1 << 20;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print every key with its default value and what it means
    Default,
    /// Check a configuration and name what is wrong
    Check {
        /// File to check
        #[arg(default_value = DEFAULT_PATH)]
        file: PathBuf,
    },
}

pub(crate) fn run(args: &Args) -> Result<()> {
    match &args.action {
        Action::Default => output::text(&Config::default().to_toml_commented()),
        Action::Check { file } => {
            read(file)?;
            output::line(&format!("{}: the configuration is valid", file.display()))
        }
    }
}

/// Reads a configuration from `file`, or from the default place, where none need be.
pub(crate) fn load(file: Option<&Path>) -> Result<Config> {
    match file {
        Some(file) => read(file),
        None => match Path::new(DEFAULT_PATH).try_exists() {
            Ok(false) => Ok(Config::default()),
            // What cannot be looked at is not taken for absent.
            _ => read(Path::new(DEFAULT_PATH)),
        },
    }
}

fn read(file: &Path) -> Result<Config> {
    use std::io::Read as _;
    let shown = || format!("cannot use the configuration {}", file.display());
    let mut text = String::new();
    let opened = std::fs::File::open(file).with_context(shown)?;
    let read = opened.take(MAX_CONFIG + 1).read_to_string(&mut text).with_context(shown)?;
    anyhow::ensure!(read as u64 <= MAX_CONFIG, "{}: it may have 1 MiB", shown());
    Config::parse(&text).with_context(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_named_must_be_there_and_right() {
        let dir = tempfile::tempdir().expect("dir");
        let file = dir.path().join("config.toml");
        let error = load(Some(&file)).expect_err("missing");
        assert!(format!("{error:#}").contains("config.toml"), "{error:#}");
        std::fs::write(&file, "rooot = \"/x\"").expect("written");
        let error = load(Some(&file)).expect_err("unknown key");
        assert!(format!("{error:#}").contains("rooot"), "{error:#}");
        std::fs::write(&file, "root = \"/x\"").expect("written");
        assert_eq!(load(Some(&file)).expect("valid").root, Path::new("/x"));
    }
}
