//! A store on a model of a disk: what is done to it, and what must hold whatever happens.
use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use bolide_core::{
    Artifact, ChunkIndex, ChunkKey, ChunkSlot, Digest, ImageSpec, LayerImage, LayerStore, SlotFill,
    VerifiedChunk,
};
use bytes::Bytes;

use super::{
    super::{DiskLayerConfig, DiskLayerStore},
    model::ModelDisk,
    tree::{Fate, Tree, crash},
};

/// One thing that is done to a store. Images go by the number of their spec.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Open(usize),
    Fill(usize, usize),
    /// Fills in pieces, after an attempt with wrong bytes.
    Stream(usize, usize),
    Copy(usize, usize),
    Sync(usize),
    /// Lets go of an image.
    Drop(usize),
    /// Puts the TOC artifact of an image's layer: this version of it.
    Put(usize, u8),
    Remove(usize),
    /// Overwrites the record of presence behind the store's back.
    Damage(usize),
    /// Closes the store and opens it again.
    Restart,
}

/// What was promised, and since which change.
#[derive(Clone, Debug)]
pub(super) enum Promise {
    /// A chunk of a spec outlives a crash.
    Kept(usize, usize),
    /// The layer of a spec may go or be made anew, or is so by now: nothing is promised of it.
    Void(usize),
    /// A version of an artifact may be seen from now on.
    MayRead(usize, u8),
    /// An artifact is this version.
    Reads(usize, u8),
    /// No artifact of the layer is promised.
    Gone(usize),
}

pub(super) const SPECS: usize = 3;
const ROOT: &str = "/root";

/// The bytes of chunk `chunk` of a spec.
pub(super) fn chunk(spec: usize, chunk: usize) -> Bytes {
    // Specs 0 and 1 are two shapes of one layer; the last chunk of every spec is the same.
    let (len, seed) =
        [[(600, 1), (700, 2)], [(600, 3), (700, 2)], [(900, 4), (700, 2)]][spec][chunk];
    Bytes::from(bolide_testkit::sample::noise(len, seed * 0x9e37_79b9))
}

pub(super) fn spec(number: usize) -> ImageSpec {
    let toc = Digest::of([&b"one"[..], b"one", b"two"][number]);
    let first = ChunkKey::of(&chunk(number, 0));
    let slots = vec![
        ChunkSlot { index: ChunkIndex(0), image_offset: 0, key: first },
        ChunkSlot {
            index: ChunkIndex(1),
            image_offset: first.len,
            key: ChunkKey::of(&chunk(number, 1)),
        },
    ];
    ImageSpec { toc, size: 4096, slots }
}

/// Specs of the same layer.
fn shapes_of(number: usize) -> impl Iterator<Item = usize> {
    (0..SPECS).filter(move |other| spec(*other).toc == spec(number).toc)
}

fn artifact(version: u8) -> Bytes {
    Bytes::from(vec![version; 300 + 400 * usize::from(version % 2)])
}

async fn open(disk: &ModelDisk) -> bolide_core::Result<Arc<DiskLayerStore>> {
    // Nothing is synced but what the steps sync.
    let config = DiskLayerConfig { sync_interval: Duration::from_secs(1 << 30) };
    DiskLayerStore::open_on(Arc::new(disk.clone()), PathBuf::from(ROOT), config).await
}

fn verified(spec: usize, number: usize) -> VerifiedChunk {
    let bytes = chunk(spec, number);
    VerifiedChunk::verify(ChunkKey::of(&bytes), bytes).expect("matches")
}

/// Does steps, takes note of promises, and looks at every image it holds after each.
#[derive(Debug)]
pub(super) struct World {
    pub(super) disk: ModelDisk,
    pub(super) promises: Vec<(usize, Promise)>,
    store: Option<Arc<DiskLayerStore>>,
    images: [Option<Arc<dyn LayerImage>>; SPECS],
    /// Whether the image is what the store would open again.
    current: [bool; SPECS],
}

impl World {
    pub(super) fn new(disk: ModelDisk) -> Self {
        Self {
            disk,
            promises: Vec::new(),
            store: None,
            images: Default::default(),
            current: [false; SPECS],
        }
    }

