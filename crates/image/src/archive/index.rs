//! Where the members of a tar lie, so that each is read alone.
use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Seek as _, SeekFrom},
    ops::Range,
    os::unix::fs::FileExt as _,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use bolide_core::{Digest, Digester, Error, ErrorKind, Result};
use bolide_fetch::FileSource;
use flate2::bufread::MultiGzDecoder;

use crate::manifest::MAX_DOCUMENT_BYTES;

/// Most members of an archive: a hundred images of the deepest kind.
const MAX_MEMBERS: usize = 100_000;
/// Longest chain of links from one member to another.
const MAX_LINKS: usize = 8;
/// Bytes read at a time to digest a member.
const PIECE: usize = 256 * 1024;

/// Where a member's bytes lie in the archive.
pub(crate) type Member = Range<u64>;

#[derive(Debug)]
enum Found {
    File(Member),
    /// Path of another member.
    Link(String),
}

/// An open tar and where its members lie in it. Blocks on the disk.
#[derive(Debug)]
pub(crate) struct ArchiveIndex {
    file: Arc<File>,
    path: PathBuf,
    members: HashMap<String, Found>,
}

impl ArchiveIndex {
    /// Goes through the headers of the tar at `path`. One that is compressed as a whole is first
    /// unpacked into a file without a name in `work_dir`.
    ///
    /// `NotFound` when there is no such file, `Malformed` when it is no tar, `Exhausted` when it has
    /// too many members or no room to be unpacked.
    pub(crate) fn open(path: &Path, work_dir: &Path) -> Result<Self> {
        let failed = |error| Error::io("archive::open", error).with_context("path", path.display());
        let file = File::open(path).map_err(failed)?;
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(malformed(path, "an archive is a regular file"));
        }
        let file = unpacked(&file, work_dir).map_err(failed)?.unwrap_or(file);
        let members = read_members(&file, path)?;
        Ok(Self { file: Arc::new(file), path: path.to_owned(), members })
    }

    /// The archive.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Finds a member, through links; `NotFound` if there is none.
    pub(crate) fn member(&self, name: &str) -> Result<Member> {
        let mut wanted = normal(Path::new(name));
        for _ in 0..MAX_LINKS {
            match wanted.as_ref().and_then(|wanted| self.members.get(wanted)) {
                Some(Found::File(member)) => return Ok(member.clone()),
                Some(Found::Link(target)) => wanted = Some(target.clone()),
                None => break,
            }
        }
        let rule = "the archive lacks a member that an image of it needs";
        Err(Error::new(ErrorKind::NotFound, "archive::member", rule)
            .with_context("path", self.path.display())
            .with_context("member", format!("{name:?}")))
    }

    /// Reads a small member; `Exhausted` when it has more than 4 MiB.
    pub(crate) fn document(&self, name: &str) -> Result<Vec<u8>> {
        let member = self.member(name)?;
        let size = member.end - member.start;
        if size > MAX_DOCUMENT_BYTES {
            return Err(Error::new(
                ErrorKind::Exhausted,
                "archive::read",
                "a document may have 4 MiB",
            )
            .with_context("path", self.path.display())
            .with_context("member", name)
            .with_context("size", size));
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
        self.read(&mut bytes, member.start)?;
        Ok(bytes)
    }

    /// The first bytes of a member, no more than it has.
    pub(crate) fn magic(&self, member: &Member) -> Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from((member.end - member.start).min(4)).unwrap_or(0)];
        self.read(&mut bytes, member.start)?;
        Ok(bytes)
    }

    /// Digests a member.
    pub(crate) fn digest(&self, member: &Member) -> Result<Digest> {
        let mut digester = Digester::new();
        let mut at = member.start;
        let mut buffer = vec![0; PIECE];
        while at < member.end {
            let len = usize::try_from(member.end - at).unwrap_or(PIECE).min(PIECE);
            self.read(&mut buffer[..len], at)?;
            digester.update(&buffer[..len]);
            at += len as u64;
        }
        Ok(digester.finish())
    }

    /// A member as a blob.
    pub(crate) fn source(&self, member: Member, digest: Digest) -> FileSource {
        FileSource::part(Arc::clone(&self.file), &self.path, digest, member)
    }

    fn read(&self, buffer: &mut [u8], at: u64) -> Result<()> {
        self.file.read_exact_at(buffer, at).map_err(|error| {
            Error::io("archive::read", error).with_context("path", self.path.display())
        })
    }
}

