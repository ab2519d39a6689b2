//! What the commands take from their environment: the one place that reads it.
use std::{env, path::PathBuf};

use anyhow::{Context as _, Result};
use bolide_fetch::ProxyConfig;
use url::Url;

/// Docker's `config.json`, where `docker login` keeps credentials: in `DOCKER_CONFIG`, or below the
/// home directory.
pub(crate) fn docker_config() -> Option<PathBuf> {
    let dir = |name| env::var_os(name).filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let dir = dir("DOCKER_CONFIG").or_else(|| Some(dir("HOME")?.join(".docker")))?;
    Some(dir.join("config.json"))
}

fn variable(name: &str) -> Option<String> {
    let lower = || env::var(name.to_ascii_lowercase());
    env::var(name).or_else(|_| lower()).ok().filter(|value| !value.is_empty())
}

/// A proxy of `HTTPS_PROXY` or `ALL_PROXY`, not used for the hosts of `NO_PROXY` or this machine.
pub(crate) fn proxy() -> Result<Option<ProxyConfig>> {
    proxy_from(variable)
}

fn proxy_from(variable: impl Fn(&str) -> Option<String>) -> Result<Option<ProxyConfig>> {
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
        assert!(proxy_from(|_| None).expect("none").is_none());
        let set = |name: &str| match name {
            "HTTPS_PROXY" => Some("proxy.lan:3128".to_owned()),
            "NO_PROXY" => Some("registry.lan".to_owned()),
            _ => None,
        };
        let found = proxy_from(set).expect("a URL").expect("a proxy");
        assert_eq!(found.url.as_str(), "http://proxy.lan:3128/");
        assert_eq!(found.bypass, "registry.lan,localhost,127.0.0.0/8,::1");
        let secret = proxy_from(|_| Some("http://u:hunter2@[".to_owned())).expect_err("no URL");
        assert!(!format!("{secret:#}").contains("hunter2"), "{secret:#}");
    }
}
