//! From a layer to a mount point: read pipeline and mounters.
//!
//! ```text
//! read(file, range) -> index: chunks -> layer image: present? -- yes --> read the file
//!                                            | no
//!                      another layer's image, cache tiers -> scheduler -> source
//!                                            |
//!            inflate -> verify -> write to the layer image, mark -> answer everyone who waits
//! ```
//!
//! # A layer from parts of your own
//!
//! ```
//! use std::{fmt, sync::Arc};
//!
//! use bolide_core::{
//!     BlobSource, ByteRange, Digest, FileReader as _, Priority, ReadOptions, Result,
//!     SourceCapability, TocIndex as _,
//!     memory::{MemoryBlob, MemoryLayerBuilder, MemoryLayerStore, NodeMeta},
//! };
//! use bolide_fs::Layer;
//! use bytes::Bytes;
//! use futures::stream::{BoxStream, StreamExt as _};
//!
//! /// A source that says what it is asked for.
//! #[derive(Debug)]
//! struct Talkative(MemoryBlob);
//!
//! impl fmt::Display for Talkative {
//!     fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
//!         write!(f, "Talkative({})", self.0)
//!     }
//! }
//!
//! impl BlobSource for Talkative {
//!     fn digest(&self) -> Digest {
//!         self.0.digest()
//!     }
//!     fn size(&self) -> u64 {
//!         self.0.size()
//!     }
//!     fn capability(&self) -> SourceCapability {
//!         self.0.capability()
//!     }
//!     fn stream(&self, range: ByteRange, options: ReadOptions) -> BoxStream<'static, Result<Bytes>> {
//!         println!("asked for {range}");
//!         self.0.stream(range, options).boxed()
//!     }
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let made = MemoryLayerBuilder::default().file("etc/motd", b"hello", NodeMeta::default())?.build();
//! let layer = Layer::builder()
//!     .source(Arc::new(Talkative(made.blob)))
//!     .index(made.toc.clone())
//!     .store(Arc::new(MemoryLayerStore::new()))
//!     .build()
//!     .await?;
//! let etc = made.toc.lookup(made.toc.root(), "etc".as_ref())?.expect("made above");
//! let motd = made.toc.lookup(etc, "motd".as_ref())?.expect("made above");
//! let text = layer.view().reader.read(motd, 0..100, Priority::OnDemand).await?;
//! assert_eq!(text, "hello");
//! # Ok::<(), bolide_core::Error>(())
//! # }).unwrap();
//! ```
#![forbid(unsafe_code)]

mod errno;
mod fuse;
mod layer;
mod observe;
mod ops;
mod read;
mod tree;

pub use fuse::{FuseConfig, FuseMounter, detach};
pub use layer::{Layer, LayerBuilder};
pub use observe::{Access, AccessObserver, AccessRecorder, ObservedLayer, Use, Uses};
pub use read::{ReadConfig, WorkerPool};
