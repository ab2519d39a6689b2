//! The rest of a layer, when nothing else needs the network.
use std::{collections::HashMap, ops::ControlFlow};

use bolide_core::{
    AccessEvent, ByteRange, Digest, FetchHint, FetchTarget, HintSink, Prefetcher, Priority,
    TocIndex,
};

/// Size of a piece, in bytes of the blob: long enough that a round trip costs little beside it,
/// short enough that one piece may wait in memory.
const PIECE: u64 = 8 << 20;

/// Hints at the whole layer in the order of its blob, piece by piece.
///
/// When the sink wants no more it goes on at the next [`AccessEvent::Idle`].
#[derive(Clone, Debug)]
pub struct BackgroundPolicy {
    piece: u64,
    /// Where to go on, by layer; no entry for a layer that was hinted at to its end.
    next: HashMap<Digest, u64>,
}

impl Default for BackgroundPolicy {
    fn default() -> Self {
        Self::new()
    }
}

impl BackgroundPolicy {
    /// Hints at pieces of 8 MiB.
    #[must_use]
    pub fn new() -> Self {
        Self::with_piece(PIECE)
    }

    /// Hints at pieces that end with the member that makes them `bytes` long.
    #[must_use]
    pub fn with_piece(bytes: u64) -> Self {
        Self { piece: bytes.max(1), next: HashMap::new() }
    }

    fn go_on(&mut self, layer: &dyn TocIndex, from: u64, out: &mut dyn HintSink) {
        let digest = layer.digest();
        let Ok(rest) = ByteRange::new(from..u64::MAX) else { return };
        let mut piece: Option<ByteRange> = None;
        let mut next = None;
        let piece_len = self.piece;
        let mut push = |range| {
            let target = FetchTarget::Blob(range);
            out.push(FetchHint { layer: digest, target, priority: Priority::Background })
        };
        let walked = layer.for_each_chunk_in_blob(rest, &mut |span| {
            // Chunks of one member come with the same range: a piece is never cut inside a member.
            let full = piece
                .filter(|piece| piece.len() >= piece_len && span.member.start() >= piece.end());
            if let Some(done) = full {
                if !push(done) {
                    piece = None;
                    next = Some(done.end());
                    return ControlFlow::Break(());
                }
                piece = Some(span.member);
            } else {
                piece = Some(piece.map_or(span.member, |piece| piece.hull(span.member)));
            }
            ControlFlow::Continue(())
        });
        if let Err(error) = walked {
            tracing::warn!(layer = %digest, %error, "the index cannot be walked; the layer is not filled further");
        } else if let Some(last) = piece {
            push(last);
        }
        match next {
            Some(next) => self.next.insert(digest, next),
            None => self.next.remove(&digest),
        };
    }
}

impl Prefetcher for BackgroundPolicy {
    fn name(&self) -> &'static str {
        "background"
    }

    fn start(&mut self, layer: &dyn TocIndex, out: &mut dyn HintSink) {
        self.go_on(layer, 0, out);
    }

    fn observe(&mut self, layer: &dyn TocIndex, event: &AccessEvent, out: &mut dyn HintSink) {
        if !matches!(event, AccessEvent::Idle { .. }) {
            return;
        }
        if let Some(from) = self.next.get(&layer.digest()).copied() {
            self.go_on(layer, from, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bolide_core::memory::{MemoryLayer, MemoryLayerBuilder, NodeMeta};

    use super::*;

    /// A layer of `files` members of 100 bytes.
    fn layer(files: usize) -> MemoryLayer {
        (0..files)
            .try_fold(MemoryLayerBuilder::new(100), |builder, number| {
                let content = [u8::try_from(number).expect("few files"); 100];
                builder.file(&format!("f{number}"), &content, NodeMeta::default())
            })
            .expect("a layer")
            .build()
    }

    /// Takes `room` hints.
    struct Bounded {
        hints: Vec<FetchHint>,
        room: usize,
    }

    impl HintSink for Bounded {
        fn push(&mut self, hint: FetchHint) -> bool {
            assert!(self.room > 0, "a hint after the sink wanted no more");
            self.hints.push(hint);
            self.room -= 1;
            self.room > 0
        }
    }

    fn pieces(hints: &[FetchHint]) -> Vec<(u64, u64)> {
        let piece = |hint: &FetchHint| match hint.target {
            FetchTarget::Blob(range) => (range.start(), range.end()),
            FetchTarget::File { .. } => panic!("only the blob is hinted at"),
        };
        hints.iter().map(piece).collect()
    }

    #[test]
    fn pieces_tile_the_blob_in_order() {
        let layer = layer(7);
        let mut hints = Vec::new();
        BackgroundPolicy::with_piece(250).start(&*layer.toc, &mut hints);
        assert_eq!(pieces(&hints), [(0, 300), (300, 600), (600, 700)]);
        assert!(hints.iter().all(|hint| hint.priority == Priority::Background));
    }

    #[test]
    fn a_full_sink_is_heeded_and_the_rest_comes_when_idle() {
        let layer = layer(7);
        let mut policy = BackgroundPolicy::with_piece(100);
        let mut sink = Bounded { hints: Vec::new(), room: 3 };
        policy.start(&*layer.toc, &mut sink);
        policy.observe(&*layer.toc, &AccessEvent::Opened { file: layer.toc.root() }, &mut sink);
        assert_eq!(sink.hints.len(), 3);
        let idle = AccessEvent::Idle { since: Duration::from_secs(5) };
        for _ in 0..3 {
            sink.room = 3;
            policy.observe(&*layer.toc, &idle, &mut sink);
        }
        let expected: Vec<_> = (0..7).map(|n| (n * 100, n * 100 + 100)).collect();
        assert_eq!(pieces(&sink.hints), expected);
    }

    #[test]
    fn an_empty_layer_needs_nothing() {
        let mut hints = Vec::new();
        BackgroundPolicy::new().start(&*layer(0).toc, &mut hints);
        assert!(hints.is_empty());
    }
}
