//! Trees, the tars of them, and blobs taken apart.
use std::{
    collections::BTreeMap,
    io::{Cursor, Read as _},
    num::NonZeroUsize,
};

use bolide_core::{Digest, Result};
use bolide_estargz::{BlobFormat, BuildOptions, BuildReport, Footer, convert_layer};
use serde_json::Value;

/// How numbers, long names and attributes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Ustar,
    Pax,
    Gnu,
}

pub(crate) const DIALECTS: [Dialect; 3] = [Dialect::Ustar, Dialect::Pax, Dialect::Gnu];
pub(crate) const PREFIXES: [&str; 4] = ["", "./", "/", "../"];
pub(crate) const FORMATS: [BlobFormat; 6] = [
    BlobFormat::Estargz,
    BlobFormat::EstargzExternalToc,
    BlobFormat::ZstdChunked,
    BlobFormat::ZstdChunkedPodman,
    BlobFormat::TarGzip,
    BlobFormat::TarZstd,
];

/// One entry of a tar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) name: Vec<u8>,
    pub(crate) kind: u8,
    pub(crate) content: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) owner: (u64, u64),
    pub(crate) names: (String, String),
    pub(crate) mtime: u64,
    pub(crate) device: (u32, u32),
    /// PAX records; in other dialects there are none.
    pub(crate) records: Vec<(String, Vec<u8>)>,
}

fn node(name: &str, kind: u8) -> Node {
    Node {
        name: name.as_bytes().to_vec(),
        kind,
        content: Vec::new(),
        link: Vec::new(),
        mode: 0o644,
        owner: (0, 0),
        names: (String::new(), String::new()),
        mtime: 1_600_000_000,
        device: (0, 0),
        records: Vec::new(),
    }
}

pub(crate) fn file(name: &str, content: impl Into<Vec<u8>>) -> Node {
    Node { content: content.into(), ..node(name, b'0') }
}

pub(crate) fn dir(name: &str) -> Node {
    Node { mode: 0o755, ..node(name, b'5') }
}

pub(crate) fn symlink(name: &str, target: &str) -> Node {
    Node { link: target.as_bytes().to_vec(), ..node(name, b'2') }
}

pub(crate) fn hardlink(name: &str, target: &str) -> Node {
    Node { link: target.as_bytes().to_vec(), ..node(name, b'1') }
}

pub(crate) fn device(name: &str, kind: u8, major: u32, minor: u32) -> Node {
    Node { device: (major, minor), ..node(name, kind) }
}

impl Node {
    pub(crate) fn xattr(mut self, name: &str, value: &[u8]) -> Self {
        self.records.push((format!("SCHILY.xattr.{name}"), value.to_vec()));
        self
    }
}

/// A tar of nodes, each name (and target of a hard link) after the prefix.
pub(crate) fn tar(dialect: Dialect, prefix: &str, nodes: &[Node]) -> Vec<u8> {
    let mut out = Vec::new();
    for node in nodes {
        append(&mut out, dialect, prefix, node);
    }
    out.resize(out.len() + 1024, 0);
    out
}

/// A tar in the dialect that says most.
pub(crate) fn pax(nodes: &[Node]) -> Vec<u8> {
    tar(Dialect::Pax, "", nodes)
}

