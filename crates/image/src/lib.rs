//! References, manifests, conversion, push and a small registry server
