//! Chunks, their names, and the proof that bytes match a name.
use std::fmt;

use bytes::Bytes;

use crate::{Digest, Digester, Error, ErrorKind, Result};

/// Names one uncompressed chunk by its content, so equal chunks of unrelated layers are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChunkKey {
    /// Digest of the uncompressed bytes.
    pub digest: Digest,
    /// Length of the uncompressed bytes, at least 1.
    pub len: u64,
}

impl ChunkKey {
    /// The key that names `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self { digest: Digest::of(bytes), len: bytes.len() as u64 }
    }
}

/// Numbers the chunks of one layer from 0, in the order of their place in the layer image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChunkIndex(pub u32);

/// Bytes that are known to match the key that names them.
///
/// The only constructor checks the digest, so a function that takes a `VerifiedChunk` cannot be
/// handed bytes nobody checked.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifiedChunk {
    key: ChunkKey,
    bytes: Bytes,
}

impl VerifiedChunk {
    /// Checks `bytes` against `key`; `Corrupt`, naming both digests, when they differ.
    pub fn verify(key: ChunkKey, bytes: Bytes) -> Result<Self> {
        let mut verifier = ChunkVerifier::new(key);
        verifier.update(&bytes)?;
        verifier.finish()?;
        Ok(Self { key, bytes })
    }

    /// The key the bytes were checked against.
    #[must_use]
    pub fn key(&self) -> ChunkKey {
        self.key
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The bytes, by value.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }
}

impl fmt::Debug for VerifiedChunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedChunk").field("key", &self.key).finish_non_exhaustive()
    }
}

/// Checks a chunk that arrives in pieces because it is too large to hold.
#[derive(Debug)]
pub struct ChunkVerifier {
    key: ChunkKey,
    digester: Digester,
    seen: u64,
}

impl ChunkVerifier {
    /// Starts checking bytes against `key`.
    #[must_use]
    pub fn new(key: ChunkKey) -> Self {
        Self { key, digester: Digester::new(), seen: 0 }
    }

    /// Adds the next bytes; `Corrupt` as soon as there are more than the key says.
    pub fn update(&mut self, bytes: &[u8]) -> Result<()> {
        self.seen = self.seen.saturating_add(bytes.len() as u64);
        if self.seen > self.key.len {
            return Err(self.mismatch("chunk is longer than its TOC entry says"));
        }
        self.digester.update(bytes);
        Ok(())
    }

    /// Bytes added so far.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// Compares the digest; `Corrupt` when length or digest differ.
    pub fn finish(self) -> Result<ChunkProof> {
        if self.seen != self.key.len {
            return Err(self.mismatch("chunk is shorter than its TOC entry says"));
        }
        let actual = self.digester.clone().finish();
        if actual != self.key.digest {
            return Err(self
                .mismatch("chunk does not match its digest")
                .with_context("actual", actual));
        }
        Ok(ChunkProof(self.key))
    }

    fn mismatch(&self, rule: &'static str) -> Error {
        Error::new(ErrorKind::Corrupt, "chunk::verify", rule)
            .with_context("expected", self.key.digest)
            .with_context("len", self.key.len)
            .with_context("seen", self.seen)
    }
}

/// Evidence that bytes matched a key. Only [`ChunkVerifier::finish`] makes one.
#[derive(Debug)]
pub struct ChunkProof(ChunkKey);

impl ChunkProof {
    /// The key that was matched.
    #[must_use]
    pub fn key(&self) -> ChunkKey {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_matching_bytes_become_a_chunk() {
        let key = ChunkKey::of(b"hello");
        assert!(VerifiedChunk::verify(key, Bytes::from_static(b"hello")).is_ok());
        for bytes in [&b"hellp"[..], b"hell", b"hello!", b""] {
            let error = VerifiedChunk::verify(key, Bytes::copy_from_slice(bytes))
                .expect_err("does not match");
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert_eq!(error.context("expected"), Some(key.digest.to_string().as_str()));
        }
    }
}
