//! Compares holes with the digests that are said of them.
use std::collections::HashMap;

use bolide_core::{Digest, Digester};

/// Zeros that are hashed for one layer at most, in bytes: hundredths of a second of its mount.
const MAX_HASHED: u64 = 16 << 20;

/// What is known of runs of zeros.
///
/// That a hole is zeros is what the TOC says, and the TOC was verified: a digest beside it cannot make
/// that truer. It can only contradict it, and then the layer is another for whoever unpacks the tar; so
/// it is compared as long as that is cheap, and a layer of holes of terabytes is not hashed.
#[derive(Debug, Default)]
pub(super) struct Zeros {
    /// By length: most holes of a layer have one of a few.
    known: HashMap<u64, Digest>,
    hashed: u64,
}

impl Zeros {
    /// Whether `len` zeros have this digest; `true` too when to find out would take long.
    pub(super) fn may_be(&mut self, digest: Digest, len: u64) -> bool {
        if let Some(known) = self.known.get(&len) {
            return *known == digest;
        }
        if self.hashed.saturating_add(len) > MAX_HASHED {
            return true;
        }
        self.hashed += len;
        let found = of_zeros(len);
        self.known.insert(len, found);
        found == digest
    }
}

fn of_zeros(len: u64) -> Digest {
    const BLOCK: [u8; 4096] = [0; 4096];
    let mut digester = Digester::new();
    let mut left = len;
    while left > 0 {
        let step = left.min(BLOCK.len() as u64);
        digester.update(&BLOCK[..usize::try_from(step).unwrap_or(BLOCK.len())]);
        left -= step;
    }
    digester.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_digest_of_zeros_is_theirs_and_long_runs_are_believed() {
        let mut zeros = Zeros::default();
        for len in [1, 4096, 10_000, 10_000] {
            let content = vec![0; usize::try_from(len).expect("small")];
            assert!(zeros.may_be(Digest::of(&content), len));
            assert!(!zeros.may_be(Digest::of(b"x"), len));
        }
        assert!(zeros.may_be(Digest::of(b"x"), 1 << 62));
        assert!(zeros.hashed < 20_000);
    }
}