/// Appends an entry without an end mark.
pub(crate) fn append(out: &mut Vec<u8>, dialect: Dialect, prefix: &str, node: &Node) {
    let name = [prefix.as_bytes(), &node.name].concat();
    let link = if node.kind == b'1' {
        [prefix.as_bytes(), &node.link].concat()
    } else {
        node.link.clone()
    };
    let mut records = if dialect == Dialect::Pax { node.records.clone() } else { Vec::new() };
    let mut head = name.clone();
    match dialect {
        Dialect::Gnu => {
            for (kind, text) in [(b'L', &name), (b'K', &link)] {
                if text.len() > 100 {
                    raw(
                        out,
                        header(dialect, b"././@LongLink", kind, text.len() as u64 + 1),
                        &[text, &b"\0"[..]].concat(),
                    );
                }
            }
        }
        Dialect::Pax => {
            for (key, text) in [("path", &name), ("linkpath", &link)] {
                if text.len() > 100 {
                    records.push((key.to_owned(), text.clone()));
                }
            }
        }
        Dialect::Ustar => {}
    }
    if !records.is_empty() {
        extension(out, b'x', &records);
    }
    let mut made = header(dialect, b"", node.kind, node.content.len() as u64);
    if dialect == Dialect::Ustar && name.len() > 100 {
        let split = name.len() - 100
            + name[name.len() - 100..]
                .iter()
                .position(|byte| *byte == b'/')
                .expect("a place to split");
        made.as_mut_bytes()[345..345 + split].copy_from_slice(&name[..split]);
        head = name[split + 1..].to_vec();
    }
    head.truncate(100);
    made.as_mut_bytes()[..head.len()].copy_from_slice(&head);
    let len = link.len().min(100);
    made.as_mut_bytes()[157..157 + len].copy_from_slice(&link[..len]);
    made.set_mode(node.mode);
    made.set_uid(node.owner.0);
    made.set_gid(node.owner.1);
    made.set_username(&node.names.0).expect("short");
    made.set_groupname(&node.names.1).expect("short");
    made.set_mtime(node.mtime);
    made.set_device_major(node.device.0).expect("a device");
    made.set_device_minor(node.device.1).expect("a device");
    raw(out, made, &node.content);
}

fn header(dialect: Dialect, name: &[u8], kind: u8, size: u64) -> tar::Header {
    let mut header = match dialect {
        Dialect::Gnu => tar::Header::new_gnu(),
        _ => tar::Header::new_ustar(),
    };
    header.as_mut_bytes()[..name.len()].copy_from_slice(name);
    // `tar::EntryType` makes `b'0'` of 0.
    header.as_mut_bytes()[156] = kind;
    header.set_size(size);
    header
}

fn raw(out: &mut Vec<u8>, mut header: tar::Header, content: &[u8]) {
    header.set_cksum();
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(content);
    out.resize(out.len().next_multiple_of(512), 0);
}

/// Appends a PAX header: `b'x'` for the next entry, `b'g'` for all that follow.
pub(crate) fn extension(out: &mut Vec<u8>, kind: u8, records: &[(String, Vec<u8>)]) {
    let mut content = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let len =
            (1..9).map(|digits| rest + digits).find(|len| rest + len.to_string().len() == *len);
        content.extend(format!("{} {key}=", len.expect("short")).bytes());
        content.extend(value);
        content.push(b'\n');
    }
    let mut header = header(Dialect::Ustar, b"pax", kind, content.len() as u64);
    header.set_mode(0o644);
    raw(out, header, &content);
}

/// A blob, and what was said of it.
#[derive(Clone, Debug)]
pub(crate) struct Built {
    pub(crate) blob: Vec<u8>,
    pub(crate) report: BuildReport,
    pub(crate) format: BlobFormat,
}

/// Options of a format: two threads, and the lowest level.
pub(crate) fn options(format: BlobFormat) -> BuildOptions {
    let parallelism = NonZeroUsize::new(2).expect("not 0");
    BuildOptions { format, level: Some(1), parallelism, ..BuildOptions::default() }
}

/// Converts a layer.
pub(crate) fn try_build(input: &[u8], options: &BuildOptions) -> Result<Built> {
    let (mut blob, mut spool) = (Vec::new(), Cursor::new(Vec::new()));
    let report = convert_layer(&mut &*input, &mut blob, options, Some(&mut spool))?;
    Ok(Built { blob, report, format: options.format })
}

/// Converts a layer and checks whatever holds of every blob.
pub(crate) fn build(input: &[u8], options: &BuildOptions) -> Built {
    let built = try_build(input, options).expect("converts");
    built.check();
    built
}

