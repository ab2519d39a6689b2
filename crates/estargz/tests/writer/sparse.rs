//! Sparse files become ordinary ones.
use std::io::Read as _;

use bolide_core::ErrorKind;
use bolide_estargz::{BlobFormat, BuildOptions, TarEntries};

use super::support::{
    Dialect, FORMATS, Node, append, build, contents, extension, file, noise, options, pax,
    try_build,
};

/// Parts of the file: offset, and content.
fn parts(count: usize) -> Vec<(usize, Vec<u8>)> {
    (0..count).map(|at| (at * 10_000 + 512, noise(700, at as u64))).collect()
}

const END: usize = 1_000_000;

fn expanded(parts: &[(usize, Vec<u8>)]) -> Vec<u8> {
    let mut content = vec![0; END];
    for (offset, bytes) in parts {
        content[*offset..offset + bytes.len()].copy_from_slice(bytes);
    }
    content
}

fn stored(parts: &[(usize, Vec<u8>)]) -> Vec<u8> {
    parts.iter().flat_map(|(_, bytes)| bytes.clone()).collect()
}

/// Type `S`: four parts in the header, 21 in each block that follows.
fn old_gnu(parts: &[(usize, Vec<u8>)]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_path("sparse").expect("short");
    header.set_mode(0o640);
    header.set_mtime(77);
    header.set_entry_type(tar::EntryType::GNUSparse);
    header.set_size(stored(parts).len() as u64);
    let mut numbers: Vec<(usize, usize)> =
        parts.iter().map(|(offset, bytes)| (*offset, bytes.len())).collect();
    numbers.push((END, 0));
    let put = |field: &mut [u8], (offset, len): (usize, usize)| {
        field[..11].copy_from_slice(format!("{offset:011o}").as_bytes());
        field[12..23].copy_from_slice(format!("{len:011o}").as_bytes());
    };
    let bytes = header.as_mut_bytes();
    let (first, rest) = numbers.split_at(numbers.len().min(4));
    for (at, pair) in first.iter().enumerate() {
        put(&mut bytes[386 + at * 24..][..24], *pair);
    }
    bytes[482] = u8::from(!rest.is_empty());
    bytes[483..494].copy_from_slice(format!("{END:011o}").as_bytes());
    header.set_cksum();
    let mut out = header.as_bytes().to_vec();
    let mut blocks = rest.chunks(21).peekable();
    while let Some(pairs) = blocks.next() {
        let mut block = [0; 512];
        for (at, pair) in pairs.iter().enumerate() {
            put(&mut block[at * 24..][..24], *pair);
        }
        block[504] = u8::from(blocks.peek().is_some());
        out.extend(block);
    }
    out.extend(stored(parts));
    finish(out)
}

/// PAX: the version says where the table is.
fn new_gnu(version: &str, parts: &[(usize, Vec<u8>)]) -> Vec<u8> {
    let mut records = Vec::new();
    let mut say =
        |key: &str, value: String| records.push((format!("GNU.sparse.{key}"), value.into_bytes()));
    let numbers: Vec<usize> =
        parts.iter().flat_map(|(offset, bytes)| [*offset, bytes.len()]).collect();
    let mut content = stored(parts);
    let list = |separator: &str| {
        numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(separator)
    };
    match version {
        "0.0" => {
            say("size", END.to_string());
            say("numblocks", parts.len().to_string());
            for (offset, bytes) in parts {
                say("offset", offset.to_string());
                say("numbytes", bytes.len().to_string());
            }
        }
        "0.1" => {
            say("size", END.to_string());
            say("numblocks", parts.len().to_string());
            say("map", list(","));
            say("name", "sparse".to_owned());
        }
        _ => {
            say("major", "1".to_owned());
            say("minor", "0".to_owned());
            say("name", "sparse".to_owned());
            say("realsize", END.to_string());
            let mut table = format!("{}\n{}\n", parts.len(), list("\n")).into_bytes();
            if parts.is_empty() {
                table = b"0\n".to_vec();
            }
            table.resize(table.len().next_multiple_of(512), 0);
            content = [table, content].concat();
        }
    }
    let mut out = Vec::new();
    let name = if version == "0.0" { "sparse" } else { "GNUSparseFile.0/sparse" };
    let records =
        records.into_iter().chain([("SCHILY.xattr.user.x".to_owned(), b"1".to_vec())]).collect();
    append(
        &mut out,
        Dialect::Pax,
        "",
        &Node { records, mode: 0o640, mtime: 77, ..file(name, content) },
    );
    finish(out)
}

