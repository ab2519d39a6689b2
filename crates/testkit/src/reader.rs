//! Reads files of a layer in memory straight from its blob.
use std::{
    ops::{ControlFlow, Range},
    sync::Arc,
};

use async_trait::async_trait;
use bolide_core::{
    BlobSource as _, ByteRange, FetchTarget, FileReader, FillReport, LayerStatus, NodeId, Presence,
    Priority, ReadOptions, Result, StatusSource, TocIndex as _, memory::MemoryLayer,
};
use bytes::{Bytes, BytesMut};

/// A [`FileReader`] without cache, image or network, for tests of what shows layers.
#[derive(Debug)]
pub(crate) struct BlobReader(pub(crate) Arc<MemoryLayer>);

#[async_trait]
impl FileReader for BlobReader {
    fn try_read(&self, _: NodeId, _: Range<u64>) -> Option<Result<Bytes>> {
        None
    }

    async fn read(&self, file: NodeId, range: Range<u64>, _: Priority) -> Result<Bytes> {
        let size = self.0.toc.attr(file)?.size;
        let range = range.start..range.end.min(size);
        let mut wanted = Vec::new();
        self.0.toc.for_each_chunk(file, range.clone(), &mut |span| {
            let start = range.start.max(span.file_offset);
            let end = range.end.min(span.file_offset + span.key.len);
            // Members of a layer in memory are chunks as they are.
            let member = span.member.start();
            wanted
                .push((start, member + start - span.file_offset..member + end - span.file_offset));
            ControlFlow::Continue(())
        })?;
        // What no chunk covers is a hole.
        let len = range.end.saturating_sub(range.start);
        let mut out = BytesMut::zeroed(usize::try_from(len).unwrap_or(usize::MAX));
        for (start, member) in wanted {
            let piece =
                self.0.blob.read_at(ByteRange::new(member)?, ReadOptions::default()).await?;
            let at = usize::try_from(start - range.start).unwrap_or(usize::MAX);
            out[at..at + piece.len()].copy_from_slice(&piece);
        }
        Ok(out.freeze())
    }

    async fn fill(&self, _: &FetchTarget, _: Priority) -> Result<FillReport> {
        Ok(FillReport::default())
    }
}

impl StatusSource for BlobReader {
    fn status(&self) -> LayerStatus {
        LayerStatus {
            blob: self.0.blob.digest(),
            toc: self.0.toc.digest(),
            blob_size: self.0.blob.size(),
            fetched_bytes: 0,
            presence: Presence::default(),
            error: None,
        }
    }
}
