//! How many members a blob is made of, and what lies in which.
use bolide_estargz::{BlobFormat, BuildOptions};
use serde_json::Value;

use super::support::{
    Built, DIALECTS, Node, PREFIXES, build, device, dir, file, hardlink, noise, options, pax,
    symlink, tar,
};

/// The reference's cases of "write and open", and how many chunks each has.
fn cases() -> Vec<(&'static str, Vec<Node>, usize)> {
    let owned = |name: &str, uid, user: &str| Node {
        owner: (uid, uid),
        names: (user.to_owned(), user.to_owned()),
        ..file(name, "content")
    };
    vec![
        ("empty", vec![], 0),
        ("one dir and one empty file", vec![dir("d/"), file("d/empty", "")], 0),
        (
            "one dir and one file",
            vec![dir("d/"), file("d/f", "abc").xattr("user.x", b"\xff\0\n=")],
            1,
        ),
        ("owners", vec![owned("a", 1, "x"), owned("b", 1, "x"), owned("c", 2, "y")], 3),
        ("directories", vec![dir("a/"), dir("a/b/"), dir("a/b/c/")], 0),
        ("a symlink", vec![dir("d/"), symlink("d/s", "../x/y")], 0),
        ("chunks", vec![file("big", noise(5 * 1000 + 1, 1))], 6),
        ("the root itself", vec![dir("/"), dir("/d/")], 0),
        (
            "devices",
            vec![device("b", b'4', 123, 456), device("c", b'3', 111, 222), device("f", b'6', 0, 0)],
            0,
        ),
        (
            "modes",
            [0o4755, 0o2755, 0o1777, 0o7000]
                .iter()
                .map(|mode| Node { mode: *mode, ..file(&format!("f{mode:o}"), "") })
                .collect(),
            0,
        ),
        ("a hard link", vec![file("f", "abc"), hardlink("h", "f")], 1),
        ("many empty files", (0..300).map(|at| file(&format!("e{at}"), "")).collect(), 0),
    ]
}

/// Members beside the chunks: of the landmark, of what stands at the end.
fn others(format: BlobFormat, files: usize) -> usize {
    match format {
        // Headers, landmark; TOC and footer, which are frames to skip in zstd.
        BlobFormat::Estargz | BlobFormat::ZstdChunked => 2 + 2,
        // The same without a TOC.
        BlobFormat::EstargzExternalToc => 2 + 1,
        // Headers, and those that follow each file; TOC, tar-split and footer.
        BlobFormat::ZstdChunkedPodman => 1 + files + 3,
        BlobFormat::TarGzip | BlobFormat::TarZstd => unreachable!("not lazy"),
    }
}

#[test]
fn a_member_begins_with_each_chunk() {
    for format in BlobFormat::ALL.map(|(format, _)| format) {
        if !format.is_lazy() {
            continue;
        }
        for (name, nodes, chunks) in cases() {
            for dialect in DIALECTS {
                for prefix in PREFIXES {
                    let options = BuildOptions { chunk_size: 1000, ..options(format) };
                    let built = build(&tar(dialect, prefix, &nodes), &options);
                    let files = nodes.iter().filter(|node| !node.content.is_empty()).count();
                    let expected = chunks + others(format, files);
                    assert_eq!(built.members(), expected, "{format}: {name}, {dialect:?} {prefix}");
                }
            }
        }
    }
}

#[test]
fn a_member_ends_where_the_next_chunk_begins() {
    let nodes = [file("a", "aaa"), dir("d/"), file("e", ""), file("b", noise(2500, 2))];
    let built =
        build(&pax(&nodes), &BuildOptions { chunk_size: 1000, ..options(BlobFormat::Estargz) });
    let offset = |entry: &Value| entry["offset"].as_u64().expect("an offset");
    let toc = built.toc();
    let places: Vec<&Value> = toc.iter().filter(|entry| entry["offset"].is_u64()).collect();
    // Landmark, a, and three chunks of b.
    assert_eq!(places.len(), 5);
    let member = built.member(offset(places[1]));
    // Content and its padding, and the headers up to the next content.
    assert_eq!(member.len(), 512 + 3 * 512);
    assert!(member.starts_with(b"aaa\0"));
    assert_eq!(built.member(offset(places[2])).len(), 1000);
    assert_eq!(places[2]["chunkSize"], 1000);
    assert_eq!(places[4]["chunkSize"], Value::Null, "the last goes to the end of the file");
}

/// Offsets, and offsets in the member, of everything that has one.
fn places(built: &Built) -> Vec<(u64, u64)> {
    let toc = built.toc();
    let placed = toc.iter().filter(|entry| entry["offset"].is_u64());
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    placed.map(|entry| (number(&entry["offset"]), number(&entry["innerOffset"]))).collect()
}

