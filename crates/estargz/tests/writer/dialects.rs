//! What entries say in every dialect of tar, and entries that say nothing sound.
use bolide_core::ErrorKind;
use bolide_estargz::{BlobFormat, BuildOptions, TarEntries};
use serde_json::{Value, json};

use super::support::{
    DIALECTS, Dialect, Node, PREFIXES, append, build, device, dir, extension, file, hardlink, list,
    options, pax, symlink, tar, try_build,
};

#[test]
fn every_field_reaches_the_toc() {
    let owned = Node {
        owner: (1000, 2000),
        names: ("user".to_owned(), "group".to_owned()),
        mode: 0o4755,
        ..file("f", "abc")
    };
    for dialect in DIALECTS {
        for prefix in PREFIXES {
            let nodes = [
                owned.clone(),
                device("char", b'3', 123, 456),
                device("block", b'4', 7, 8),
                device("fifo", b'6', 0, 0),
                symlink("soft", "../some/where"),
                hardlink("hard", "f"),
                dir("d/"),
            ];
            let built = build(&tar(dialect, prefix, &nodes), &options(BlobFormat::Estargz));
            let entry = |name: &str| built.entry(&format!("{prefix}{name}"));
            let expected = json!({
                "name": format!("{prefix}f"), "type": "reg", "size": 3, "mode": 0o4755,
                "modtime": "2020-09-13T12:26:40Z", "uid": 1000, "gid": 2000,
                "userName": "user", "groupName": "group",
            });
            let found = entry("f");
            for (key, value) in expected.as_object().expect("an object") {
                assert_eq!(&found[key], value, "{key} in {dialect:?}");
            }
            let numbers = |name: &str| {
                let found = entry(name);
                (found["type"].clone(), found["devMajor"].clone(), found["devMinor"].clone())
            };
            assert_eq!(numbers("char"), (json!("char"), json!(123), json!(456)));
            assert_eq!(numbers("block"), (json!("block"), json!(7), json!(8)));
            assert_eq!(numbers("fifo"), (json!("fifo"), Value::Null, Value::Null));
            assert_eq!(entry("soft")["linkName"], "../some/where");
            assert_eq!(entry("hard")["linkName"], format!("{prefix}f"));
            assert_eq!(entry("hard")["type"], "hardlink");
            assert_eq!(entry("d/")["type"], "dir");
        }
    }
}

#[test]
fn long_names_and_targets_are_whole() {
    let long = format!("{}/{}", "d".repeat(90), "n".repeat(90));
    for dialect in DIALECTS {
        let nodes = [file(&long, "x"), hardlink("h", "short")];
        let mut nodes = nodes.to_vec();
        nodes[1].name = b"short".to_vec();
        nodes[1].kind = b'2';
        if dialect != Dialect::Ustar {
            nodes[1].link = "t".repeat(300).into_bytes();
        }
        let built = build(&tar(dialect, "", &nodes), &options(BlobFormat::ZstdChunked));
        assert_eq!(built.entry(&long)["size"], 1);
        let target = String::from_utf8_lossy(&nodes[1].link).into_owned();
        assert_eq!(built.entry("short")["linkName"], target);
    }
}

#[test]
fn extended_attributes_keep_every_byte() {
    let node = file("f", "").xattr("user.bin", b"\xff\n=\0").xattr("user.empty", b"");
    let built = build(&pax(&[node]), &options(BlobFormat::Estargz));
    assert_eq!(built.entry("f")["xattrs"], json!({ "user.bin": "/wo9AA==", "user.empty": "" }));
}

