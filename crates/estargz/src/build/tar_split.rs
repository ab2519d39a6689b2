//! tar-split: everything of a tar that is not content of files, so that containers/storage rebuilds
//! the tar to the byte from unpacked files.
//!
//! A document of JSON lines (vbatts/tar-split, `tar/storage`), as its reader of headers expects
//! them: padding stands in one line with the headers after it, and after each header comes a line
//! for its content, also when there is none.
use std::io::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bolide_core::{Digest, Error, Result};
use crc::{CRC_64_GO_ISO, Crc, Table};
use serde::Serialize;

/// Kinds of lines.
const FILE: u8 = 1;
const SEGMENT: u8 = 2;

/// CRC-64 of ISO 3309, as Go's `hash/crc64` has it: what tar-split compares content with.
static CRC: Crc<u64, Table<16>> = Crc::<u64, Table<16>>::new(&CRC_64_GO_ISO);

#[derive(Serialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(rename = "name_raw", skip_serializing_if = "Option::is_none")]
    raw_name: Option<String>,
    #[serde(skip_serializing_if = "is_zero")]
    size: u64,
    /// Bytes of a segment, or the sum of a file; base64.
    payload: Option<String>,
    position: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A document being written, compressed as it grows.
pub(super) struct TarSplit {
    out: zstd::stream::write::Encoder<'static, Vec<u8>>,
    raw_size: u64,
    lines: u64,
    pending: Vec<u8>,
    sum: crc::Digest<'static, u64, Table<16>>,
}

/// A whole document.
#[derive(Debug)]
pub(super) struct TarSplitDocument {
    /// As it stands in the blob.
    pub(super) compressed: Vec<u8>,
    /// Size before, in bytes.
    pub(super) raw_size: u64,
}

impl TarSplitDocument {
    /// What the TOC names it by.
    pub(super) fn digest(&self) -> Digest {
        Digest::of(&self.compressed)
    }
}

impl std::fmt::Debug for TarSplit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TarSplit").field("lines", &self.lines).finish_non_exhaustive()
    }
}

impl TarSplit {
    /// Compressed at a level of zstd.
    pub(super) fn new(level: u32) -> Result<Self> {
        let out = zstd::stream::write::Encoder::new(Vec::new(), level.cast_signed());
        let (out, pending) = (out.map_err(failed)?, Vec::new());
        Ok(Self { out, raw_size: 0, lines: 0, pending, sum: CRC.digest() })
    }

    /// Takes bytes that are no content.
    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// Takes content of the entry whose headers came last.
    pub(super) fn content(&mut self, bytes: &[u8]) {
        self.sum.update(bytes);
    }

    /// Ends an entry.
    pub(super) fn entry(&mut self, name: &[u8], size: u64) -> Result<()> {
        self.segment()?;
        let sum = std::mem::replace(&mut self.sum, CRC.digest()).finalize();
        let text = str::from_utf8(name).ok();
        self.line(&Line {
            kind: FILE,
            name: text,
            raw_name: text.is_none().then(|| STANDARD.encode(name)),
            size,
            payload: (size > 0).then(|| STANDARD.encode(sum.to_be_bytes())),
            position: self.lines,
        })
    }

    fn segment(&mut self) -> Result<()> {
        let payload = Some(STANDARD.encode(std::mem::take(&mut self.pending)));
        let position = self.lines;
        self.line(&Line { kind: SEGMENT, name: None, raw_name: None, size: 0, payload, position })
    }

    fn line(&mut self, line: &Line<'_>) -> Result<()> {
        let mut text = serde_json::to_vec(line).map_err(std::io::Error::other).map_err(failed)?;
        text.push(b'\n');
        self.raw_size += text.len() as u64;
        self.lines += 1;
        self.out.write_all(&text).map_err(failed)
    }

    /// Ends the document with what stands after the last entry.
    pub(super) fn finish(mut self) -> Result<TarSplitDocument> {
        self.segment()?;
        let compressed = self.out.finish().map_err(failed)?;
        Ok(TarSplitDocument { compressed, raw_size: self.raw_size })
    }
}

fn failed(error: std::io::Error) -> Error {
    Error::io("estargz::tar_split", error)
}
