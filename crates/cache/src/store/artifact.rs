//! Small files beside a layer image.
use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use bolide_core::{Artifact, Error, Result};
use bytes::Bytes;

/// Replaces an artifact: a reader sees the old bytes or the new, after a crash too.
///
/// `ticket` tells concurrent writers apart.
pub(super) fn write(dir: &Path, artifact: Artifact, ticket: u64, bytes: &[u8]) -> Result<()> {
    let path = dir.join(artifact.file_name());
    let temporary = path.with_extension(format!("{ticket}.new"));
    let io =
        |error| Error::io("layer_store::put_artifact", error).with_context("path", path.display());
    fs::create_dir_all(dir).map_err(io)?;
    let mut file = File::create(&temporary).map_err(io)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(io)?;
    fs::rename(&temporary, &path).map_err(io)?;
    sync_dir(dir).map_err(io)
}

/// Reads an artifact, if it was put.
pub(super) fn read(dir: &Path, artifact: Artifact) -> Result<Option<Bytes>> {
    let path = dir.join(artifact.file_name());
    match fs::read(&path) {
        Ok(bytes) => Ok(Some(bytes.into())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            Err(Error::io("layer_store::artifact", error).with_context("path", path.display()))
        }
    }
}

/// Makes names in a directory durable.
pub(super) fn sync_dir(dir: &Path) -> std::io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Bytes the files of a layer occupy; holes do not.
pub(super) fn disk_bytes(dir: &Path) -> Result<u64> {
    let io = |error| Error::io("layer_store::list", error).with_context("path", dir.display());
    let mut sum = 0;
    for entry in fs::read_dir(dir).map_err(io)? {
        match entry.and_then(|entry| entry.metadata()) {
            Ok(metadata) => sum += metadata.blocks() * 512,
            // Replaced or removed since the directory was read.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(io(error)),
        }
    }
    Ok(sum)
}
