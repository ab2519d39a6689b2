//! Any tree, in any format: what is in the blob is what was in the tar.
use std::{collections::BTreeMap, num::NonZeroUsize};

use bolide_core::ErrorKind;
use bolide_estargz::{BlobFormat, BuildOptions};
use proptest::prelude::*;

use super::support::{
    Dialect, FORMATS, Node, append, build, device, dir, extension, file, hardlink, list, noise,
    symlink, tar, try_build,
};

fn content() -> impl Strategy<Value = Vec<u8>> {
    let runs = prop::collection::vec((any::<bool>(), 0..5000_usize, any::<u64>()), 0..6);
    runs.prop_map(|runs| {
        runs.into_iter()
            .flat_map(|(zeros, len, seed)| if zeros { vec![0; len] } else { noise(len, seed) })
            .collect()
    })
}

fn name() -> impl Strategy<Value = String> {
    let part = prop_oneof!["[a-d]", "[a-z]{20,60}"];
    prop::collection::vec(part, 1..4).prop_map(|parts| parts.join("/"))
}

fn entry() -> impl Strategy<Value = Node> {
    let kinds = prop_oneof![
        6 => (name(), content()).prop_map(|(name, content)| file(&name, content)),
        1 => name().prop_map(|name| dir(&(name + "/"))),
        1 => (name(), name()).prop_map(|(name, target)| symlink(&name, &target)),
        1 => name().prop_map(|name| device(&name, b'3', 1, 3)),
        1 => (name(), content(), prop::collection::vec(any::<u8>(), 0..50))
            .prop_map(|(name, content, value)| file(&name, content).xattr("user.x", &value)),
    ];
    (kinds, 0..0o10_000_u32, 0..3_u64, 0..2_000_000_000_u64)
        .prop_map(|(node, mode, uid, mtime)| Node { mode, owner: (uid, uid), mtime, ..node })
}

/// A tree without two entries of one path, in which some files have a second name.
fn tree() -> impl Strategy<Value = Vec<Node>> {
    (prop::collection::vec(entry(), 0..20), any::<prop::sample::Index>()).prop_map(
        |(nodes, link)| {
            let mut unique = BTreeMap::new();
            for node in nodes {
                let path = String::from_utf8_lossy(&node.name).trim_matches('/').to_owned();
                unique.entry(path).or_insert(node);
            }
            let mut nodes: Vec<Node> = unique.into_values().collect();
            if !nodes.is_empty() {
                let target = link.get(&nodes).clone();
                if target.kind == b'0' {
                    nodes.push(hardlink("a second name", &String::from_utf8_lossy(&target.name)));
                }
            }
            nodes
        },
    )
}

/// A tar in which every kind of header stands.
fn every_header() -> Vec<u8> {
    let mut out = Vec::new();
    extension(&mut out, b'g', &[("mtime".to_owned(), b"1000.5".to_vec())]);
    let sparse = |key: &str, value: &str| (format!("GNU.sparse.{key}"), value.as_bytes().to_vec());
    let tables = [
        vec![sparse("major", "1"), sparse("minor", "0"), sparse("realsize", "5000")],
        vec![sparse("size", "5000"), sparse("map", "10,20,3000,40")],
    ];
    for (at, records) in tables.into_iter().enumerate() {
        let mut content = b"2\n10\n20\n3000\n40\n".to_vec();
        content.resize(512 + 60, 0);
        let node = Node { records, ..file(&format!("sparse{at}"), content) };
        append(&mut out, Dialect::Pax, "", &node);
    }
    let mut old = tar(Dialect::Gnu, "", &[Node { kind: b'S', ..file("old", noise(60, 1)) }]);
    old[386..386 + 48].copy_from_slice(b"00000000012 00000000024 00000005670 00000000050 ");
    old[483..495].copy_from_slice(b"00000011610 ");
    out.extend(&old[..1024]);
    append(&mut out, Dialect::Gnu, "", &file(&"long/".repeat(50), "abc"));
    append(&mut out, Dialect::Pax, "", &hardlink("h", "old").xattr("user.x", b"1"));
    out.resize(out.len() + 1024, 0);
    sum(&mut out);
    out
}

/// Makes the checksums of headers right again.
fn sum(tar: &mut [u8]) {
    for block in tar.chunks_exact_mut(512).filter(|block| &block[257..262] == b"ustar") {
        let mut header = tar::Header::from_byte_slice(block).clone();
        header.set_cksum();
        block.copy_from_slice(header.as_bytes());
    }
}

#[test]
fn a_tar_of_every_header_is_sound() {
    build(&every_header(), &super::support::options(BlobFormat::Estargz));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_damaged_tar_is_converted_or_refused(
        changes in prop::collection::vec((0..9_000_usize, any::<u8>()), 1..5),
        sorted in any::<bool>(),
        format in prop::sample::select(FORMATS.to_vec()),
    ) {
        let mut input = every_header();
        for (at, byte) in changes {
            let at = at % input.len();
            // Where type `S` says a size: gigabytes of zeros are sound, but take their time.
            if !(483..495).contains(&(at % 512)) {
                input[at] = byte;
            }
        }
        sum(&mut input);
        let prioritized = if sorted { vec!["h".to_owned()] } else { vec![] };
        let options = BuildOptions { prioritized, ..super::support::options(format) };
        if let Err(error) = try_build(&input, &options) {
            // What panics on one of the threads is unexpected.
            prop_assert!(error.kind() != ErrorKind::Unexpected, "{error:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_tree_is_in_its_blob(
        nodes in tree(),
        chunk_size in 1000..6000_u64,
        min_chunk_size in prop_oneof![Just(0_u64), 1..20_000_u64],
        threads in 1..4_usize,
        gnu in any::<bool>(),
        first in prop::collection::vec(name(), 0..3),
        sorted in any::<bool>(),
    ) {
        let dialect = if gnu { Dialect::Gnu } else { Dialect::Pax };
        let input = tar(dialect, "", &nodes);
        for format in FORMATS {
            let podman = format == BlobFormat::ZstdChunkedPodman;
            let mut prioritized = first.clone();
            prioritized.extend(nodes.last().map(|node| String::from_utf8_lossy(&node.name).into_owned()));
            let keep_diff_id = !sorted && format != BlobFormat::Estargz;
            let options = BuildOptions {
                format,
                chunk_size,
                min_chunk_size: if podman { 0 } else { min_chunk_size },
                prioritized: if sorted { prioritized } else { vec![] },
                keep_diff_id,
                parallelism: NonZeroUsize::new(threads).expect("not 0"),
                level: Some(1),
                ..BuildOptions::default()
            };
            let built = build(&input, &options);
            let tar = built.tar();
            if keep_diff_id {
                prop_assert!(tar == input);
                continue;
            }
            let added = |name: &[u8]| name.ends_with(b"fetch.landmark") || name == b"stargz.index.json";
            let mut found = list(&tar);
            found.retain(|(name, ..)| !added(name));
            let mut expected = list(&input);
            if sorted {
                found.sort();
                expected.sort();
            }
            prop_assert!(found == expected);
        }
    }
}
