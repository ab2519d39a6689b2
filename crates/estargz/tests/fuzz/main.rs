//! The fuzz harnesses, driven by mutated examples.
mod harness;

use bolide_estargz::{BlobFormat, BuildOptions, convert_layer};
use proptest::{collection::vec, prelude::*};

/// One change to an example.
#[derive(Clone, Debug)]
enum Change {
    Set(usize, u8),
    Flip(usize, u8),
    Cut(usize),
    Remove(usize, usize),
    Repeat(usize, usize),
    /// Digits, as sizes and offsets are written.
    Number(usize, &'static str),
}

const NUMBERS: [&str; 6] =
    ["0", "-1", "77777777777", "9223372036854775807", "18446744073709551615", "1e400"];

fn change() -> impl Strategy<Value = Change> {
    let at = any::<prop::sample::Index>().prop_map(|at| at.index(1 << 16));
    let len = prop_oneof![Just(512_usize), 1..64_usize];
    prop_oneof![
        3 => (at.clone(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        3 => (at.clone(), 0..8_u8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        1 => at.clone().prop_map(Change::Cut),
        1 => (at.clone(), len.clone()).prop_map(|(at, len)| Change::Remove(at, len)),
        1 => (at.clone(), len).prop_map(|(at, len)| Change::Repeat(at, len)),
        2 => (at, prop::sample::select(&NUMBERS[..]))
            .prop_map(|(at, digits)| Change::Number(at, digits)),
    ]
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    if bytes.is_empty() {
        return;
    }
    let len = bytes.len();
    let range = |at: usize, count: usize| at % len..(at % len + count).min(len);
    match *change {
        Change::Set(at, byte) => bytes[at % len] = byte,
        Change::Flip(at, bit) => bytes[at % len] ^= 1 << bit,
        Change::Cut(at) => bytes.truncate(at % len),
        Change::Remove(at, count) => drop(bytes.drain(range(at, count))),
        Change::Repeat(at, count) => {
            let part = bytes[range(at, count)].to_vec();
            bytes.splice(at % len..at % len, part);
        }
        Change::Number(at, digits) => {
            // The next digits, whatever number they are.
            let start = (0..len).map(|step| (at + step) % len);
            let Some(start) = start.into_iter().find(|at| bytes[*at].is_ascii_digit()) else {
                return;
            };
            let end = bytes[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            bytes.splice(start..start + end, digits.bytes());
        }
    }
}

/// A tar with every dialect's extensions.
fn tar() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |kind: tar::EntryType, path: &str, link: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        header.set_mtime(1_700_000_000);
        if link.is_empty() {
            tar.append_data(&mut header, path, content).expect("in memory");
        } else {
            tar.append_link(&mut header, path, link).expect("in memory");
        }
    };
    add(tar::EntryType::Directory, "dir/", "", b"");
    add(tar::EntryType::Regular, "dir/file", "", &[7; 3000]);
    add(tar::EntryType::XHeader, "pax", "", b"31 SCHILY.xattr.user.color=red\n");
    add(tar::EntryType::Regular, "dir/marked", "", b"colourful");
    add(tar::EntryType::Regular, &format!("long/{}", "name".repeat(40)), "", &[0; 5000]);
    add(tar::EntryType::Symlink, "link", "dir/file", b"");
    add(tar::EntryType::Link, "hard", "dir/file", b"");
    tar.into_inner().expect("in memory")
}

fn blob(format: BlobFormat) -> Vec<u8> {
    let options = BuildOptions { format, level: Some(1), ..BuildOptions::default() };
    let mut blob = Vec::new();
    convert_layer(&mut &*tar(), &mut blob, &options, None).expect("converts");
    blob
}

fn toc() -> Vec<u8> {
    let options =
        BuildOptions { format: BlobFormat::EstargzExternalToc, ..BuildOptions::default() };
    let report = convert_layer(&mut &*tar(), &mut Vec::new(), &options, None).expect("converts");
    report.external_toc.expect("a TOC of its own").to_vec()
}

fn run(harness: fn(&[u8]), mut bytes: Vec<u8>, changes: &[Change]) {
    for change in changes {
        apply(&mut bytes, change);
    }
    harness(&bytes);
}

const LAZY: [BlobFormat; 3] =
    [BlobFormat::Estargz, BlobFormat::ZstdChunked, BlobFormat::ZstdChunkedPodman];

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn footers(format in prop::sample::select(&LAZY[..]), changes in vec(change(), 0..4)) {
        let blob = blob(format);
        run(harness::footer, blob[blob.len() - 80..].to_vec(), &changes);
    }

    #[test]
    fn documents(changes in vec(change(), 0..6)) {
        run(harness::toc, toc(), &changes);
    }

    #[test]
    fn blobs(format in prop::sample::select(&LAZY[..]), changes in vec(change(), 0..4)) {
        run(harness::blob, blob(format), &changes);
    }

    #[test]
    fn tars(changes in vec(change(), 0..6)) {
        run(harness::tar, tar(), &changes);
        run(harness::tar_split, tar(), &changes);
    }
}
