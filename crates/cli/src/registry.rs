//! The registry client of all commands: credentials from Docker's configuration.
use std::{path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result};
use bolide_fetch::{
    CredentialProvider, DockerConfigCredentials, NoCredentials, PlainHttp, RegistryClient,
    RegistryConfig,
};

/// A client that speaks TLS, save to this machine and to the hosts of `plain_http`.
pub(crate) fn client(plain_http: &[String]) -> Result<Arc<RegistryClient>> {
    let hosts = plain_http.iter().fold(PlainHttp::loopback(), PlainHttp::with_host);
    let config = RegistryConfig { plain_http: hosts, ..RegistryConfig::default() };
    let credentials: Arc<dyn CredentialProvider> = match docker_config() {
        Some(path) => Arc::new(DockerConfigCredentials::new(path)),
        None => Arc::new(NoCredentials),
    };
    RegistryClient::new(config, credentials).context("cannot set up the registry client")
}

fn docker_config() -> Option<PathBuf> {
    let dir = std::env::var_os("DOCKER_CONFIG").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let dir = dir.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".docker")))?;
    Some(dir.join("config.json"))
}
