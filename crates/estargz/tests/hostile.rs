//! Documents and archives that are wrong on purpose: an error that names the rule, never a panic.
use std::{
    io::Cursor,
    ops::{ControlFlow, Range},
};

use bolide_core::{Digest, ErrorKind, NodeId, PrefetchMark, Result, TocIndex as _};
use bolide_estargz::{BlobFacts, BuildOptions, EstargzIndex, LayerFormat, TocTrust, convert_layer};
use proptest::prelude::*;
use serde_json::{Value, json};

fn facts() -> BlobFacts {
    BlobFacts {
        blob: Digest::of(b""),
        blob_size: 10_000,
        toc_offset: 9_000,
        format: LayerFormat::Estargz,
    }
}

fn read(entries: &Value) -> Result<EstargzIndex> {
    let document = json!({ "version": 1, "entries": entries }).to_string();
    EstargzIndex::from_toc(document.as_bytes(), TocTrust::Unverified, &facts())
}

fn file(name: &str, offset: i64, size: i64) -> Value {
    json!({ "name": name, "type": "reg", "size": size, "offset": offset, "chunkDigest": Digest::of(b"x") })
}

fn refused(entries: &Value) {
    let error = read(entries).expect_err(&entries.to_string());
    assert_eq!(error.kind(), ErrorKind::Malformed, "{error} for {entries}");
}

#[test]
fn each_rule_is_enforced() {
    let chunk = |offset: i64, at: i64, len: i64| json!({ "name": "a", "type": "chunk", "offset": offset, "chunkOffset": at, "chunkSize": len, "chunkDigest": Digest::of(b"y") });
    let mut first = file("a", 10, 100);
    first["chunkSize"] = json!(50);
    refused(&json!([file(&"n".repeat(256), 10, 1)]));
    refused(&json!([file(&"n/".repeat(2049), 10, 1)]));
    refused(&json!([file("a", 10, -1)]));
    refused(&json!([file("a", -10, 1)]));
    refused(&json!([file("a", 10, i64::MAX)]));
    refused(&json!([file("a", 9_000, 1)]));
    refused(&json!([{ "name": "a", "type": "socket" }]));
    refused(&json!([{ "name": "a", "type": "char", "devMajor": -1 }]));
    refused(&json!([{ "name": "a", "type": "dir", "uid": 1_i64 << 33 }]));
    refused(&json!([{ "name": "a", "type": "dir", "modtime": "yesterday" }]));
    refused(&json!([{ "name": "a", "type": "dir", "xattrs": { "user.x": "***" } }]));
    refused(&json!([{ "name": "/", "type": "reg" }]));
    refused(&json!([{ "name": "a", "type": "reg", "size": 1, "offset": 10 }]));
    refused(&json!([chunk(10, 0, 1)]));
    refused(&json!([first, chunk(20, 51, 49)]));
    refused(&json!([first, chunk(20, 49, 51)]));
    refused(&json!([first, chunk(20, 50, 51)]));
    refused(&json!([first]));
    refused(&json!([{ "name": "a", "type": "hardlink", "linkName": "missing" }]));
    refused(
        &json!([{ "name": "a", "type": "hardlink", "linkName": "b" }, { "name": "b", "type": "hardlink", "linkName": "a" }]),
    );
    refused(
        &json!([{ "name": "d", "type": "dir" }, { "name": "a", "type": "hardlink", "linkName": "d" }]),
    );
    assert!(read(&json!([first, chunk(20, 50, 50)])).is_ok());
}

#[test]
fn documents_that_are_no_toc_are_refused() {
    let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for document in [
        "",
        "null",
        "[]",
        "{}",
        "{\"version\":2,\"entries\":[]}",
        "{\"version\":1,\"entries\":[{]}",
        &nested,
    ] {
        let read = EstargzIndex::from_toc(document.as_bytes(), TocTrust::Unverified, &facts());
        assert_eq!(read.expect_err("no TOC").kind(), ErrorKind::Malformed);
    }
}

#[test]
fn names_cannot_leave_the_layer() {
    let index = read(&json!([
        file("../../etc/passwd", 10, 1),
        file("/abs", 20, 1),
        file("./dot/../here", 30, 1)
    ]))
    .expect("reads");
    for name in ["etc", "abs", "here"] {
        assert!(index.lookup(index.root(), name.as_ref()).expect("lookup").is_some(), "{name}");
    }
}

#[test]
fn a_later_entry_takes_the_place_of_an_earlier_one() {
    let index =
        read(&json!([file("a", 10, 1), { "name": "a", "type": "symlink", "linkName": "b" }]))
            .expect("reads");
    let node = index.lookup(index.root(), "a".as_ref()).expect("lookup").expect("found");
    assert_eq!(index.read_link(node).expect("link"), "b");
    assert_eq!(index.chunk_count(), 0);
}

