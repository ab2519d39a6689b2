//! Writes an archive beside its place and renames it there.
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufWriter, Write as _},
    path::{Path, PathBuf},
};

use bolide_core::{Digest, Error, Result};
use bytes::Bytes;
use parking_lot::Mutex;
use tempfile::NamedTempFile;

/// What waits to become members of an archive. It is written in the order of digests, so that the
/// same image gives the same archive whichever layer was ready first.
#[derive(Debug, Default)]
pub(crate) struct ArchiveFiles(Mutex<BTreeMap<Digest, Part>>);

/// A blob on the disk, or in memory when it is small.
#[derive(Debug)]
pub(crate) enum Part {
    File(NamedTempFile),
    Document(Bytes),
}

impl ArchiveFiles {
    pub(crate) fn put_file(&self, digest: Digest, file: NamedTempFile) {
        self.0.lock().insert(digest, Part::File(file));
    }

    pub(crate) fn put_document(&self, bytes: Bytes) {
        self.0.lock().insert(Digest::of(&bytes), Part::Document(bytes));
    }

    /// Everything, in the order of digests.
    pub(crate) fn take(&self) -> BTreeMap<Digest, Part> {
        std::mem::take(&mut *self.0.lock())
    }
}

/// An archive that is being written. Dropped, it leaves nothing. Blocks on the disk.
pub(crate) struct ArchiveWriter {
    path: PathBuf,
    tar: tar::Builder<BufWriter<NamedTempFile>>,
}

impl ArchiveWriter {
    /// Begins an archive that is to lie at `path`.
    pub(crate) fn new(path: &Path) -> Result<Self> {
        let file = NamedTempFile::new_in(directory(path)).map_err(|error| failed(path, error))?;
        let mut tar = tar::Builder::new(BufWriter::with_capacity(256 * 1024, file));
        tar.mode(tar::HeaderMode::Deterministic);
        Ok(Self { path: path.to_owned(), tar })
    }

    /// Adds a member, and removes its file.
    pub(crate) fn add(&mut self, name: &str, part: Part) -> Result<()> {
        let added = match part {
            Part::Document(bytes) => self.append(name, bytes.len() as u64, &bytes[..]),
            Part::File(file) => File::open(file.path()).and_then(|mut from| {
                let size = from.metadata()?.len();
                self.append(name, size, &mut from)
            }),
        };
        added.map_err(|error| failed(&self.path, error))
    }

    /// Adds a small member.
    pub(crate) fn add_document(&mut self, name: &str, bytes: Vec<u8>) -> Result<()> {
        self.add(name, Part::Document(bytes.into()))
    }

    fn append(&mut self, name: &str, size: u64, from: impl io::Read) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(size);
        self.tar.append_data(&mut header, name, from)
    }

    /// Ends the archive and gives it its name, whatever had it before.
    pub(crate) fn finish(self) -> Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        let Self { path, tar } = self;
        let publish = || {
            let mut writer = tar.into_inner()?;
            writer.flush()?;
            let file = writer.into_inner().map_err(io::IntoInnerError::into_error)?;
            // Temporary files are private; an archive is for whom its directory admits.
            file.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
            file.as_file().sync_all()?;
            file.persist(&path).map_err(|refused| refused.error)?;
            File::open(directory(&path))?.sync_all()
        };
        publish().map_err(|error| failed(&path, error))
    }
}

/// The directory that a file lies in.
pub(crate) fn directory(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn failed(path: &Path, error: io::Error) -> Error {
    Error::io("archive::write", error).with_context("path", path.display())
}
