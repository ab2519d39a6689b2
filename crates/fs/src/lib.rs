//! From a layer to a mount point: read pipeline and mounters
