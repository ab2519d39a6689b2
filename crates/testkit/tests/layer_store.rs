//! The suite of layer stores passes the memory double, and each clause fails a double that breaks it.
use std::{
    os::fd::BorrowedFd,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use async_trait::async_trait;
use bolide_core::{
    Artifact, ChunkIndex, ChunkProof, ChunkSlot, Digest, ImageSpec, LayerImage, LayerStore,
    LayerUsage, Presence, Result, SlotWriter, VerifiedChunk,
    memory::{MemoryLayerImage, MemoryLayerStore},
};
use bolide_testkit::conformance::{Broken, layer_store::all};
use bytes::Bytes;
use tokio::sync::Mutex;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    ReadsHoles,
    OtherBytes,
    ShortOfTheEnd,
    AcceptsWrongChunks,
    AcceptsForeignSlots,
    PresentTooSoon,
    CountsFills,
    TwoImages,
    IgnoresShape,
    NoLocalCopies,
    CopiesNothing,
    KeepsFirstArtifact,
    MixesArtifacts,
    RemovesNothing,
    KeepsArtifacts,
    EmptiesReaders,
    ListsBackwards,
    ListsNoPresence,
}

#[derive(Debug)]
struct FaultyImage {
    inner: Arc<dyn LayerImage>,
    spec: ImageSpec,
    fault: Fault,
    fills: AtomicU32,
    writing: Arc<AtomicU32>,
    cut: Arc<Mutex<Vec<Digest>>>,
}

#[derive(Debug)]
struct Hasty {
    inner: Box<dyn SlotWriter>,
    writing: Arc<AtomicU32>,
}

#[async_trait]
impl SlotWriter for Hasty {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.writing.fetch_add(1, Ordering::SeqCst);
        self.inner.write(bytes).await
    }

    async fn commit(self: Box<Self>, proof: ChunkProof) -> Result<()> {
        self.inner.commit(proof).await
    }
}

#[async_trait]
impl LayerImage for FaultyImage {
    fn toc_digest(&self) -> Digest {
        self.inner.toc_digest()
    }

    fn is_present(&self, chunk: ChunkIndex) -> bool {
        self.writing.load(Ordering::SeqCst) > 2 || self.inner.is_present(chunk)
    }

    fn presence(&self) -> Presence {
        let presence = self.inner.presence();
        match self.fault {
            Fault::CountsFills => {
                Presence { chunks: self.fills.load(Ordering::SeqCst), ..presence }
            }
            _ => presence,
        }
    }

    fn try_read(&self, slot: &ChunkSlot, offset: u64, buf: &mut [u8]) -> Result<bool> {
        match self.fault {
            Fault::ReadsHoles if !self.inner.is_present(slot.index) => {
                buf.fill(0);
                Ok(true)
            }
            Fault::EmptiesReaders
                if self.cut.try_lock().is_ok_and(|cut| cut.contains(&self.spec.toc)) =>
            {
                Ok(false)
            }
            Fault::ShortOfTheEnd if offset + buf.len() as u64 > slot.key.len => Ok(false),
            Fault::OtherBytes => {
                let read = self.inner.try_read(slot, offset, buf)?;
                for byte in &mut *buf {
                    *byte ^= u8::from(read);
                }
                Ok(read)
            }
            _ => self.inner.try_read(slot, offset, buf),
        }
    }

    async fn fill(&self, slot: &ChunkSlot, chunk: VerifiedChunk) -> Result<()> {
        let known = self.spec.slots.contains(slot);
        match self.fault {
            Fault::AcceptsWrongChunks if chunk.key() != slot.key => Ok(()),
            Fault::AcceptsForeignSlots if !known => Ok(()),
            _ => {
                self.inner.fill(slot, chunk).await?;
                self.fills.fetch_add(1, Ordering::SeqCst);
                Ok(())
            }
        }
    }

    async fn writer(&self, slot: &ChunkSlot) -> Result<Option<Box<dyn SlotWriter>>> {
        let writer = self.inner.writer(slot).await?;
        let hasty = |inner| -> Box<dyn SlotWriter> {
            match self.fault {
                Fault::PresentTooSoon => {
                    Box::new(Hasty { inner, writing: Arc::clone(&self.writing) })
                }
                _ => inner,
            }
        };
        Ok(writer.map(hasty))
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    async fn sync(&self) -> Result<()> {
        self.inner.sync().await
    }
}

#[derive(Debug)]
struct Faulty {
    inner: MemoryLayerStore,
    fault: Fault,
    first: Mutex<Vec<(Digest, Arc<dyn LayerImage>)>>,
    /// Layers whose file was cut off under its readers.
    cut: Arc<Mutex<Vec<Digest>>>,
}

impl Faulty {
    fn new(fault: Fault) -> Self {
        Self { inner: MemoryLayerStore::new(), fault, first: Mutex::default(), cut: Arc::default() }
    }

