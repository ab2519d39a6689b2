//! The contracts of [`LayerStore`] and [`LayerImage`], clause by clause.
use std::sync::Arc;

use bolide_core::{
    Artifact, ChunkIndex, ChunkKey, ChunkSlot, Digest, ErrorKind, ImageSpec, LayerImage,
    LayerStore, SlotFill, VerifiedChunk,
};
use bytes::Bytes;

use super::verdict::{Broken, Verdict, hold, succeed};
use crate::sample::noise;

/// Runs every clause against an empty store.
pub async fn all(store: Arc<dyn LayerStore>) -> Verdict {
    absent_is_not_zeros(&*store).await?;
    filled_reads_back(&*store).await?;
    wrong_chunk_is_refused(&*store).await?;
    foreign_slot_is_refused(&*store).await?;
    streamed_fill_needs_its_digest(&*store).await?;
    fill_is_idempotent(&*store).await?;
    one_image_per_toc(&*store).await?;
    other_shape_is_made_anew(&*store).await?;
    local_copy_finds_content(&*store).await?;
    artifacts_are_kept(&*store).await?;
    removal_frees(&*store).await?;
    removal_leaves_readers(&*store).await?;
    the_list_is_ordered(&*store).await
}

/// A layer of three chunks, and their bytes.
fn layer(name: &str) -> (ImageSpec, [Bytes; 3]) {
    let seed = u64::from(Digest::of(name.as_bytes()).as_bytes()[0]) + 1;
    let chunks = [5000, 1, 4096].map(|len| Bytes::from(noise(len, seed * len as u64)));
    let offsets = [0, 5000, 8192];
    let slots = (0..3).map(|at| ChunkSlot {
        index: ChunkIndex(u32::try_from(at).unwrap_or(0)),
        image_offset: offsets[at],
        key: ChunkKey::of(&chunks[at]),
    });
    let spec = ImageSpec { toc: Digest::of(name.as_bytes()), size: 12288, slots: slots.collect() };
    (spec, chunks)
}

fn verified(bytes: &Bytes) -> Result<VerifiedChunk, Broken> {
    succeed("sample", VerifiedChunk::verify(ChunkKey::of(bytes), bytes.clone()))
}

fn read(
    image: &dyn LayerImage,
    slot: &ChunkSlot,
    clause: &'static str,
) -> Result<Option<Vec<u8>>, Broken> {
    let mut buf = vec![0xAA; usize::try_from(slot.key.len).unwrap_or(0)];
    let present = succeed(clause, image.try_read(slot, 0, &mut buf))?;
    Ok(present.then_some(buf))
}

/// An absent chunk is not readable, in whole or in part.
pub async fn absent_is_not_zeros(store: &dyn LayerStore) -> Verdict {
    let clause = "no zeros";
    let (spec, chunks) = layer("absent");
    let image = succeed(clause, store.open(spec.clone()).await)?;
    succeed(clause, image.fill(&spec.slots[0], verified(&chunks[0])?).await)?;
    for slot in &spec.slots[1..] {
        hold(clause, read(&*image, slot, clause)?.is_none(), "read an absent chunk")?;
        hold(clause, !image.is_present(slot.index), "an absent chunk is called present")?;
    }
    hold(clause, !image.presence().is_complete(), "called complete")
}

/// Filled chunks read back whole and in part, and count.
pub async fn filled_reads_back(store: &dyn LayerStore) -> Verdict {
    let clause = "a set bit is the truth";
    let (spec, chunks) = layer("filled");
    let image = succeed(clause, store.open(spec.clone()).await)?;
    for (slot, bytes) in spec.slots.iter().zip(&chunks) {
        succeed(clause, image.fill(slot, verified(bytes)?).await)?;
        hold(clause, image.is_present(slot.index), "absent after fill")?;
        hold(clause, read(&*image, slot, clause)?.as_deref() == Some(&bytes[..]), "other bytes")?;
    }
    let mut tail = [0; 100];
    succeed(clause, image.try_read(&spec.slots[0], 4900, &mut tail))?;
    hold(clause, tail[..] == chunks[0][4900..], "other bytes at the end of a chunk")?;
    let past = image.try_read(&spec.slots[0], 4901, &mut tail);
    let kind = past.as_ref().err().map(bolide_core::Error::kind);
    hold(clause, kind == Some(ErrorKind::OutOfRange), format!("{past:?} past the end of a chunk"))?;
    let presence = image.presence();
    hold(clause, presence.is_complete() && presence.bytes == 9097, format!("{presence:?}"))?;
    succeed(clause, image.sync().await)
}

