//! What the author of the image marked as used at start.
use std::ops::ControlFlow;

use bolide_core::{
    ByteRange, FetchHint, FetchTarget, HintSink, PrefetchMark, Prefetcher, Priority, TocIndex,
};

/// Hints at the start of the blob, up to the landmark; without a mark, up to a configured size.
#[derive(Clone, Copy, Debug)]
pub struct LandmarkPolicy {
    fallback_bytes: u64,
}

impl LandmarkPolicy {
    /// Prefetches `fallback_bytes` bytes of the blob where its author says nothing; 0 for none.
    #[must_use]
    pub const fn new(fallback_bytes: u64) -> Self {
        Self { fallback_bytes }
    }

    /// The start of the blob as far as configured, but no farther than the last member there.
    fn fallback(self, layer: &dyn TocIndex) -> Option<ByteRange> {
        let wanted = ByteRange::at(0, self.fallback_bytes).ok()?;
        let mut end = 0;
        let walked = layer.for_each_chunk_in_blob(wanted, &mut |span| {
            end = span.member.end();
            ControlFlow::Continue(())
        });
        if let Err(error) = walked {
            tracing::warn!(layer = %layer.digest(), %error, "the index cannot be walked; nothing is prefetched");
            return None;
        }
        ByteRange::new(0..end.min(wanted.end())).ok()
    }
}

impl Prefetcher for LandmarkPolicy {
    fn name(&self) -> &'static str {
        "landmark"
    }

    fn start(&mut self, layer: &dyn TocIndex, out: &mut dyn HintSink) {
        let range = match layer.prefetch_mark() {
            PrefetchMark::UpTo(range) => Some(range),
            PrefetchMark::Nothing => None,
            PrefetchMark::Absent => self.fallback(layer),
        };
        if let Some(range) = range {
            out.push(FetchHint {
                layer: layer.digest(),
                target: FetchTarget::Blob(range),
                priority: Priority::Prefetch,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use bolide_core::memory::{MemoryLayerBuilder, NodeMeta};

    use super::*;

    fn hints(policy: &mut LandmarkPolicy, layer: &dyn TocIndex) -> Vec<FetchHint> {
        let mut hints = Vec::new();
        policy.start(layer, &mut hints);
        hints
    }

    fn builder() -> MemoryLayerBuilder {
        MemoryLayerBuilder::new(16).file("a", &[1; 40], NodeMeta::with_perm(0o644)).expect("a file")
    }

    #[test]
    fn a_mark_is_followed_to_the_byte() {
        let layer = builder()
            .landmark()
            .expect("landmark")
            .file("b", &[2; 40], NodeMeta::with_perm(0o644))
            .expect("a file")
            .build();
        let PrefetchMark::UpTo(marked) = layer.toc.prefetch_mark() else {
            panic!("the layer has a landmark")
        };
        let hints = hints(&mut LandmarkPolicy::new(1 << 20), &*layer.toc);
        assert_eq!(hints.len(), 1);
        assert_eq!(hints[0].target, FetchTarget::Blob(marked));
        assert_eq!(hints[0].priority, Priority::Prefetch);
        assert_eq!(hints[0].layer, layer.toc.digest());
    }

    #[test]
    fn without_a_mark_the_configured_size_counts_within_the_blob() {
        let layer = builder().build();
        let mut end = 0;
        let all = ByteRange::new(0..u64::MAX).expect("not empty");
        layer
            .toc
            .for_each_chunk_in_blob(all, &mut |span| {
                end = end.max(span.member.end());
                ControlFlow::Continue(())
            })
            .expect("walk");
        let target = |bytes| hints(&mut LandmarkPolicy::new(bytes), &*layer.toc);
        assert!(target(0).is_empty());
        let expect = |end| FetchTarget::Blob(ByteRange::new(0..end).expect("not empty"));
        assert_eq!(target(20)[0].target, expect(20));
        assert_eq!(target(1 << 40)[0].target, expect(end));
    }
}