#[test]
fn an_empty_toc_is_an_empty_root() {
    for entries in [json!([]), json!(null)] {
        let index = read(&entries).expect("reads");
        let attr = index.attr(index.root()).expect("attr");
        assert!(index.is_empty() && attr.perm == 0o755 && attr.nlink == 2);
    }
}

#[test]
fn equal_documents_are_numbered_alike() {
    let same: Vec<Value> = (0..50).map(|number| file(&format!("f{number}"), 10, 1)).collect();
    let spec = || read(&json!(same)).and_then(|index| index.image_spec()).expect("reads");
    assert_eq!(spec(), spec());
}

#[test]
fn implied_directories_are_bounded() {
    let deep = "d/".repeat(2000);
    let many: Vec<Value> = (0..1100)
        .map(|number| json!({ "name": format!("{number}/{deep}"), "type": "dir" }))
        .collect();
    refused(&json!(many));
}

#[test]
fn long_chains_of_links_are_resolved() {
    let mut entries = vec![file("f0", 10, 1)];
    entries.extend((1..20_000).map(|number| json!({ "name": format!("f{number}"), "type": "hardlink", "linkName": format!("f{}", number - 1) })));
    entries.reverse();
    // The payload must come after nothing that would be taken for its chunk.
    let index = read(&json!(entries)).expect("reads");
    let node = index.lookup(index.root(), "f19999".as_ref()).expect("lookup").expect("found");
    assert_eq!(index.attr(node).expect("attr").nlink, 20_000);
}

fn tar(entries: &[(&str, tar::EntryType, &str, u64)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, kind, link, size) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_path(name).expect("path");
        header.set_entry_type(*kind);
        if !link.is_empty() {
            header.set_link_name(link).expect("link");
        }
        header.set_size(*size);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append(&header, std::io::empty()).expect("entry");
    }
    tar.into_inner().expect("tar")
}

#[test]
fn prioritizing_the_head_of_a_long_chain_works() {
    let names: Vec<String> = (0..100_000).map(|number| format!("f{number}")).collect();
    let mut entries = vec![("f0", tar::EntryType::Regular, "", 0)];
    entries.extend(names.windows(2).map(|pair| (&*pair[1], tar::EntryType::Link, &*pair[0], 0)));
    let options = BuildOptions {
        prioritized: vec!["f99999".to_owned()],
        level: Some(1),
        ..BuildOptions::default()
    };
    let mut spool = Cursor::new(Vec::new());
    let report =
        convert_layer(&mut &tar(&entries)[..], &mut Vec::new(), &options, Some(&mut spool))
            .expect("converts");
    assert_eq!(report.entries, 100_001);
}

#[test]
fn the_size_of_a_link_is_no_payload() {
    let entries = [
        ("a", tar::EntryType::Regular, "", 0),
        ("b", tar::EntryType::Link, "a", 512),
        ("c", tar::EntryType::Regular, "", 0),
    ];
    let report =
        convert_layer(&mut &tar(&entries)[..], &mut Vec::new(), &BuildOptions::default(), None)
            .expect("converts");
    // Three entries and the landmark.
    assert_eq!(report.entries, 4);
}

#[test]
fn impossible_sizes_are_refused() {
    for size in ["9223372036854775807", "18446744073709551104", "18446744073709551615"] {
        let mut tar = tar::Builder::new(Vec::new());
        tar.append_pax_extensions([("size", size.as_bytes())]).expect("pax");
        let mut header = tar::Header::new_ustar();
        header.set_path("huge").expect("path");
        header.set_size(0);
        header.set_cksum();
        tar.append(&header, std::io::empty()).expect("entry");
        let bytes = tar.into_inner().expect("tar");
        for prioritized in [vec![], vec!["huge".to_owned()]] {
            let options = BuildOptions { prioritized, ..BuildOptions::default() };
            let mut spool = Cursor::new(Vec::new());
            assert!(
                convert_layer(&mut &bytes[..], &mut Vec::new(), &options, Some(&mut spool))
                    .is_err(),
                "{size}"
            );
        }
    }
}

fn read_podman(entries: &Value) -> Result<EstargzIndex> {
    let document = json!({ "version": 1, "entries": entries }).to_string();
    let facts = BlobFacts { format: LayerFormat::ZstdChunkedPodman, ..facts() };
    EstargzIndex::from_toc(document.as_bytes(), TocTrust::Unverified, &facts)
}

fn refused_of_podman(entries: &Value) {
    let error = read_podman(entries).expect_err(&entries.to_string());
    assert_eq!(error.kind(), ErrorKind::Malformed, "{error} for {entries}");
}

fn find(index: &EstargzIndex, name: &str) -> NodeId {
    index.lookup(index.root(), name.as_ref()).expect("lookup").expect(name)
}

