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
        let mut wanted = Vec::new();
        self.0.toc.for_each_chunk(file, range.clone(), &mut |span| {
            let start = range.start.max(span.file_offset) - span.file_offset;
            let end = range.end.min(span.file_offset + span.key.len) - span.file_offset;
            // Members of a layer in memory are chunks as they are.
            wanted.push(span.member.start() + start..span.member.start() + end);
            ControlFlow::Continue(())
        })?;
        let mut out = BytesMut::new();
        for range in wanted {
            let piece = self.0.blob.read_at(ByteRange::new(range)?, ReadOptions::default());
            out.extend_from_slice(&piece.await?);
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