#[test]
fn names_that_are_not_text_are_shown_and_kept() {
    let mut nodes = [file("x", "abc"), symlink("s", "x"), hardlink("h", "x"), file("plain", "p")];
    nodes[0].name = b"n\xff\xe2\x82".to_vec();
    nodes[1].link = b"\xfe".to_vec();
    nodes[2].link = nodes[0].name.clone();
    nodes[3].names.0 = "u".to_owned();
    for dialect in DIALECTS {
        for format in [BlobFormat::Estargz, BlobFormat::ZstdChunkedPodman] {
            let built = build(&tar(dialect, "", &nodes), &options(format));
            let found = built.entry("n\u{fffd}\u{fffd}\u{fffd}");
            assert_eq!((&found["nameBytes"], &found["size"]), (&json!("bv/igg=="), &json!(3)));
            let soft = built.entry("s");
            assert_eq!(soft["linkName"], "\u{fffd}");
            assert_eq!(soft["linkNameBytes"], "/g==");
            assert_eq!(built.entry("h")["linkNameBytes"], "bv/igg==");
            let plain = built.entry("plain");
            assert_eq!(
                (&plain["nameBytes"], &plain["linkNameBytes"]),
                (&Value::Null, &Value::Null)
            );
        }
    }
}

#[test]
fn owners_are_named_when_that_is_news() {
    let owned = |name: &str, uid, user: &str| Node {
        owner: (uid, 0),
        names: (user.to_owned(), String::new()),
        ..file(name, "")
    };
    let nodes = [owned("a", 1, "x"), owned("b", 1, "x"), owned("c", 2, "y"), owned("d", 1, "z")];
    let built = build(&pax(&nodes), &options(BlobFormat::Estargz));
    let names: Vec<Value> =
        ["a", "b", "c", "d"].map(|name| built.entry(name)["userName"].clone()).to_vec();
    assert_eq!(names, [json!("x"), Value::Null, json!("y"), json!("z")]);
}

#[test]
fn global_headers_count_until_they_are_replaced() {
    let record = |key: &str, value: &str| (key.to_owned(), value.as_bytes().to_vec());
    let mut input = Vec::new();
    append(&mut input, Dialect::Pax, "", &file("before", "1"));
    extension(&mut input, b'g', &[record("comment", "c0ffee"), record("mtime", "1000.7")]);
    append(&mut input, Dialect::Pax, "", &file("a", "22"));
    let own = Node { records: vec![record("mtime", "5")], ..file("own", "333") };
    append(&mut input, Dialect::Pax, "", &own);
    extension(&mut input, b'g', &[record("mtime", ""), record("uid", "7")]);
    append(&mut input, Dialect::Pax, "", &file("b", "4444"));
    input.resize(input.len() + 1024, 0);
    let expected = [
        ("before", "2020-09-13T12:26:40Z", Value::Null),
        ("a", "1970-01-01T00:16:41Z", Value::Null),
        ("own", "1970-01-01T00:00:05Z", Value::Null),
        ("b", "2020-09-13T12:26:40Z", json!(7)),
    ];
    for prioritized in [vec![], vec!["b".to_owned(), "a".to_owned()]] {
        let options =
            BuildOptions { prioritized: prioritized.clone(), ..options(BlobFormat::Estargz) };
        let built = build(&input, &options);
        for (name, modtime, uid) in &expected {
            let entry = built.entry(name);
            assert_eq!((&entry["modtime"], &entry["uid"]), (&json!(modtime), uid), "{name}");
        }
        // Whoever reads the tar finds the same.
        let tar = built.tar();
        let mut entries = TarEntries::new(&tar[..]);
        while let Some(entry) = entries.next_entry().expect("a tar") {
            let name = String::from_utf8_lossy(&entry.name).into_owned();
            let Some((_, _, uid)) = expected.iter().find(|(found, ..)| *found == name) else {
                continue;
            };
            assert_eq!(entry.uid, uid.as_u64().unwrap_or(0), "{name} {prioritized:?}");
        }
    }
    let podman = try_build(&input, &options(BlobFormat::ZstdChunkedPodman)).expect_err("refused");
    assert_eq!(podman.kind(), ErrorKind::Unsupported);
}

