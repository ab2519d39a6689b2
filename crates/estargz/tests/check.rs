//! A layer that is there as a whole is checked as one.
use std::{fs, path::PathBuf};

use bolide_core::{
    BlobOpener as _, BlobRef, BlobSource as _, Digest, ErrorKind, Result, memory::MemoryBlob,
};
use bolide_estargz::{
    BlobVerdict, BuildOptions, EstargzIndex, FoundToc, OpenedLayer, TAIL_HINT, TocTrust,
    check_blob, check_chunks, convert_layer, find_toc, open_layer, read_external_toc,
};
use serde_json::{Value, json};
use tar::EntryType;

/// A tar with every kind of entry.
fn tar() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |kind: EntryType, path: &str, link: &str, content: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_path(path).expect("short");
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(1000);
        header.set_gid(1001);
        header.set_mtime(1_700_000_000);
        if !link.is_empty() {
            header.set_link_name(link).expect("short");
        }
        header.set_device_major(1).expect("ustar");
        header.set_device_minor(3).expect("ustar");
        header.set_cksum();
        tar.append(&header, content).expect("in memory");
    };
    let pax = b"31 SCHILY.xattr.user.color=red\n";
    add(EntryType::Directory, "dir/", "", b"");
    add(EntryType::Regular, "dir/file", "", &[7; 5000]);
    add(EntryType::XHeader, "pax", "", pax);
    add(EntryType::Regular, "dir/marked", "", b"colourful");
    add(EntryType::Link, "same", "dir/file", b"");
    add(EntryType::Symlink, "link", "dir/file", b"");
    add(EntryType::Char, "null", "", b"");
    add(EntryType::Regular, "implied/file", "", b"content");
    tar.into_inner().expect("in memory")
}

fn convert(tar: &[u8]) -> (Vec<u8>, Digest) {
    let mut blob = Vec::new();
    let report = convert_layer(&mut &*tar, &mut blob, &BuildOptions::default(), None);
    (blob, report.expect("converts").diff_id)
}

async fn open(blob: &[u8]) -> OpenedLayer {
    let blob = MemoryBlob::new(blob.to_vec());
    let wanted = BlobRef { digest: blob.digest(), size: None };
    let opened = blob.open(wanted, TAIL_HINT).await.expect("opens");
    open_layer(&opened, TocTrust::Unverified).await.expect("is eStargz")
}

fn check(blob: &[u8], index: &EstargzIndex) -> Result<BlobVerdict> {
    check_blob(&mut &*blob, Digest::of(blob), index)
}

/// The disagreements after `lie` has changed the entries of the TOC.
async fn caught(lie: impl FnOnce(&mut Vec<Value>)) -> Vec<String> {
    let (blob, _) = convert(&tar());
    let layer = open(&blob).await;
    let mut toc: Value = serde_json::from_slice(&layer.toc).expect("JSON");
    lie(toc["entries"].as_array_mut().expect("entries"));
    let toc = toc.to_string();
    let index = EstargzIndex::from_toc(toc.as_bytes(), TocTrust::Unverified, &layer.facts);
    check(&blob, &index.expect("still a tree")).expect("the blob is sound").disagreements
}

fn named<'a>(entries: &'a mut [Value], name: &str) -> &'a mut Value {
    entries.iter_mut().find(|entry| entry["name"] == name).expect("is there")
}

#[tokio::test]
async fn an_honest_layer_has_no_disagreements() {
    let (blob, diff_id) = convert(&tar());
    let verdict = check(&blob, &open(&blob).await.index).expect("checks");
    assert_eq!(verdict, BlobVerdict { blob: Digest::of(&blob), diff_id, disagreements: vec![] });
}

#[tokio::test]
async fn layers_of_the_reference_implementation_have_no_disagreements() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/blobs");
    let mut checked = 0;
    for blob in fs::read_dir(dir).expect("testdata") {
        let blob = fs::read(blob.expect("entry").path()).expect("blob");
        let memory = MemoryBlob::new(blob.clone());
        let wanted = BlobRef { digest: memory.digest(), size: None };
        let opened = memory.open(wanted, TAIL_HINT).await.expect("opens");
        let Ok(layer) = open_layer(&opened, TocTrust::Unverified).await else { continue };
        let verdict = check(&blob, &layer.index).expect("checks");
        assert_eq!(verdict.disagreements, Vec::<String>::new());
        checked += 1;
    }
    assert!(checked >= 10, "{checked} layers");
}

