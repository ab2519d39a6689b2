//! Images as a whole: where they are, their manifests, conversion to eStargz, and a small registry
//! server over an OCI layout.
//!
//! An image lies at a [`Location`]: in an image layout, or in a registry that [`Access`] reaches. It
//! is read through [`ImageSource`], written through an [`ImageSink`], and
//! [`convert_image`] stands between the two. [`inspect_image`] tells what an image is made of.
#![forbid(unsafe_code)]

mod access;
mod backend;
mod blob_reader;
mod convert;
mod inspect;
mod layout;
mod link;
mod location;
pub mod manifest;
mod platform;
mod retry;
mod server;
mod sink;
mod source;
mod unpack;

pub use access::Access;
pub use convert::{ConvertOptions, ConvertReport, ConvertedLayer, Progress, convert_image};
pub use inspect::{
    Annotation, Contents, Format, ImageReport, InspectOptions, LayerReport, Prefetch, inspect_image,
};
pub use layout::Layout;
pub use link::{LinkCounters, LinkShape, ShapedLink};
pub use location::Location;
pub use platform::Platform;
pub use server::{ServedCounters, ServerHandle, serve_layout};
pub use sink::ImageSink;
pub use source::{ImageSource, check_kind, choose};
pub use unpack::{UnpackOptions, Unpacked, unpack_layer};
