//! containerd's view: the remote snapshotter
