//! Whole blobs and archives that are wrong on purpose, changed in their structure.
use std::io::{Read as _, Write as _};

use bolide_core::{
    BlobOpener as _, BlobRef, BlobSource as _, ByteRange, Digest, ErrorKind, Result, TocIndex as _,
    memory::MemoryBlob,
};
use bolide_estargz::{
    BuildOptions, BuildReport, Footer, OpenedLayer, TAIL_HINT, TocTrust, ZstdDocument, ZstdFooter,
    convert_layer, open_layer,
};
use flate2::{Compression, bufread::MultiGzDecoder, write::GzEncoder};
use proptest::prelude::*;

fn open(blob: &[u8], tail_hint: u64, trust: TocTrust) -> Result<OpenedLayer> {
    let blob = MemoryBlob::new(blob.to_vec());
    let wanted = BlobRef { digest: blob.digest(), size: None };
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async { open_layer(&blob.open(wanted, tail_hint).await?, trust).await })
}

fn gzip(raw: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(1));
    encoder.write_all(raw).expect("memory");
    encoder.finish().expect("memory")
}

/// One entry of a tar, as an archive may say anything.
#[derive(Clone, Debug)]
struct Entry {
    kind: u8,
    name: &'static str,
    link: &'static str,
    content: Vec<u8>,
    /// Bytes of the header to be changed, before its checksum is set right.
    changes: Vec<(usize, u8)>,
}

fn entry(kind: u8, name: &'static str, link: &'static str, content: &[u8]) -> Entry {
    Entry { kind, name, link, content: content.to_vec(), changes: Vec::new() }
}

fn valid() -> Vec<Entry> {
    vec![
        entry(b'5', "dir/", "", b""),
        entry(b'0', "dir/file", "", &[7; 700]),
        entry(b'1', "hard", "dir/file", b""),
        entry(b'2', "soft", "dir/file", b""),
        entry(b'x', "pax", "", b"25 SCHILY.xattr.user.x=y\n"),
        entry(b'0', "named", "", b"x"),
        entry(b'L', "././@LongLink", "", b"a/long/name\0"),
        entry(b'0', "cut", "", b"yy"),
        entry(b'3', "null", "", b""),
        entry(b'6', "pipe", "", b""),
    ]
}

fn tar(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::new(entry.kind));
        header.set_mode(0o644);
        header.set_size(entry.content.len() as u64);
        let name = entry.name.as_bytes();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        let link = entry.link.as_bytes();
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link);
        for (at, byte) in &entry.changes {
            header.as_mut_bytes()[*at] = *byte;
        }
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(&entry.content);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

fn convert(tar: &[u8], prioritized: &[&str]) -> Result<(Vec<u8>, BuildReport)> {
    let options = BuildOptions {
        chunk_size: 300,
        prioritized: prioritized.iter().map(|path| (*path).to_owned()).collect(),
        ..BuildOptions::default()
    };
    let mut blob = Vec::new();
    let mut spool = std::io::Cursor::new(Vec::new());
    let report = convert_layer(&mut &tar[..], &mut blob, &options, Some(&mut spool))?;
    Ok((blob, report))
}

#[test]
fn the_valid_archive_is_valid() {
    let (blob, report) = convert(&tar(&valid()), &[]).expect("converts");
    let layer =
        open(&blob, TAIL_HINT, TocTrust::Digest(report.toc_digest.expect("a TOC"))).expect("opens");
    bolide_testkit::conformance::toc_index::all(&*layer.index).expect("conforms");
    assert_eq!(report.diff_id, Digest::of(&inflate(&blob)));
}

fn inflate(blob: &[u8]) -> Vec<u8> {
    let mut raw = Vec::new();
    MultiGzDecoder::new(blob).read_to_end(&mut raw).expect("a gzip of a tar");
    raw
}

#[test]
fn a_blob_cut_anywhere_is_no_layer() {
    let (blob, report) = convert(&tar(&valid()), &[]).expect("converts");
    for len in 0..blob.len() {
        for tail in [0, 60, TAIL_HINT] {
            let error =
                open(&blob[..len], tail, TocTrust::Digest(report.toc_digest.expect("a TOC")));
            let kind = error.expect_err("cut").kind();
            assert_eq!(kind, ErrorKind::Unsupported, "at {len}");
        }
    }
}

#[test]
fn a_footer_may_point_anywhere() {
    let (blob, report) = convert(&tar(&valid()), &[]).expect("converts");
    let payload = &blob[..blob.len() - Footer::SIZE];
    let (own, end) = (payload.len() as u64, blob.len() as u64);
    let real = Footer::parse(&blob, end).expect("a footer").payload_end(end);
    for offset in [0, 1, real - 1, real + 1, own - 1, own, own + 1, end, end + 1, u64::MAX] {
        let pointing = [payload, &Footer::write(offset)].concat();
        for trust in [TocTrust::Digest(report.toc_digest.expect("a TOC")), TocTrust::Unverified] {
            let kind = open(&pointing, TAIL_HINT, trust).expect_err("no TOC there").kind();
            assert_eq!(kind, ErrorKind::Malformed, "at {offset}");
        }
    }
}

