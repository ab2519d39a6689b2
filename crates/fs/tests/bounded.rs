//! A chunk larger than memory is streamed to disk; alone in its binary, since it measures the process.
use std::io::Read;

use bolide_cache::{DiskLayerConfig, DiskLayerStore};
use bolide_core::{BlobOpener as _, BlobRef, Priority, TocIndex as _, memory::MemoryBlob};
use bolide_estargz::{BuildOptions, TAIL_HINT, TocTrust, convert_layer, open_layer};
use bolide_fs::Layer;
use bolide_testkit::peak::PeakMemory;

/// Size of the file and of its one chunk.
const CHUNK: u64 = 256 << 20;
/// What reading it may take at most.
const BOUND: u64 = CHUNK / 2;

/// A tar with one large file of zeros, which is never held as a whole.
fn tar() -> impl Read {
    let mut header = tar::Header::new_gnu();
    header.set_path("huge").expect("short");
    header.set_mode(0o644);
    header.set_size(CHUNK);
    header.set_cksum();
    let head = std::io::Cursor::new(header.as_bytes().to_vec());
    head.chain(std::io::repeat(0).take(CHUNK + 1024))
}

#[tokio::test]
async fn a_chunk_larger_than_memory_is_streamed() {
    let mut blob = Vec::new();
    let options = BuildOptions { chunk_size: CHUNK, level: Some(1), ..BuildOptions::default() };
    let report = convert_layer(&mut tar(), &mut blob, &options, None).expect("converts");
    let blob = MemoryBlob::new(blob);
    let wanted = BlobRef { digest: report.blob_digest, size: None };
    let opened = blob.open(wanted, TAIL_HINT).await.expect("opens");
    let read = open_layer(&opened, TocTrust::Digest(report.toc_digest.expect("a TOC")))
        .await
        .expect("a layer");
    let node = read.index.lookup(read.index.root(), "huge".as_ref()).expect("looks up");
    let node = node.expect("in the tar");
    assert_eq!(read.index.chunk_count(), 1);
    let root = tempfile::tempdir().expect("a directory");
    let store = DiskLayerStore::open(root.path().to_owned(), DiskLayerConfig::default());
    let layer = Layer::builder()
        .source(opened.source)
        .index(read.index)
        .store(store.await.expect("a store"))
        .build()
        .await
        .expect("a layer");
    let Some(memory) = PeakMemory::start() else {
        bolide_testkit::skip("this kernel does not tell peaks of memory");
        return;
    };
    let view = layer.view();
    let end = view.reader.read(node, CHUNK - 4096..CHUNK, Priority::OnDemand).await.expect("reads");
    let grown = memory.grown().expect("told before");
    assert_eq!(end, vec![0; 4096]);
    eprintln!("reading took {} MiB", grown >> 20);
    assert!(grown < BOUND, "{} MiB for a chunk of {} MiB", grown >> 20, CHUNK >> 20);
    assert_eq!(view.image.presence().chunks, 1);
    layer.close().await;
}
