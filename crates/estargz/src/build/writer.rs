//! Decides what of each entry goes into the tar and the TOC, and hands it to the planner.
use std::{
    collections::{HashSet, hash_map::RandomState},
    hash::BuildHasher as _,
    io::Read,
};

use bolide_core::{Error, ErrorKind, Result};

use super::{
    BlobFormat, BuildOptions,
    draft::Draft,
    entry::{self, Owners},
    header, holes,
    plan::{Extent, Planner},
    sparse::Payload,
    tar_reader::{TarEntry, cut_short, padding},
};
use crate::format;

/// Writes the entries of one layer.
pub(super) struct LayerWriter<'a> {
    planner: Planner<'a>,
    options: &'a BuildOptions,
    owners: Owners,
    names: Names,
    entries: u32,
    /// TOC entry of the landmark that ends the prioritized area.
    landmark: Option<u32>,
}

/// What was written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    /// Entries of the tar.
    pub(super) entries: u32,
    /// TOC entry of the landmark that ends the prioritized area.
    pub(super) landmark: Option<u32>,
}

impl<'a> LayerWriter<'a> {
    pub(super) fn new(planner: Planner<'a>, options: &'a BuildOptions) -> Self {
        let (owners, names) = (Owners::default(), Names::default());
        Self { planner, options, owners, names, entries: 0, landmark: None }
    }

    /// Writes a global header as it stood: entries after it were read with what it says.
    pub(super) fn global(&mut self, raw: &[u8]) -> Result<()> {
        if self.options.format == BlobFormat::ZstdChunkedPodman {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "estargz::write",
                "containers/storage refuses tars with global PAX headers; choose another format, \
                 or repack the layer",
            ));
        }
        self.planner.bytes(raw)
    }

    /// Writes an entry; its content and padding are read from `tar`.
    pub(super) fn entry(&mut self, mut entry: TarEntry, tar: &mut dyn Read) -> Result<()> {
        let mut payload = Payload::new(&entry);
        self.adapt(&mut entry)?;
        let in_tar = |error: Error| error.with_context("entry", entry::text(&entry.name));
        self.planner.bytes(&entry.raw)?;
        self.content(&entry, &mut payload, tar).map_err(in_tar)?;
        if self.options.keep_diff_id {
            let mut filling = Vec::new();
            let wanted = padding(entry.size);
            let read = tar.take(wanted).read_to_end(&mut filling).map_err(cut_short)? as u64;
            if read < wanted {
                return Err(cut_short(std::io::ErrorKind::UnexpectedEof.into()));
            }
            self.planner.bytes(&filling)
        } else {
            payload.skip(tar).map_err(cut_short)?;
            self.planner.bytes(header::zero_padding(entry.size))
        }
    }

    /// Gives an entry other headers where its own cannot stay.
    fn adapt(&self, entry: &mut TarEntry) -> Result<()> {
        let latest = self
            .options
            .latest_mtime
            .filter(|latest| (entry.exact_mtime.seconds, entry.exact_mtime.nanos) > (*latest, 0));
        if latest.is_none() && entry.sparse.is_none() {
            return Ok(());
        }
        if self.options.keep_diff_id {
            let rule = if latest.is_some() {
                "times later than the latest one cannot be changed where the diffID is kept; give \
                 up one of the two"
            } else {
                "a sparse file is written as an ordinary one, which changes the diffID; convert \
                 without keeping it"
            };
            return Err(Error::new(ErrorKind::Unsupported, "estargz::write", rule)
                .with_context("entry", entry::text(&entry.name)));
        }
        if let Some(latest) = latest {
            entry.mtime = latest;
            entry.exact_mtime = bolide_core::Timestamp { seconds: latest, nanos: 0 };
            // They are of the machine that made the tar, and as late.
            entry.records.remove("atime");
            entry.records.remove("ctime");
        }
        header::renew(entry)
    }

    fn content(
        &mut self,
        entry: &TarEntry,
        payload: &mut Payload,
        tar: &mut dyn Read,
    ) -> Result<()> {
        self.entries += 1;
        if !self.options.format.is_lazy() {
            entry::kind(entry)?;
            return self.planner.content(payload, tar);
        }
        let mut draft = Draft::of(entry, self.options.format)?;
        self.names.note(entry, self.options.format)?;
        let podman = draft.podman.is_some();
        if !podman {
            self.owners.name(entry, &mut draft.toc);
            if draft.toc.kind == "reg" && entry.size == 0 {
                draft.toc.digest = bolide_core::Digest::of(b"").to_string();
            }
        }
        if entry.size == 0 {
            self.planner.draft(draft)?;
        } else if podman {
            self.frames(draft, payload, tar)?;
        } else {
            self.chunks(draft, payload, tar)?;
        }
        self.planner.entry(&entry.name, entry.size);
        Ok(())
    }

    /// Writes content in chunks of the wanted size.
    fn chunks(&mut self, draft: Draft, payload: &mut Payload, tar: &mut dyn Read) -> Result<()> {
        let (size, chunk_size) = (payload.left(), self.options.chunk_size);
        let further = Draft::chunk(&draft);
        let must_cut = entry::is_reserved(draft.toc.name.as_bytes());
        let mut next = Some(draft);
        let mut file = None;
        let mut done = 0;
        while done < size {
            let len = chunk_size.min(size - done);
            let mut draft = next.take().unwrap_or_else(|| further.clone());
            draft.toc.chunk_offset = entry::signed(done);
            // The last chunk goes to the end of the file and says no size, as the reference does.
            draft.toc.chunk_size = if done + len < size { entry::signed(len) } else { 0 };
            let number = self.planner.draft(draft)?;
            let file = *file.get_or_insert(number);
            let (whole, last) = (len == size, done + len == size);
            let extent = Extent { file, entry: number, len, whole, last, must_cut };
            self.planner.chunk(extent, payload, tar)?;
            done += len;
        }
        Ok(())
    }

    /// Writes content as containers/storage does: a frame for each chunk, holes apart.
    ///
    /// Their chunks end where a rolling sum says, so that chunks of different versions of a file
    /// are alike; their reader takes chunks of any size.
    fn frames(&mut self, draft: Draft, payload: &mut Payload, tar: &mut dyn Read) -> Result<()> {
        let size = payload.left();
        let further = Draft::chunk(&draft);
        let mut next = Some(draft);
        let mut file = None;
        let mut done = 0;
        let mut window = Vec::new();
        while done < size {
            window.clear();
            let len = self.options.chunk_size.min(holes::WINDOW).min(payload.left());
            payload.read(tar, len, &mut window).map_err(cut_short)?;
            for (range, zeros) in holes::split(&window) {
                let len = range.len() as u64;
                let mut draft = next.take().unwrap_or_else(|| further.clone());
                let whole = len == size;
                if !whole {
                    draft.toc.chunk_offset = entry::signed(done);
                    draft.toc.chunk_size = entry::signed(len);
                    if let Some(podman) = &mut draft.podman {
                        podman.zeros = zeros;
                    }
                }
                let number = self.planner.draft(draft)?;
                let file = *file.get_or_insert(number);
                let last = done + len == size;
                let extent = Extent { file, entry: number, len, whole, last, must_cut: true };
                self.planner.chunk(extent, &mut Payload::of(len), &mut &window[range])?;
                done += len;
            }
        }
        file.map_or(Ok(()), |file| self.planner.end(file))
    }

    /// Writes a landmark: a file of one byte.
    pub(super) fn landmark(&mut self, name: &str) -> Result<()> {
        let entry = TarEntry {
            raw: header::plain(name, 1)?,
            name: name.as_bytes().to_vec(),
            kind: b'0',
            size: 1,
            ..TarEntry::default()
        };
        let mut payload = [0; 512];
        payload[0] = format::LANDMARK_BYTE;
        if name == format::PREFETCH_LANDMARK {
            self.landmark = Some(self.planner.next());
        }
        self.entry(entry, &mut payload.as_slice())
    }

    /// Writes what stood at the end of the tar, or two blocks of zeros where the tar was changed.
    pub(super) fn finish(mut self, end: &[u8], tar: &mut dyn Read) -> Result<Written> {
        self.names.check()?;
        if self.options.keep_diff_id {
            self.planner.bytes(end)?;
            self.planner.rest(tar)?;
        } else {
            // Reading the padding lets a decompressor check its sum.
            std::io::copy(tar, &mut std::io::sink()).map_err(cut_short)?;
            // eStargz ends its tar after the TOC.
            if self.options.format != BlobFormat::Estargz {
                self.planner.bytes(&header::END)?;
            }
        }
        self.planner.finish()?;
        Ok(Written { entries: self.entries, landmark: self.landmark })
    }
}

