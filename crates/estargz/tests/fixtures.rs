//! Layers made by the reference implementation read back to their listings, and ours do too.
use std::{collections::BTreeMap, fs, io::Read as _, ops::ControlFlow, path::PathBuf, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bolide_core::{
    BlobOpener as _, BlobRef, ByteRange, ChunkSpan, Digest, Digester, ErrorKind, NodeId, NodeKind,
    PrefetchMark, ReadOptions, Result, TocIndex, VerifiedChunk, memory::MemoryBlob,
};
use bolide_estargz::{BuildOptions, OpenedLayer, TAIL_HINT, TocTrust, convert_layer, open_layer};
use bytes::Bytes;
use serde::Deserialize;

const ORG: [&str; 2] = [
    "7823858a91105df1bdb62d29ae129714cda5bd07682f5470e70461e4af581f0c",
    "8f36f7fff976af599875c21245c322cec2fca9b4593c10e9d78349d7d3927cc3",
];

/// Blob, TOC digest and listing of each layer that the reference implementation made.
const REFERENCE: [(&str, &str, &str); 5] = [
    (
        "4aaf7f11dc1017324bc72bc18012b0f9404a98655d3f1c384caeb1ed1958df30",
        "d8d4be8cfab9055cfc650733cce0ef7f04f71d5fb297adc519d74468cc80d7af",
        "layer1",
    ),
    (
        "047e3b1fbd6df2ee4a781426a1a119b77726c48f1ee648a69bb4e0cf1f154de0",
        "97501dd3e83a40de689de1094d3cd6993bde3712c3634e4e2eec6d6be2d19596",
        "layer2",
    ),
    (
        "4ac9ec8669240b63c7b0070320aafb639ead343cb06654d3791a541325800104",
        "3724b4c5071b0b109fd4c7c7f7f71fbda407ce34e5adbeb5a2546dcd7677502c",
        "layer1",
    ),
    (
        "8077b1a0ca411cf704d8c809d6061800e3388518811949740e3c20b6af588517",
        "a4981c6adc9e72613039328a781a7f3496aad423659d9b5fcdd06ccae3059f51",
        "layer1",
    ),
    (
        "fc0c013a14ffc379bcdfaaa9de143a61ca1a5b53a79232fb85083045e89be610",
        "a6e3f154c4b7498f40319386bc33f3c9861a0c3a9134e5f209dc3692204b3fb4",
        "layer2",
    ),
];

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Listed {
    name: String,
    r#type: String,
    mode: u16,
    uid: u32,
    gid: u32,
    mtime: i64,
    size: u64,
    sha256: String,
    link: String,
    major: u32,
    minor: u32,
    xattrs: BTreeMap<String, String>,
}

fn testdata(path: &str) -> Vec<u8> {
    let whole = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata").join(path);
    fs::read(&whole).unwrap_or_else(|error| panic!("{}: {error}", whole.display()))
}

fn blob(hex: &str) -> MemoryBlob {
    MemoryBlob::new(testdata(&format!("blobs/{hex}")))
}

fn listing(name: &str) -> Vec<Listed> {
    serde_json::from_slice(&testdata(&format!("{name}.listing.json"))).expect("listing")
}

async fn open(blob: &MemoryBlob, trust: TocTrust) -> Result<OpenedLayer> {
    use bolide_core::BlobSource as _;
    let wanted = BlobRef { digest: blob.digest(), size: None };
    open_layer(&blob.open(wanted, TAIL_HINT).await?, trust).await
}

fn find(index: &dyn TocIndex, path: &str) -> NodeId {
    let parts = path.split('/').filter(|part| !matches!(*part, "" | "."));
    parts.fold(index.root(), |dir, name| {
        let found = index.lookup(dir, name.as_ref()).expect("lookup");
        found.unwrap_or_else(|| panic!("{path} is not found"))
    })
}

/// Inflates and verifies every chunk of a file; the digest of the whole.
fn content_digest(index: &dyn TocIndex, blob: &[u8], file: NodeId) -> String {
    let mut spans: Vec<ChunkSpan> = Vec::new();
    let mut visit = |span| {
        spans.push(span);
        ControlFlow::Continue(())
    };
    index.for_each_chunk(file, 0..u64::MAX, &mut visit).expect("chunks");
    let mut digester = Digester::new();
    for span in spans {
        let at = |offset| usize::try_from(offset).expect("offset");
        let member = &blob[at(span.member.start())..at(span.member.end())];
        let mut raw = Vec::new();
        flate2::read::GzDecoder::new(member).read_to_end(&mut raw).expect("member");
        let start = at(span.inner_offset);
        let bytes = Bytes::copy_from_slice(&raw[start..start + at(span.key.len)]);
        digester.update(VerifiedChunk::verify(span.key, bytes).expect("verified").bytes());
    }
    digester.finish().hex()
}

fn xattrs(index: &dyn TocIndex, node: NodeId) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    let mut visit = |name: &std::ffi::OsStr, value: &[u8]| {
        out.insert(name.to_string_lossy().into_owned(), STANDARD.encode(value));
        ControlFlow::Continue(())
    };
    index.for_each_xattr(node, &mut visit).expect("xattrs");
    out
}

