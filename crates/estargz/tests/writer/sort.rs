//! Prioritized files go first, with what they need.
use bolide_core::ErrorKind;
use bolide_estargz::{BlobFormat, BuildOptions};

use super::support::{
    DIALECTS, Dialect, Node, PREFIXES, build, device, dir, file, hardlink, options, pax, symlink,
    tar, try_build,
};

fn tree() -> Vec<Node> {
    vec![
        dir("foo/"),
        file("foo/foo.txt", "foo"),
        dir("bar/"),
        file("bar/baz.txt", "baz"),
        file("bar/bar.txt", "bar"),
        symlink("bar/link", "baz.txt"),
        file("xxx.txt", "xxx"),
        file("y.txt", ""),
    ]
}

fn names(nodes: &[Node], prefix: &str) -> Vec<String> {
    nodes.iter().map(|node| format!("{prefix}{}", String::from_utf8_lossy(&node.name))).collect()
}

/// Converts with paths prioritized, and compares the order of names; `|` is the landmark.
fn sorts(nodes: &[Node], prefix: &str, prioritized: &[&str], expected: &[&str]) {
    for dialect in DIALECTS {
        for format in [BlobFormat::Estargz, BlobFormat::ZstdChunked, BlobFormat::EstargzExternalToc]
        {
            let options = BuildOptions {
                prioritized: prioritized.iter().map(|path| (*path).to_owned()).collect(),
                ..options(format)
            };
            let built = build(&tar(dialect, prefix, nodes), &options);
            let expected: Vec<String> = expected
                .iter()
                .map(|name| match *name {
                    "|" => ".prefetch.landmark".to_owned(),
                    "!" => ".no.prefetch.landmark".to_owned(),
                    name => format!("{prefix}{name}"),
                })
                .collect();
            assert_eq!(built.names(), expected, "{prefix:?} {prioritized:?} {dialect:?} {format}");
            let landmark = expected.iter().any(|name| name == ".prefetch.landmark");
            assert_eq!(built.report.prioritized_size > 0, landmark);
        }
    }
}

#[test]
fn nothing_is_moved_when_nothing_is_prioritized() {
    for prefix in PREFIXES {
        let built = build(&tar(Dialect::Pax, prefix, &tree()), &options(BlobFormat::Estargz));
        let expected: Vec<String> = [".no.prefetch.landmark".to_owned()]
            .into_iter()
            .chain(names(&tree(), prefix))
            .collect();
        assert_eq!(built.names(), expected);
        assert_eq!(built.report.prioritized_size, 0);
    }
}

#[test]
fn files_go_first_in_the_wanted_order_after_their_directories() {
    for prefix in PREFIXES {
        sorts(
            &tree(),
            prefix,
            &["bar/baz.txt", "foo/foo.txt", "bar/bar.txt"],
            &[
                "bar/",
                "bar/baz.txt",
                "foo/",
                "foo/foo.txt",
                "bar/bar.txt",
                "|",
                "bar/link",
                "xxx.txt",
                "y.txt",
            ],
        );
        sorts(
            &tree(),
            prefix,
            &["xxx.txt", "bar/", "y.txt", "bar/link"],
            &[
                "xxx.txt",
                "bar/",
                "y.txt",
                "bar/link",
                "|",
                "foo/",
                "foo/foo.txt",
                "bar/baz.txt",
                "bar/bar.txt",
            ],
        );
    }
}

#[test]
fn paths_may_be_written_in_any_way() {
    for path in ["bar/baz.txt", "./bar/baz.txt", "/bar/baz.txt", "../bar//./baz.txt"] {
        let rest = ["foo/", "foo/foo.txt", "bar/bar.txt", "bar/link", "xxx.txt", "y.txt"];
        let expected = [&["bar/", "bar/baz.txt", "|"], &rest[..]].concat();
        sorts(&tree(), "./", &[path], &expected);
    }
}

#[test]
fn the_root_goes_before_what_lies_in_it() {
    let nodes = [file("a", "a"), dir(""), file("b", "b")];
    sorts(&nodes, "./", &["b"], &["", "b", "|", "a"]);
}

