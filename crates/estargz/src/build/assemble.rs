//! Puts compressed segments together, in order, and completes the TOC entries that speak of them.
use std::io::Write;

use bolide_core::{Digest, Digester, Error, Result};
use flate2::Crc;

use super::{
    compress::{Packed, trailer},
    draft::Draft,
    entry::signed,
    segment::Field,
};

/// A blob being written.
pub(super) struct Assembler<'a> {
    output: &'a mut dyn Write,
    digester: Digester,
    size: u64,
    drafts: Vec<Draft>,
    /// Checksum of the member that the next segment goes on with.
    open: Crc,
}

impl<'a> Assembler<'a> {
    pub(super) fn new(output: &'a mut dyn Write) -> Self {
        Self { output, digester: Digester::new(), size: 0, drafts: Vec::new(), open: Crc::new() }
    }

    /// Adds the next segment, and TOC entries, which may speak of it or of later ones.
    pub(super) fn add(&mut self, packed: &Packed, drafts: Vec<Draft>) -> Result<()> {
        self.drafts.extend(drafts);
        let base = self.size;
        for (entry, offset, inner) in &packed.places {
            if let Some(draft) = self.draft(*entry) {
                draft.toc.offset = signed(base + offset);
                draft.toc.inner_offset = signed(*inner);
            }
        }
        for (entry, end) in &packed.ends {
            let podman = self.draft(*entry).and_then(|draft| draft.podman.as_mut());
            if let Some(podman) = podman {
                podman.end_offset = signed(base + end);
            }
        }
        self.digests(&packed.digests);
        self.write(&packed.data)?;
        let Some(part) = &packed.part else { return Ok(()) };
        let Some(sum) = &part.sum else { return Ok(()) };
        if part.first {
            self.open.reset();
        }
        self.open.combine(sum);
        if part.last { self.write(&trailer(&self.open)) } else { Ok(()) }
    }

    fn draft(&mut self, entry: u32) -> Option<&mut Draft> {
        self.drafts.get_mut(usize::try_from(entry).ok()?)
    }

    /// Completes TOC entries whose digests became known.
    pub(super) fn digests(&mut self, digests: &[(u32, Field, Digest)]) {
        for (entry, field, digest) in digests {
            let Some(draft) = self.draft(*entry) else { continue };
            match field {
                Field::File => draft.toc.digest = digest.to_string(),
                Field::Chunk => draft.toc.chunk_digest = digest.to_string(),
            }
        }
    }

    /// Writes bytes as they are.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.output.write_all(bytes);
        written.map_err(|error| Error::io("estargz::write", error))?;
        self.digester.update(bytes);
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// Size so far, in bytes: where what comes next will stand.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Where the content of a TOC entry begins, in bytes.
    pub(super) fn offset(&self, entry: u32) -> u64 {
        let draft = usize::try_from(entry).ok().and_then(|entry| self.drafts.get(entry));
        draft.map_or(0, |draft| draft.toc.offset.unsigned_abs())
    }

    /// Takes the TOC entries out.
    pub(super) fn take_drafts(&mut self) -> Vec<Draft> {
        std::mem::take(&mut self.drafts)
    }

    /// Digest and size of the blob.
    pub(super) fn finish(self) -> Result<(Digest, u64)> {
        self.output.flush().map_err(|error| Error::io("estargz::write", error))?;
        Ok((self.digester.finish(), self.size))
    }
}
