//! Keeps what was used, in the order of first use.
use std::{collections::HashMap, ops::Range, path::PathBuf};

use bolide_core::{NodeId, Result};
use parking_lot::Mutex;

use super::{Access, AccessObserver, ObservedLayer};

/// How a path was used, beside what was read of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uses {
    /// It was opened.
    pub opened: bool,
    /// Its names were listed.
    pub listed: bool,
    /// Where it leads was read.
    pub link_read: bool,
}

/// A path that was used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// Name of the mount of the layer that served it.
    pub mount: String,
    /// Relative to the root of the layer; the first of several names of one file.
    pub path: PathBuf,
    /// How it was used.
    pub uses: Uses,
    /// Bytes of a file that were read, mapped or executed, by pages, ascending and apart.
    pub ranges: Vec<Range<u64>>,
}

/// Records what is used of mounted layers until it is [told to finish](Self::finish).
///
/// Takes memory by the number of nodes that are used and the gaps in what is read of them.
#[derive(Debug, Default)]
pub struct AccessRecorder(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    finished: bool,
    layers: Vec<ObservedLayer>,
    /// In the order of first use.
    nodes: Vec<Used>,
    /// Where a node of a layer is in `nodes`.
    places: HashMap<(usize, NodeId), usize>,
}

#[derive(Debug)]
struct Used {
    layer: usize,
    node: NodeId,
    uses: Uses,
    ranges: Vec<Range<u64>>,
}

impl AccessRecorder {
    /// Ends the recording: what was used until now, in the order of first use. Fails when an index
    /// does.
    pub fn finish(&self) -> Result<Vec<Use>> {
        let State { layers, nodes, .. } =
            std::mem::replace(&mut *self.0.lock(), State { finished: true, ..State::default() });
        nodes
            .into_iter()
            .map(|Used { layer, node, uses, mut ranges }| {
                let layer = &layers[layer];
                let size = layer.index.attr(node)?.size;
                // Pages are read whole; the last one of a file is not in it to its end.
                ranges.retain_mut(|range| {
                    range.end = range.end.min(size);
                    !range.is_empty()
                });
                let path = layer.index.path(node)?;
                Ok(Use { mount: layer.mount.clone(), path, uses, ranges })
            })
            .collect()
    }
}

impl AccessObserver for AccessRecorder {
    fn accessed(&self, layer: &ObservedLayer, node: NodeId, access: Access) {
        let mut state = self.0.lock();
        if !state.finished {
            state.used(layer, node).add(access);
        }
    }
}

impl State {
    fn used(&mut self, layer: &ObservedLayer, node: NodeId) -> &mut Used {
        // As many as an image has layers.
        let known = self.layers.iter().position(|known| known.mount == layer.mount);
        let layer = known.unwrap_or_else(|| {
            self.layers.push(layer.clone());
            self.layers.len() - 1
        });
        let place = *self.places.entry((layer, node)).or_insert_with(|| {
            self.nodes.push(Used { layer, node, uses: Uses::default(), ranges: Vec::new() });
            self.nodes.len() - 1
        });
        &mut self.nodes[place]
    }
}

impl Used {
    fn add(&mut self, access: Access) {
        match access {
            Access::Opened => self.uses.opened = true,
            Access::Listed => self.uses.listed = true,
            Access::LinkRead => self.uses.link_read = true,
            Access::Read(range) => merge(&mut self.ranges, range),
        }
    }
}

/// Adds a range to ranges that are ascending and apart, and keeps them so.
fn merge(ranges: &mut Vec<Range<u64>>, mut new: Range<u64>) {
    if new.is_empty() {
        return;
    }
    let first = ranges.partition_point(|held| held.end < new.start);
    let touching = ranges[first..].iter().take_while(|held| held.start <= new.end).count();
    for held in ranges.drain(first..first + touching) {
        new = held.start.min(new.start)..held.end.max(new.end);
    }
    ranges.insert(first, new);
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc};

    use bolide_core::{
        TocIndex,
        memory::{MemoryLayerBuilder, MemoryToc, NodeMeta},
    };
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_use_gives_the_order_and_nothing_counts_after_the_end() {
        let mut made = MemoryLayerBuilder::default();
        for name in ["a", "b"] {
            made = made.file(name, &[7; 13_000], NodeMeta::default()).expect("file");
        }
        let toc = made.build().toc;
        let node = |name: &str| toc.lookup(toc.root(), name.as_ref()).expect("toc").expect("made");
        let index: Arc<dyn TocIndex> = Arc::<MemoryToc>::clone(&toc);
        let layer = ObservedLayer { mount: "0".to_owned(), index };
        let recorder = AccessRecorder::default();
        for (name, access) in [
            ("b", Access::Opened),
            ("a", Access::Opened),
            ("b", Access::Read(4096..8192)),
            ("b", Access::Read(0..4096)),
            ("b", Access::Read(12_288..16_384)),
        ] {
            recorder.accessed(&layer, node(name), access);
        }
        let found = recorder.finish().expect("finished");
        let opened = Uses { opened: true, ..Uses::default() };
        let entry = |path: &str, uses, ranges| Use {
            mount: "0".to_owned(),
            path: path.into(),
            uses,
            ranges,
        };
        let expected =
            [entry("b", opened, vec![0..8192, 12_288..13_000]), entry("a", opened, Vec::new())];
        assert_eq!(found, expected);
        recorder.accessed(&layer, node("a"), Access::Opened);
        assert_eq!(recorder.finish().expect("finished"), []);
    }

    proptest! {
        #[test]
        fn merged_ranges_hold_the_same_bytes(
            added in prop::collection::vec((0_u64..60, 0_u64..9), 0..20),
        ) {
            let (mut ranges, mut bytes) = (Vec::new(), BTreeSet::new());
            for (start, length) in added {
                merge(&mut ranges, start..start + length);
                bytes.extend(start..start + length);
            }
            prop_assert!(ranges.iter().cloned().flatten().eq(bytes));
            prop_assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start));
        }
    }
}