fn compare(index: &dyn TocIndex, blob: &[u8], listed: &[Listed]) {
    bolide_testkit::conformance::toc_index::all(index).expect("conforms");
    for entry in listed {
        let name = &entry.name;
        let node = find(index, name);
        if entry.r#type == "hardlink" {
            assert_eq!(node, find(index, &entry.link), "{name}");
            assert!(index.attr(node).expect("attr").nlink >= 2, "{name}");
            continue;
        }
        let attr = index.attr(node).expect("attr");
        assert_eq!((attr.perm, attr.uid, attr.gid), (entry.mode, entry.uid, entry.gid), "{name}");
        assert_eq!(attr.mtime.seconds, entry.mtime, "{name}");
        assert_eq!(xattrs(index, node), entry.xattrs, "{name}");
        match (&*entry.r#type, attr.kind) {
            ("reg", NodeKind::File) => {
                assert_eq!(attr.size, entry.size, "{name}");
                assert_eq!(content_digest(index, blob, node), entry.sha256, "{name}");
            }
            ("symlink", NodeKind::Symlink) => {
                assert_eq!(index.read_link(node).expect("link"), entry.link.as_bytes(), "{name}");
            }
            ("char", NodeKind::CharDevice(device)) | ("block", NodeKind::BlockDevice(device)) => {
                assert_eq!((device.major, device.minor), (entry.major, entry.minor), "{name}");
            }
            ("dir", NodeKind::Directory) | ("fifo", NodeKind::Fifo) => {}
            (listed, found) => panic!("{name} is {found:?} and not {listed}"),
        }
    }
}

#[tokio::test]
async fn layers_of_the_reference_read_back_to_their_listings() {
    for (hex, toc, name) in REFERENCE {
        let blob = blob(hex);
        let trust = TocTrust::Digest(format!("sha256:{toc}").parse().expect("digest"));
        let layer = open(&blob, trust).await.expect("opens");
        compare(&*layer.index, &testdata(&format!("blobs/{hex}")), &listing(name));
    }
}

#[tokio::test]
async fn layers_are_listed_as_they_were_made() {
    for (hex, _, name) in REFERENCE {
        let layer = open(&blob(hex), TocTrust::Unverified).await.expect("opens");
        let by_name = |mut list: Vec<serde_json::Value>| {
            list.sort_by_key(|file| file["name"].to_string());
            list
        };
        let found = serde_json::to_value(layer.list().expect("list")).expect("JSON");
        let mut found: Vec<_> = serde_json::from_value(found).expect("a list");
        let mut made: Vec<_> =
            serde_json::from_slice(&testdata(&format!("{name}.listing.json"))).expect("listing");
        if matches!(layer.index.prefetch_mark(), PrefetchMark::UpTo(_)) {
            // What is used first was moved to the front.
            (found, made) = (by_name(found), by_name(made));
        }
        assert_eq!(found, made, "{hex}");
    }
}

#[tokio::test]
async fn prioritized_layers_have_a_landmark() {
    let prioritized = open(&blob(REFERENCE[3].0), TocTrust::Unverified).await.expect("opens");
    let PrefetchMark::UpTo(range) = prioritized.index.prefetch_mark() else {
        panic!("no landmark")
    };
    let hard = find(&*prioritized.index, "bin/hard");
    let mut spans = Vec::new();
    let mut visit = |span: ChunkSpan| {
        spans.push(span.member);
        ControlFlow::Continue(())
    };
    prioritized.index.for_each_chunk(hard, 0..1, &mut visit).expect("chunks");
    assert!(spans.iter().all(|member| range.contains(*member)), "{spans:?} in {range}");
    let plain = open(&blob(REFERENCE[0].0), TocTrust::Unverified).await.expect("opens");
    assert_eq!(plain.index.prefetch_mark(), PrefetchMark::Nothing);
}

