//! A connection to containerd, and its refusals in words.
use std::{io::ErrorKind, path::Path};

use anyhow::{Result, anyhow, bail};
use bolide_containerd_api::{ConnectError, Connection, introspection::PluginsRequest, words};
use tonic::{Code, Response, Status};

const SNAPSHOTTER_PLUGIN: &str = "io.containerd.snapshotter.v1";

/// Connects to a socket. A namespace that does not exist is made by what is put into it.
pub(super) async fn connect(address: &Path, namespace: &str) -> Result<Connection> {
    let connected = Connection::open(address, namespace).await;
    connected.map_err(|error| unreachable(address, &error))
}

/// Makes sure that containerd knows a snapshotter, and that it could be loaded.
pub(super) async fn check_snapshotter(containerd: &Connection, name: &str) -> Result<()> {
    let request = PluginsRequest { filters: vec![format!("type=={SNAPSHOTTER_PLUGIN}")] };
    let plugins = containerd.introspection().plugins(request).await.explain("list its plugins")?;
    let Some(plugin) = plugins.plugins.iter().find(|plugin| plugin.id == name) else {
        let known: Vec<_> = plugins.plugins.iter().map(|plugin| plugin.id.as_str()).collect();
        bail!(
            "containerd at {} has no snapshotter {name:?}, only {}; name it with --snapshotter, \
             or add these lines to containerd's config.toml and restart it:\n\
             [proxy_plugins.{name}]\n  type = \"snapshot\"\n  \
             address = \"/run/bolide/bolide.sock\"",
            containerd.address().display(),
            known.join(", "),
        );
    };
    match &plugin.init_err {
        Some(error) if error.code != 0 => {
            bail!("containerd could not load the snapshotter {name:?}: {}", error.message)
        }
        _ => Ok(()),
    }
}

fn unreachable(address: &Path, error: &ConnectError) -> anyhow::Error {
    let remedy = match error {
        ConnectError::Unreachable(cause) if cause.kind() == ErrorKind::NotFound => {
            format!("{cause}: {error}: --address")
        }
        ConnectError::Unreachable(cause) => format!("{cause}: {error}"),
        _ => error.to_string(),
    };
    anyhow!("cannot connect to containerd at {}: {remedy}", address.display())
}

/// Answers as results whose errors say what was wanted of containerd.
pub(super) trait Explain<T> {
    /// `wanted` completes "containerd cannot".
    fn explain(self, wanted: &str) -> Result<T>;
}

impl<T> Explain<T> for Result<Response<T>, Status> {
    fn explain(self, wanted: &str) -> Result<T> {
        self.map(Response::into_inner).map_err(|status| refusal(wanted, &status))
    }
}

/// A refusal in words.
pub(super) fn refusal(wanted: &str, status: &Status) -> anyhow::Error {
    let text = format!("containerd cannot {wanted}: {}", words(status));
    match status.code() {
        Code::Unavailable => anyhow!("{text} (is it, and the snapshotter it asks, running?)"),
        Code::Unimplemented => anyhow!("{text} (containerd 1.6 or newer is needed)"),
        _ => anyhow!(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_reached_says_what_to_do() {
        for (kind, remedy) in [
            (ErrorKind::NotFound, "--address"),
            (ErrorKind::PermissionDenied, "sudo"),
            (ErrorKind::ConnectionRefused, "start containerd"),
        ] {
            let error = ConnectError::Unreachable(kind.into());
            let error = unreachable(Path::new("/a.sock"), &error).to_string();
            assert!(error.contains("/a.sock") && error.contains(remedy), "{error}");
        }
    }

    #[test]
    fn refusals_keep_their_words() {
        let error = refusal("add", &Status::not_found("lease \"x\"")).to_string();
        assert_eq!(error, "containerd cannot add: lease \"x\"");
    }
}
