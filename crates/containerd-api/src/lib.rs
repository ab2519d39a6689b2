//! The part of containerd's gRPC interface that bolide speaks
