//! Images as a whole: where they are, their manifests, conversion to other forms of layers, and a
//! small registry server over an OCI layout.
//!
//! An image lies at a [`Location`]: in an image layout or an archive, or in a registry or a
//! containerd that [`Access`] reaches. It is read through [`ImageSource`], written through an
//! [`ImageSink`], and [`convert_image`] stands between the two. [`inspect_image`] tells what an
//! image is made of.
#![forbid(unsafe_code)]

mod access;
mod archive;
mod backend;
mod blob_reader;
mod containerd;
mod convert;
mod inspect;
mod layout;
mod link;
mod location;
pub mod manifest;
mod platform;
mod prioritize;
mod server;
mod sink;
mod source;
mod unpack;

pub use access::Access;
pub use backend::NewBlob;
pub use containerd::ContainerdSession;
pub use convert::{
    ConvertOptions, ConvertReport, ConvertedImage, ConvertedLayer, Platforms, Progress,
    convert_image,
};
pub use inspect::{
    Annotation, Contents, Format, ImageReport, InspectOptions, LayerReport, Prefetch, inspect_image,
};
pub use layout::Layout;
pub use link::{LinkCounters, LinkShape, ShapedLink};
pub use location::Location;
pub use platform::Platform;
pub use prioritize::{PathList, Prioritized, UsageRecord};
pub use server::{ServedCounters, ServerHandle, serve_layout};
pub use sink::ImageSink;
pub use source::{ImageSource, check_kind, choose};
pub use unpack::{UnpackOptions, Unpacked, unpack_layer};