#[tokio::test]
async fn layers_with_their_toc_elsewhere_have_no_disagreements() {
    let blob = |hex: &str| {
        let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/blobs");
        MemoryBlob::new(fs::read(dir.join(hex)).expect("blob"))
    };
    let opened = async |blob: &MemoryBlob| {
        let wanted = BlobRef { digest: blob.digest(), size: None };
        blob.open(wanted, TAIL_HINT).await.expect("opens")
    };
    for (layer, toc) in [
        (
            "e2802306fa7b804054318f9bcf2a316cfb5a8b4f6c3fdcaefa90a924b344f69d",
            "409a345f9824832c3b7130e53bd5bb91700151e972097a31c789ec47e769cee2",
        ),
        // Its tar is the original one to the byte, and begins without a landmark.
        (
            "befa43bba8a33c99fbb8c672cb6f78b9673ba045a505d99eb7597014543694b3",
            "c6bf251f3007d431f8b3e384a3429c48d813e46ee8c4fe54b9d4f6fcdde27459",
        ),
    ] {
        let found = find_toc(&opened(&blob(layer)).await).await.expect("a footer");
        let FoundToc::Elsewhere(facts) = found else { panic!("{found:?}") };
        let holder = opened(&blob(toc)).await;
        let raw = read_external_toc(facts, &holder).await.expect("a TOC");
        let index = raw.index(TocTrust::Unverified).expect("indexes").index;
        let whole = opened(&blob(layer)).await.source;
        let range = bolide_core::ByteRange::new(0..whole.size()).expect("not empty");
        let bytes = whole.read_at(range, bolide_core::ReadOptions::default()).await.expect("all");
        let verdict = check(&bytes, &index).expect("checks");
        assert_eq!(verdict.disagreements, Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_toc_that_lies_is_caught() {
    type Lie = fn(&mut Value);
    let lies: [(&str, Lie, &str); 8] = [
        ("dir/file", |entry| entry["mode"] = json!(0o4755), "mode is 0o644 in the tar and 0o4755"),
        ("dir/file", |entry| entry["uid"] = json!(0), "owner is (1000, 1001)"),
        ("dir/file", |entry| entry["modtime"] = json!("2020-01-01T00:00:00Z"), "modification time"),
        ("link", |entry| entry["linkName"] = json!("/etc/shadow"), "target is \"dir/file\""),
        ("null", |entry| entry["devMinor"] = json!(5), "type is CharDevice"),
        ("null", |entry| entry["type"] = json!("fifo"), "type is CharDevice"),
        ("dir/marked", |entry| entry["xattrs"] = json!({}), "extended attribute \"user.color\""),
        ("same", |entry| entry["linkName"] = json!("implied/file"), "hard link to \"dir/file\""),
    ];
    for (name, lie, expected) in lies {
        let found = caught(|entries| lie(named(entries, name))).await;
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains(name) && found[0].contains(expected), "{found:?}: {expected}");
    }
}

#[tokio::test]
async fn a_hole_that_is_none_in_the_tar_is_caught() {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    let content = [&[7; 100][..], &[0; 5000], &[8; 3]].concat();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, "sparse", &content[..]).expect("in memory");
    let (blob, _) = convert(&tar.into_inner().expect("in memory"));
    let layer = open(&blob).await;
    let toc: Value = serde_json::from_slice(&layer.toc).expect("JSON");
    let with_hole = |start: u64, end: u64| {
        let mut toc = toc.clone();
        let entries = toc["entries"].as_array_mut().expect("entries");
        let file = named(entries, "sparse");
        file["chunkSize"] = json!(start);
        let (offset, digest) = (file["offset"].clone(), file["chunkDigest"].clone());
        entries.push(json!({"name": "sparse", "type": "chunk", "chunkOffset": start,
            "chunkSize": end - start, "chunkType": "zeros"}));
        entries.push(json!({"name": "sparse", "type": "chunk", "chunkOffset": end,
            "offset": offset, "innerOffset": end, "chunkDigest": digest}));
        let document = toc.to_string();
        EstargzIndex::from_toc(document.as_bytes(), TocTrust::Unverified, &layer.facts)
    };
    let honest = with_hole(100, 5100).expect("reads");
    assert_eq!(check(&blob, &honest).expect("checks").disagreements, Vec::<String>::new());
    for (start, end) in [(99, 5100), (100, 5101)] {
        let lie = with_hole(start, end).expect("reads");
        let found = check(&blob, &lie).expect("checks").disagreements;
        assert_eq!(found, [format!("\"sparse\": the TOC has a hole at {start}, the tar content")]);
    }
    let endless = with_hole(100, 1 << 50);
    assert!(endless.is_err(), "it ends after its file");
}

#[tokio::test]
async fn a_toc_that_omits_or_adds_a_file_is_caught() {
    let found = caught(|entries| entries.retain(|entry| entry["name"] != "link")).await;
    assert_eq!(found, ["\"link\": it is in the tar and not in the TOC"]);
    let added = json!({ "name": "etc/cron.d", "type": "dir", "mode": 0o755 });
    let found = caught(|entries| entries.push(added)).await;
    assert_eq!(
        found,
        [
            "\"etc\": it is in the TOC and not in the tar",
            "\"etc/cron.d\": it is in the TOC and not in the tar"
        ]
    );
}

#[tokio::test]
async fn what_is_reported_is_bounded() {
    let many = (0..300).map(|n| json!({ "name": format!("more{n}"), "type": "fifo" }));
    let found = caught(|entries| entries.extend(many)).await;
    assert_eq!(found.len(), 101);
    assert_eq!(found[100], "and 200 more");
}

#[tokio::test]
async fn of_two_entries_with_one_path_the_later_counts() {
    let twice = [&tar()[..tar().len() - 1024], &tar()].concat();
    let (blob, _) = convert(&twice);
    let verdict = check(&blob, &open(&blob).await.index).expect("checks");
    assert_eq!(verdict.disagreements, Vec::<String>::new());
}

#[tokio::test]
async fn a_flipped_byte_between_chunks_is_found() {
    let (blob, _) = convert(&tar());
    let (expected, layer) = (Digest::of(&blob), open(&blob).await);
    // The first member holds the header of the first file, and no chunk.
    for at in [20, blob.len() - 60, blob.len() - 1] {
        let mut flipped = blob.clone();
        flipped[at] ^= 1;
        let error = check_blob(&mut &*flipped, expected, &*layer.index).expect_err("flipped");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert_eq!(error.context("expected"), Some(expected.to_string().as_str()));
    }
    let error = check_blob(&mut &blob[..blob.len() / 2], expected, &*layer.index);
    assert_eq!(error.expect_err("cut").kind(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn what_is_no_layer_or_unpacks_without_end_is_malformed() {
    let (blob, _) = convert(&tar());
    let index = open(&blob).await.index;
    let error = check(b"no tar at all", &index).expect_err("no tar");
    assert_eq!(error.kind(), ErrorKind::Malformed);
    let zeros = std::io::Read::take(std::io::repeat(0), 80 << 20);
    let bomb = zstd::stream::encode_all(zeros, 1).expect("in memory");
    assert!(bomb.len() < 100_000);
    let error = check(&bomb, &index).expect_err("a bomb");
    assert_eq!(error.kind(), ErrorKind::Malformed);
}

#[tokio::test]
async fn zstd_layers_with_skippable_frames_at_their_end_are_read() {
    let (blob, diff_id) = convert(&tar());
    let index = open(&blob).await.index;
    let mut plain = Vec::new();
    let mut gunzip = flate2::read::MultiGzDecoder::new(&blob[..]);
    std::io::Read::read_to_end(&mut gunzip, &mut plain).expect("gzip");
    let (head, tail) = plain.split_at(4096);
    let frame = |part| zstd::stream::encode_all(part, 3).expect("in memory");
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 5, 0, 0, 0][..], b"extra"].concat();
    let frames = [frame(head), frame(tail), skippable].concat();
    let verdict = check(&frames, &index).expect("checks");
    assert_eq!((verdict.diff_id, verdict.disagreements), (diff_id, vec![]));
}

#[tokio::test]
async fn every_chunk_is_found_where_the_toc_says() {
    let (blob, _) = convert(&tar());
    let layer = open(&blob).await;
    let mut whole = std::io::Cursor::new(&blob);
    assert_eq!(check_chunks(&mut whole, &*layer.index).expect("reads"), [""; 0]);

    let mut toc: Value = serde_json::from_slice(&layer.toc).expect("JSON");
    for entry in toc["entries"].as_array_mut().expect("entries") {
        if entry["name"] == "dir/marked" {
            entry["chunkDigest"] = Digest::of(b"other").to_string().into();
        }
        if entry["name"] == "implied/file" {
            entry["innerOffset"] = 1_000_000.into();
        }
    }
    let toc = toc.to_string();
    let index = EstargzIndex::from_toc(toc.as_bytes(), TocTrust::Unverified, &layer.facts);
    let faults = check_chunks(&mut whole, &index.expect("an index")).expect("reads");
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert!(faults[0].starts_with("dir/marked: the chunk at 0 has the digest"), "{faults:?}");
    assert!(faults[1].starts_with("implied/file: the chunk at 0 lies past"), "{faults:?}");

    // A chunk inside of another.
    let mut toc: Value = serde_json::from_slice(&layer.toc).expect("JSON");
    let entries = toc["entries"].as_array_mut().expect("entries");
    let outer = entries.iter().find(|entry| entry["name"] == "dir/file").expect("a file");
    let outer = outer["offset"].clone();
    for entry in entries {
        if entry["name"] == "dir/marked" {
            entry["offset"] = outer.clone();
            entry["innerOffset"] = 100.into();
            entry["chunkDigest"] = Digest::of(&[7; 9]).to_string().into();
        }
    }
    let toc = toc.to_string();
    let index = EstargzIndex::from_toc(toc.as_bytes(), TocTrust::Unverified, &layer.facts);
    let faults = check_chunks(&mut whole, &index.expect("an index")).expect("reads");
    assert_eq!(faults, [""; 0]);

    // The last chunk's member, damaged.
    let mut damaged = blob.clone();
    let at = usize::try_from(layer.facts.toc_offset).expect("small") - 20;
    damaged[at] ^= 0xff;
    let faults = check_chunks(&mut std::io::Cursor::new(&damaged), &*layer.index);
    assert_eq!(faults.expect("reads").len(), 1);
}