fn finish(mut out: Vec<u8>) -> Vec<u8> {
    out.resize(out.len().next_multiple_of(512), 0);
    append(&mut out, Dialect::Pax, "", &file("after", "x"));
    out.resize(out.len() + 1024, 0);
    out
}

fn archives() -> Vec<(String, Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    for count in [0, 1, 3, 4, 5, 30, 60] {
        let parts = parts(count);
        let content = expanded(&parts);
        all.push((format!("S with {count}"), old_gnu(&parts), content.clone()));
        for version in ["0.0", "0.1", "1.0"] {
            if (version, count) != ("0.0", 0) {
                all.push((
                    format!("{version} with {count}"),
                    new_gnu(version, &parts),
                    content.clone(),
                ));
            }
        }
    }
    all
}

#[test]
fn every_generation_is_expanded() {
    for (what, input, content) in archives() {
        for format in FORMATS {
            for prioritized in [vec![], vec!["sparse".to_owned()]] {
                let options = BuildOptions { prioritized, chunk_size: 300_000, ..options(format) };
                let built = build(&input, &options);
                let found = contents(&built.tar());
                assert!(found[&b"sparse"[..]] == [content.clone()], "{what} as {format}");
                assert_eq!(found[&b"after"[..]], [b"x"]);
                if format.is_lazy() {
                    let entry = built.entry("sparse");
                    assert_eq!(
                        (entry["size"].as_u64(), entry["mode"].as_u64()),
                        (Some(END as u64), Some(0o640))
                    );
                    assert_eq!(entry["modtime"], "1970-01-01T00:01:17Z");
                    assert_eq!(entry["xattrs"].is_object(), !what.starts_with('S'));
                }
            }
        }
    }
}

#[test]
fn a_sparse_file_is_read_whole() {
    for (what, input, content) in archives() {
        let mut entries = TarEntries::new(&input[..]);
        let entry = entries.next_entry().expect("reads").expect("an entry");
        assert_eq!((&entry.name[..], entry.size), (&b"sparse"[..], END as u64), "{what}");
        let mut read = Vec::new();
        entries.read_to_end(&mut read).expect("reads");
        assert!(read == content, "{what}");
        assert_eq!(entries.next_entry().expect("reads").expect("another").name, b"after");
        assert!(entries.next_entry().expect("reads").is_none());
        // And passed over.
        let mut entries = TarEntries::new(&input[..]);
        entries.next_entry().expect("reads");
        assert_eq!(entries.next_entry().expect("reads").expect("another").name, b"after");
    }
}

#[test]
fn a_sparse_file_does_not_keep_the_diff_id() {
    let keep = BuildOptions { keep_diff_id: true, ..options(BlobFormat::ZstdChunked) };
    let error = try_build(&old_gnu(&parts(2)), &keep).expect_err("refused");
    assert_eq!((error.kind(), error.context("entry")), (ErrorKind::Unsupported, Some("sparse")));
}

#[test]
fn tables_that_make_no_sense_are_refused() {
    let record = |key: &str, value: &str| (format!("GNU.sparse.{key}"), value.as_bytes().to_vec());
    for table in [
        // Before the one before, beyond the end, too much, odd, no numbers, no table.
        vec![record("size", "100"), record("map", "50,10,40,5")],
        vec![record("size", "100"), record("map", "90,20")],
        vec![record("size", "5000"), record("map", "0,4000")],
        vec![record("size", "100"), record("map", "1,2,3")],
        vec![record("size", "x"), record("map", "1,2")],
        vec![record("size", "100"), record("map", "18446744073709551615,2")],
        vec![record("major", "1"), record("minor", "0"), record("realsize", "100")],
    ] {
        let node = Node { records: table.clone(), ..file("s", "content") };
        let error = try_build(&pax(&[node]), &options(BlobFormat::Estargz)).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Malformed, "{table:?}");
    }
    let vast = vec![record("size", "1000000000000000"), record("map", "0,7")];
    let error = try_build(
        &pax(&[Node { records: vast, ..file("s", "content") }]),
        &options(BlobFormat::Estargz),
    );
    assert_eq!(error.expect_err("refused").kind(), ErrorKind::Exhausted);
    let mut cut = Vec::new();
    extension(&mut cut, b'x', &[record("major", "1"), record("realsize", "9")]);
    assert!(try_build(&cut, &options(BlobFormat::Estargz)).is_err());
}
