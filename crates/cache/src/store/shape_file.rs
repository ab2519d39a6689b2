//! The shape of an image on disk, sorted by content: finds a chunk with a read or two.
//!
//! ```text
//! 0    magic            8
//! 8    shape digest    32    the record of presence carries it too
//! 40   chunks           8    little-endian, as all numbers
//! 48   bytes of chunks  8
//! 56   filter               two bytes a chunk
//!      checksum        32    of everything above
//!      entries              52 a chunk, sorted: digest 32, length 8, offset 8, number 4
//! ```
//!
//! Only the head with its filter is kept in memory. Entries carry no checksum: what they lead to
//! is verified when it is copied.
use std::io;

use bolide_core::{ChunkIndex, ChunkKey, ChunkSlot, Digest, ImageSpec};

use super::{disk::StoreFile, shape::Shape};

const MAGIC: [u8; 8] = *b"bolshap1";
const FIXED: usize = 56;
const CHECKSUM: usize = 32;
const ENTRY: usize = 52;
/// Entries read at once: one read of 6.5 KiB nearly always holds the place, as digests are spread
/// evenly.
const WINDOW: u64 = 128;

/// Tells in memory that a layer certainly does not have a chunk. Wrong about one chunk in seventy.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Filter(Box<[u8]>);

impl Filter {
    fn of(slots: &[ChunkSlot]) -> Self {
        let mut filter = Self(vec![0; slots.len() * 2].into());
        for slot in slots {
            for (byte, bit) in filter.places(&slot.key.digest) {
                if let Some(byte) = filter.0.get_mut(byte) {
                    *byte |= bit;
                }
            }
        }
        filter
    }

    pub(super) fn may_have(&self, key: &ChunkKey) -> bool {
        let set = |(byte, bit): (usize, u8)| self.0.get(byte).is_some_and(|byte| byte & bit != 0);
        self.places(&key.digest).into_iter().all(set)
    }

    /// Two bits, from two words of the digest.
    fn places(&self, digest: &Digest) -> [(usize, u8); 2] {
        let bits = self.0.len() as u64 * 8;
        [8, 16].map(|at| {
            let bit = scaled(word(digest, at), bits);
            (usize::try_from(bit / 8).unwrap_or(usize::MAX), 1 << (bit % 8))
        })
    }
}

fn word(digest: &Digest, at: usize) -> u64 {
    let bytes = digest.as_bytes().get(at..).and_then(<[u8]>::first_chunk);
    u64::from_be_bytes(bytes.copied().unwrap_or_default())
}

/// Spreads `word` evenly over `0..count`.
fn scaled(word: u64, count: u64) -> u64 {
    let product = u128::from(word) * u128::from(count);
    u64::try_from(product >> 64).unwrap_or(0)
}

/// What is at the start of the file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) shape: Digest,
    pub(super) chunks: u64,
    pub(super) bytes_total: u64,
    pub(super) filter: Filter,
}

/// The whole file for a spec, and its head.
pub(super) fn encode(spec: &ImageSpec, shape: &Shape) -> (Head, Vec<u8>) {
    let head = Head {
        shape: shape.digest,
        chunks: spec.slots.len() as u64,
        bytes_total: shape.bytes_total,
        filter: Filter::of(&spec.slots),
    };
    let mut out = head.fields().to_vec();
    out.extend_from_slice(&head.filter.0);
    out.extend_from_slice(Digest::of(&out).as_bytes());
    let mut sorted: Vec<_> = spec.slots.iter().collect();
    sorted.sort_unstable_by_key(|slot| (slot.key.digest, slot.index));
    for slot in sorted {
        out.extend_from_slice(slot.key.digest.as_bytes());
        out.extend_from_slice(&slot.key.len.to_le_bytes());
        out.extend_from_slice(&slot.image_offset.to_le_bytes());
        out.extend_from_slice(&slot.index.0.to_le_bytes());
    }
    (head, out)
}