/// A blob that is a TOC and its footer, the TOC's tar header made by `change`.
fn toc_blob(document: &str, change: impl FnOnce(&mut tar::Header)) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_path("stargz.index.json").expect("short");
    header.set_size(document.len() as u64);
    change(&mut header);
    header.set_cksum();
    let member = gzip(&[header.as_bytes(), document.as_bytes()].concat());
    [b"p".as_slice(), &member, &Footer::write(1)].concat()
}

#[test]
fn a_toc_must_be_where_and_what_it_says() {
    let document = r#"{"version":1,"entries":[{"name":"d","type":"dir"}]}"#;
    let right = toc_blob(document, |_| ());
    assert!(open(&right, TAIL_HINT, TocTrust::Digest(Digest::of(document.as_bytes()))).is_ok());
    let kind = open(&right, TAIL_HINT, TocTrust::Digest(Digest::of(b"other")));
    assert_eq!(kind.expect_err("not trusted").kind(), ErrorKind::Corrupt);
    let size = |bytes: &'static [u8; 12]| {
        toc_blob(document, |header| header.as_mut_bytes()[124..136].copy_from_slice(bytes))
    };
    for (blob, kind) in [
        (toc_blob(document, |header| header.set_path("other.json").expect("short")), None),
        (size(b"00000001000\0"), None),
        (size(b"-0000000100\0"), None),
        (size(b"not a size!\0"), None),
        (size(&[0xff; 12]), None),
        (size(b"37777777777\0"), Some(ErrorKind::Exhausted)),
    ] {
        let error = open(&blob, TAIL_HINT, TocTrust::Unverified).expect_err("wrong");
        assert_eq!(error.kind(), kind.unwrap_or(ErrorKind::Malformed), "{error}");
    }
}

/// A blob that is a zstd:chunked TOC and its footer, which `change` may make lie.
fn zstd_blob(frames: &[u8], raw_size: u64, change: impl FnOnce(&mut ZstdFooter)) -> Vec<u8> {
    let toc =
        ZstdDocument { range: ByteRange::at(8, frames.len() as u64).expect("range"), raw_size };
    let mut footer = ZstdFooter { toc, tar_split: None, podman: true };
    change(&mut footer);
    [&b"skipable"[..], frames, &footer.write()].concat()
}

#[test]
fn a_zstd_toc_is_no_longer_than_its_footer_says() {
    let document = br#"{"version":1,"entries":[{"name":"d","type":"dir"}]}"#;
    let (frames, len) =
        (zstd::encode_all(&document[..], 3).expect("memory"), document.len() as u64);
    let checksum = TocTrust::Compressed(Digest::of(&frames));
    for trust in [TocTrust::Unverified, TocTrust::Digest(Digest::of(document)), checksum] {
        let read = |blob: &[u8]| open(blob, TAIL_HINT, trust).map_err(|error| error.kind());
        for raw_size in [len, len + 1, 1 << 20] {
            assert!(read(&zstd_blob(&frames, raw_size, |_| ())).is_ok(), "{raw_size}");
        }
        for (raw_size, kind) in [
            (0, ErrorKind::Malformed),
            (len - 1, ErrorKind::Malformed),
            ((512 << 20) + 1, ErrorKind::Exhausted),
            (u64::MAX, ErrorKind::Exhausted),
        ] {
            let refused = read(&zstd_blob(&frames, raw_size, |_| ()));
            assert_eq!(refused.expect_err("a lie"), kind, "{raw_size}");
        }
        let cut = zstd_blob(&frames[..frames.len() - 1], len, |_| ());
        assert!(read(&cut).is_err());
    }
    let end = zstd_blob(&frames, len, |_| ()).len() as u64;
    for (start, size) in [(0, 10), (7, 10), (8, end), (end, 1), (u64::MAX - 1, 1)] {
        let range = ByteRange::at(start, size).expect("range");
        let blob = zstd_blob(&frames, len, |footer| footer.toc.range = range);
        let refused = open(&blob, TAIL_HINT, TocTrust::Unverified).expect_err("outside");
        assert_eq!(refused.kind(), ErrorKind::Malformed, "{range}");
    }
    // A tar-split that lies anywhere is not read.
    let lost =
        ZstdDocument { range: ByteRange::at(u64::MAX - 1, 1).expect("range"), raw_size: u64::MAX };
    let blob = zstd_blob(&frames, len, |footer| footer.tar_split = Some(lost));
    assert!(open(&blob, TAIL_HINT, checksum).is_ok());
}

