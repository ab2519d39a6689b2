//! Unpacks a layer into a directory that overlayfs can put over others.
use std::{
    ffi::OsStr,
    fs, io,
    io::{BufRead as _, BufReader, Read},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{PermissionsExt as _, lchown, symlink},
    },
    path::{Component, Path, PathBuf},
};

use bolide_core::{Error, ErrorKind, OpaqueXattr, Result};
use bolide_estargz::{TarEntries, TarEntry};
use rustix::{
    fs::{
        AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, lsetxattr, makedev,
        mknodat, utimensat,
    },
    io::Errno,
};

/// Longest window of zstd that is accepted, as a power of two: 128 MiB, as other tools have it.
const MAX_ZSTD_WINDOW: u32 = 27;
const PERM: i32 = Errno::PERM.raw_os_error();
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// How to unpack a layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnpackOptions {
    /// How opaque directories are marked.
    pub opaque: OpaqueXattr,
    /// Whether owners, devices and attributes that the kernel refuses are left out, as a user
    /// without root must. Everything is then the caller's own.
    pub lenient: bool,
}

/// What was unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Entries of the tar, whiteouts included.
    pub entries: u64,
    /// Bytes of files.
    pub bytes: u64,
}

/// Unpacks a tar, plain or compressed by gzip or zstd, into an existing empty directory.
///
/// Names that lead out of the directory are left out. `Malformed` when the tar is none,
/// `Unsupported` when it holds sparse files, `Io` when the kernel refuses something; what was
/// unpacked until then stays. Blocks.
pub fn unpack_layer(
    layer: &mut dyn Read,
    target: &Path,
    options: UnpackOptions,
) -> Result<Unpacked> {
    let root = target.canonicalize().map_err(|error| refused(error, target))?;
    let mut places = Places { root: root.clone(), last: None };
    let mut tar = TarEntries::new(decompressed(layer).map_err(broken)?);
    let mut unpacked = Unpacked::default();
    // Writing below a directory changes its time, so that these come last.
    let mut directories = Vec::new();
    while let Some(entry) = tar.next_entry()? {
        let path = Path::new(OsStr::from_bytes(&entry.name));
        unpacked.entries += 1;
        unpacked.bytes += entry.size;
        let Some(place) = places.of(path).map_err(|error| refused(error, path))? else {
            continue;
        };
        match unpack(&entry, &mut tar, &place, &mut places, options) {
            Ok(true) => {
                let set = attribute(&entry, &place, options);
                set.map_err(|error| refused(error, path))?;
            }
            Ok(false) => {}
            // Users without root make no devices.
            Err(error) if options.lenient && error.raw_os_error() == Some(PERM) => {}
            Err(error) => return Err(refused(error, path)),
        }
        if is_directory(&entry) {
            directories.push((place, entry.mtime));
        }
    }
    for (place, mtime) in directories.into_iter().rev() {
        set_time(&place, mtime).map_err(|error| refused(error, &place))?;
    }
    Ok(unpacked)
}

fn refused(error: io::Error, path: &Path) -> Error {
    Error::io("unpack::entry", error).with_context("path", path.display())
}

fn broken(error: io::Error) -> Error {
    Error::new(ErrorKind::Malformed, "unpack::read", "a layer is a tar, plain, in gzip or in zstd")
        .with_source(error)
}

pub(crate) fn decompressed<'a>(layer: &'a mut dyn Read) -> io::Result<Box<dyn Read + 'a>> {
    let mut layer = BufReader::with_capacity(128 * 1024, layer);
    let start = layer.fill_buf()?;
    if start.starts_with(&[0x1f, 0x8b]) {
        return Ok(Box::new(flate2::bufread::MultiGzDecoder::new(layer)));
    }
    if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) || is_skippable_frame(start) {
        let mut decoder = zstd::Decoder::with_buffer(layer)?;
        decoder.window_log_max(MAX_ZSTD_WINDOW)?;
        return Ok(Box::new(decoder));
    }
    Ok(Box::new(layer))
}