impl Head {
    fn fields(&self) -> [u8; FIXED] {
        let mut out = [0; FIXED];
        out[..8].copy_from_slice(&MAGIC);
        out[8..40].copy_from_slice(self.shape.as_bytes());
        out[40..48].copy_from_slice(&self.chunks.to_le_bytes());
        out[48..].copy_from_slice(&self.bytes_total.to_le_bytes());
        out
    }

    /// Reads the head; `None` when the file is not whole.
    pub(super) fn read(file: &dyn StoreFile) -> io::Result<Option<Self>> {
        let size = file.size()?;
        let mut fixed = [0; FIXED];
        if size < FIXED as u64 {
            return Ok(None);
        }
        file.read_exact_at(&mut fixed, 0)?;
        let chunks = number(&fixed, 40);
        let whole = u64::try_from(ENTRY + 2).ok().and_then(|each| chunks.checked_mul(each));
        let whole = whole.and_then(|entries| entries.checked_add((FIXED + CHECKSUM) as u64));
        if fixed[..8] != MAGIC || whole != Some(size) {
            return Ok(None);
        }
        // No larger than the file, now.
        let mut rest = vec![0; usize::try_from(chunks * 2).unwrap_or(0) + CHECKSUM];
        file.read_exact_at(&mut rest, FIXED as u64)?;
        let checksum = rest.split_off(rest.len() - CHECKSUM);
        let mut shape = [0; 32];
        shape.copy_from_slice(&fixed[8..40]);
        let head = Self {
            shape: Digest::from_bytes(shape),
            chunks,
            bytes_total: number(&fixed, 48),
            filter: Filter(rest.into()),
        };
        let checked = [&fixed[..], &head.filter.0].concat();
        Ok((checksum == Digest::of(&checked).as_bytes()).then_some(head))
    }

    fn window(&self, file: &dyn StoreFile, first: u64, count: u64) -> io::Result<Vec<ChunkSlot>> {
        let start = (FIXED + CHECKSUM) as u64 + self.chunks * 2 + first * ENTRY as u64;
        let mut bytes = vec![0; usize::try_from(count).unwrap_or(0) * ENTRY];
        file.read_exact_at(&mut bytes, start)?;
        Ok(bytes.chunks_exact(ENTRY).map(entry).collect())
    }

    /// Slots that a chunk has, or some of them when it has very many.
    pub(super) fn find(&self, file: &dyn StoreFile, key: &ChunkKey) -> io::Result<Vec<ChunkSlot>> {
        let (mut low, mut high) = (0, self.chunks);
        let mut guess = scaled(word(&key.digest, 0), self.chunks);
        while low < high {
            let count = WINDOW.min(high - low);
            let start = guess.saturating_sub(count / 2).clamp(low, high - count);
            let window = self.window(file, start, count)?;
            match (window.first(), window.last()) {
                (Some(first), _) if key.digest < first.key.digest => high = start,
                (_, Some(last)) if key.digest > last.key.digest => low = start + count,
                _ => return Ok(window.into_iter().filter(|slot| slot.key == *key).collect()),
            }
            // Digests that somebody chose may defeat the guess, not the halving.
            guess = low + (high.saturating_sub(low)) / 2;
        }
        Ok(Vec::new())
    }

    /// Sums the lengths of some chunks.
    pub(super) fn bytes_of(
        &self,
        file: &dyn StoreFile,
        wanted: impl Fn(ChunkIndex) -> bool,
    ) -> io::Result<u64> {
        let (mut at, mut sum) = (0, 0_u64);
        while at < self.chunks {
            let count = (WINDOW * 8).min(self.chunks - at);
            let window = self.window(file, at, count)?;
            let lengths = window.iter().filter(|slot| wanted(slot.index)).map(|slot| slot.key.len);
            sum = lengths.fold(sum, u64::saturating_add);
            at += count;
        }
        Ok(sum)
    }
}

