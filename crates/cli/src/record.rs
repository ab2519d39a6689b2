//! Files that say which paths of an image come first.
use std::{
    fs::File,
    io::{BufReader, Read as _, Take},
    path::Path,
};

use anyhow::{Context as _, Result, ensure};

/// Longest file, in bytes.
const MAX_LEN: u64 = 64 << 20;

/// Reads a record of use, or a list that a person wrote, as `how` does.
pub(crate) async fn read<T: Send + 'static>(
    path: &Path,
    how: fn(BufReader<Take<File>>) -> bolide_core::Result<T>,
) -> Result<T> {
    let file = path.to_owned();
    let read = tokio::task::spawn_blocking(move || {
        let file = File::open(file)?;
        ensure!(file.metadata()?.len() <= MAX_LEN, "a list of paths may have 64 MiB");
        Ok(how(BufReader::new(file.take(MAX_LEN)))?)
    });
    read.await?.with_context(|| format!("cannot use {}", path.display()))
}