/// A verified chunk of another slot is refused and leaves the slot absent.
pub async fn wrong_chunk_is_refused(store: &dyn LayerStore) -> Verdict {
    let clause = "all or nothing";
    let (spec, chunks) = layer("wrong");
    let image = succeed(clause, store.open(spec.clone()).await)?;
    let filled = image.fill(&spec.slots[0], verified(&chunks[2])?).await;
    hold(clause, filled.is_err(), "a chunk of another slot was accepted")?;
    hold(clause, !image.is_present(ChunkIndex(0)), "present after a failed fill")
}

/// A slot that is not of this layer is refused.
pub async fn foreign_slot_is_refused(store: &dyn LayerStore) -> Verdict {
    let clause = "slots are the spec's";
    let (spec, chunks) = layer("foreign");
    let image = succeed(clause, store.open(spec.clone()).await)?;
    let moved = ChunkSlot { image_offset: 4096, ..spec.slots[0] };
    let beyond = ChunkSlot { index: ChunkIndex(3), ..spec.slots[0] };
    for slot in [moved, beyond] {
        let filled = image.fill(&slot, verified(&chunks[0])?).await;
        hold(clause, filled.is_err(), format!("{slot:?} was accepted"))?;
    }
    hold(clause, image.presence().chunks == 0, "something is present")
}

/// A streamed fill appears only when all bytes came and matched.
pub async fn streamed_fill_needs_its_digest(store: &dyn LayerStore) -> Verdict {
    let clause = "exclusive writes";
    let (spec, chunks) = layer("streamed");
    let image = succeed(clause, store.open(spec.clone()).await)?;
    let slot = &spec.slots[0];
    let begin = async || {
        let fill = succeed(clause, SlotFill::begin(&*image, slot).await)?;
        fill.ok_or_else(|| Broken::new(clause, "an absent chunk is called present"))
    };
    let mut wrong = begin().await?;
    succeed(clause, wrong.write(Bytes::from(vec![7; 5000])).await)?;
    hold(clause, wrong.finish().await.is_err(), "wrong bytes were accepted")?;
    hold(clause, read(&*image, slot, clause)?.is_none(), "wrong bytes are readable")?;
    let mut dropped = begin().await?;
    succeed(clause, dropped.write(chunks[0].slice(..100)).await)?;
    drop(dropped);
    let mut right = begin().await?;
    for piece in [chunks[0].slice(..4097), chunks[0].slice(4097..)] {
        hold(clause, !image.is_present(slot.index), "present before the end")?;
        succeed(clause, right.write(piece).await)?;
    }
    succeed(clause, right.finish().await)?;
    hold(clause, read(&*image, slot, clause)?.as_deref() == Some(&chunks[0][..]), "other bytes")?;
    let again = succeed(clause, SlotFill::begin(&*image, slot).await)?;
    hold(clause, again.is_none(), "a present chunk may be written again")
}

/// Filling twice does nothing.
pub async fn fill_is_idempotent(store: &dyn LayerStore) -> Verdict {
    let clause = "idempotent";
    let (spec, chunks) = layer("idempotent");
    let image = succeed(clause, store.open(spec.clone()).await)?;
    for _ in 0..2 {
        succeed(clause, image.fill(&spec.slots[0], verified(&chunks[0])?).await)?;
    }
    hold(clause, image.presence().chunks == 1, format!("{:?}", image.presence()))
}

/// Two holders of one TOC see one image.
pub async fn one_image_per_toc(store: &dyn LayerStore) -> Verdict {
    let clause = "one image per TOC";
    let (spec, chunks) = layer("shared");
    let one = succeed(clause, store.open(spec.clone()).await)?;
    let two = succeed(clause, store.open(spec.clone()).await)?;
    succeed(clause, one.fill(&spec.slots[1], verified(&chunks[1])?).await)?;
    hold(clause, two.is_present(ChunkIndex(1)), "the other holder does not see the fill")
}

/// An image of another shape under the same name is not read.
pub async fn other_shape_is_made_anew(store: &dyn LayerStore) -> Verdict {
    let clause = "a spec is a promise";
    let (spec, chunks) = layer("shape");
    let image = succeed(clause, store.open(spec.clone()).await)?;
    succeed(clause, image.fill(&spec.slots[0], verified(&chunks[0])?).await)?;
    succeed(clause, image.sync().await)?;
    drop(image);
    let mut other = spec;
    other.slots[0].key = ChunkKey::of(&noise(5000, 99));
    let image = succeed(clause, store.open(other).await)?;
    hold(clause, image.presence().chunks == 0, "chunks of another shape are present")
}