fn number(bytes: &[u8], at: usize) -> u64 {
    let bytes = bytes.get(at..).and_then(<[u8]>::first_chunk);
    u64::from_le_bytes(bytes.copied().unwrap_or_default())
}

fn entry(bytes: &[u8]) -> ChunkSlot {
    let digest = bytes.first_chunk().copied().unwrap_or_default();
    let index = bytes.get(48..).and_then(<[u8]>::first_chunk).copied().unwrap_or_default();
    ChunkSlot {
        index: ChunkIndex(u32::from_le_bytes(index)),
        image_offset: number(bytes, 40),
        key: ChunkKey { digest: Digest::from_bytes(digest), len: number(bytes, 32) },
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    /// A spec of so many chunks, whose digests `digest` makes.
    fn spec(chunks: u32, digest: impl Fn(u32) -> Digest) -> ImageSpec {
        let slot = |at| ChunkSlot {
            index: ChunkIndex(at),
            image_offset: u64::from(at) * 10,
            key: ChunkKey { digest: digest(at), len: 10 },
        };
        let slots = (0..chunks).map(slot).collect();
        ImageSpec { toc: Digest::of(b"toc"), size: u64::from(chunks) * 10, slots }
    }

    fn even(at: u32) -> Digest {
        Digest::of(&at.to_le_bytes())
    }

    fn written(spec: &ImageSpec) -> (File, Head) {
        let (_, bytes) = encode(spec, &Shape::of(spec));
        let file = tempfile::tempfile().expect("file");
        file.write_all_at(&bytes, 0).expect("writes");
        let head = Head::read(&file).expect("reads").expect("whole");
        (file, head)
    }

    fn all_are_found(spec: &ImageSpec) {
        let (file, head) = written(spec);
        for slot in &spec.slots {
            assert!(head.filter.may_have(&slot.key));
            let found = head.find(&file, &slot.key).expect("reads");
            assert!(found.contains(slot) || found.len() > 64, "{slot:?} in {found:?}");
        }
    }

    #[test]
    fn every_chunk_is_found_and_no_other() {
        for chunks in [0, 1, 127, 128, 129, 5000] {
            all_are_found(&spec(chunks, even));
        }
        let (file, head) = written(&spec(5000, even));
        let strangers = (5000..10_000).map(|at| ChunkKey { digest: even(at), len: 10 });
        let mut passed = 0;
        for stranger in strangers {
            assert!(head.find(&file, &stranger).expect("reads").is_empty());
            passed += usize::from(head.filter.may_have(&stranger));
        }
        assert!(passed < 200, "{passed} of 5000 strangers pass the filter");
    }

    #[test]
    fn chosen_and_equal_digests_are_found() {
        let crowded = |at: u32| {
            let mut bytes = [0; 32];
            bytes[28..].copy_from_slice(&at.to_be_bytes());
            Digest::from_bytes(bytes)
        };
        all_are_found(&spec(3000, crowded));
        all_are_found(&spec(3000, |at| even(at % 3)));
        all_are_found(&spec(3000, |_| Digest::from_bytes([0xff; 32])));
    }

    #[test]
    fn a_damaged_head_is_not_believed() {
        let (file, head) = written(&spec(40, even));
        let end = FIXED + 80 + CHECKSUM;
        for at in 0..end as u64 {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).expect("reads");
            file.write_all_at(&[byte[0] ^ 1], at).expect("damages");
            assert_eq!(Head::read(&file).expect("reads"), None, "byte {at}");
            file.write_all_at(&byte, at).expect("mends");
        }
        assert_eq!(Head::read(&file).expect("reads"), Some(head));
        for len in [0, 8, FIXED as u64, end as u64, end as u64 + 39 * 52] {
            file.set_len(len).expect("cuts");
            assert_eq!(Head::read(&file).expect("reads"), None, "cut to {len}");
        }
    }
}
