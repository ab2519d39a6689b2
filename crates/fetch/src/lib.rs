//! Where bytes come from: registries, object stores and local files, and the wrappers around them.
//!
//! Each place is a [`BlobOpener`](bolide_core::BlobOpener) whose sources do one thing, one request
//! per read, without retries or limits of their own. Those are the wrappers of [`wrap`].
#![forbid(unsafe_code)]

pub mod auth;
mod exact;
pub mod file;
pub mod http;
pub mod object_store;
pub mod reference;
pub mod registry;
pub mod s3;
pub mod scheduler;
pub mod wrap;

pub use auth::{
    CredentialProvider, Credentials, DockerConfigCredentials, NoCredentials, Secret,
    StaticCredentials,
};
pub use file::{FileSource, LayoutDescriptor, LayoutIndex, OciLayout, OciLayoutOpener};
pub use http::{ProxyConfig, install_tls_provider};
pub use object_store::ObjectStoreOpener;
pub use reference::ImageReference;
pub use registry::{
    ManifestDoc, PlainHttp, RegistryClient, RegistryConfig, RegistrySource, Repository,
    UploadOptions,
};
pub use s3::{S3Credentials, S3Options};
pub use scheduler::{NodeScheduler, SchedulerConfig};
pub use wrap::{
    FallbackSource, LazySource, LimitSource, Meter, MeteredSource, RetryPolicy, RetrySource,
    SpoolReader, SpoolSource, TimeoutSource, WrapOpener,
};
