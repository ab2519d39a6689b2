//! Layers made by the reference implementation read back to their listings, and ours do too.
use std::{collections::BTreeMap, fs, io::Read as _, ops::ControlFlow, path::PathBuf, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bolide_core::{
    BlobOpener as _, BlobRef, BlobSource as _, ByteRange, ChunkSpan, Codec, Digest, Digester,
    ErrorKind, NodeId, NodeKind, OpenedBlob, PrefetchMark, ReadOptions, Result, TocIndex,
    VerifiedChunk, memory::MemoryBlob,
};
use bolide_estargz::{
    BlobFacts, BuildOptions, EstargzIndex, FoundToc, LayerFormat, OpenedLayer, TAIL_HINT, TocTrust,
    convert_layer, find_toc, open_layer, read_external_toc,
};
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

/// Layers of other formats: blob, the ground its manifest gives, the blob of its TOC where that is
/// another, and its listing.
struct Other {
    blob: &'static str,
    trust: &'static str,
    toc: Option<&'static str>,
    format: LayerFormat,
    listing: &'static str,
}

const OTHERS: [Other; 7] = [
    Other {
        blob: "facf4cfe78a276d55ebe16ce3229b12658b7f0a136673144eac07e7e332ff819",
        trust: "e8cfcb8fab639f08f821281da1bba2eb42fbe891597892c867120623f10fd029",
        toc: None,
        format: LayerFormat::ZstdChunked,
        listing: "layer1",
    },
    Other {
        blob: "889a01bf4f5bd0e2fdbea42b9ce98512041a1fd704ef44615db28d771ee5b3f1",
        trust: "9ebbef405c853cd772959c17cfe35c90806f5f53d66b30ded45ecffbb1917841",
        toc: None,
        format: LayerFormat::ZstdChunked,
        listing: "layer2",
    },
    // skopeo 1.18.
    Other {
        blob: "3e0e2175e1a2abfaa256f35ffb20fd4dc0a308ff1d3f9dabcf450877d2f4dd40",
        trust: "72b52a293eecec3d544dd8cb3bf866405d5e3abb4611cc9b76e2feab8d6a12df",
        toc: None,
        format: LayerFormat::ZstdChunkedPodman,
        listing: "layer1",
    },
    Other {
        blob: "7da28f818d5afffa529b9d530e961e24aed5f918326256dcb4e92492eacf5584",
        trust: "3ac39197500a96c661123b1cb110c89d392d6a14834ae83f77a3deceb2bb196f",
        toc: None,
        format: LayerFormat::ZstdChunkedPodman,
        listing: "layer2",
    },
    // skopeo 1.9, which still wrote the reference's footer.
    Other {
        blob: "2391295a44f2866b5c9163f1871fc33362288a9563140c8e7000bcf84a8342ec",
        trust: "91df15b3bf562a18ad3ca78606673a2f23072976671db9f61d44923726c99860",
        toc: None,
        format: LayerFormat::ZstdChunked,
        listing: "layer2",
    },
    Other {
        blob: "e2802306fa7b804054318f9bcf2a316cfb5a8b4f6c3fdcaefa90a924b344f69d",
        trust: "d8d4be8cfab9055cfc650733cce0ef7f04f71d5fb297adc519d74468cc80d7af",
        toc: Some("409a345f9824832c3b7130e53bd5bb91700151e972097a31c789ec47e769cee2"),
        format: LayerFormat::EstargzExternalToc,
        listing: "layer1",
    },
    // The tar kept byte for byte.
    Other {
        blob: "befa43bba8a33c99fbb8c672cb6f78b9673ba045a505d99eb7597014543694b3",
        trust: "7c496c281ed86b3b68590766347cd9a9f2b22235356d2c1dcef41f92d180c982",
        toc: Some("c6bf251f3007d431f8b3e384a3429c48d813e46ee8c4fe54b9d4f6fcdde27459"),
        format: LayerFormat::EstargzExternalToc,
        listing: "layer2",
    },
];

impl Other {
    /// By the ground that its manifest gives, with so many bytes of the tail.
    async fn open(&self, tail_hint: u64) -> OpenedLayer {
        let digest: Digest = format!("sha256:{}", self.trust).parse().expect("digest");
        let opened = opened(&blob(self.blob), tail_hint).await;
        let raw = match (find_toc(&opened).await.expect("a footer"), self.toc) {
            (FoundToc::Here(raw), None) => raw,
            (FoundToc::Elsewhere(facts), Some(toc)) => {
                let holder = self::opened(&blob(toc), tail_hint).await;
                read_external_toc(facts, &holder).await.expect("a TOC")
            }
            (found, toc) => panic!("{found:?}, not {toc:?}"),
        };
        let by_document = raw.clone().index(TocTrust::Digest(digest));
        let compressed = raw.compressed_ground() == Some(TocTrust::Compressed(digest));
        if compressed {
            assert_eq!(by_document.expect_err("another digest").kind(), ErrorKind::Corrupt);
            return raw.index(TocTrust::Compressed(digest)).expect("opens");
        }
        let wrong = raw.index(TocTrust::Compressed(digest)).expect_err("another digest");
        assert_eq!(wrong.kind(), ErrorKind::Corrupt);
        by_document.expect("opens")
    }

    fn trust(&self) -> TocTrust {
        let digest = format!("sha256:{}", self.trust).parse().expect("digest");
        let skopeo = self.format == LayerFormat::ZstdChunkedPodman || self.blob.starts_with("2391");
        if skopeo { TocTrust::Compressed(digest) } else { TocTrust::Digest(digest) }
    }
}

async fn opened(blob: &MemoryBlob, tail_hint: u64) -> OpenedBlob {
    let wanted = BlobRef { digest: blob.digest(), size: None };
    blob.open(wanted, tail_hint).await.expect("opens")
}

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
        let read = match span.codec {
            Codec::Zstd => zstd::Decoder::new(member).expect("zstd").read_to_end(&mut raw),
            _ => flate2::read::GzDecoder::new(member).read_to_end(&mut raw),
        };
        read.expect("member");
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
async fn layers_of_other_formats_read_back_to_their_listings() {
    for other in &OTHERS {
        for tail_hint in [0, 64, 300, 20_000, TAIL_HINT] {
            let layer = other.open(tail_hint).await;
            assert_eq!(layer.facts.format, other.format, "{}", other.blob);
            if tail_hint == TAIL_HINT {
                let blob = testdata(&format!("blobs/{}", other.blob));
                compare(&*layer.index, &blob, &listing(other.listing));
                let listed = serde_json::to_value(layer.list().expect("list")).expect("JSON");
                let made: serde_json::Value =
                    serde_json::from_slice(&testdata(&format!("{}.listing.json", other.listing)))
                        .expect("listing");
                assert_eq!(without_unsaid_digests(listed), without_unsaid_digests(made));
            }
        }
    }
}

/// containers/storage says no digest of an empty file.
fn without_unsaid_digests(mut listing: serde_json::Value) -> serde_json::Value {
    for file in listing.as_array_mut().expect("a list") {
        if file["size"] == 0 {
            file.as_object_mut().expect("a file").remove("sha256");
        }
    }
    listing
}

#[tokio::test]
async fn what_is_kept_makes_the_same_index_by_the_same_ground() {
    for other in &OTHERS {
        let layer = other.open(TAIL_HINT).await;
        // As a daemon keeps them.
        let facts = serde_json::to_vec(&layer.facts).expect("JSON");
        let facts: BlobFacts = serde_json::from_slice(&facts).expect("JSON");
        let again = EstargzIndex::from_toc(&layer.kept, other.trust(), &facts).expect("reads");
        assert_eq!(Some(again.digest()), other.trust().digest());
        assert_eq!(again.image_spec().expect("spec"), layer.index.image_spec().expect("spec"));
        let mut damaged = layer.kept.to_vec();
        damaged[layer.kept.len() / 2] ^= 1;
        let refused = EstargzIndex::from_toc(&damaged, other.trust(), &facts);
        assert_eq!(refused.expect_err("damaged").kind(), ErrorKind::Corrupt);
    }
    // Written by an earlier version.
    let old = format!(
        r#"{{"blob":"sha256:{}","blob_size":10,"toc_offset":5,"format":"legacy-stargz"}}"#,
        OTHERS[0].blob
    );
    let facts: BlobFacts = serde_json::from_str(&old).expect("is still read");
    assert_eq!(facts.format, LayerFormat::LegacyStargz);
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
async fn damaged_blobs_of_other_formats_are_errors_or_the_trusted_tree() {
    for other in OTHERS.iter().filter(|other| other.listing == "layer2") {
        let whole = testdata(&format!("blobs/{}", other.blob));
        for len in 0..whole.len() {
            let cut = opened(&MemoryBlob::new(whole[..len].to_vec()), TAIL_HINT).await;
            let error = find_toc(&cut).await.expect_err("cut");
            assert_eq!(error.kind(), ErrorKind::Unsupported, "cut at {len}");
        }
        for at in 0..whole.len() {
            for bit in [1, 0x80] {
                let mut damaged = whole.clone();
                damaged[at] ^= bit;
                let damaged = opened(&MemoryBlob::new(damaged), TAIL_HINT).await;
                let Ok(FoundToc::Here(raw)) = find_toc(&damaged).await else { continue };
                if let Ok(layer) = raw.index(other.trust()) {
                    assert_eq!(Some(layer.index.digest()), other.trust().digest());
                }
            }
        }
        if let Some(toc) = other.toc {
            let facts = BlobFacts {
                blob: Digest::of(&whole),
                blob_size: whole.len() as u64,
                toc_offset: whole.len() as u64 - 46,
                format: other.format,
            };
            let holder = testdata(&format!("blobs/{toc}"));
            for len in 0..holder.len() {
                let cut = opened(&MemoryBlob::new(holder[..len].to_vec()), TAIL_HINT).await;
                let read = read_external_toc(facts, &cut).await;
                let layer = read.and_then(|raw| raw.index(other.trust()));
                // Padding and checksum of the gzip member come after the document.
                assert!(layer.is_err() || len + 64 > holder.len(), "cut at {len}");
            }
        }
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
