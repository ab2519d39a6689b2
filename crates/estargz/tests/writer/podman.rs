//! zstd:chunked as containers/storage has it.
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bolide_core::{Digest, ErrorKind};
use bolide_estargz::{BlobFormat, BuildOptions, Footer};
use serde_json::{Value, json};

use super::support::{
    Built, Dialect, FORMATS, Node, build, contents, dir, file, hardlink, noise, options, pax,
    symlink, tar, try_build, usize,
};

const PODMAN: BlobFormat = BlobFormat::ZstdChunkedPodman;

/// Lines of the tar-split document.
fn split(built: &Built) -> Vec<Value> {
    let footer = Footer::parse(&built.blob, built.blob.len() as u64).expect("a footer");
    let Footer::ZstdChunked(footer) = footer else { panic!("{footer:?}") };
    let document = footer.tar_split.expect("tar-split");
    let compressed = &built.blob[usize(document.range.start())..usize(document.range.end())];
    let named: Value = serde_json::from_slice(&built.document()).expect("JSON");
    assert_eq!(named["tarSplitDigest"], Digest::of(compressed).to_string());
    let position =
        format!("{}:{}:{}", document.range.start(), document.range.len(), document.raw_size);
    assert_eq!(
        built.report.annotations["io.github.containers.zstd-chunked.tarsplit-position"],
        position
    );
    let raw = zstd::decode_all(compressed).expect("zstd");
    assert_eq!(raw.len() as u64, document.raw_size);
    let lines = raw.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).expect("JSON")).collect()
}

/// CRC-64 as Go's `hash/crc64` has it, bit by bit.
fn sum(content: &[u8]) -> u64 {
    let mut sum = !0_u64;
    for byte in content {
        sum ^= u64::from(*byte);
        for _ in 0..8 {
            sum = if sum & 1 == 1 { (sum >> 1) ^ 0xD800_0000_0000_0000 } else { sum >> 1 };
        }
    }
    !sum
}

/// Puts a tar together as containers/storage does, from tar-split and unpacked files.
fn reassemble(built: &Built) -> Vec<u8> {
    let files = contents(&built.tar());
    let bytes = |value: &Value| STANDARD.decode(value.as_str().expect("base64")).expect("base64");
    let mut out = Vec::new();
    for (at, line) in split(built).iter().enumerate() {
        assert_eq!(line["position"], at);
        match line["type"].as_u64() {
            Some(2) => out.extend(bytes(&line["payload"])),
            Some(1) => {
                let name = match line["name"].as_str() {
                    Some(name) => name.as_bytes().to_vec(),
                    None => bytes(&line["name_raw"]),
                };
                let size = line["size"].as_u64().unwrap_or(0);
                if size == 0 {
                    assert_eq!(line["payload"], Value::Null);
                    continue;
                }
                let content = &files[&name][0];
                assert_eq!(content.len() as u64, size);
                assert_eq!(bytes(&line["payload"]), sum(content).to_be_bytes(), "{line}");
                out.extend(content);
            }
            other => panic!("{other:?}"),
        }
    }
    out
}

fn tree() -> Vec<Node> {
    let mut odd = file("odd", "content");
    odd.name = b"odd\xff".to_vec();
    vec![
        dir("d/"),
        file("d/f", noise(2500, 1)).xattr("user.x", b"\xff"),
        file("d/empty", ""),
        symlink("d/s", "f"),
        hardlink("h", "d/f"),
        odd,
        file("holes", [noise(3000, 2), vec![0; 5000], noise(10, 3)].concat()),
    ]
}

#[test]
fn tar_split_gives_the_tar_back() {
    for dialect in super::support::DIALECTS {
        for keep_diff_id in [false, true] {
            let options = BuildOptions { keep_diff_id, chunk_size: 1000, ..options(PODMAN) };
            let built = build(&tar(dialect, "./", &tree()), &options);
            assert!(reassemble(&built) == built.tar(), "{dialect:?}");
        }
    }
}

#[test]
fn each_line_of_headers_begins_with_them() {
    // Their reader of headers passes over the padding of the file before, and no more.
    let built = build(&pax(&tree()), &options(PODMAN));
    let mut padding = 0;
    let mut headers = 0;
    for line in split(&built) {
        if line["type"] == 1 {
            let size = usize(line["size"].as_u64().unwrap_or(0));
            padding = size.next_multiple_of(512) - size;
            continue;
        }
        let bytes = STANDARD.decode(line["payload"].as_str().expect("base64")).expect("base64");
        let bytes = &bytes[padding..];
        if bytes[0] != 0 {
            let mut archive = tar::Archive::new(bytes);
            let first = archive.entries().expect("a tar").next().expect("an entry");
            first.expect("its headers");
            headers += 1;
        }
    }
    assert_eq!(headers, tree().len());
}

