//! Making, replacing and removing what lies in a store's directories.
use std::{io, path::Path};

use super::disk::Disk;

/// Ends the name of a file that is not whole yet.
const UNFINISHED: &str = ".new";
/// Begins the name of a layer that is being removed.
const DOOMED: &str = ".removed-";

/// Treats what is not there as done.
pub(super) fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Makes a directory and those above it. Names are durable when [`sync_names`] was done.
pub(super) fn create_dirs(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    match disk.create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create_dirs(disk, dir.parent().ok_or(error)?)?;
            disk.create_dir(dir)
        }
        made => made,
    }
}

/// Makes the name of a directory and of those above it durable: an earlier process may have made
/// them and died before they were.
pub(super) fn sync_names(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    for above in dir.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()) {
        match disk.sync_dir(above) {
            // We made nothing where we may not even look.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            synced => synced?,
        }
    }
    Ok(())
}

/// Makes the names in the directory of a layer durable, and its own.
pub(super) fn sync_layer(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    disk.sync_dir(dir)?;
    dir.parent().map_or(Ok(()), |layers| disk.sync_dir(layers))
}

/// Puts a small file in place whole: after a crash it is the old one or this. One caller at a time.
///
/// The name is durable when the directory is synced.
pub(super) fn replace(disk: &dyn Disk, dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let unfinished = dir.join(format!("{name}{UNFINISHED}"));
    let write = || {
        let file = disk.create(&unfinished)?;
        file.write_all_at(bytes, 0)?;
        file.sync_data()?;
        disk.rename(&unfinished, &dir.join(name))
    };
    write().inspect_err(|_| {
        // The failure that counts is the first; what is left behind goes when the store is opened.
        let _ = disk.remove_file(&unfinished);
    })
}

/// Removes a layer's directory: at once by name, then what is in it.
pub(super) fn remove_layer(disk: &dyn Disk, layers: &Path, name: &str) -> io::Result<()> {
    let doomed = layers.join(format!("{DOOMED}{name}"));
    // What an earlier removal did not finish would stand in the way.
    remove_tree(disk, &doomed)?;
    match disk.rename(&layers.join(name), &doomed) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        renamed => renamed?,
    }
    remove_tree(disk, &doomed)?;
    disk.sync_dir(layers)
}

fn remove_tree(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    let names = match disk.names(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        names => names?,
    };
    for name in names {
        absent_is_fine(disk.remove_file(&dir.join(name)))?;
    }
    absent_is_fine(disk.remove_dir(dir))
}

/// Removes what an earlier process did not finish. No other may be at work.
pub(super) fn tidy(disk: &dyn Disk, layers: &Path) -> io::Result<()> {
    for name in disk.names(layers)? {
        let path = layers.join(&name);
        if name.starts_with(DOOMED) {
            remove_tree(disk, &path)?;
            continue;
        }
        // A stray file of somebody else is left alone.
        let Ok(inner) = disk.names(&path) else { continue };
        for unfinished in inner.iter().filter(|inner| inner.ends_with(UNFINISHED)) {
            absent_is_fine(disk.remove_file(&path.join(unfinished)))?;
        }
    }
    Ok(())
}
