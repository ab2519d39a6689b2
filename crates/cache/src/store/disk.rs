//! The file system calls of the layer store: what it asks of an operating system, and nothing else.
//!
//! They stand behind a trait so that a model can crash between any two of them.
use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::fs::{FileExt, MetadataExt as _, OpenOptionsExt as _},
    },
    path::Path,
    sync::Arc,
};

/// Names in directories. A name is on the disk when its directory was synced.
pub(super) trait Disk: fmt::Debug + Send + Sync + 'static {
    /// Takes a lock that is held until the file is dropped; `WouldBlock` when another holds it.
    fn lock(&self, path: &Path) -> io::Result<Arc<dyn StoreFile>>;

    /// Makes one directory.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// Opens a file that is there, to read and write.
    fn open(&self, path: &Path) -> io::Result<Box<dyn StoreFile>>;

    /// Makes a file, or empties the one that is there.
    fn create(&self, path: &Path) -> io::Result<Box<dyn StoreFile>>;

    /// Gives a file or directory another name in one step; a file there loses it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes the name of a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Removes an empty directory.
    fn remove_dir(&self, dir: &Path) -> io::Result<()>;

    /// Names in a directory that are UTF-8, in no order. All of the store's are.
    fn names(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Bytes that a file occupies; holes do not.
    fn occupied(&self, path: &Path) -> io::Result<u64>;
}

/// Bytes of one file. They are on the disk when it was synced.
pub(super) trait StoreFile: fmt::Debug + Send + Sync + 'static {
    /// Length, in bytes.
    fn size(&self) -> io::Result<u64>;

    /// Cuts off, or adds a hole.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Reads some bytes.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes some bytes.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;

    /// Makes bytes and length durable. After a failure a later success proves nothing of earlier
    /// writes: the kernel may have dropped them.
    fn sync_data(&self) -> io::Result<()>;

    /// The descriptor, for whoever lets the kernel read.
    fn descriptor(&self) -> Option<BorrowedFd<'_>>;

    /// Reads all of `buf`.
    fn read_exact_at(&self, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buf.is_empty() {
            match self.read_at(buf, offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    buf = buf.get_mut(read..).unwrap_or_default();
                    offset += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes all of `bytes`.
    fn write_all_at(&self, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.write_at(bytes, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    bytes = bytes.get(written..).unwrap_or_default();
                    offset += written as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The operating system's.
#[derive(Clone, Copy, Debug)]
pub(super) struct OsDisk;

impl OsDisk {
    fn options() -> OpenOptions {
        let mut options = OpenOptions::new();
        // Layers of private images are nobody else's business.
        options.read(true).write(true).mode(0o600);
        options
    }
}

impl Disk for OsDisk {
    fn lock(&self, path: &Path) -> io::Result<Arc<dyn StoreFile>> {
        let file = Self::options().create(true).truncate(false).open(path)?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
        Ok(Arc::new(file))
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir(dir)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn StoreFile>> {
        Ok(Box::new(Self::options().open(path)?))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn StoreFile>> {
        Ok(Box::new(Self::options().create(true).truncate(true).open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        fs::remove_dir(dir)
    }

    fn names(&self, dir: &Path) -> io::Result<Vec<String>> {
        let name = |entry: io::Result<fs::DirEntry>| match entry {
            Ok(entry) => entry.file_name().into_string().ok().map(Ok),
            Err(error) => Some(Err(error)),
        };
        fs::read_dir(dir)?.filter_map(name).collect()
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn occupied(&self, path: &Path) -> io::Result<u64> {
        Ok(fs::metadata(path)?.blocks() * 512)
    }
}

impl StoreFile for File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buf, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        FileExt::write_at(self, bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.as_fd())
    }
}
