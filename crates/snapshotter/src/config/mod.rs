//! The daemon's configuration: TOML in, checked values out.
mod text;
mod units;

use std::{path::PathBuf, time::Duration};

use bolide_core::{Error, ErrorKind, Result};
use serde::Deserialize;

/// Everything an operator may set. An unknown key is an error that names it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Directory of metadata, snapshots and layer images.
    pub root: PathBuf,
    /// Socket that containerd talks to.
    pub address: PathBuf,
    /// Socket that `bolide status` and other commands talk to.
    pub admin_address: PathBuf,
    /// Whether a layer without a TOC digest label is mounted unverified.
    pub allow_no_verification: bool,
    /// Longest time a process is blocked on a read before it gets an error.
    #[serde(deserialize_with = "units::duration")]
    pub read_timeout: Duration,
    /// How registries are asked.
    pub registry: RegistrySettings,
    /// Tiers asked before the network.
    pub cache: CacheSettings,
    /// What is fetched before anyone asks.
    pub prefetch: PrefetchSettings,
    /// How FUSE mounts behave.
    pub fuse: FuseSettings,
}

/// How registries are asked.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegistrySettings {
    /// Hosts (with their port) that are asked over plain HTTP.
    pub plain_http: Vec<String>,
    /// Docker's `config.json`, for credentials; without it, the one the environment names.
    pub docker_config: Option<PathBuf>,
    /// Longest time to connect.
    #[serde(deserialize_with = "units::duration")]
    pub connect_timeout: Duration,
    /// Longest time without a byte.
    #[serde(deserialize_with = "units::duration")]
    pub idle_timeout: Duration,
}

/// Tiers asked before the network, by default none: the layer store keeps every chunk on disk and
/// the kernel keeps what is read, so a tier in memory would hold the same bytes a third time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CacheSettings {
    /// Bytes of chunks kept in memory; 0 for none.
    #[serde(deserialize_with = "units::size")]
    pub memory: u64,
    /// Bytes of chunks kept in a sled database under the root; 0 for none.
    #[serde(deserialize_with = "units::size")]
    pub sled: u64,
}

/// What is fetched before anyone asks.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PrefetchSettings {
    /// Bytes of a layer's start to prefetch when neither image nor label says; 0 for none.
    #[serde(deserialize_with = "units::size")]
    pub fallback_size: u64,
    /// Whether small files beside those that are read are fetched as well: at most half as much as
    /// is read.
    pub neighbours: bool,
    /// Whether what is missing is fetched while nothing else needs the network.
    pub background: bool,
    /// Whether a layer that was fetched whole in the background is checked against its blob digest,
    /// its diffID and its tar. Takes as much disk space as its blob until then.
    pub check_whole: bool,
    /// Longest time a container's start waits for prefetch; 0 not to wait.
    #[serde(deserialize_with = "units::duration")]
    pub wait: Duration,
}

/// How FUSE mounts behave.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FuseSettings {
    /// Threads that read requests of one mount, at least 1.
    pub threads: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            root: "/var/lib/bolide".into(),
            address: "/run/bolide/bolide.sock".into(),
            admin_address: "/run/bolide/admin.sock".into(),
            allow_no_verification: false,
            read_timeout: Duration::from_secs(30),
            registry: RegistrySettings::default(),
            cache: CacheSettings::default(),
            prefetch: PrefetchSettings::default(),
            fuse: FuseSettings::default(),
        }
    }
}

impl Default for RegistrySettings {
    fn default() -> Self {
        Self {
            plain_http: Vec::new(),
            docker_config: None,
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(30),
        }
    }
}

impl Default for PrefetchSettings {
    fn default() -> Self {
        Self {
            fallback_size: 0,
            neighbours: true,
            background: true,
            check_whole: true,
            wait: Duration::ZERO,
        }
    }
}

impl Default for FuseSettings {
    fn default() -> Self {
        Self { threads: 2 }
    }
}

impl Config {
    /// Reads a configuration. `Config` names the key and the line that are wrong.
    pub fn parse(text: &str) -> Result<Self> {
        let config: Self = toml::from_str(text).map_err(|error| {
            Error::new(ErrorKind::Config, "config::parse", error.to_string().trim_end().to_owned())
        })?;
        config.check()?;
        Ok(config)
    }

    /// The configuration as TOML that [`parse`](Self::parse) reads back, each key explained.
    #[must_use]
    pub fn to_toml_commented(&self) -> String {
        text::commented(self)
    }

    /// Checks what the shape of a value does not say.
    pub fn check(&self) -> Result<()> {
        for (key, path) in [
            ("root", &self.root),
            ("address", &self.address),
            ("admin_address", &self.admin_address),
        ] {
            if !path.is_absolute() {
                return Err(
                    refuse(key, "the path must be absolute").with_context("path", path.display())
                );
            }
        }
        if self.address == self.admin_address {
            return Err(refuse("admin_address", "it must differ from address"));
        }
        if self.fuse.threads == 0 || self.fuse.threads > 64 {
            return Err(refuse("fuse.threads", "a mount may have 1 to 64 threads"));
        }
        for (key, value) in [
            ("read_timeout", self.read_timeout),
            ("registry.connect_timeout", self.registry.connect_timeout),
            ("registry.idle_timeout", self.registry.idle_timeout),
        ] {
            if value.is_zero() {
                return Err(refuse(key, "nothing happens in no time: it must be longer than 0"));
            }
        }
        Ok(())
    }
}

fn refuse(key: &'static str, rule: &'static str) -> Error {
    Error::new(ErrorKind::Config, "config::check", rule).with_context("key", key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_set_is_the_default() {
        assert_eq!(Config::parse("").expect("empty"), Config::default());
    }

    #[test]
    fn the_commented_text_reads_back() {
        let mut config = Config::default();
        assert_eq!(Config::parse(&config.to_toml_commented()).expect("default"), config);
        config.root = "/srv/with \"quotes\" and \\".into();
        config.registry.plain_http = vec!["127.0.0.1:5000".into(), "registry.local".into()];
        config.registry.docker_config = Some("/root/.docker/config.json".into());
        config.cache.memory = 64 << 20;
        config.prefetch = PrefetchSettings {
            fallback_size: 1,
            neighbours: false,
            background: false,
            check_whole: false,
            wait: Duration::from_secs(2),
        };
        assert_eq!(Config::parse(&config.to_toml_commented()).expect("changed"), config);
    }

    #[test]
    fn mistakes_are_named() {
        for (text, named) in [
            ("rooot = \"/x\"", "rooot"),
            ("[cache]\nmemry = \"1MiB\"", "memry"),
            ("[cache]\nmemory = \"1mb\"", "1mb"),
            ("[cache]\nmemory = 5", "memory"),
            ("read_timeout = \"0\"", "read_timeout"),
            ("root = \"relative\"", "root"),
            ("[fuse]\nthreads = 0", "fuse.threads"),
            ("admin_address = \"/run/bolide/bolide.sock\"", "admin_address"),
            ("= 3", "="),
        ] {
            let error = Config::parse(text).expect_err(text);
            assert_eq!(error.kind(), ErrorKind::Config, "{text}");
            assert!(error.to_string().contains(named), "{text}: {error}");
        }
    }
}