#[test]
fn holes_are_told() {
    let content = [vec![0; 3000], noise(5000, 2), vec![0; 1023], noise(1000, 3), vec![0; 1024]];
    let nodes = [file("holes", content.concat()), file("all", vec![0; 2000]), file("z", "z")];
    let built = build(&pax(&nodes), &options(PODMAN));
    let toc = built.toc();
    let at = toc.iter().position(|entry| entry["name"] == "holes").expect("listed");
    let chunks: Vec<(Value, Value, Value)> = toc[at..at + 3]
        .iter()
        .map(|entry| {
            (entry["chunkOffset"].clone(), entry["chunkSize"].clone(), entry["chunkType"].clone())
        })
        .collect();
    assert_eq!(
        chunks,
        [
            (Value::Null, json!(3000), json!("zeros")),
            (json!(3000), json!(7023), Value::Null),
            (json!(10_023), json!(1024), json!("zeros")),
        ]
    );
    // A file of one chunk is described as a whole.
    let all = built.entry("all");
    assert_eq!((&all["chunkType"], &all["chunkDigest"]), (&Value::Null, &Value::Null));
}

#[test]
fn a_file_ends_where_its_last_frame_does() {
    let nodes = [file("a", noise(2500, 1)), file("b", "b")];
    let built = build(&pax(&nodes), &BuildOptions { chunk_size: 1000, ..options(PODMAN) });
    for (name, content) in [("a", noise(2500, 1)), ("b", b"b".to_vec())] {
        let entry = built.entry(name);
        let place = |key: &str| usize(entry[key].as_u64().expect("a place"));
        let frames = &built.blob[place("offset")..place("endOffset")];
        assert_eq!(zstd::decode_all(frames).expect("frames"), content);
    }
}

#[test]
fn times_are_exact_and_modes_as_they_stand() {
    let record = |key: &str, value: &str| (key.to_owned(), value.as_bytes().to_vec());
    let node = Node {
        records: vec![
            record("mtime", "7.25"),
            record("atime", "8"),
            record("ctime", "9.000000001"),
        ],
        mode: 0o100_644,
        names: ("user".to_owned(), "group".to_owned()),
        ..file("f", "")
    };
    let epoch = Node { mtime: 0, ..file("epoch", "") };
    let built = build(&pax(&[node, epoch]), &options(PODMAN));
    assert_eq!(
        built.entry("f"),
        json!({
            "type": "reg", "name": "f", "mode": 0o100_644, "modtime": "1970-01-01T00:00:07.25Z",
            "accesstime": "1970-01-01T00:00:08Z", "changetime": "1970-01-01T00:00:09.000000001Z",
        })
    );
    assert_eq!(built.entry("epoch")["modtime"], "1970-01-01T00:00:00Z");
    // Headers of old GNU tar have both times too.
    let mut input = tar(Dialect::Gnu, "", &[file("g", "")]);
    input[345..356].copy_from_slice(b"00000000012");
    let header = tar::Header::from_byte_slice(&input[..512]);
    let mut header = header.clone();
    header.set_cksum();
    input[..512].copy_from_slice(header.as_bytes());
    assert_eq!(build(&input, &options(PODMAN)).entry("g")["accesstime"], "1970-01-01T00:00:10Z");
}

#[test]
fn landmarks_stand_only_where_something_is_prioritized() {
    let input = pax(&[file("a", "a"), file("b", "b")]);
    assert_eq!(build(&input, &options(PODMAN)).names(), ["a", "b"]);
    let sorted = BuildOptions { prioritized: vec!["b".to_owned()], ..options(PODMAN) };
    assert_eq!(build(&input, &sorted).names(), ["b", ".prefetch.landmark", "a"]);
}

#[test]
fn two_entries_of_one_path_are_refused() {
    let input = pax(&[file("a", "old"), file("./a", "new")]);
    for format in FORMATS {
        let built = try_build(&input, &options(format));
        if format == PODMAN {
            let error = built.expect_err("refused");
            assert_eq!(
                (error.kind(), error.context("entry")),
                (ErrorKind::Unsupported, Some("./a"))
            );
        } else {
            built.expect("the later counts");
        }
    }
}
