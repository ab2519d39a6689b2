//! What takes long to make and does not change between runs: kept beside the images of the
//! end-to-end tests, outside of the repository.
use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use bolide_e2e::{from_environment, sha256, sha256_of};

/// Letters of a digest that tell recipes apart.
const SHORT: usize = 16;

/// The directory made by `make` from `inputs`, which name everything it depends on beside the
/// command under test. An earlier one of this kind is removed.
pub(crate) fn directory(
    kind: &str,
    inputs: &str,
    make: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let layout = from_environment("BOLIDE_E2E_LAYOUT")?;
    let place = layout.parent().context("images lie in a directory")?;
    let binary = sha256_of(&from_environment("BOLIDE_E2E_BINARY")?)?;
    let key = sha256(format!("{kind}\n{inputs}\n{binary}").as_bytes());
    let key = key.trim_start_matches("sha256:").get(..SHORT).context("a digest is longer")?;
    let prefix = format!("bench-{kind}-");
    let finished = place.join(format!("{prefix}{key}"));
    if finished.is_dir() {
        return Ok(finished);
    }
    for entry in fs::read_dir(place)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    eprintln!("bench: making {}", finished.display());
    // It appears whole or not at all.
    let partial = tempfile::Builder::new().prefix("partial-bench-").tempdir_in(place)?;
    make(partial.path())?;
    fs::rename(partial.keep(), &finished)?;
    Ok(finished)
}
