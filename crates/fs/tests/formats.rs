//! Layers that other programs made are read to the byte, and damage to them is noticed.
use std::{ops::ControlFlow, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use bolide_core::{
    BlobOpener as _, BlobRef, BlobSource as _, ChunkSpan, Digest, ErrorKind, FetchRequest, Fetched,
    NodeId, OpenedBlob, Priority, Result, Scheduler, SchedulerLoad, TocIndex,
    memory::{DirectScheduler, MemoryBlob, MemoryLayerStore},
};
use bolide_estargz::{EstargzIndex, FoundToc, TAIL_HINT, TocTrust, find_toc, read_external_toc};
use bolide_fs::Layer;

/// Layers of one listing, each with the blob of its TOC where that is another.
const LAYERS: [(&str, Option<&str>); 4] = [
    // The reference's eStargz and zstd:chunked.
    ("4aaf7f11dc1017324bc72bc18012b0f9404a98655d3f1c384caeb1ed1958df30", None),
    (ZSTD_CHUNKED, None),
    // Podman's.
    (PODMAN, None),
    (
        "e2802306fa7b804054318f9bcf2a316cfb5a8b4f6c3fdcaefa90a924b344f69d",
        Some("409a345f9824832c3b7130e53bd5bb91700151e972097a31c789ec47e769cee2"),
    ),
];
const ZSTD_CHUNKED: &str = "facf4cfe78a276d55ebe16ce3229b12658b7f0a136673144eac07e7e332ff819";
const PODMAN: &str = "3e0e2175e1a2abfaa256f35ffb20fd4dc0a308ff1d3f9dabcf450877d2f4dd40";

/// Takes little at once, so that larger members are streamed.
#[derive(Debug)]
struct Narrow;

#[async_trait]
impl Scheduler for Narrow {
    async fn fetch(&self, request: FetchRequest) -> Result<Fetched> {
        assert!(request.range.len() <= self.max_len(), "{}", request.range);
        DirectScheduler.fetch(request).await
    }

    fn max_len(&self) -> u64 {
        1000
    }

    fn load(&self) -> SchedulerLoad {
        SchedulerLoad::default()
    }
}

fn testdata(path: &str) -> Vec<u8> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../estargz/testdata");
    std::fs::read(dir.join(path)).expect("test data")
}

async fn opened(blob: &MemoryBlob) -> OpenedBlob {
    let wanted = BlobRef { digest: blob.digest(), size: None };
    blob.open(wanted, TAIL_HINT).await.expect("opens")
}

async fn index(blob: &MemoryBlob, toc: Option<&str>) -> Arc<EstargzIndex> {
    let raw = match find_toc(&opened(blob).await).await.expect("a footer") {
        FoundToc::Here(raw) => raw,
        FoundToc::Elsewhere(facts) => {
            let toc = MemoryBlob::new(testdata(&format!("blobs/{}", toc.expect("named"))));
            read_external_toc(facts, &opened(&toc).await).await.expect("a TOC")
        }
    };
    raw.index(TocTrust::Unverified).expect("indexes").index
}

async fn layer(blob: MemoryBlob, index: Arc<EstargzIndex>, scheduler: Arc<dyn Scheduler>) -> Layer {
    Layer::builder()
        .source(Arc::new(blob))
        .index(index)
        .store(Arc::new(MemoryLayerStore::new()))
        .scheduler(scheduler)
        .build()
        .await
        .expect("a layer")
}

/// The files of the listing and their digests.
fn files() -> Vec<(String, Digest)> {
    let listing: serde_json::Value =
        serde_json::from_slice(&testdata("layer1.listing.json")).expect("JSON");
    let listing = listing.as_array().expect("a list").iter();
    let files = listing.filter(|file| file["type"] == "reg");
    files
        .map(|file| {
            let digest = format!("sha256:{}", file["sha256"].as_str().expect("digest"));
            (file["name"].as_str().expect("name").to_owned(), digest.parse().expect("digest"))
        })
        .collect()
}

fn find(index: &dyn TocIndex, path: &str) -> NodeId {
    path.split('/').fold(index.root(), |dir, name| {
        index.lookup(dir, name.as_ref()).expect("looks up").expect(path)
    })
}

fn first_chunk(index: &dyn TocIndex, file: NodeId) -> ChunkSpan {
    let mut first = None;
    let visited = index.for_each_chunk(file, 0..1, &mut |span| {
        first = Some(span);
        ControlFlow::Break(())
    });
    visited.expect("visits");
    first.expect("a chunk")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_file_is_the_one_that_was_packed() {
    for (hex, toc) in LAYERS {
        let blob = MemoryBlob::new(testdata(&format!("blobs/{hex}")));
        let index = index(&blob, toc).await;
        let schedulers: [Arc<dyn Scheduler>; 2] = [Arc::new(DirectScheduler), Arc::new(Narrow)];
        for scheduler in schedulers {
            let layer = layer(blob.clone(), Arc::clone(&index), scheduler).await;
            let reader = layer.view().reader;
            for (path, digest) in files() {
                let node = find(&*index, &path);
                let content = reader.read(node, 0..u64::MAX, Priority::OnDemand).await;
                assert_eq!(Digest::of(&content.expect(&path)), digest, "{hex} {path}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_byte_of_a_zstd_member_fails_its_file_alone() {
    for hex in [ZSTD_CHUNKED, PODMAN] {
        let mut bytes = testdata(&format!("blobs/{hex}"));
        let index = index(&MemoryBlob::new(bytes.clone()), None).await;
        let hit = find(&*index, "bin/suid");
        let member = first_chunk(&*index, hit).member;
        // Behind the frame's header, which is of few bytes.
        bytes[usize::try_from(member.start()).expect("small") + 9] ^= 0x10;
        let layer =
            layer(MemoryBlob::new(bytes), Arc::clone(&index), Arc::new(DirectScheduler)).await;
        let reader = layer.view().reader;
        let error = reader.read(hit, 0..10, Priority::OnDemand).await.expect_err("damaged");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        let next = find(&*index, "bin/sgid");
        reader.read(next, 0..10, Priority::OnDemand).await.expect("is sound");
    }
}