/// The paths of a layer, as far as entries speak of each other.
///
/// Sums of 64 bits stand for paths: two that are equal by chance would let a hard link to nothing
/// pass, which a reader notices.
#[derive(Debug, Default)]
struct Names {
    seen: HashSet<u64>,
    hasher: RandomState,
    /// Hard links to what was not there yet.
    open: Vec<(u64, String, String)>,
}

impl Names {
    fn note(&mut self, entry: &TarEntry, format: BlobFormat) -> Result<()> {
        let own = self.hasher.hash_one(entry::clean(&entry.name));
        if entry.kind == b'1' {
            let target = self.hasher.hash_one(entry::clean(&entry.link));
            let (name, link) = (entry::text(&entry.name), entry::text(&entry.link));
            if target == own {
                return Err(dangling(&name, &link));
            }
            if !self.seen.contains(&target) {
                self.open.push((target, name, link));
            }
        }
        if !self.seen.insert(own) && format == BlobFormat::ZstdChunkedPodman {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "estargz::write",
                "containers/storage refuses layers with two entries of one path; choose another \
                 format, or repack the layer",
            )
            .with_context("entry", entry::text(&entry.name)));
        }
        Ok(())
    }

    /// `Malformed` when a hard link leads to nothing.
    fn check(&self) -> Result<()> {
        match self.open.iter().find(|(target, ..)| !self.seen.contains(target)) {
            None => Ok(()),
            Some((_, name, link)) => Err(dangling(name, link)),
        }
    }
}

fn dangling(name: &str, link: &str) -> Error {
    let rule = "a hard link must lead to another entry of its layer";
    Error::new(ErrorKind::Malformed, "estargz::write", rule)
        .with_context("entry", name)
        .with_context("target", link)
}
