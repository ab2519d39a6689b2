//! The contract of [`Prefetcher`], clause by clause: what must hold for any policy on any trace.
use std::time::Duration;

use bolide_core::{
    AccessEvent, BlobSource as _, FetchHint, FetchTarget, HintSink, NodeId, NodeKind, Prefetcher,
    Priority, Result, TocIndex as _,
    memory::{MemoryLayer, MemoryLayerBuilder, NodeMeta},
};

use super::verdict::{Broken, Verdict, hold, succeed};
use crate::sample::{every_kind, noise};

/// Makes a policy as new.
pub type Make<'a> = &'a dyn Fn() -> Box<dyn Prefetcher>;

/// Runs every clause against a policy.
pub fn all(make: Make<'_>) -> Verdict {
    hints_are_in_bounds(make)?;
    hints_name_their_layer(make)?;
    hints_are_never_on_demand(make)?;
    the_sink_is_heeded(make)?;
    the_same_calls_give_the_same_hints(make)
}

fn layers() -> Result<[MemoryLayer; 3]> {
    let marked = MemoryLayerBuilder::new(64 << 10)
        .file("first", &noise(300_000, 1), NodeMeta::with_perm(0o644))?
        .landmark()?
        .file("later", &noise(700_000, 2), NodeMeta::with_perm(0o644))?
        .build();
    Ok([every_kind()?, marked, MemoryLayerBuilder::new(4096).build()])
}

fn files(layer: &MemoryLayer) -> Vec<(NodeId, u64)> {
    let nodes = u32::try_from(layer.toc.len()).unwrap_or(u32::MAX);
    let file = |id| {
        let attr = layer.toc.attr(NodeId(id)).ok()?;
        (attr.kind == NodeKind::File).then_some((NodeId(id), attr.size))
    };
    (0..nodes).filter_map(file).collect()
}

/// Each file from start to end, then backwards, then nothing.
fn trace(layer: &MemoryLayer) -> Vec<AccessEvent> {
    const STEP: u64 = 32 << 10;
    let mut events = Vec::new();
    for (file, size) in files(layer) {
        events.push(AccessEvent::Opened { file });
        let starts: Vec<u64> = (0..size.div_ceil(STEP)).map(|step| step * STEP).collect();
        for start in starts.iter().chain(starts.iter().rev()) {
            let range = *start..size.min(start + STEP);
            events.push(AccessEvent::Read { file, range, hit: start % 3 == 0 });
        }
        events.push(AccessEvent::Idle { since: Duration::from_mins(1) });
    }
    events
}

/// Takes so many hints in each call.
struct Room {
    hints: Vec<FetchHint>,
    left: usize,
    ignored: bool,
}

impl HintSink for Room {
    fn push(&mut self, hint: FetchHint) -> bool {
        self.ignored |= self.left == 0;
        self.left = self.left.saturating_sub(1);
        self.hints.push(hint);
        self.left > 0
    }
}

/// Hints of a policy on every layer; `room` in each call. The flag says whether a full sink got more.
fn replay(make: Make<'_>, room: usize) -> Result<Vec<(MemoryLayer, Vec<FetchHint>, bool)>> {
    let mut policy = make();
    let mut out = Vec::new();
    for layer in layers()? {
        let mut sink = Room { hints: Vec::new(), left: room, ignored: false };
        policy.start(&*layer.toc, &mut sink);
        for event in trace(&layer) {
            sink.left = room;
            policy.observe(&*layer.toc, &event, &mut sink);
        }
        out.push((layer, sink.hints, sink.ignored));
    }
    Ok(out)
}

/// Hints lie inside the files of their layer or inside its blob, and are not empty.
pub fn hints_are_in_bounds(make: Make<'_>) -> Verdict {
    let clause = "in bounds";
    for (layer, hints, _) in succeed(clause, replay(make, usize::MAX))? {
        let files = files(&layer);
        for hint in hints.iter().filter(|hint| hint.layer == layer.toc.digest()) {
            let inside = match &hint.target {
                FetchTarget::File { file, range } => {
                    let size = files.iter().find(|(id, _)| id == file).map(|(_, size)| *size);
                    range.start < range.end && size.is_some_and(|size| range.end <= size)
                }
                FetchTarget::Blob(range) => range.end() <= layer.blob.size(),
            };
            hold(clause, inside, format!("{hint:?}"))?;
        }
    }
    Ok(())
}

/// Hints name the layer that was started or seen.
pub fn hints_name_their_layer(make: Make<'_>) -> Verdict {
    let clause = "names its layer";
    for (layer, hints, _) in succeed(clause, replay(make, usize::MAX))? {
        let digest = layer.toc.digest();
        let stray = hints.iter().find(|hint| hint.layer != digest);
        hold(clause, stray.is_none(), format!("{stray:?} on {digest}"))?;
    }
    Ok(())
}

/// Nobody is blocked on what is only guessed.
pub fn hints_are_never_on_demand(make: Make<'_>) -> Verdict {
    let clause = "never on demand";
    for (_, hints, _) in succeed(clause, replay(make, usize::MAX))? {
        let urgent = hints.iter().find(|hint| hint.priority == Priority::OnDemand);
        hold(clause, urgent.is_none(), format!("{urgent:?}"))?;
    }
    Ok(())
}

/// A call makes no hint after the sink wanted no more.
pub fn the_sink_is_heeded(make: Make<'_>) -> Verdict {
    let clause = "heeds the sink";
    for room in 1..4 {
        let replayed = succeed(clause, replay(make, room))?;
        let ignored = replayed.iter().any(|(_, _, ignored)| *ignored);
        hold(clause, !ignored, format!("more than {room} hints in a call"))?;
    }
    Ok(())
}

/// The same calls give the same hints, in the same order.
pub fn the_same_calls_give_the_same_hints(make: Make<'_>) -> Verdict {
    let clause = "pure";
    let replay = || -> Result<Vec<_>, Broken> {
        let replayed = succeed(clause, replay(make, 2))?;
        Ok(replayed.into_iter().map(|(_, hints, _)| hints).collect())
    };
    let (one, two) = (replay()?, replay()?);
    hold(clause, one == two, "two replays differ")
}
