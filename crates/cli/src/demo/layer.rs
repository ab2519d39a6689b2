//! Writes the entries of a layer as a tar in gzip.
use std::{
    fs::{self, File},
    io::{self, BufWriter, Read as _, Write},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use bolide_core::{Digest, Digester};
use flate2::{Compression, write::GzEncoder};
use tempfile::NamedTempFile;

use super::tree::Entry;

/// A finished layer.
#[derive(Debug)]
pub(crate) struct LayerBlob {
    pub(crate) file: NamedTempFile,
    pub(crate) digest: Digest,
    /// Compressed, in bytes.
    pub(crate) size: u64,
    /// Digest of the uncompressed layer.
    pub(crate) diff_id: Digest,
}

/// A layer that is being written. Owners are root, modes those of a fresh installation, times the
/// files' own.
pub(crate) struct LayerWriter {
    tar: tar::Builder<Tap<GzEncoder<Tap<BufWriter<NamedTempFile>>>>>,
}

impl LayerWriter {
    /// Starts a layer in a temporary file of `dir`.
    pub(crate) fn new(dir: &Path) -> Result<Self> {
        let file = BufWriter::with_capacity(256 * 1024, NamedTempFile::new_in(dir)?);
        // The fastest level: who waits for a demonstration does not wait for the last byte saved.
        let gzip = GzEncoder::new(Tap::new(file), Compression::new(1));
        Ok(Self { tar: tar::Builder::new(Tap::new(gzip)) })
    }

    /// Compressed bytes so far, but for what the compressor holds back.
    pub(crate) fn written(&self) -> u64 {
        self.tar.get_ref().inner.get_ref().count
    }

    /// Adds what is at a path of this machine.
    pub(crate) fn add(&mut self, path: &Path, entry: &Entry) -> Result<()> {
        self.append(path, entry)
            .with_context(|| format!("cannot put {} in a layer", path.display()))
    }

    fn append(&mut self, path: &Path, entry: &Entry) -> Result<()> {
        match entry {
            Entry::Directory => {
                let seconds = fs::symlink_metadata(path)?.mtime();
                self.directory(path, 0o755, seconds)
            }
            Entry::Symlink(target) => {
                let mut header = header(tar::EntryType::Symlink, 0o777, 0);
                header.set_mtime(seconds(fs::symlink_metadata(path)?.mtime()));
                Ok(self.tar.append_link(&mut header, relative(path), target)?)
            }
            Entry::File => {
                let file = File::open(path)?;
                let metadata = file.metadata()?;
                let mode = if metadata.mode() & 0o111 == 0 { 0o644 } else { 0o755 };
                let mut header = header(tar::EntryType::Regular, mode, metadata.len());
                header.set_mtime(seconds(metadata.mtime()));
                let mut content = file.take(metadata.len());
                self.tar.append_data(&mut header, relative(path), &mut content)?;
                ensure!(content.limit() == 0, "the file became shorter while it was read");
                Ok(())
            }
        }
    }

    /// Adds an empty directory.
    pub(crate) fn directory(&mut self, path: &Path, mode: u32, mtime: i64) -> Result<()> {
        let mut header = header(tar::EntryType::Directory, mode, 0);
        header.set_mtime(seconds(mtime));
        Ok(self.tar.append_data(&mut header, relative(path), io::empty())?)
    }

    /// Adds a file of this content.
    pub(crate) fn file(&mut self, path: &Path, content: &[u8]) -> Result<()> {
        let mut header = header(tar::EntryType::Regular, 0o644, content.len() as u64);
        Ok(self.tar.append_data(&mut header, relative(path), content)?)
    }

    /// Ends the layer.
    pub(crate) fn finish(self) -> Result<LayerBlob> {
        let plain = self.tar.into_inner()?;
        let (gzip, diff_id, _) = plain.into_parts();
        let (file, digest, size) = gzip.finish()?.into_parts();
        let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok(LayerBlob { file, digest, size, diff_id })
    }
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(size);
    header.set_mtime(0);
    header
}

fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

fn seconds(mtime: i64) -> u64 {
    u64::try_from(mtime).unwrap_or(0)
}

/// Counts and digests what passes.
struct Tap<W> {
    inner: W,
    digester: Digester,
    count: u64,
}

impl<W> Tap<W> {
    fn new(inner: W) -> Self {
        Self { inner, digester: Digester::new(), count: 0 }
    }

    fn into_parts(self) -> (W, Digest, u64) {
        (self.inner, self.digester.finish(), self.count)
    }
}

impl<W: Write> Write for Tap<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.digester.update(&bytes[..written]);
        self.count += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
