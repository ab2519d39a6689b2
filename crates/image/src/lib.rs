//! Images as a whole: where they are, their manifests, conversion to eStargz, and a small registry
//! server over an OCI layout.
//!
//! An image is read through [`ImageSource`], written through an [`ImageSink`], and
//! [`convert_image`] stands between the two.
#![forbid(unsafe_code)]

mod blob_reader;
mod convert;
mod layout;
mod link;
mod location;
pub mod manifest;
mod platform;
mod server;
mod sink;
mod source;
mod unpack;

pub use convert::{ConvertOptions, ConvertReport, ConvertedLayer, Progress, convert_image};
pub use layout::Layout;
pub use link::{LinkCounters, LinkShape, ShapedLink};
pub use location::Location;
pub use platform::Platform;
pub use server::{ServedCounters, ServerHandle, serve_layout};
pub use sink::ImageSink;
pub use source::{ImageSource, check_kind, choose};
pub use unpack::{UnpackOptions, Unpacked, unpack_layer};
