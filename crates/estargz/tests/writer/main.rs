//! What the writer makes of a tar, looked at by other means than the crate's own reader: blobs are
//! decompressed, tars are read by the `tar` crate, TOCs by `serde_json`.
mod dialects;
mod formats;
mod lossless;
mod members;
mod options;
mod podman;
mod random;
mod sort;
mod sparse;
mod support;