#[tokio::test]
async fn our_layers_read_back_to_the_listings_and_are_plain_tar_gz() {
    for (org, name) in ORG.into_iter().zip(["layer1", "layer2"]) {
        for chunk_size in [4 << 20, 50_000] {
            let input = testdata(&format!("blobs/{org}"));
            let options = BuildOptions { chunk_size, level: Some(1), ..BuildOptions::default() };
            let mut output = Vec::new();
            let report =
                convert_layer(&mut &input[..], &mut output, &options, None).expect("converts");
            assert_eq!(report.blob_digest, Digest::of(&output));
            let mut tar = Vec::new();
            flate2::read::MultiGzDecoder::new(&output[..]).read_to_end(&mut tar).expect("tar.gz");
            assert_eq!(
                (Digest::of(&tar), tar.len() as u64),
                (report.diff_id, report.uncompressed_size)
            );
            let blob = MemoryBlob::new(output.clone());
            let layer = open(&blob, TocTrust::Digest(report.toc_digest.expect("a TOC")))
                .await
                .expect("opens");
            compare(&*layer.index, &output, &listing(name));
        }
    }
}

#[tokio::test]
async fn prioritized_paths_go_first_with_what_they_need() {
    let input = testdata(&format!("blobs/{}", ORG[0]));
    let prioritized = ["etc/passwd", "bin/hard"].map(str::to_owned).to_vec();
    let options = BuildOptions { prioritized, level: Some(1), ..BuildOptions::default() };
    let mut output = Vec::new();
    let mut spool = std::io::Cursor::new(Vec::new());
    let report =
        convert_layer(&mut &input[..], &mut output, &options, Some(&mut spool)).expect("converts");
    let layer =
        open(&MemoryBlob::new(output.clone()), TocTrust::Digest(report.toc_digest.expect("a TOC")))
            .await
            .expect("opens");
    compare(&*layer.index, &output, &listing("layer1"));
    let PrefetchMark::UpTo(range) = layer.index.prefetch_mark() else { panic!("no landmark") };
    let mut files = Vec::new();
    let mut visit = |span: ChunkSpan| {
        files.push(layer.index.path(span.file).expect("path").display().to_string());
        ControlFlow::Continue(())
    };
    layer.index.for_each_chunk_in_blob(range, &mut visit).expect("walk");
    assert_eq!(files.len(), 2, "{files:?}");
    assert_eq!(files[0], "etc/passwd");
    let missing =
        BuildOptions { prioritized: vec!["no/such".to_owned()], allow_missing: false, ..options };
    let mut spool = std::io::Cursor::new(Vec::new());
    let error = convert_layer(&mut &input[..], &mut Vec::new(), &missing, Some(&mut spool))
        .expect_err("missing");
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_toc_of_another_digest_is_refused() {
    let error = open(&blob(REFERENCE[0].0), TocTrust::Digest(Digest::of(b"other")))
        .await
        .expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.context("expected").is_some() && error.context("actual").is_some());
    let error = open(&blob(ORG[0]), TocTrust::Unverified).await.expect_err("plain");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn a_toc_longer_than_the_tail_is_read_whole() {
    use bolide_core::{BlobSource as _, OpenedBlob};
    let blob = blob(REFERENCE[0].0);
    for tail in [51_usize, 100, 4096] {
        let source: Arc<dyn bolide_core::BlobSource> = Arc::new(blob.clone());
        let range = ByteRange::new(blob.size() - tail as u64..blob.size()).expect("range");
        let tail = blob.read_at(range, ReadOptions::default()).await.expect("tail");
        let trust = TocTrust::Digest(format!("sha256:{}", REFERENCE[0].1).parse().expect("digest"));
        open_layer(&OpenedBlob { source, tail }, trust).await.expect("opens");
    }
}

#[tokio::test]
async fn blobs_cut_anywhere_are_errors() {
    let whole = testdata(&format!("blobs/{}", REFERENCE[1].0));
    for len in 0..whole.len() {
        let cut = MemoryBlob::new(whole[..len].to_vec());
        assert!(open(&cut, TocTrust::Unverified).await.is_err(), "cut at {len}");
    }
}