    async fn image(&self, spec: &ImageSpec) -> Result<Arc<dyn LayerImage>> {
        let mut first = self.first.lock().await;
        let known = first.iter().find(|(toc, _)| *toc == spec.toc).cloned();
        match (self.fault, known) {
            (Fault::IgnoresShape, Some((_, image))) => Ok(image),
            (Fault::TwoImages, _) => Ok(Arc::new(MemoryLayerImage::new(spec.clone()))),
            _ => {
                let image = self.inner.open(spec.clone()).await?;
                first.push((spec.toc, Arc::clone(&image)));
                Ok(image)
            }
        }
    }
}

#[async_trait]
impl LayerStore for Faulty {
    async fn open(&self, spec: ImageSpec) -> Result<Arc<dyn LayerImage>> {
        let inner = self.image(&spec).await?;
        let (fills, writing) = (AtomicU32::new(0), Arc::default());
        let cut = Arc::clone(&self.cut);
        Ok(Arc::new(FaultyImage { inner, spec, fault: self.fault, fills, writing, cut }))
    }

    async fn copy_local(&self, target: &dyn LayerImage, slot: &ChunkSlot) -> Result<bool> {
        match self.fault {
            Fault::NoLocalCopies => Ok(false),
            Fault::CopiesNothing => Ok(true),
            _ => self.inner.copy_local(target, slot).await,
        }
    }

    async fn put_artifact(&self, toc: Digest, artifact: Artifact, bytes: Bytes) -> Result<()> {
        let there = self.inner.artifact(toc, artifact).await?.is_some();
        if self.fault == Fault::KeepsFirstArtifact && there {
            return Ok(());
        }
        self.inner.put_artifact(toc, artifact, bytes).await
    }

    async fn artifact(&self, toc: Digest, artifact: Artifact) -> Result<Option<Bytes>> {
        let artifact = if self.fault == Fault::MixesArtifacts { Artifact::Toc } else { artifact };
        self.inner.artifact(toc, artifact).await
    }

    async fn remove(&self, toc: Digest) -> Result<()> {
        let kept = self.inner.artifact(toc, Artifact::Toc).await?;
        match self.fault {
            Fault::RemovesNothing => return Ok(()),
            Fault::EmptiesReaders => self.cut.lock().await.push(toc),
            _ => {}
        }
        self.inner.remove(toc).await?;
        match kept {
            Some(kept) if self.fault == Fault::KeepsArtifacts => {
                self.inner.put_artifact(toc, Artifact::Toc, kept).await
            }
            _ => Ok(()),
        }
    }

    async fn list(&self) -> Result<Vec<LayerUsage>> {
        let mut listed = self.inner.list().await?;
        match self.fault {
            Fault::ListsBackwards => listed.reverse(),
            Fault::ListsNoPresence => {
                for usage in &mut listed {
                    usage.presence = Presence::default();
                }
            }
            _ => {}
        }
        Ok(listed)
    }
}

#[tokio::test]
async fn memory_layer_store_conforms() {
    all(Arc::new(MemoryLayerStore::new())).await.expect("conforms");
}

#[tokio::test]
async fn every_clause_can_fail() {
    let cases = [
        (Fault::ReadsHoles, "no zeros"),
        (Fault::OtherBytes, "a set bit is the truth"),
        (Fault::ShortOfTheEnd, "a set bit is the truth"),
        (Fault::AcceptsWrongChunks, "all or nothing"),
        (Fault::AcceptsForeignSlots, "slots are the spec's"),
        (Fault::PresentTooSoon, "exclusive writes"),
        (Fault::CountsFills, "idempotent"),
        (Fault::TwoImages, "one image per TOC"),
        (Fault::IgnoresShape, "a spec is a promise"),
        (Fault::NoLocalCopies, "local copies"),
        (Fault::CopiesNothing, "local copies"),
        (Fault::KeepsFirstArtifact, "artifacts are whole"),
        (Fault::MixesArtifacts, "artifacts are whole"),
        (Fault::RemovesNothing, "removal frees"),
        (Fault::KeepsArtifacts, "removal frees"),
        (Fault::EmptiesReaders, "removal leaves readers"),
        (Fault::ListsBackwards, "list"),
        (Fault::ListsNoPresence, "list"),
    ];
    for (fault, clause) in cases {
        let verdict = all(Arc::new(Faulty::new(fault))).await;
        assert_eq!(verdict.as_ref().err().map(Broken::clause), Some(clause), "{fault:?}");
    }
}
