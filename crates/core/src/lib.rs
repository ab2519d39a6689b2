//! The traits, values and errors every part of bolide agrees on.
//!
//! A *layer* is one blob of an image. Its tree is a [`TocIndex`], its compressed bytes come from a
//! [`BlobSource`], its decompressed and verified bytes rest in a [`LayerImage`], and a [`Mounter`]
//! shows it to processes. [`ChunkCache`]s are tiers asked before the network, a [`Prefetcher`]
//! decides what is fetched before anyone asks, and one [`Scheduler`] per node orders every request
//! that does go to the network. This crate holds the seams and nothing else: it does no I/O and
//! starts no task, and every implementation lives in a crate that can be left out.
//!
//! # Why chunks
//!
//! A chunk is the unit that carries a digest, so it is the smallest piece that can be fetched,
//! checked and trusted alone. Everything here is phrased in chunks, never in "requests" or "blocks".
//!
//! # Why a synchronous index
//!
//! Lookups and attributes dominate a container's start. They are answered from memory or a mapped
//! file, so a future per call would cost more than the work.
//!
//! # Why a mounter gets a layer
//!
//! containerd composes layers by overlayfs and shares each between images. A mounter that took
//! images would have to take that apart again.
#![forbid(unsafe_code)]

mod blob_source;
mod chunk;
mod chunk_cache;
mod digest;
mod error;
mod layer_image;
pub mod memory;
mod mounter;
mod prefetcher;
mod priority;
mod range;
mod scheduler;
mod status;
mod toc_index;

pub use blob_source::{BlobOpener, BlobRef, BlobSource, OpenedBlob, ReadOptions, SourceCapability};
pub use chunk::{ChunkIndex, ChunkKey, ChunkProof, ChunkVerifier, VerifiedChunk};
pub use chunk_cache::{CacheUsage, ChunkCache};
pub use digest::{Digest, Digester};
pub use error::{Error, ErrorKind, Result};
pub use layer_image::{
    Artifact, ChunkSlot, ImageSpec, LayerImage, LayerStore, LayerUsage, Presence, SlotFill,
    SlotWriter,
};
pub use mounter::{
    Exposure, FileReader, FillReport, LayerView, MountCapability, MountOptions, MountRequest,
    Mounted, Mounter, OpaqueXattr,
};
pub use prefetcher::{AccessEvent, AccessSink, FetchHint, FetchTarget, HintSink, Prefetcher};
pub use priority::Priority;
pub use range::ByteRange;
pub use scheduler::{FetchRequest, Fetched, Scheduler, SchedulerLoad};
pub use status::{LayerStatus, StatusSource};
pub use toc_index::{
    ChunkSpan, Codec, Device, NodeAttr, NodeId, NodeKind, PrefetchMark, Timestamp, TocIndex,
};
