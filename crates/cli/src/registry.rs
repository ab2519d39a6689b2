//! The registry client of all commands.
use std::sync::Arc;

use anyhow::{Context as _, Result};
use bolide_fetch::{
    CredentialProvider, DockerConfigCredentials, NoCredentials, PlainHttp, RegistryClient,
    RegistryConfig,
};

use crate::surroundings;

/// A client that speaks TLS, save to this machine and to the hosts of `plain_http`, with the
/// credentials and the proxy of the environment.
pub(crate) fn client(plain_http: &[String]) -> Result<Arc<RegistryClient>> {
    let plain_http = plain_http.iter().fold(PlainHttp::loopback(), PlainHttp::with_host);
    let proxy = surroundings::proxy()?;
    let config = RegistryConfig { plain_http, proxy, ..RegistryConfig::default() };
    let credentials: Arc<dyn CredentialProvider> = match surroundings::docker_config() {
        Some(path) => Arc::new(DockerConfigCredentials::new(path)),
        None => Arc::new(NoCredentials),
    };
    RegistryClient::new(config, credentials).context("cannot set up the registry client")
}