fn holes(index: &EstargzIndex, name: &str, range: Range<u64>) -> Vec<Range<u64>> {
    let mut holes = Vec::new();
    let walked = index.for_each_hole(find(index, name), range, &mut |hole| {
        holes.push(hole);
        ControlFlow::Continue(())
    });
    walked.expect("walks");
    holes
}

/// A file of content, a hole of `hole` bytes, and content.
fn sparse(hole: i64, digest: &Value) -> Value {
    let mut first = file("sparse", 10, 10 + hole + 5);
    first["chunkSize"] = json!(10);
    json!([
        first,
        { "type": "chunk", "name": "sparse", "offset": 20, "chunkOffset": 10, "chunkSize": hole,
          "chunkType": "zeros", "chunkDigest": digest },
        { "type": "chunk", "name": "sparse", "offset": 30, "chunkOffset": 10 + hole,
          "chunkSize": 5, "chunkDigest": Digest::of(b"y") },
        file("next", 40, 1),
    ])
}

#[test]
fn holes_are_what_the_toc_calls_zeros() {
    const HUGE: i64 = 1 << 60;
    for digest in [json!(""), json!(Digest::of(b"too long to be hashed"))] {
        let index = read_podman(&sparse(HUGE, &digest)).expect("reads");
        bolide_testkit::conformance::toc_index::all(&index).expect("conforms");
        let end = 10 + HUGE.cast_unsigned();
        assert_eq!(index.attr(find(&index, "sparse")).expect("attr").size, end + 5);
        assert_eq!(index.chunk_count(), 3);
        assert_eq!(holes(&index, "sparse", 0..u64::MAX), [10..end; 1]);
        assert_eq!(holes(&index, "sparse", 100..200), [100..200; 1]);
        assert_eq!(holes(&index, "sparse", 0..10), []);
        assert_eq!(holes(&index, "sparse", end..end + 5), []);
    }
    let zeros = |len| json!(Digest::of(&vec![0; len]));
    assert!(read_podman(&sparse(5000, &zeros(5000))).is_ok());
    refused_of_podman(&sparse(5000, &zeros(5001)));
    refused_of_podman(&sparse(5000, &json!(Digest::of(b"content"))));
    refused_of_podman(&sparse(5000, &json!("sha256:0")));
    refused_of_podman(&sparse(0, &json!("")));
    refused_of_podman(&sparse(-1, &json!("")));
    let mut other = sparse(5000, &zeros(5000));
    other[1]["chunkType"] = json!("ones");
    refused_of_podman(&other);
}

#[test]
fn a_file_may_be_one_hole_but_not_all_of_them_without_bound() {
    let hole = |name: &str, size: i64| json!({ "name": name, "type": "reg", "size": size, "chunkType": "zeros" });
    let index = read_podman(&json!([hole("a", 1 << 62)])).expect("reads");
    assert_eq!(index.chunk_count(), 0);
    assert_eq!(holes(&index, "a", 0..u64::MAX), [0..1 << 62; 1]);
    refused_of_podman(&json!([hole("a", 1 << 62), hole("b", 1)]));
    refused_of_podman(&json!([hole("a", i64::MAX)]));
    // Many of which none is hashed for long.
    let believed = |n: i64| {
        let mut file = hole(&format!("f{n}"), (1 << 27) + n);
        file["chunkDigest"] = json!(Digest::of(b"x"));
        file
    };
    let many: Vec<_> = (0..5000).map(believed).collect();
    assert!(read_podman(&json!(many)).is_ok());
}

#[test]
fn a_short_hole_rides_along_with_the_member_before_it() {
    let member = |hole| {
        let index = read_podman(&sparse(hole, &json!(""))).expect("reads");
        index.chunk(bolide_core::ChunkIndex(0)).expect("the first").member.as_range()
    };
    assert_eq!(member(5000), 10..30);
    assert_eq!(member(1 << 40), 10..20);
}

#[test]
fn where_a_file_is_said_to_end_changes_nothing() {
    let spec = |end: i64| {
        let mut entries = sparse(5000, &json!(""));
        entries[0]["endOffset"] = json!(end);
        read_podman(&entries).and_then(|index| index.image_spec()).expect("reads")
    };
    for end in [35, 5, 12, 45, 10_000, -1, i64::MAX] {
        assert_eq!(spec(end).slots, spec(0).slots, "{end}");
    }
}

#[test]
fn each_of_several_chunks_has_a_digest_of_its_own() {
    let mut entries = sparse(5000, &json!(""));
    entries[0]["digest"] = json!(Digest::of(b"the whole file"));
    assert!(read_podman(&entries).is_ok());
    for missing in [0, 2] {
        let mut entries = entries.clone();
        entries[missing]["chunkDigest"] = json!("");
        refused_of_podman(&entries);
    }
    let alone = json!([{ "name": "a", "type": "reg", "size": 1, "offset": 10, "digest": Digest::of(b"x") }]);
    assert!(read_podman(&alone).is_ok());
}