/// A chunk that another layer holds is copied; one that none holds is not.
pub async fn local_copy_finds_content(store: &dyn LayerStore) -> Verdict {
    let clause = "local copies";
    let (spec, chunks) = layer("origin");
    let origin = succeed(clause, store.open(spec.clone()).await)?;
    succeed(clause, origin.fill(&spec.slots[0], verified(&chunks[0])?).await)?;
    let twin = ImageSpec { toc: Digest::of(b"twin"), ..spec.clone() };
    let image = succeed(clause, store.open(twin).await)?;
    let copied = succeed(clause, store.copy_local(&*image, &spec.slots[0]).await)?;
    hold(clause, copied, "a chunk that is held was not found")?;
    let bytes = read(&*image, &spec.slots[0], clause)?;
    hold(clause, bytes.as_deref() == Some(&chunks[0][..]), "other bytes")?;
    let copied = succeed(clause, store.copy_local(&*image, &spec.slots[2]).await)?;
    hold(clause, !copied && !image.is_present(ChunkIndex(2)), "a chunk nobody holds was copied")
}

/// Artifacts are kept, replaced and separate.
pub async fn artifacts_are_kept(store: &dyn LayerStore) -> Verdict {
    let clause = "artifacts are whole";
    let (spec, _) = layer("artifacts");
    let none = succeed(clause, store.artifact(spec.toc, Artifact::Toc).await)?;
    hold(clause, none.is_none(), "an artifact nobody put")?;
    for content in ["first", "second, longer", "3"] {
        succeed(clause, store.put_artifact(spec.toc, Artifact::Toc, content.into()).await)?;
        let found = succeed(clause, store.artifact(spec.toc, Artifact::Toc).await)?;
        hold(clause, found.as_deref() == Some(content.as_bytes()), format!("{found:?}"))?;
    }
    let other = succeed(clause, store.artifact(spec.toc, Artifact::Profile).await)?;
    hold(clause, other.is_none(), "another artifact has the bytes")
}

/// A removed layer is gone from the list and starts empty.
pub async fn removal_frees(store: &dyn LayerStore) -> Verdict {
    let clause = "removal frees";
    let (spec, chunks) = layer("removed");
    let image = succeed(clause, store.open(spec.clone()).await)?;
    succeed(clause, image.fill(&spec.slots[0], verified(&chunks[0])?).await)?;
    drop(image);
    let listed = succeed(clause, store.list().await)?;
    hold(clause, listed.iter().any(|usage| usage.toc == spec.toc), "not listed")?;
    succeed(clause, store.put_artifact(spec.toc, Artifact::Toc, "toc".into()).await)?;
    succeed(clause, store.remove(spec.toc).await)?;
    let listed = succeed(clause, store.list().await)?;
    hold(clause, listed.iter().all(|usage| usage.toc != spec.toc), "listed after removal")?;
    let artifact = succeed(clause, store.artifact(spec.toc, Artifact::Toc).await)?;
    hold(clause, artifact.is_none(), "an artifact outlives its layer")?;
    let image = succeed(clause, store.open(spec.clone()).await)?;
    hold(clause, image.presence().chunks == 0, "chunks outlive their layer")?;
    succeed(clause, store.remove(spec.toc).await)
}

/// Who holds an image that was removed goes on reading it, and it is not the one that is made next.
pub async fn removal_leaves_readers(store: &dyn LayerStore) -> Verdict {
    let clause = "removal leaves readers";
    let (spec, chunks) = layer("held");
    let held = succeed(clause, store.open(spec.clone()).await)?;
    succeed(clause, held.fill(&spec.slots[0], verified(&chunks[0])?).await)?;
    succeed(clause, store.remove(spec.toc).await)?;
    let bytes = read(&*held, &spec.slots[0], clause)?;
    hold(clause, bytes.as_deref() == Some(&chunks[0][..]), "a reader lost its bytes")?;
    let next = succeed(clause, store.open(spec.clone()).await)?;
    succeed(clause, held.fill(&spec.slots[1], verified(&chunks[1])?).await)?;
    hold(clause, next.presence().chunks == 0, "the next image is the one that was removed")?;
    succeed(clause, store.remove(spec.toc).await)
}

/// The list is in the order of digests and says what is present.
pub async fn the_list_is_ordered(store: &dyn LayerStore) -> Verdict {
    let clause = "list";
    let mut held = Vec::new();
    for name in ["list a", "list b", "list c", "list d"] {
        let (spec, chunks) = layer(name);
        let image = succeed(clause, store.open(spec.clone()).await)?;
        succeed(clause, image.fill(&spec.slots[2], verified(&chunks[2])?).await)?;
        held.push(image);
    }
    let listed = succeed(clause, store.list().await)?;
    hold(clause, listed.windows(2).all(|pair| pair[0].toc < pair[1].toc), "out of order")?;
    for image in held {
        let usage = listed.iter().find(|usage| usage.toc == image.toc_digest());
        let right = usage.is_some_and(|usage| usage.presence == image.presence());
        hold(clause, right, format!("{usage:?} for {:?}", image.presence()))?;
        succeed(clause, store.remove(image.toc_digest()).await)?;
    }
    Ok(())
}
