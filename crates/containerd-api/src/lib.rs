//! The part of containerd's gRPC interface that bolide speaks: snapshots as client and server, the
//! rest as client, with the connection and the uploads that clients share.
//!
//! The code under `generated/` is made from the files under `proto/` and checked in, so that
//! building needs no `protoc`; `proto/README.md` says how to make it again.
#![forbid(unsafe_code)]

mod connection;
mod ingest;

pub use connection::{ConnectError, Connection, Headers, Service, optional, words};
pub use ingest::Ingest;

#[allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::clone_on_ref_ptr,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]
mod generated {
    pub mod containerd {
        pub mod types {
            include!("generated/containerd.types.rs");
        }
        pub mod services {
            pub mod snapshots {
                pub mod v1 {
                    include!("generated/containerd.services.snapshots.v1.rs");
                }
            }
            pub mod content {
                pub mod v1 {
                    include!("generated/containerd.services.content.v1.rs");
                }
            }
            pub mod images {
                pub mod v1 {
                    include!("generated/containerd.services.images.v1.rs");
                }
            }
            pub mod leases {
                pub mod v1 {
                    include!("generated/containerd.services.leases.v1.rs");
                }
            }
            pub mod diff {
                pub mod v1 {
                    include!("generated/containerd.services.diff.v1.rs");
                }
            }
            pub mod namespaces {
                pub mod v1 {
                    include!("generated/containerd.services.namespaces.v1.rs");
                }
            }
            pub mod version {
                pub mod v1 {
                    include!("generated/containerd.services.version.v1.rs");
                }
            }
            pub mod introspection {
                pub mod v1 {
                    include!("generated/containerd.services.introspection.v1.rs");
                }
            }
        }
    }
    pub mod google {
        pub mod rpc {
            include!("generated/google.rpc.rs");
        }
    }
}

pub use generated::containerd::{
    services::{
        content::v1 as content, diff::v1 as diff, images::v1 as images,
        introspection::v1 as introspection, leases::v1 as leases, namespaces::v1 as namespaces,
        snapshots::v1 as snapshots, version::v1 as version,
    },
    types,
};
pub use generated::google::rpc;
/// Well-known types that appear in the messages.
pub use prost_types;

/// Metadata key that names the namespace of a request.
pub const NAMESPACE_HEADER: &str = "containerd-namespace";