impl Built {
    /// The tar inside.
    pub(crate) fn tar(&self) -> Vec<u8> {
        let mut tar = Vec::new();
        let read = if self.format.is_zstd() {
            zstd::Decoder::new(&self.blob[..]).expect("zstd").read_to_end(&mut tar)
        } else {
            flate2::bufread::MultiGzDecoder::new(&self.blob[..]).read_to_end(&mut tar)
        };
        read.expect("decompresses");
        tar
    }

    /// The TOC document.
    pub(crate) fn document(&self) -> Vec<u8> {
        if let Some(toc) = &self.report.external_toc {
            return toc.to_vec();
        }
        let size = self.blob.len() as u64;
        match Footer::parse(&self.blob, size).expect("a footer") {
            Footer::Estargz { toc_offset } => {
                let member = self.member(toc_offset);
                let mut archive = tar::Archive::new(&member[..]);
                let mut entry =
                    archive.entries().expect("a tar").next().expect("one").expect("sound");
                assert_eq!(&*entry.path_bytes(), b"stargz.index.json");
                let mut document = Vec::new();
                entry.read_to_end(&mut document).expect("whole");
                document
            }
            Footer::ZstdChunked(footer) => {
                let range = footer.toc.range;
                let compressed = &self.blob[usize(range.start())..usize(range.end())];
                let document = zstd::decode_all(compressed).expect("zstd");
                assert_eq!(document.len() as u64, footer.toc.raw_size);
                document
            }
            other => panic!("{other:?}"),
        }
    }

    /// Entries of the TOC, landmarks included.
    pub(crate) fn toc(&self) -> Vec<Value> {
        let document: Value = serde_json::from_slice(&self.document()).expect("JSON");
        assert_eq!(document["version"], 1);
        document["entries"].as_array().expect("a list").clone()
    }

    /// The entry of a name.
    pub(crate) fn entry(&self, name: &str) -> Value {
        let found: Vec<Value> = self
            .toc()
            .into_iter()
            .filter(|entry| entry["name"] == name && entry["type"] != "chunk")
            .collect();
        assert_eq!(found.len(), 1, "{name}");
        found[0].clone()
    }

    /// Names of the entries in their order, chunks left out.
    pub(crate) fn names(&self) -> Vec<String> {
        let toc = self.toc();
        let entries = toc.iter().filter(|entry| entry["type"] != "chunk");
        entries.map(|entry| entry["name"].as_str().expect("a name").to_owned()).collect()
    }

    /// The one member, or frame, at an offset, decompressed.
    pub(crate) fn member(&self, offset: u64) -> Vec<u8> {
        let mut rest = &self.blob[usize(offset)..];
        let mut raw = Vec::new();
        let read = if self.format.is_zstd() {
            zstd::Decoder::with_buffer(&mut rest)
                .expect("zstd")
                .single_frame()
                .read_to_end(&mut raw)
        } else {
            flate2::bufread::GzDecoder::new(&mut rest).read_to_end(&mut raw)
        };
        read.expect("a member");
        raw
    }

    /// How many members, or frames, the blob is made of.
    pub(crate) fn members(&self) -> usize {
        let mut rest = &self.blob[..];
        let mut count = 0;
        while !rest.is_empty() {
            let len = if self.format.is_zstd() {
                zstd::zstd_safe::find_frame_compressed_size(rest).expect("a frame")
            } else {
                let mut left = rest;
                let mut member = flate2::bufread::GzDecoder::new(&mut left);
                std::io::copy(&mut member, &mut std::io::sink()).expect("a member");
                rest.len() - left.len()
            };
            rest = &rest[len..];
            count += 1;
        }
        count
    }