#[test]
fn the_bytes_of_a_name_win() {
    use std::os::unix::ffi::OsStrExt as _;
    let mut named = file("lossy\u{fffd}", 10, 1);
    named["nameBytes"] = json!("bG9zc3n/");
    let link = json!({ "name": "link", "type": "hardlink", "linkName": "lossy\u{fffd}", "linkNameBytes": "bG9zc3n/" });
    let soft =
        json!({ "name": "soft", "type": "symlink", "linkName": "?", "linkNameBytes": "/w==" });
    let index = read(&json!([named, link, soft])).expect("reads");
    let found = index.lookup(index.root(), std::ffi::OsStr::from_bytes(b"lossy\xff"));
    let found = found.expect("lookup").expect("by its bytes");
    assert_eq!(find(&index, "link"), found);
    assert_eq!(&index.read_link(find(&index, "soft")).expect("link")[..], b"\xff");
    let mut wrong = file("a", 10, 1);
    wrong["nameBytes"] = json!("***");
    refused(&json!([wrong]));
    // A zero byte, `../x`, and a name that is too long.
    for (bytes, allowed) in [("YQBi", false), ("Li4veA==", true), (&"YWFh".repeat(100), false)] {
        let mut named = file("a", 10, 1);
        named["nameBytes"] = json!(bytes);
        assert_eq!(read(&json!([named])).is_ok(), allowed, "{bytes}");
    }
}

#[test]
fn landmarks_are_the_formats_in_the_root_alone() {
    for read in [read, read_podman] {
        let entries = json!([
            file(".prefetch.landmark", 30, 1),
            file("dir/.prefetch.landmark", 40, 1),
            file("dir/stargz.index.json", 50, 1)
        ]);
        let index = read(&entries).expect("reads");
        assert_eq!(index.len(), 4, "the root, the directory and its two files");
        let PrefetchMark::UpTo(range) = index.prefetch_mark() else { panic!("no mark") };
        assert_eq!(range.as_range(), 0..30);
        let none =
            json!([file("./.no.prefetch.landmark", 20, 1), file("/.prefetch.landmark", 30, 1)]);
        assert_eq!(read(&none).expect("reads").prefetch_mark(), PrefetchMark::Nothing);
    }
}

fn base() -> Vec<Value> {
    let mut first = file("big", 100, 200);
    first["chunkSize"] = json!(100);
    vec![
        json!({ "name": "dir", "type": "dir", "mode": 0o755 }),
        first,
        json!({ "name": "big", "type": "chunk", "offset": 200, "chunkOffset": 100, "chunkDigest": Digest::of(b"y") }),
        file("dir/a", 300, 10),
        json!({ "name": "hard", "type": "hardlink", "linkName": "dir/a" }),
        json!({ "name": "soft", "type": "symlink", "linkName": "big" }),
        json!({ "name": ".prefetch.landmark", "type": "reg", "offset": 400, "size": 1, "chunkDigest": Digest::of(b"z") }),
        json!({ "name": "null", "type": "char", "devMajor": 1, "devMinor": 3 }),
    ]
}

const FIELDS: [&str; 15] = [
    "name",
    "type",
    "size",
    "offset",
    "innerOffset",
    "chunkOffset",
    "chunkSize",
    "chunkDigest",
    "linkName",
    "mode",
    "modtime",
    "chunkType",
    "endOffset",
    "nameBytes",
    "linkNameBytes",
];

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<i64>().prop_map(|number| json!(number)),
        (-2_i64..300).prop_map(|number| json!(number)),
        prop::sample::select(vec![
            "",
            "..",
            "dir",
            "dir/a",
            "big",
            "hard",
            "reg",
            "chunk",
            "hardlink",
            "dir/../big",
            "\u{0}",
            "a//b/",
            ".wh.x",
            "zeros",
            "/w=="
        ])
        .prop_map(|text| json!(text)),
        Just(json!(null)),
    ]
}

proptest! {
    /// Whatever is put into a field of a valid document, it is read to the contract or refused.
    #[test]
    fn structural_mutations_never_panic(changes in prop::collection::vec((0..8_usize, 0..FIELDS.len(), value()), 1..6), swap in (0..8_usize, 0..8_usize)) {
        let mut entries = base();
        entries.swap(swap.0, swap.1);
        for (entry, field, value) in changes {
            entries[entry][FIELDS[field]] = value;
        }
        if let Ok(index) = read_podman(&json!(entries)) {
            bolide_testkit::conformance::toc_index::all(&index).expect("conforms");
        }
        if let Ok(index) = read(&json!(entries)) {
            bolide_testkit::conformance::toc_index::all(&index).expect("conforms");
        }
    }
}
