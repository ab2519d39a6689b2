//! Unpacks a layer into a directory that overlayfs can put over others.
use std::{
    ffi::OsStr,
    fs, io,
    io::{BufRead as _, BufReader, Read},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{PermissionsExt as _, lchown},
    },
    path::{Component, Path, PathBuf},
};

use bolide_core::{Error, ErrorKind, OpaqueXattr, Result};
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
const XATTR_RECORD: &str = "SCHILY.xattr.";

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
/// Names that lead out of the directory are left out. `Malformed` when the tar is none, `Io` when
/// the kernel refuses something; what was unpacked until then stays. Blocks.
pub fn unpack_layer(
    layer: &mut dyn Read,
    target: &Path,
    options: UnpackOptions,
) -> Result<Unpacked> {
    let root = target.canonicalize().map_err(|error| refused(error, target))?;
    let mut places = Places { root: root.clone(), last: None };
    let mut archive = tar::Archive::new(decompressed(layer).map_err(broken)?);
    archive.set_preserve_permissions(true);
    let mut unpacked = Unpacked::default();
    // Writing below a directory changes its time, so that these come last.
    let mut directories = Vec::new();
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let path = entry.path().map_err(broken)?.into_owned();
        unpacked.entries += 1;
        unpacked.bytes += entry.size();
        let Some(place) = places.of(&path).map_err(|error| refused(error, &path))? else {
            continue;
        };
        let kind = entry.header().entry_type();
        match unpack(&mut entry, &place, &root, options) {
            Ok(true) => {
                let set = attribute(&mut entry, &place, options);
                set.map_err(|error| refused(error, &path))?;
            }
            Ok(false) => {}
            // Users without root make no devices.
            Err(error) if options.lenient && error.raw_os_error() == Some(PERM) => {}
            Err(error) => return Err(refused(error, &path)),
        }
        if kind.is_dir() {
            directories.push((place, entry.header().mtime().map_err(broken)?));
        }
    }
    // The tar's end was seen; its compression may have more to say, such as a checksum.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(broken)?;
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

fn decompressed<'a>(layer: &'a mut dyn Read) -> io::Result<Box<dyn Read + 'a>> {
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
fn unpack<R: Read>(
    entry: &mut tar::Entry<'_, R>,
    place: &Path,
    target: &Path,
    options: UnpackOptions,
) -> io::Result<bool> {
    let name = place.file_name().map_or(&b""[..], OsStr::as_bytes);
    if name == OPAQUE {
        let attribute = match options.opaque {
            OpaqueXattr::Trusted => "trusted.overlay.opaque",
            OpaqueXattr::User => "user.overlay.opaque",
        };
        let directory = place.parent().unwrap_or(target);
        return Ok(lsetxattr(directory, attribute, b"y", XattrFlags::empty()).map(|()| false)?);
    }
    if let Some(hidden) = name.strip_prefix(WHITEOUT) {
        return whiteout(&place.with_file_name(OsStr::from_bytes(hidden))).map(|()| false);
    }
    match entry.header().entry_type() {
        kind if kind.is_character_special() => special(entry, place, FileType::CharacterDevice),
        kind if kind.is_block_special() => special(entry, place, FileType::BlockDevice),
        kind if kind.is_fifo() => special(entry, place, FileType::Fifo),
        // A link has the attributes of the file it is a name of.
        kind if kind.is_hard_link() => entry.unpack_in(target).map(|_| false),
        _ => entry.unpack_in(target),
    }
}

/// Gives an unpacked entry what its headers say.
fn attribute<R: Read>(
    entry: &mut tar::Entry<'_, R>,
    place: &Path,
    options: UnpackOptions,
) -> io::Result<()> {
    let lenient = |done: io::Result<()>| if options.lenient { Ok(()) } else { done };
    let header = entry.header();
    let number = |id: u64| u32::try_from(id).map_err(io::Error::other);
    let (owner, group) = (number(header.uid()?)?, number(header.gid()?)?);
    let (mode, mtime) = (header.mode()?, header.mtime()?);
    lenient(lchown(place, Some(owner), Some(group)))?;
    if !header.entry_type().is_symlink() {
        // After the change of owner, which takes set-user-id bits away.
        fs::set_permissions(place, fs::Permissions::from_mode(mode & 0o7777))?;
    }
    for (name, value) in extended(entry)? {
        let set = lsetxattr(place, &name, &value, XattrFlags::empty());
        lenient(set.map_err(Into::into))?;
    }
    set_time(place, mtime)
}

fn set_time(place: &Path, mtime: u64) -> io::Result<()> {
    let time = Timespec { tv_sec: i64::try_from(mtime).map_err(io::Error::other)?, tv_nsec: 0 };
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

fn special<R: Read>(entry: &tar::Entry<'_, R>, place: &Path, kind: FileType) -> io::Result<bool> {
    let header = entry.header();
    let device = match kind {
        // Its fields may be empty, which is no number.
        FileType::Fifo => 0,
        _ => makedev(header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0)),
    };
    let mode = Mode::from_raw_mode(header.mode()? & 0o7777);
    Ok(mknodat(CWD, place, kind, mode, device).map(|()| true)?)
}

/// The extended attributes of an entry. The tar reader takes a line feed in a value for the end of
/// it, and such an attribute is lost.
fn extended<R: Read>(entry: &mut tar::Entry<'_, R>) -> io::Result<Vec<(String, Vec<u8>)>> {
    let path = entry.path_bytes().into_owned();
    let Some(records) = entry.pax_extensions()? else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for record in records {
        let Ok(record) = record else {
            tracing::warn!(path = ?String::from_utf8_lossy(&path), "an attribute is lost");
            continue;
        };
        let name = record.key().ok().and_then(|key| key.strip_prefix(XATTR_RECORD));
        found.extend(name.map(|name| (name.to_owned(), record.value_bytes().to_vec())));
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