    /// Checks what was reported, and that every chunk is where the TOC says.
    pub(crate) fn check(&self) {
        let (report, tar) = (&self.report, self.tar());
        assert_eq!(report.blob_digest, Digest::of(&self.blob));
        assert_eq!(report.blob_size, self.blob.len() as u64);
        assert_eq!(report.diff_id, Digest::of(&tar), "diffID");
        assert_eq!(report.uncompressed_size, tar.len() as u64);
        assert_eq!(report.external_toc.is_some(), self.format == BlobFormat::EstargzExternalToc);
        if !self.format.is_lazy() {
            assert_eq!(report.toc_digest, None);
            assert!(report.annotations.is_empty(), "{:?}", report.annotations);
            return;
        }
        assert_eq!(report.toc_digest, Some(Digest::of(&self.document())));
        let toc = self.toc();
        let entries = toc.iter().filter(|entry| entry["type"] != "chunk").count();
        assert_eq!(entries, report.entries as usize);
        self.check_chunks(&toc, &contents(&tar));
    }

    fn check_chunks(&self, toc: &[Value], contents: &BTreeMap<Vec<u8>, Vec<Vec<u8>>>) {
        let number = |entry: &Value, key: &str| entry[key].as_u64().unwrap_or(0);
        let mut seen: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
        let mut at = 0;
        while at < toc.len() {
            let first = &toc[at];
            let chunks = toc[at + 1..].iter().take_while(|entry| entry["type"] == "chunk").count();
            let name = raw_name(first);
            if first["type"] == "reg" {
                let turn = seen.entry(name.clone()).or_default();
                let content = &contents[&name][*turn];
                *turn += 1;
                assert_eq!(number(first, "size"), content.len() as u64);
                let digest = first["digest"].as_str().unwrap_or_default();
                if !(content.is_empty() && self.format == BlobFormat::ZstdChunkedPodman) {
                    assert_eq!(digest, Digest::of(content).to_string(), "{first}");
                }
                let mut covered = 0;
                let holders = if content.is_empty() { 0 } else { chunks + 1 };
                for chunk in &toc[at..at + holders] {
                    let offset = number(chunk, "chunkOffset");
                    assert_eq!(offset, covered, "no gaps");
                    let len = match number(chunk, "chunkSize") {
                        0 => content.len() as u64 - offset,
                        len => len,
                    };
                    let member = self.member(number(chunk, "offset"));
                    let inner = usize(number(chunk, "innerOffset"));
                    let bytes = &member[inner..inner + usize(len)];
                    assert!(bytes == &content[usize(offset)..usize(offset + len)], "{chunk}");
                    let digest = chunk["chunkDigest"].as_str().or(first["digest"].as_str());
                    assert_eq!(digest, Some(&*Digest::of(bytes).to_string()), "{chunk}");
                    covered += len;
                }
                assert_eq!(covered, content.len() as u64);
            } else {
                assert_eq!(chunks, 0, "{first}");
            }
            at += 1 + chunks;
        }
    }
}

fn raw_name(entry: &Value) -> Vec<u8> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    match entry["nameBytes"].as_str() {
        Some(bytes) => STANDARD.decode(bytes).expect("base64"),
        None => entry["name"].as_str().expect("a name").as_bytes().to_vec(),
    }
}

/// Contents of the files of a tar, by name, in their order.
pub(crate) fn contents(tar: &[u8]) -> BTreeMap<Vec<u8>, Vec<Vec<u8>>> {
    let mut found: BTreeMap<Vec<u8>, Vec<Vec<u8>>> = BTreeMap::new();
    for (name, kind, content) in list(tar) {
        if matches!(kind, b'0' | 0) {
            found.entry(name).or_default().push(content);
        }
    }
    found
}

/// Names, types and contents of the entries of a tar.
pub(crate) fn list(tar: &[u8]) -> Vec<(Vec<u8>, u8, Vec<u8>)> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().expect("a tar");
    let entries = entries.map(|entry| {
        let mut entry = entry.expect("an entry");
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("whole");
        (entry.path_bytes().into_owned(), entry.header().entry_type().as_byte(), content)
    });
    entries.filter(|(_, kind, _)| *kind != b'g').collect()
}

/// Bytes that compress badly, the same for the same seed.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()[0]
    };
    (0..len).map(|_| next()).collect()
}

pub(crate) fn usize(number: u64) -> usize {
    usize::try_from(number).expect("in memory")
}
