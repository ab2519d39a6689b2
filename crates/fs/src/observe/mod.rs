//! What is used of mounted layers, told while it is used.
//!
//! Whoever shows a layer sees every use of it, from before the first instruction of a container:
//! programs that are executed, pages that are mapped, directories that are listed. To look a name
//! up or to ask for attributes is no use: both are answered from the index.
mod recorder;

use std::{fmt, ops::Range, sync::Arc};

use bolide_core::{NodeId, TocIndex};

pub use recorder::{AccessRecorder, Use, Uses};

/// One use of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// A file or a directory was opened.
    Opened,
    /// Bytes of a file were read, whether to be read, mapped or executed. May reach past its end.
    Read(Range<u64>),
    /// The names in a directory were read.
    Listed,
    /// The target of a symbolic link was read.
    LinkRead,
}

/// The layer of an [`Access`].
#[derive(Clone, Debug)]
pub struct ObservedLayer {
    /// Name of its mount.
    pub mount: String,
    /// Its tree.
    pub index: Arc<dyn TocIndex>,
}

/// Is told of every use of the layers that a mounter shows.
///
/// Only a first use is certain to be seen: the kernel keeps what it has read. It is told before the
/// request is answered, on the thread that serves the mount, which must not be held up.
pub trait AccessObserver: fmt::Debug + Send + Sync + 'static {
    /// A node of a layer is used.
    fn accessed(&self, layer: &ObservedLayer, node: NodeId, access: Access);
}
