//! Small files beside a layer image.
use std::path::Path;

use bolide_core::{Artifact, Error, ErrorKind, Result};
use bytes::Bytes;

use super::{
    disk::Disk,
    names::{create_dirs, replace, sync_layer},
};

/// Replaces an artifact: a reader sees the old bytes or the new, after a crash too. One caller at a
/// time for a directory.
pub(super) fn write(disk: &dyn Disk, dir: &Path, artifact: Artifact, bytes: &[u8]) -> Result<()> {
    let name = artifact.file_name();
    let put = || {
        create_dirs(disk, dir)?;
        replace(disk, dir, name, bytes)?;
        sync_layer(disk, dir)
    };
    put().map_err(|error| {
        Error::io("layer_store::put_artifact", error).with_context("path", dir.join(name).display())
    })
}

/// Reads an artifact, if it was put.
pub(super) fn read(disk: &dyn Disk, dir: &Path, artifact: Artifact) -> Result<Option<Bytes>> {
    let path = dir.join(artifact.file_name());
    let read = || {
        let file = disk.open(&path)?;
        let mut bytes = vec![0; usize::try_from(file.size()?).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    };
    match read().map_err(|error| Error::io("layer_store::artifact", error)) {
        Ok(bytes) => Ok(Some(bytes.into())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.with_context("path", path.display())),
    }
}