/// The tar in a file that is compressed as a whole.
fn unpacked(file: &File, work_dir: &Path) -> io::Result<Option<File>> {
    let mut magic = [0; 4];
    let known = file.read_at(&mut magic, 0)?;
    let mut tar: Box<dyn Read> = match &magic[..known] {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(io::BufReader::new(file))),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::Decoder::new(file)?),
        _ => return Ok(None),
    };
    let mut spool = tempfile::tempfile_in(work_dir)?;
    io::copy(&mut tar, &mut spool)?;
    spool.seek(SeekFrom::Start(0))?;
    Ok(Some(spool))
}

fn read_members(file: &File, path: &Path) -> Result<HashMap<String, Found>> {
    let broken = |error: io::Error| malformed(path, "an archive is a tar").with_source(error);
    let size = file.metadata().map_err(broken)?.len();
    let mut members = HashMap::new();
    let mut archive = tar::Archive::new(file);
    for entry in archive.entries_with_seek().map_err(broken)? {
        let entry = entry.map_err(broken)?;
        let kind = entry.header().entry_type();
        let Some(name) = normal(&entry.path().map_err(broken)?) else { continue };
        let found = if kind.is_file() {
            let start = entry.raw_file_position();
            let end = start.checked_add(entry.size()).filter(|end| *end <= size);
            Found::File(start..end.ok_or_else(|| malformed(path, "the tar is cut short"))?)
        } else if kind.is_symlink() || kind.is_hard_link() {
            let Some(target) = entry.link_name().map_err(broken)? else { continue };
            // A hard link names a member, a symbolic one a path from where it stands.
            let from = Path::new(&name).parent().filter(|_| kind.is_symlink());
            let Some(target) = normal(&from.unwrap_or(Path::new("")).join(target)) else {
                continue;
            };
            Found::Link(target)
        } else {
            continue;
        };
        if members.len() >= MAX_MEMBERS {
            return Err(Error::new(
                ErrorKind::Exhausted,
                "archive::open",
                "an archive may have 100,000 members",
            )
            .with_context("path", path.display()));
        }
        members.insert(name, found);
    }
    Ok(members)
}

/// A path without `.` and `..`; `None` when it leads out of the archive or is not text.
fn normal(path: &Path) -> Option<String> {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::ParentDir => drop(parts.pop()?),
            Component::CurDir | Component::RootDir => {}
            Component::Prefix(_) => return None,
        }
    }
    Some(parts.join("/"))
}

fn malformed(path: &Path, rule: &'static str) -> Error {
    Error::new(ErrorKind::Malformed, "archive::open", rule).with_context("path", path.display())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn archive() -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut add = |kind, name: &str, link: &str, bytes: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(bytes.len() as u64);
            if link.is_empty() {
                tar.append_data(&mut header, name, bytes).expect("added");
            } else {
                tar.append_link(&mut header, name, link).expect("added");
            }
        };
        let long = format!("{}/x", "d".repeat(150));
        add(tar::EntryType::Regular, "./a/layer.tar", "", b"layer");
        add(tar::EntryType::Symlink, "b/layer.tar", "../a/layer.tar", b"");
        add(tar::EntryType::Link, "c", "b/layer.tar", b"");
        add(tar::EntryType::Symlink, "loop", "loop", b"");
        add(tar::EntryType::Symlink, "out", "../../etc/passwd", b"");
        add(tar::EntryType::Regular, &long, "", b"long");
        tar.into_inner().expect("tar")
    }

    fn opened(bytes: &[u8]) -> Result<ArchiveIndex> {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("x");
        std::fs::write(&path, bytes).expect("written");
        ArchiveIndex::open(&path, dir.path())
    }

    #[test]
    fn members_are_found_through_links_and_compression() {
        let plain = archive();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).expect("packed");
        let zstd = zstd::encode_all(&plain[..], 1).expect("packed");
        for bytes in [plain.clone(), gzip.finish().expect("packed"), zstd] {
            let index = opened(&bytes).expect("opened");
            for name in ["a/layer.tar", "./b/layer.tar", "c"] {
                assert_eq!(index.document(name).expect(name), b"layer");
            }
            let member = index.member("c").expect("found");
            assert_eq!(index.digest(&member).expect("read"), Digest::of(b"layer"));
            assert_eq!(index.document(&format!("{}/x", "d".repeat(150))).expect("long"), b"long");
            for name in ["loop", "out", "none", "../a/layer.tar"] {
                assert_eq!(index.member(name).expect_err(name).kind(), ErrorKind::NotFound);
            }
        }
    }

    #[test]
    fn what_is_no_whole_tar_is_malformed() {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(5000);
        tar.append_data(&mut header, "a", &[7; 5000][..]).expect("added");
        let tar = tar.into_inner().expect("tar");
        for bytes in [&tar[..2000], &[1; 3000]] {
            assert_eq!(opened(bytes).expect_err("broken").kind(), ErrorKind::Malformed);
        }
    }
}