#[test]
fn times_later_than_the_latest_become_it() {
    let mut nodes = vec![file("late", "1"), Node { mtime: 100, ..file("early", "2") }];
    nodes.push(Node {
        records: vec![
            ("mtime".to_owned(), b"1700000000.25".to_vec()),
            ("atime".to_owned(), b"1700000001".to_vec()),
        ],
        ..file("pax", "3")
    });
    let expected = ["1970-01-01T00:33:20Z", "1970-01-01T00:01:40Z", "1970-01-01T00:33:20Z"];
    for format in [BlobFormat::Estargz, BlobFormat::ZstdChunkedPodman, BlobFormat::TarGzip] {
        let built =
            build(&pax(&nodes), &BuildOptions { latest_mtime: Some(2000), ..options(format) });
        let tar = built.tar();
        let mut entries = TarEntries::new(&tar[..]);
        let mut times = Vec::new();
        while let Some(entry) = entries.next_entry().expect("a tar") {
            if !entry.name.starts_with(b".") && entry.name != b"stargz.index.json" {
                times.push(entry.mtime);
            }
        }
        assert_eq!(times, [2000, 100, 2000]);
        if format.is_lazy() {
            let found = ["late", "early", "pax"].map(|name| built.entry(name)["modtime"].clone());
            assert_eq!(found, expected.map(|time| json!(time)));
        }
    }
}

#[test]
fn a_hard_link_to_nothing_is_refused() {
    let missing = pax(&[file("a", "a"), hardlink("h", "gone")]);
    let itself = pax(&[hardlink("h", "h")]);
    for format in BlobFormat::ALL.map(|(format, _)| format) {
        for (input, target) in [(&missing, "gone"), (&itself, "h")] {
            if !format.is_lazy() {
                // What lies in lower layers is theirs to say.
                build(input, &options(format));
                continue;
            }
            let error = try_build(input, &options(format)).expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::Malformed);
            assert_eq!(
                (error.context("entry"), error.context("target")),
                (Some("h"), Some(target))
            );
        }
    }
    // The target may come later.
    build(&pax(&[hardlink("h", "a"), file("a", "a")]), &options(BlobFormat::Estargz));
}

#[test]
fn types_without_a_place_in_a_layer_are_refused() {
    for kind in [b'M', b'V', b'D', b'N', b'Z', b'A'] {
        let node = Node { kind, ..file("odd", "") };
        for format in BlobFormat::ALL.map(|(format, _)| format) {
            let error = try_build(&pax(std::slice::from_ref(&node)), &options(format));
            assert_eq!(error.expect_err("refused").kind(), ErrorKind::Unsupported);
        }
    }
}

#[test]
fn tars_older_than_posix_have_directories_too() {
    let nodes = [Node { kind: 0, ..dir("d/") }, Node { kind: 0, ..file("d/f", "abc") }];
    let built = build(&tar(Dialect::Ustar, "", &nodes), &options(BlobFormat::Estargz));
    assert_eq!(built.entry("d/")["type"], "dir");
    assert_eq!(built.entry("d/f")["type"], "reg");
}

#[test]
fn a_tar_cut_short_is_refused() {
    let whole = pax(&[file("a", vec![1; 3000]).xattr("user.x", b"1"), file("b", "b")]);
    for format in [BlobFormat::Estargz, BlobFormat::ZstdChunkedPodman, BlobFormat::TarZstd] {
        for len in (1..whole.len() - 1024).step_by(100) {
            let cut = &whole[..len];
            // Between entries nothing tells that more was to come.
            if list_all(cut) {
                continue;
            }
            for prioritized in [vec![], vec!["b".to_owned()]] {
                let options = BuildOptions { prioritized, ..options(format) };
                let error = try_build(cut, &options).expect_err("cut short");
                assert_eq!(error.kind(), ErrorKind::Malformed, "at {len}: {error}");
            }
        }
    }
    // Compressed input too.
    let gzip = build(&whole, &options(BlobFormat::TarGzip)).blob;
    let zstd = build(&whole, &options(BlobFormat::TarZstd)).blob;
    for blob in [&gzip, &zstd] {
        for len in [5, blob.len() / 2, blob.len() - 1] {
            let error = try_build(&blob[..len], &options(BlobFormat::Estargz)).expect_err("cut");
            assert_eq!(error.kind(), ErrorKind::Malformed, "at {len} of {}: {error}", blob.len());
        }
    }
}

fn list_all(tar: &[u8]) -> bool {
    tar.len().is_multiple_of(512) && std::panic::catch_unwind(|| list(tar)).is_ok()
}
