//! What differs between the formats, and what does not depend on how a blob came about.
use std::{io::Write as _, num::NonZeroUsize};

use bolide_core::Digest;
use bolide_estargz::{BlobFormat, BuildOptions, Footer};
use flate2::{Compression, write::GzEncoder};

use super::support::{FORMATS, build, dir, file, list, noise, options, pax, try_build, usize};

fn some_tree() -> Vec<u8> {
    let mut nodes = vec![dir("d/")];
    nodes.extend((0..200).map(|at| file(&format!("d/f{at}"), noise(at * 40, at as u64))));
    nodes.push(file("text", "a line of text\n".repeat(400_000)));
    nodes.push(file("noise", noise(6 << 20, 3)));
    nodes.extend((0..50).map(|at| file(&format!("z{at}"), vec![0; at * 100])));
    pax(&nodes)
}

#[test]
fn the_bytes_depend_on_tar_and_options_alone() {
    let input = some_tree();
    for format in FORMATS {
        for min_chunk_size in [0, 50_000] {
            if min_chunk_size > 0 && format == BlobFormat::ZstdChunkedPodman {
                continue;
            }
            let prioritized = vec!["d/f7".to_owned(), "noise".to_owned()];
            let options = BuildOptions { min_chunk_size, prioritized, ..options(format) };
            let first = build(&input, &options);
            for parallelism in [1, 2, 3, 8] {
                let parallelism = NonZeroUsize::new(parallelism).expect("not 0");
                let again = try_build(&input, &BuildOptions { parallelism, ..options.clone() });
                let again = again.expect("converts");
                assert!(again.blob == first.blob, "{format} on {parallelism} threads");
                assert_eq!(again.report, first.report);
            }
        }
    }
}

#[test]
fn the_compression_of_the_source_makes_no_difference() {
    let input = some_tree();
    let mut gzip = GzEncoder::new(Vec::new(), Compression::new(1));
    gzip.write_all(&input).expect("memory");
    let gzip = gzip.finish().expect("memory");
    // Several members and frames are one stream.
    let (head, tail) = input.split_at(700_001);
    let frame = |part| zstd::encode_all(part, 1).expect("memory");
    let skippable = [0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
    let frames = [&skippable[..], &frame(head), &frame(tail)].concat();
    for format in FORMATS {
        let plain = build(&input, &options(format));
        for source in [&gzip, &frames] {
            assert!(build(source, &options(format)).blob == plain.blob, "{format}");
        }
    }
}

#[test]
fn a_blob_ends_as_its_format_says() {
    let input = pax(&[file("a", "abc")]);
    for format in FORMATS {
        let built = build(&input, &options(format));
        let size = built.blob.len() as u64;
        let footer = Footer::parse(&built.blob, size);
        let annotations = &built.report.annotations;
        let annotated = |key: &str| annotations.get(key).map(String::as_str).unwrap_or_default();
        let toc_digest = built.report.toc_digest.map(|digest| digest.to_string());
        let uncompressed = built.report.uncompressed_size.to_string();
        match format {
            BlobFormat::Estargz | BlobFormat::EstargzExternalToc => {
                let external = format == BlobFormat::EstargzExternalToc;
                assert_eq!(footer.expect("one") == Footer::ExternalToc, external);
                assert_eq!(annotations.len(), 2);
            }
            BlobFormat::ZstdChunked | BlobFormat::ZstdChunkedPodman => {
                let Ok(Footer::ZstdChunked(footer)) = footer else { panic!("{footer:?}") };
                let podman = format == BlobFormat::ZstdChunkedPodman;
                assert_eq!((footer.podman, footer.tar_split.is_some()), (podman, podman));
                let keys = if podman { "io.github.containers." } else { "io.containers." };
                let range = footer.toc.range;
                let compressed = &built.blob[usize(range.start())..usize(range.end())];
                assert_eq!(
                    annotated(&format!("{keys}zstd-chunked.manifest-checksum")),
                    Digest::of(compressed).to_string()
                );
                assert_eq!(
                    annotated(&format!("{keys}zstd-chunked.manifest-position")),
                    format!("{}:{}:{}:1", range.start(), range.len(), footer.toc.raw_size)
                );
                assert_eq!(annotations.len(), if podman { 5 } else { 4 });
            }
            BlobFormat::TarGzip | BlobFormat::TarZstd => assert!(footer.is_err()),
        }
        if format.is_lazy() {
            // containers/storage takes a layer with both keys for broken.
            let key = match format {
                BlobFormat::ZstdChunkedPodman => "containerd.io/snapshot/bolide/toc.digest",
                _ => "containerd.io/snapshot/stargz/toc.digest",
            };
            assert_eq!(Some(annotated(key)), toc_digest.as_deref());
            assert_eq!(annotated("io.containers.estargz.uncompressed-size"), uncompressed);
        }
    }
}

#[test]
fn each_tar_is_whole_and_ends() {
    let input = pax(&[dir("d/"), file("d/a", "abc"), file("b", "")]);
    for format in FORMATS {
        let tar = build(&input, &options(format)).tar();
        assert!(tar.ends_with(&[0; 1024]), "{format}");
        let names: Vec<Vec<u8>> = list(&tar).into_iter().map(|(name, ..)| name).collect();
        assert!(
            names.ends_with(&[b"d/".to_vec(), b"d/a".to_vec(), b"b".to_vec()])
                || format == BlobFormat::Estargz
        );
        if !format.is_lazy() {
            assert_eq!(names.len(), 3, "no landmark");
        }
    }
}

#[test]
fn levels_change_the_size() {
    let input = pax(&[file(
        "text",
        "some text, and some more text; ".repeat(5_000) + &format!("{:?}", noise(50_000, 1)),
    )]);
    for (format, low, high) in [(BlobFormat::Estargz, 1, 9), (BlobFormat::ZstdChunked, 1, 19)] {
        let size = |level| build(&input, &BuildOptions { level, ..options(format) }).blob.len();
        assert!(size(Some(high)) < size(Some(low)));
        let default = if format == BlobFormat::Estargz { 9 } else { 3 };
        assert_eq!(size(None), size(Some(default)));
    }
    // Level 0 stores.
    let stored = BuildOptions { level: Some(0), ..options(BlobFormat::TarGzip) };
    assert!(build(&input, &stored).blob.len() > input.len());
}
