//! Writes entries, their chunks, and the TOC that lists them.
use std::{
    collections::BTreeMap,
    io::{Read, Write},
};

use bolide_core::{Digest, Digester, Error, Result};

use super::{
    BuildOptions, BuildReport, entry,
    members::Members,
    tar_reader::{self, TarEntry},
};
use crate::{
    Footer, format,
    toc::{TocDocument, TocEntry},
};

/// Largest piece of a payload held at once, in bytes.
const PIECE: u64 = 256 * 1024;

/// Writes a layer in the order of its tar; nothing is prioritized.
pub(super) fn write_in_order(
    tar: &mut dyn Read,
    output: &mut dyn Write,
    options: &BuildOptions,
) -> Result<BuildReport> {
    let mut writer = LayerWriter::new(output, options);
    writer.landmark(format::NO_PREFETCH_LANDMARK)?;
    while let Some(entry) = tar_reader::next_entry(tar)? {
        if entry::is_reserved(&entry.name) {
            skip(tar, &entry)?;
        } else {
            writer.entry(&entry, tar)?;
        }
    }
    writer.finish()
}

fn skip(tar: &mut dyn Read, entry: &TarEntry) -> Result<()> {
    let len = entry.size + tar_reader::padding(entry.size);
    std::io::copy(&mut tar.take(len), &mut std::io::sink()).map_err(failed)?;
    Ok(())
}

/// Writes one layer.
pub(super) struct LayerWriter<'a> {
    members: Members<&'a mut dyn Write>,
    toc: Vec<TocEntry>,
    chunk_size: u64,
    entries: u32,
}

impl<'a> LayerWriter<'a> {
    pub(super) fn new(output: &'a mut dyn Write, options: &BuildOptions) -> Self {
        Self {
            members: Members::new(output, options.level.unwrap_or(6)),
            toc: Vec::new(),
            chunk_size: options.chunk_size.max(1),
            entries: 0,
        }
    }

    /// Writes an entry, its payload and padding from `tar`.
    pub(super) fn entry(&mut self, entry: &TarEntry, tar: &mut dyn Read) -> Result<()> {
        let described = entry::describe(entry)?;
        self.members.write(&entry.raw).map_err(failed)?;
        self.entries += 1;
        if described.kind != "reg" {
            self.toc.push(described);
            return Ok(());
        }
        self.file(described, entry.size, tar)?;
        self.copy_rest(tar, tar_reader::padding(entry.size))
    }

    fn file(&mut self, mut described: TocEntry, size: u64, tar: &mut dyn Read) -> Result<()> {
        let at = self.toc.len();
        let name = described.name.clone();
        let mut whole = Digester::new();
        let mut done = 0;
        if size == 0 {
            self.toc.push(std::mem::take(&mut described));
        }
        while done < size {
            let len = self.chunk_size.min(size - done);
            let offset = self.members.cut().map_err(failed)?;
            let digest = self.chunk(tar, len, &mut whole)?;
            let mut entry =
                if done == 0 { std::mem::take(&mut described) } else { chunk_entry(&name) };
            entry.offset = signed(offset);
            entry.chunk_offset = signed(done);
            // The last chunk goes to the end of the file and says no size, as the reference does.
            entry.chunk_size = if done + len < size { signed(len) } else { 0 };
            entry.chunk_digest = digest.to_string();
            self.toc.push(entry);
            done += len;
        }
        if let Some(first) = self.toc.get_mut(at) {
            first.digest = whole.finish().to_string();
        }
        Ok(())
    }

    fn chunk(&mut self, tar: &mut dyn Read, len: u64, whole: &mut Digester) -> Result<Digest> {
        let mut digester = Digester::new();
        let mut left = len;
        let mut piece = Vec::new();
        while left > 0 {
            piece.clear();
            let wanted = left.min(PIECE);
            tar.take(wanted).read_to_end(&mut piece).map_err(failed)?;
            if piece.len() as u64 != wanted {
                return Err(cut_short());
            }
            digester.update(&piece);
            whole.update(&piece);
            self.members.write(&piece).map_err(failed)?;
            left -= wanted;
        }
        Ok(digester.finish())
    }

    fn copy_rest(&mut self, tar: &mut dyn Read, len: u64) -> Result<()> {
        let mut left = len;
        let mut piece = [0; 512];
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(512).min(512);
            tar.read_exact(&mut piece[..wanted]).map_err(|_| cut_short())?;
            self.members.write(&piece[..wanted]).map_err(failed)?;
            left -= wanted as u64;
        }
        Ok(())
    }

    /// Writes a landmark: a file of one byte.
    pub(super) fn landmark(&mut self, name: &str) -> Result<()> {
        let entry = TarEntry {
            raw: header(name, 1)?,
            name: name.as_bytes().to_vec(),
            kind: b'0',
            size: 1,
            ..TarEntry::default()
        };
        let mut payload = [0; 512];
        payload[0] = format::LANDMARK_BYTE;
        self.entry(&entry, &mut payload.as_slice())
    }

    /// Writes TOC and footer.
    pub(super) fn finish(mut self) -> Result<BuildReport> {
        let document = TocDocument { version: 1, entries: &self.toc };
        let json =
            serde_json::to_vec(&document).map_err(|error| failed(std::io::Error::other(error)))?;
        let toc_offset = self.members.cut().map_err(failed)?;
        let len = json.len() as u64;
        let zeros = vec![0; usize::try_from(tar_reader::padding(len)).unwrap_or(0) + 1024];
        for part in [&header(format::TOC_NAME, len)?, &json, &zeros] {
            self.members.write(part).map_err(failed)?;
        }
        let sums = self.members.finish(&Footer::write(toc_offset)).map_err(failed)?;
        let toc_digest = Digest::of(&json);
        let annotations = BTreeMap::from([
            (format::ANNOTATION_TOC_DIGEST.to_owned(), toc_digest.to_string()),
            (format::ANNOTATION_UNCOMPRESSED_SIZE.to_owned(), sums.uncompressed_size.to_string()),
        ]);
        Ok(BuildReport {
            blob_digest: sums.blob_digest,
            blob_size: sums.blob_size,
            diff_id: sums.diff_id,
            uncompressed_size: sums.uncompressed_size,
            toc_digest: Some(toc_digest),
            external_toc: None,
            annotations,
            entries: self.entries,
            prioritized_size: 0,
        })
    }
}

fn chunk_entry(name: &str) -> TocEntry {
    TocEntry { name: name.to_owned(), kind: "chunk".to_owned(), ..TocEntry::default() }
}

fn header(name: &str, size: u64) -> Result<Vec<u8>> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name).map_err(failed)?;
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(size);
    header.set_mode(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    Ok(header.as_bytes().to_vec())
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn cut_short() -> Error {
    Error::new(
        bolide_core::ErrorKind::Malformed,
        "estargz::write",
        "the tar is cut short inside a file",
    )
}

fn failed(error: std::io::Error) -> Error {
    Error::io("estargz::write", error)
}