#[test]
fn hard_links_pull_their_targets() {
    let nodes =
        [dir("d/"), file("a", "a"), hardlink("d/h", "a"), hardlink("d/i", "d/h"), file("z", "z")];
    for prefix in PREFIXES {
        sorts(&nodes, prefix, &["d/i"], &["d/", "a", "d/h", "d/i", "|", "z"]);
    }
}

#[test]
fn of_two_entries_the_later_counts() {
    let nodes = [file("a", "old"), file("b", "b"), file("a", "newer"), dir("d/"), dir("d/")];
    sorts(&nodes, "", &["a"], &["a", "|", "b", "d/"]);
    let options =
        BuildOptions { prioritized: vec!["b".to_owned()], ..options(BlobFormat::Estargz) };
    let built = build(&pax(&nodes), &options);
    assert_eq!(built.entry("a")["size"], 5);
}

#[test]
fn long_names_and_every_type_are_moved() {
    let long = format!("{}/{}", "d".repeat(60), "n".repeat(90));
    let nodes = [
        file(&format!("{}/{}", "e".repeat(60), "n".repeat(60)), "e"),
        file(&long, "long"),
        device("char", b'3', 1, 3),
        device("fifo", b'6', 0, 0),
        symlink("sym", "char"),
    ];
    let first = String::from_utf8_lossy(&nodes[0].name).into_owned();
    for prefix in PREFIXES {
        sorts(
            &nodes,
            prefix,
            &["sym", &long, "fifo"],
            &["sym", &long, "fifo", "|", &first, "char"],
        );
    }
}

#[test]
fn existing_landmarks_are_written_anew() {
    for landmark in [".prefetch.landmark", ".no.prefetch.landmark"] {
        for prefix in PREFIXES {
            let nodes = [file("a", "a"), file(landmark, "x"), file("b", "b")];
            sorts(&nodes, prefix, &["b"], &["b", "|", "a"]);
            sorts(&nodes, prefix, &[], &["!", "a", "b"].map(|name| name));
        }
        // Elsewhere they are files like others.
        let nodes = [dir("d/"), file(&format!("d/{landmark}"), "x")];
        let built = build(&pax(&nodes), &options(BlobFormat::Estargz));
        assert_eq!(built.entry(&format!("d/{landmark}"))["size"], 1);
    }
}

#[test]
fn a_missing_path_is_passed_over_or_an_error() {
    sorts(&[file("a", "a")], "", &["none", "a"], &["a", "|"]);
    sorts(&[file("a", "a")], "", &["none"], &["!", "a"]);
    let options = BuildOptions {
        prioritized: vec!["a".to_owned(), "none".to_owned()],
        allow_missing: false,
        ..options(BlobFormat::Estargz)
    };
    let error = try_build(&pax(&[file("a", "a")]), &options).expect_err("missing");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(error.context("path"), Some("none"));
}

#[test]
fn a_plain_tar_is_sorted_without_a_landmark() {
    for format in [BlobFormat::TarGzip, BlobFormat::TarZstd] {
        let options = BuildOptions { prioritized: vec!["y.txt".to_owned()], ..options(format) };
        let built = build(&pax(&tree()), &options);
        let listed = super::support::list(&built.tar());
        assert_eq!(listed[0].0, b"y.txt");
        assert_eq!(listed.len(), tree().len());
    }
}

#[test]
fn a_spool_smaller_than_the_tar_is_enough() {
    let nodes = [file("a", vec![0; 20 << 20]), file("b", "b")];
    let input = pax(&nodes);
    let options =
        BuildOptions { prioritized: vec!["b".to_owned()], ..options(BlobFormat::ZstdChunked) };
    let (mut blob, mut spool) = (Vec::new(), std::io::Cursor::new(Vec::new()));
    bolide_estargz::convert_layer(&mut &input[..], &mut blob, &options, Some(&mut spool))
        .expect("converts");
    assert!(spool.get_ref().len() < input.len() / 100, "{} bytes", spool.get_ref().len());
}
