//! The diffID is kept where that is asked for and possible.
use bolide_core::{Digest, ErrorKind};
use bolide_estargz::{BlobFormat, BuildOptions};

use super::support::{
    Built, DIALECTS, Dialect, FORMATS, PREFIXES, append, build, device, dir, extension, file,
    hardlink, noise, options, pax, symlink, tar, try_build,
};

fn keep(format: BlobFormat) -> BuildOptions {
    BuildOptions { keep_diff_id: true, chunk_size: 1000, ..options(format) }
}

fn kept(input: &[u8], format: BlobFormat) -> Built {
    let built = build(input, &keep(format));
    assert!(built.tar() == input, "{format}: the tar changed");
    assert_eq!(built.report.diff_id, Digest::of(input));
    built
}

fn possible() -> impl Iterator<Item = BlobFormat> {
    FORMATS.into_iter().filter(|format| *format != BlobFormat::Estargz)
}

#[test]
fn the_tar_stays_as_it_is() {
    let nodes = [
        dir("d/"),
        file("d/f", noise(2500, 1)).xattr("user.x", b"\xff"),
        file("d/empty", ""),
        symlink("d/s", "f"),
        hardlink("h", "d/f"),
        device("c", b'3', 1, 2),
    ];
    for format in possible() {
        for dialect in DIALECTS {
            for prefix in PREFIXES {
                kept(&tar(dialect, prefix, &nodes), format);
            }
        }
    }
}

#[test]
fn odd_ends_and_paddings_stay() {
    let mut odd = Vec::new();
    append(&mut odd, Dialect::Pax, "", &file("f", "abc"));
    // Padding need not be zeros.
    odd[1023] = 7;
    for end in [0, 512, 1024, 10_240, 12 << 20] {
        let input = [odd.clone(), vec![0; end]].concat();
        for format in possible() {
            kept(&input, format);
        }
    }
    // Neither is what stands behind the end.
    let input = [odd, vec![0; 1024], b"whatever".repeat(1000)].concat();
    for format in possible() {
        kept(&input, format);
    }
    for format in possible() {
        kept(&[], format);
    }
}

#[test]
fn landmarks_are_neither_added_nor_dropped() {
    for format in [BlobFormat::EstargzExternalToc, BlobFormat::ZstdChunked] {
        let built = kept(&pax(&[file("a", "a")]), format);
        assert_eq!(built.names(), ["a"]);
        let built = kept(&pax(&[file(".prefetch.landmark", "\u{f}"), file("a", "a")]), format);
        assert_eq!(built.names(), [".prefetch.landmark", "a"]);
    }
}

#[test]
fn global_headers_stay_and_count() {
    let mut input = Vec::new();
    extension(&mut input, b'g', &[("uid".to_owned(), b"77".to_vec())]);
    append(&mut input, Dialect::Pax, "", &file("a", "a"));
    for format in [BlobFormat::EstargzExternalToc, BlobFormat::ZstdChunked] {
        assert_eq!(kept(&input, format).entry("a")["uid"], 77);
    }
}

#[test]
fn what_cannot_be_kept_is_refused() {
    let input = pax(&[file("a", "a")]);
    let error = try_build(&input, &keep(BlobFormat::Estargz)).expect_err("a TOC inside");
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.message().contains("inside of the tar"), "{error}");
    let sorted =
        BuildOptions { prioritized: vec!["a".to_owned()], ..keep(BlobFormat::ZstdChunked) };
    assert_eq!(try_build(&input, &sorted).expect_err("sorted").kind(), ErrorKind::Config);
    for prefix in PREFIXES {
        let holds_toc = tar(Dialect::Pax, prefix, &[file("stargz.index.json", "{}")]);
        let error = try_build(&holds_toc, &keep(BlobFormat::ZstdChunked)).expect_err("a TOC");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(error.context("entry"), Some(&*format!("{prefix}stargz.index.json")));
    }
    let early = BuildOptions { latest_mtime: Some(5), ..keep(BlobFormat::ZstdChunked) };
    let error = try_build(&input, &early).expect_err("a later time");
    assert_eq!((error.kind(), error.context("entry")), (ErrorKind::Unsupported, Some("a")));
    let late = BuildOptions { latest_mtime: Some(1 << 40), ..keep(BlobFormat::ZstdChunked) };
    assert_eq!(build(&input, &late).tar(), input, "nothing has to change");
}

#[test]
fn a_lossy_layer_drops_the_toc_of_before() {
    let first = build(&pax(&[file("a", "a")]), &options(BlobFormat::Estargz));
    for format in FORMATS {
        let again = build(&first.blob, &options(format));
        let listed = super::support::list(&again.tar());
        let names: Vec<_> = listed.iter().map(|(name, ..)| String::from_utf8_lossy(name)).collect();
        let expected: &[&str] = match format {
            BlobFormat::Estargz => &[".no.prefetch.landmark", "a", "stargz.index.json"],
            BlobFormat::EstargzExternalToc | BlobFormat::ZstdChunked => {
                &[".no.prefetch.landmark", "a"]
            }
            _ => &["a"],
        };
        assert_eq!(names, expected, "{format}");
    }
}