fn is_skippable_frame(start: &[u8]) -> bool {
    matches!(start, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

/// Unpacks one entry at its place; tells whether something is there now that has attributes.
fn unpack(
    entry: &TarEntry,
    payload: &mut dyn Read,
    place: &Path,
    places: &mut Places,
    options: UnpackOptions,
) -> io::Result<bool> {
    let name = place.file_name().map_or(&b""[..], OsStr::as_bytes);
    if name == OPAQUE {
        let attribute = match options.opaque {
            OpaqueXattr::Trusted => "trusted.overlay.opaque",
            OpaqueXattr::User => "user.overlay.opaque",
        };
        let directory = place.parent().unwrap_or(&places.root);
        return Ok(lsetxattr(directory, attribute, b"y", XattrFlags::empty()).map(|()| false)?);
    }
    if let Some(hidden) = name.strip_prefix(WHITEOUT) {
        return whiteout(&place.with_file_name(OsStr::from_bytes(hidden))).map(|()| false);
    }
    match entry.kind {
        _ if is_directory(entry) => directory(place),
        b'0' | 0 | b'7' => file(payload, place),
        // A link has the attributes of the file it is a name of.
        b'1' => return hard_link(entry, place, places).map(|()| false),
        b'2' => fresh(place, |place| symlink(OsStr::from_bytes(&entry.link), place)),
        b'3' => special(entry, place, FileType::CharacterDevice),
        b'4' => special(entry, place, FileType::BlockDevice),
        b'6' => special(entry, place, FileType::Fifo),
        _ => Err(io::Error::new(io::ErrorKind::Unsupported, "tars of layers have no such type")),
    }
    .map(|()| true)
}

/// Old tars have files for directories, with a slash at the end of their names.
fn is_directory(entry: &TarEntry) -> bool {
    entry.kind == b'5' || (matches!(entry.kind, b'0' | 0) && entry.name.ends_with(b"/"))
}

fn directory(place: &Path) -> io::Result<()> {
    if fs::symlink_metadata(place).is_ok_and(|there| there.is_dir()) {
        return Ok(());
    }
    fresh(place, |place| fs::create_dir(place))
}

fn file(payload: &mut dyn Read, place: &Path) -> io::Result<()> {
    // Never through a link: `create_new` follows none.
    let create = |place: &Path| fs::File::options().write(true).create_new(true).open(place);
    io::copy(payload, &mut fresh(place, create)?).map(drop)
}

/// Another name of a file that the layer has; nothing where that is outside.
fn hard_link(entry: &TarEntry, place: &Path, places: &mut Places) -> io::Result<()> {
    match places.of(Path::new(OsStr::from_bytes(&entry.link)))? {
        Some(file) if file != place => fresh(place, |place| fs::hard_link(&file, place)),
        _ => Ok(()),
    }
}

/// Makes something at a place where an earlier entry may have left something else: the last counts.
fn fresh<T>(place: &Path, make: impl Fn(&Path) -> io::Result<T>) -> io::Result<T> {
    match make(place) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if fs::symlink_metadata(place)?.is_dir() {
                fs::remove_dir_all(place)?;
            } else {
                fs::remove_file(place)?;
            }
            make(place)
        }
        done => done,
    }
}

/// Gives an unpacked entry what its headers say.
fn attribute(entry: &TarEntry, place: &Path, options: UnpackOptions) -> io::Result<()> {
    let lenient = |done: io::Result<()>| if options.lenient { Ok(()) } else { done };
    let number = |id: u64| u32::try_from(id).map_err(io::Error::other);
    let (owner, group) = (number(entry.uid)?, number(entry.gid)?);
    lenient(lchown(place, Some(owner), Some(group)))?;
    if entry.kind != b'2' {
        // After the change of owner, which takes set-user-id bits away.
        fs::set_permissions(place, fs::Permissions::from_mode(entry.mode & 0o7777))?;
    }
    for (name, value) in &entry.xattrs {
        let set = lsetxattr(place, name, value, XattrFlags::empty());
        lenient(set.map_err(Into::into))?;
    }
    set_time(place, entry.mtime)
}

fn set_time(place: &Path, mtime: i64) -> io::Result<()> {
    let time = Timespec { tv_sec: mtime, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(utimensat(CWD, place, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Finds the real directories that entries go to, and keeps them inside of the target.
struct Places {
    root: PathBuf,
    /// The directory asked for last: entries of one directory follow each other. No entry in it
    /// can make its name lead elsewhere.
    last: Option<(PathBuf, PathBuf)>,
}

impl Places {
    /// Where an entry goes, its parents made if need be; `None` when that is outside.
    fn of(&mut self, path: &Path) -> io::Result<Option<PathBuf>> {
        let relative = path.strip_prefix("/").unwrap_or(path);
        if relative.components().any(|part| part == Component::ParentDir) {
            return Ok(None);
        }
        let Some(name) = relative.file_name() else { return Ok(None) };
        let parent = relative.parent().unwrap_or(Path::new(""));
        if let Some((_, real)) = self.last.as_ref().filter(|(asked, _)| asked == parent) {
            return Ok(Some(real.join(name)));
        }
        let Some(real) = self.directory(parent)? else { return Ok(None) };
        let place = real.join(name);
        self.last = Some((parent.to_owned(), real));
        Ok(Some(place))
    }

    fn directory(&self, parent: &Path) -> io::Result<Option<PathBuf>> {
        let mut real = self.root.clone();
        for part in parent {
            real.push(part);
            match fs::create_dir(&real) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => {
                    made?;
                    continue;
                }
            }
            // Links of the layer may lead anywhere.
            real = real.canonicalize()?;
            if !real.starts_with(&self.root) {
                return Ok(None);
            }
        }
        Ok(Some(real))
    }
}

/// What overlayfs takes for "nothing is here".
fn whiteout(place: &Path) -> io::Result<()> {
    match mknodat(CWD, place, FileType::CharacterDevice, Mode::empty(), makedev(0, 0)) {
        // The layer itself has something of this name, which counts.
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn special(entry: &TarEntry, place: &Path, kind: FileType) -> io::Result<()> {
    let device = match kind {
        FileType::Fifo => 0,
        _ => makedev(entry.dev_major, entry.dev_minor),
    };
    let mode = Mode::from_raw_mode(entry.mode & 0o7777);
    fresh(place, |place| Ok(mknodat(CWD, place, kind, mode, device)?))
}

#[cfg(test)]
mod tests;
