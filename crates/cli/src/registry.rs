//! How the commands reach registries: credentials, proxy and plain HTTP as the user set them.
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use bolide_fetch::{
    CredentialProvider, DockerConfigCredentials, NoCredentials, PlainHttp, RegistryClient,
    RegistryConfig,
};

use crate::surroundings;

/// A client that speaks TLS, save to this machine and to the hosts of `plain_http`, with the
/// credentials and the proxy of the environment.
pub(crate) fn client(plain_http: &[String]) -> Result<Arc<RegistryClient>> {
    let config = RegistryConfig {
        plain_http: plain_http.iter().fold(PlainHttp::loopback(), PlainHttp::with_host),
        proxy: surroundings::proxy()?,
        ..RegistryConfig::default()
    };
    let credentials: Arc<dyn CredentialProvider> = match surroundings::docker_config() {
        Some(path) => Arc::new(DockerConfigCredentials::new(path)),
        None => Arc::new(NoCredentials),
    };
    RegistryClient::new(config, credentials).context("cannot set up the registry client")
}

/// Reads what follows `--plain-http`.
pub(crate) fn plain_host(text: &str) -> Result<String> {
    let is_host = !text.is_empty() && !text.contains(['/', '@', ' ']);
    ensure!(is_host, "a host is written as in image names: HOST or HOST:PORT");
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_no_urls() {
        assert!(plain_host("registry.lan:5000").is_ok());
        for text in ["", "http://registry.lan", "registry.lan/app"] {
            assert!(plain_host(text).is_err(), "{text}");
        }
    }
}