    fn promise(&mut self, promise: Promise) {
        self.promises.push((self.disk.changes(), promise));
    }

    /// Does every step. Steps may fail: the disk may have been told to.
    pub(super) async fn run(&mut self, steps: &[Step]) -> Result<(), String> {
        for step in steps {
            if self.store.is_none() {
                self.store = open(&self.disk).await.ok();
            }
            let Some(store) = self.store.clone() else { continue };
            // A failure is no promise, and what it left is looked at below.
            let _ = self.step(&store, *step).await;
            for (number, image) in self.images.iter().enumerate() {
                if let Some(image) = image {
                    look(&**image, number, true).map_err(|seen| format!("{step:?}: {seen}"))?;
                }
            }
        }
        Ok(())
    }

    /// Ends the process without a word.
    pub(super) fn die(&mut self) {
        self.store = None;
        self.images = Default::default();
    }

    async fn step(&mut self, store: &Arc<DiskLayerStore>, step: Step) -> bolide_core::Result<()> {
        match step {
            Step::Open(number) => {
                for other in shapes_of(number).filter(|other| *other != number) {
                    self.void(other);
                }
                self.images[number] = Some(store.open(spec(number)).await?);
                self.current[number] = true;
            }
            Step::Drop(number) => self.images[number] = None,
            Step::Put(number, version) => {
                self.promise(Promise::MayRead(number, version));
                store.put_artifact(spec(number).toc, Artifact::Toc, artifact(version)).await?;
                self.promise(Promise::Reads(number, version));
            }
            Step::Remove(number) => {
                self.void_layer(number);
                self.promise(Promise::Gone(number));
                store.remove(spec(number).toc).await?;
            }
            Step::Damage(number) => {
                self.void_layer(number);
                let record = format!("{ROOT}/layers/{}/presence", spec(number).toc.hex());
                let opened = super::super::disk::Disk::open(&self.disk, record.as_ref());
                if let Ok(file) = opened {
                    let _ = file.set_len(39);
                    let _ = file.sync_data();
                }
                self.images[number] = None;
            }
            Step::Restart => {
                store.close().await;
                self.die();
            }
            Step::Fill(number, at) | Step::Stream(number, at) | Step::Copy(number, at) => {
                let Some(image) = self.images[number].clone() else { return Ok(()) };
                fill(store, &*image, step, number, at).await?;
            }
            Step::Sync(number) => self.sync(number).await?,
        }
        Ok(())
    }

    async fn sync(&mut self, number: usize) -> bolide_core::Result<()> {
        let Some(image) = self.images[number].clone() else { return Ok(()) };
        image.sync().await?;
        // An image that is the layer's no more is kept for its holders only.
        if !self.current[number] {
            return Ok(());
        }
        for (at, slot) in spec(number).slots.iter().enumerate() {
            if image.is_present(slot.index) {
                self.promise(Promise::Kept(number, at));
            }
        }
        Ok(())
    }

    fn void(&mut self, number: usize) {
        self.current[number] = false;
        self.promise(Promise::Void(number));
    }

    fn void_layer(&mut self, number: usize) {
        for other in shapes_of(number) {
            self.void(other);
        }
    }
}

async fn fill(
    store: &Arc<DiskLayerStore>,
    image: &dyn LayerImage,
    step: Step,
    number: usize,
    at: usize,
) -> bolide_core::Result<()> {
    let slot = spec(number).slots[at];
    match step {
        Step::Copy(..) => store.copy_local(image, &slot).await.map(|_| ()),
        Step::Stream(..) => {
            let bytes = chunk(number, at);
            if let Some(mut wrong) = SlotFill::begin(image, &slot).await? {
                wrong.write(Bytes::from(vec![0xee; bytes.len()])).await?;
                assert!(wrong.finish().await.is_err());
            }
            let Some(mut right) = SlotFill::begin(image, &slot).await? else { return Ok(()) };
            right.write(bytes.slice(..512)).await?;
            right.write(bytes.slice(512..)).await?;
            right.finish().await
        }
        _ => image.fill(&slot, verified(number, at)).await,
    }
}

