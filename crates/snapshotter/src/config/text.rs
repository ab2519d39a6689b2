//! The configuration as commented TOML.
use std::path::Path;

use super::{
    Config, RegistrySettings,
    units::{show_duration, show_size},
};

/// A TOML string, quoted and escaped.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

/// The elements of a list of strings.
fn hosts(hosts: &[String]) -> String {
    hosts.iter().map(|host| quoted(host)).collect::<Vec<_>>().join(", ")
}

/// A key without a default is shown as a comment.
fn docker_config(registry: &RegistrySettings) -> String {
    registry.docker_config.as_deref().map_or_else(
        || "# docker_config = \"/root/.docker/config.json\"".to_owned(),
        |file| format!("docker_config = {}", path(file)),
    )
}

/// Every key with its value and what it means.
// tidy: the default configuration is one text
pub(super) fn commented(config: &Config) -> String {
    let Config { registry, cache, prefetch, fuse, .. } = config;
    format!(
        "\
# Directory of metadata, snapshots and layer images.
root = {root}
# Socket that containerd talks to.
address = {address}
# Socket that `bolide status` and other commands talk to.
admin_address = {admin_address}
# Whether a layer without a TOC digest label is mounted unverified.
allow_no_verification = {allow_no_verification}
# Longest time a process is blocked on a read before it gets an error.
read_timeout = {read_timeout}

[registry]
# Hosts (with their port) that are asked over plain HTTP.
plain_http = [{plain_http}]
# Docker's config.json, for credentials; without it, the one the environment names.
{docker_config}
# Longest time to connect.
connect_timeout = {connect_timeout}
# Longest time without a byte.
idle_timeout = {idle_timeout}

[cache]
# Bytes of chunks kept in memory, beside the layer images on disk; 0 for none.
memory = {memory}
# Bytes of chunks kept in a sled database under the root; 0 for none.
sled = {sled}

[prefetch]
# Bytes of a layer's start to prefetch when neither image nor label says; 0 for none.
fallback_size = {fallback_size}
# Whether small files beside those that are read are fetched as well, at most half as much.
neighbours = {neighbours}
# Whether what is missing is fetched while nothing else needs the network.
background = {background}
# Whether a layer fetched whole is checked against its blob digest, its diffID and its tar.
check_whole = {check_whole}
# Longest time a container's start waits for prefetch; 0 not to wait.
wait = {wait}

[fuse]
# Threads that read requests of one mount.
threads = {threads}
",
        root = path(&config.root),
        address = path(&config.address),
        admin_address = path(&config.admin_address),
        allow_no_verification = config.allow_no_verification,
        read_timeout = quoted(&show_duration(config.read_timeout)),
        plain_http = hosts(&registry.plain_http),
        docker_config = docker_config(registry),
        connect_timeout = quoted(&show_duration(registry.connect_timeout)),
        idle_timeout = quoted(&show_duration(registry.idle_timeout)),
        memory = quoted(&show_size(cache.memory)),
        sled = quoted(&show_size(cache.sled)),
        fallback_size = quoted(&show_size(prefetch.fallback_size)),
        neighbours = prefetch.neighbours,
        background = prefetch.background,
        check_whole = prefetch.check_whole,
        wait = quoted(&show_duration(prefetch.wait)),
        threads = fuse.threads,
    )
}
