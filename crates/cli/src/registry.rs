//! How the commands reach registries: credentials, proxy and plain HTTP as the user set them.
use std::{env, path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use bolide_fetch::{
    CredentialProvider, DockerConfigCredentials, NoCredentials, PlainHttp, ProxyConfig,
    RegistryClient, RegistryConfig,
};
use url::Url;

/// A client that speaks TLS, save to this machine and to the hosts of `plain_http`.
///
/// Credentials are those of `docker login`: `$DOCKER_CONFIG/config.json`, else
/// `~/.docker/config.json`. A proxy is taken from `HTTPS_PROXY` or `ALL_PROXY`, and not used for
/// the hosts of `NO_PROXY` or this machine.
pub(crate) fn client(plain_http: &[String]) -> Result<Arc<RegistryClient>> {
    let config = RegistryConfig {
        plain_http: plain_http.iter().fold(PlainHttp::loopback(), PlainHttp::with_host),
        proxy: proxy(variable)?,
        ..RegistryConfig::default()
    };
    let credentials: Arc<dyn CredentialProvider> = match docker_config() {
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

fn docker_config() -> Option<PathBuf> {
    let dir = |name| env::var_os(name).filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let dir = dir("DOCKER_CONFIG").or_else(|| Some(dir("HOME")?.join(".docker")))?;
    Some(dir.join("config.json"))
}

fn variable(name: &str) -> Option<String> {
    let lower = || env::var(name.to_ascii_lowercase());
    env::var(name).or_else(|_| lower()).ok().filter(|value| !value.is_empty())
}

fn proxy(variable: impl Fn(&str) -> Option<String>) -> Result<Option<ProxyConfig>> {
    let Some(text) = variable("HTTPS_PROXY").or_else(|| variable("ALL_PROXY")) else {
        return Ok(None);
    };
    let with_scheme = if text.contains("://") { text } else { format!("http://{text}") };
    // The text may hold a password, so it is not shown.
    let url: Url = with_scheme.parse().context("HTTPS_PROXY or ALL_PROXY is not a URL")?;
    let bypass = variable("NO_PROXY").map(|hosts| hosts + ",").unwrap_or_default();
    Ok(Some(ProxyConfig { url, bypass: bypass + "localhost,127.0.0.0/8,::1" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_never_between_this_machine_and_itself() {
        assert!(proxy(|_| None).expect("none").is_none());
        let set = |name: &str| match name {
            "HTTPS_PROXY" => Some("proxy.lan:3128".to_owned()),
            "NO_PROXY" => Some("registry.lan".to_owned()),
            _ => None,
        };
        let found = proxy(set).expect("a URL").expect("a proxy");
        assert_eq!(found.url.as_str(), "http://proxy.lan:3128/");
        assert_eq!(found.bypass, "registry.lan,localhost,127.0.0.0/8,::1");
        let secret = proxy(|_| Some("http://u:hunter2@[".to_owned())).expect_err("no URL");
        assert!(!format!("{secret:#}").contains("hunter2"), "{secret:#}");
    }

    #[test]
    fn hosts_are_no_urls() {
        assert!(plain_host("registry.lan:5000").is_ok());
        for text in ["", "http://registry.lan", "registry.lan/app"] {
            assert!(plain_host(text).is_err(), "{text}");
        }
    }
}