/// Reads every chunk that is called present. A failure may be excused, other bytes never.
fn look(image: &dyn LayerImage, number: usize, excused: bool) -> Result<(), String> {
    for (at, slot) in spec(number).slots.iter().enumerate() {
        let bytes = chunk(number, at);
        let mut buf = vec![0xaa; bytes.len()];
        let present = image.is_present(slot.index);
        match image.try_read(slot, 0, &mut buf) {
            Ok(true) if buf != bytes => return Err(format!("chunk {at} of {number} lies")),
            Ok(read) if read != present => return Err(format!("chunk {at} of {number}: {read}")),
            Err(error) if !excused => return Err(format!("chunk {at} of {number}: {error:?}")),
            _ => {}
        }
    }
    Ok(())
}

/// What must hold of what a crash left.
pub(super) async fn check(tree: &Tree, promises: &[Promise]) -> Result<(), String> {
    for number in 0..SPECS {
        let checked = check_layer(tree, number, promises).await;
        checked.map_err(|seen| format!("spec {number}: {seen}"))?;
    }
    Ok(())
}

/// Chunks that were synced and not given up since.
fn kept(number: usize, promises: &[Promise]) -> BTreeSet<usize> {
    let mut kept = BTreeSet::new();
    for promise in promises {
        match promise {
            Promise::Kept(of, at) if *of == number => {
                kept.insert(*at);
            }
            Promise::Void(of) if *of == number => kept.clear(),
            _ => {}
        }
    }
    kept
}

async fn check_artifact(
    store: &DiskLayerStore,
    number: usize,
    promises: &[Promise],
) -> Result<(), String> {
    let mut allowed = vec![None];
    for promise in promises {
        match promise {
            Promise::MayRead(of, version) if shapes_of(number).any(|own| own == *of) => {
                allowed.push(Some(artifact(*version)));
            }
            Promise::Reads(of, version) if shapes_of(number).any(|own| own == *of) => {
                allowed = vec![Some(artifact(*version))];
            }
            Promise::Gone(of) if shapes_of(number).any(|own| own == *of) => allowed.push(None),
            _ => {}
        }
    }
    let found = store.artifact(spec(number).toc, Artifact::Toc).await;
    let found = found.map_err(|error| format!("{error:?}"))?;
    if allowed.contains(&found) { Ok(()) } else { Err(format!("artifact {found:?}")) }
}

async fn check_layer(tree: &Tree, number: usize, promises: &[Promise]) -> Result<(), String> {
    let shown = |error: bolide_core::Error| format!("{error:?}");
    let disk = ModelDisk::new(tree.clone(), None);
    let store = open(&disk).await.map_err(shown)?;
    store.list().await.map_err(shown)?;
    check_artifact(&store, number, promises).await?;
    // Content is found without the layer that holds it being open.
    let probe = ImageSpec { toc: Digest::of(b"probe"), ..spec(number) };
    let image = store.open(probe.clone()).await.map_err(shown)?;
    for slot in &probe.slots {
        store.copy_local(&*image, slot).await.map_err(shown)?;
    }
    look(&*image, number, false)?;
    let image = store.open(spec(number)).await.map_err(shown)?;
    look(&*image, number, false)?;
    for at in kept(number, promises) {
        if !image.is_present(spec(number).slots[at].index) {
            return Err(format!("chunk {at} was synced and is lost"));
        }
    }
    // One layer in turn, as it takes the longest.
    if promises.len() % SPECS != number {
        return Ok(());
    }
    // The store goes on working, and what it does now is as durable.
    for (at, slot) in spec(number).slots.iter().enumerate() {
        image.fill(slot, verified(number, at)).await.map_err(shown)?;
    }
    image.sync().await.map_err(shown)?;
    look(&*image, number, false)?;
    let (after, _) = crash(tree, &disk.log(), Fate::new());
    let again = open(&ModelDisk::new(after, None)).await.map_err(shown)?;
    let image = again.open(spec(number)).await.map_err(shown)?;
    look(&*image, number, false)?;
    if !image.presence().is_complete() {
        return Err("what was filled after the crash is lost".to_owned());
    }
    Ok(())
}