#[test]
fn a_checksum_of_zstd_chunked_vouches_for_nothing_else() {
    let blob = toc_blob(r#"{"version":1,"entries":[]}"#, |_| ());
    let start = usize::try_from(
        Footer::parse(&blob, blob.len() as u64).expect("a footer").payload_end(blob.len() as u64),
    )
    .expect("small");
    let member = &blob[start..blob.len() - Footer::SIZE];
    let refused = open(&blob, TAIL_HINT, TocTrust::Compressed(Digest::of(member)));
    assert_eq!(refused.expect_err("gzip").kind(), ErrorKind::Malformed);
}

#[test]
fn documents_nested_deep_do_not_exhaust_the_stack() {
    let deep = format!("{}{}", "[".repeat(1 << 20), "]".repeat(1 << 20));
    for document in [
        deep.clone(),
        format!(r#"{{"version":{deep},"entries":[]}}"#),
        format!(r#"{{"version":1,"entries":{deep}}}"#),
        format!(r#"{{"version":1,"entries":[{{"name":"d","type":"dir","xattrs":{deep}}}]}}"#),
        format!(r#"{{"version":1,"entries":[{{"name":{deep}}}]}}"#),
    ] {
        let blob = toc_blob(&document, |_| ());
        let error = open(&blob, TAIL_HINT, TocTrust::Unverified).expect_err("no TOC");
        assert_eq!(error.kind(), ErrorKind::Malformed);
    }
}

/// Where the fields of a tar header lie that numbers and kinds are read from.
const FIELDS: [std::ops::Range<usize>; 8] =
    [0..100, 100..124, 124..136, 136..148, 156..157, 157..257, 257..265, 329..345];

fn change() -> impl Strategy<Value = (usize, u8)> {
    let at = prop::sample::select(FIELDS.to_vec()).prop_flat_map(|field| field);
    let byte =
        prop_oneof![any::<u8>(), prop::sample::select(b"\0 /.01234567x=LKgSMVD\x80\xff".to_vec()),];
    (at, byte)
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let pax = prop::sample::select(vec![
        "25 SCHILY.xattr.user.x=y\n",
        "29 size=18446744073709551615\n",
        "11 size=-1\n",
        "13 path=/../\n",
        "99999999999999999999 a=b\n",
        "0 =\n",
        "5 a=b",
        "9 uid=-5\n",
        "17 mtime=1e400.9\n",
        "25 GNU.sparse.realsize=1\n",
    ]);
    let edits = prop::collection::vec(
        (0..10_usize, prop::collection::vec(change(), 0..4), prop::option::of(pax)),
        0..4,
    );
    (edits, 0..10_usize, 0..10_usize, prop::option::of(0..10_usize)).prop_map(
        |(edits, left, right, again)| {
            let mut entries = valid();
            for (number, changes, pax) in edits {
                entries[number].changes.extend(changes);
                if let Some(pax) = pax {
                    entries[number].content = pax.as_bytes().to_vec();
                }
            }
            entries.swap(left, right);
            entries.extend(again.map(|number| entries[number].clone()));
            entries
        },
    )
}

proptest! {
    /// Whatever stands in the headers of an archive, it becomes a layer as good as any, or nothing.
    #[test]
    fn archives_become_layers_or_errors(entries in entries(), cut in prop::option::weighted(0.2, 0..6000_usize), first in any::<bool>()) {
        let mut tar = tar(&entries);
        tar.truncate(cut.unwrap_or(usize::MAX));
        let prioritized: &[&str] = if first { &["hard", "named"] } else { &[] };
        if let Ok((blob, report)) = convert(&tar, prioritized) {
            prop_assert_eq!(report.diff_id, Digest::of(&inflate(&blob)));
            // What no file system could hold is refused where it is read.
            if let Ok(layer) = open(&blob, TAIL_HINT, TocTrust::Digest(report.toc_digest.expect("a TOC"))) {
                bolide_testkit::conformance::toc_index::all(&*layer.index).expect("conforms");
            }
        }
    }

    /// A footer either says where a TOC may be, or is refused.
    #[test]
    fn footers_point_inside_or_nowhere(offset in any::<u64>(), size in any::<u64>(), before in 0..60_usize, flips in prop::collection::vec((0..51_usize, any::<u8>()), 0..3)) {
        let mut tail = vec![0; before];
        tail.extend(Footer::write(offset));
        for (at, byte) in flips {
            tail[before + at] = byte;
        }
        if let Ok(footer) = Footer::parse(&tail, size) {
            prop_assert!(footer.payload_end(size) <= size - footer.size() as u64);
        }
    }

    /// Damage to a blob is never a panic, and never another tree than the trusted one.
    #[test]
    fn damaged_blobs_show_the_trusted_tree_or_none(at in any::<prop::sample::Index>(), byte in any::<u8>(), tail in 0..4096_u64) {
        let (mut blob, report) = convert(&tar(&valid()), &[]).expect("converts");
        let at = at.index(blob.len());
        blob[at] = byte;
        if let Ok(layer) = open(&blob, tail, TocTrust::Digest(report.toc_digest.expect("a TOC"))) {
            prop_assert_eq!(layer.index.digest(), report.toc_digest.expect("a TOC"));
        }
    }
}
