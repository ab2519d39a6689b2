//! What the commands take from their environment: the one place that reads it.
use std::{env, path::PathBuf};

use anyhow::{Context as _, Result};
use bolide_fetch::ProxyConfig;

/// A variable that is set and not empty.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// Docker's `config.json`: in `DOCKER_CONFIG`, or below the home directory.
pub(crate) fn docker_config() -> Option<PathBuf> {
    let dir = variable("DOCKER_CONFIG").map(PathBuf::from);
    let dir = dir.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".docker")))?;
    Some(dir.join("config.json"))
}

/// The proxy for registries, by the variables that curl and Go's clients know.
pub(crate) fn proxy() -> Result<Option<ProxyConfig>> {
    proxy_from(variable)
}

fn proxy_from(variable: impl Fn(&str) -> Option<String>) -> Result<Option<ProxyConfig>> {
    let first =
        |names: &[&'static str]| names.iter().find_map(|name| Some((*name, variable(name)?)));
    // Not HTTP_PROXY: in a CGI program its value comes from the client.
    let Some((name, url)) = first(&["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]) else {
        return Ok(None);
    };
    let url = url.parse().with_context(|| format!("{name} must be the URL of a proxy: {url:?}"))?;
    let bypass = first(&["NO_PROXY", "no_proxy"]).map_or_else(String::new, |(_, hosts)| hosts);
    Ok(Some(ProxyConfig { url, bypass }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(pairs: &[(&str, &str)]) -> Result<Option<ProxyConfig>> {
        let find = |name: &str| {
            let found = pairs.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        proxy_from(find)
    }

    #[test]
    fn proxies_come_from_the_usual_variables() {
        assert!(with(&[("HTTP_PROXY", "http://p:1")]).expect("ignored").is_none());
        let proxy = with(&[("https_proxy", "http://p:3128"), ("NO_PROXY", "localhost,.lan")]);
        let proxy = proxy.expect("valid").expect("set");
        assert_eq!(
            (proxy.url.as_str(), proxy.bypass.as_str()),
            ("http://p:3128/", "localhost,.lan")
        );
        let error = with(&[("ALL_PROXY", "no url")]).expect_err("no url");
        assert!(format!("{error:#}").contains("ALL_PROXY"), "{error:#}");
    }
}
