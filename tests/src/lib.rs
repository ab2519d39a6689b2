//! End-to-end tests against real containerd, registry and kernel