#[test]
fn small_files_share_members_until_those_are_large_enough() {
    let nodes: Vec<Node> = (0..400).map(|at| file(&format!("f{at}"), noise(1000, at))).collect();
    for format in [BlobFormat::Estargz, BlobFormat::EstargzExternalToc, BlobFormat::ZstdChunked] {
        let packed = BuildOptions { min_chunk_size: 64_000, ..options(format) };
        let built = build(&pax(&nodes), &packed);
        let single = build(&pax(&nodes), &options(format));
        assert!(built.blob.len() < single.blob.len());
        let places = places(&built);
        assert!(places.iter().any(|(_, inner)| *inner > 0), "packed");
        let mut offsets: Vec<u64> = places.iter().map(|(offset, _)| *offset).collect();
        offsets.dedup();
        for pair in offsets.windows(2) {
            let size = pair[1] - pair[0];
            assert!((64_000..70_000).contains(&size), "{format}: a member of {size} bytes");
        }
        assert!((5..10).contains(&offsets.len()), "{} members", offsets.len());
    }
}

#[test]
fn chunks_of_large_files_share_members_too() {
    let nodes = [file("a", noise(100, 1)), file("big", noise(100_000, 2)), file("z", "z")];
    let packed = BuildOptions {
        min_chunk_size: 64_000,
        chunk_size: 4_000,
        ..options(BlobFormat::ZstdChunked)
    };
    let places = places(&build(&pax(&nodes), &packed));
    assert_eq!(places.len(), 1 + 1 + 25 + 1);
    let starts = places.iter().filter(|(_, inner)| *inner == 0).count();
    assert!(starts < 5, "{starts} members");
}

#[test]
fn a_landmark_begins_a_member_whatever_was_packed() {
    let nodes: Vec<Node> = (0..10).map(|at| file(&format!("f{at}"), noise(100, at))).collect();
    let prioritized = (3..6).map(|at| format!("f{at}")).collect();
    let packed =
        BuildOptions { min_chunk_size: 64_000, prioritized, ..options(BlobFormat::Estargz) };
    let built = build(&pax(&nodes), &packed);
    let landmark = built.entry(".prefetch.landmark");
    assert_eq!(landmark["innerOffset"], Value::Null);
    assert_eq!(landmark["offset"], built.report.prioritized_size);
    let prioritized = built.entry("f5");
    assert!(prioritized["offset"].as_u64() < landmark["offset"].as_u64());
    let other = built.entry("f0");
    assert_eq!(other["offset"], landmark["offset"], "what follows is packed with it");
}

#[test]
fn a_chunk_larger_than_a_thread_takes_is_one_member() {
    // Parts of 5 MiB each.
    let content = [noise(3 << 20, 1), vec![7; 9 << 20], noise(100, 2)].concat();
    let nodes = [file("a", "a"), file("big", content.clone()), file("z", "zzz")];
    let options = BuildOptions { chunk_size: 64 << 20, ..options(BlobFormat::Estargz) };
    let built = build(&pax(&nodes), &options);
    assert_eq!(built.members(), 3 + others(BlobFormat::Estargz, 0));
    let zstd = BuildOptions { format: BlobFormat::ZstdChunked, ..options };
    let built = super::support::try_build(&pax(&nodes), &zstd).expect("converts");
    let offset = built.entry("big")["offset"].as_u64().expect("an offset");
    let end = built.entry("z")["offset"].as_u64().expect("an offset");
    let frames = &built.blob[super::support::usize(offset)..super::support::usize(end)];
    let decoded = zstd::decode_all(frames).expect("frames");
    assert!(decoded.starts_with(&content), "frames that follow each other");
}

#[test]
fn thousands_of_headers_are_one_member() {
    // More than 5 MiB of them, after a file and before one.
    let mut nodes = vec![file("a", "a")];
    nodes.extend((0..11_000).map(|at| file(&format!("e{at}"), "")));
    nodes.push(file("z", "z"));
    for format in [BlobFormat::Estargz, BlobFormat::ZstdChunkedPodman] {
        let built = build(&pax(&nodes), &options(format));
        if format == BlobFormat::Estargz {
            assert_eq!(built.members(), 2 + others(format, 0));
        }
        assert_eq!(built.entry("z")["size"], 1);
    }
    for format in [BlobFormat::Estargz, BlobFormat::ZstdChunked] {
        let packed = BuildOptions { min_chunk_size: 50_000, ..options(format) };
        assert_eq!(build(&pax(&nodes), &packed).entry("z")["size"], 1);
    }
}
