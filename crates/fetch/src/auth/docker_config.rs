//! Credentials of Docker's `config.json`, and of the helpers it names.
use std::{collections::HashMap, path::PathBuf, process::Stdio, time::Duration};

use async_trait::async_trait;
use base64::Engine as _;
use bolide_core::{Error, ErrorKind, Result};
use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
};

use super::{CredentialProvider, Credentials, Secret};

const MAX_CONFIG: u64 = 1024 * 1024;
const MAX_HELPER_ANSWER: u64 = 64 * 1024;
/// Helpers may ask a cloud's metadata server, not a person.
const HELPER_TIMEOUT: Duration = Duration::from_secs(30);
/// The name under which Docker keeps what belongs to Docker Hub.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// Reads a Docker `config.json` on every request, so that a rotated secret counts at once.
///
/// A missing file holds no credentials. Helpers (`credHelpers`, then `credsStore`) are looked up as
/// `docker-credential-<name>` and get 30 seconds.
#[derive(Clone, Debug)]
pub struct DockerConfigCredentials {
    path: PathBuf,
}

impl DockerConfigCredentials {
    /// Reads the file at `path`, usually `~/.docker/config.json`.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    async fn read(&self) -> Result<Option<Config>> {
        let failed = |error| {
            Error::io("docker_config::read", error).with_context("path", self.path.display())
        };
        let file = match tokio::fs::File::open(&self.path).await {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let mut text = Vec::new();
        file.take(MAX_CONFIG).read_to_end(&mut text).await.map_err(failed)?;
        // The parser's own error could quote a password.
        serde_json::from_slice(&text).map(Some).map_err(|error| {
            let rule = "it must be Docker's JSON, at most 1 MiB";
            Error::new(ErrorKind::Config, "docker_config::read", rule)
                .with_context("path", self.path.display())
                .with_context("line", error.line())
        })
    }
}

#[async_trait]
impl CredentialProvider for DockerConfigCredentials {
    async fn credentials(&self, host: &str) -> Result<Option<Credentials>> {
        let Some(config) = self.read().await? else { return Ok(None) };
        let server = if host == "docker.io" { DOCKER_HUB } else { host };
        let helper = config.cred_helpers.get(host).or_else(|| config.cred_helpers.get(server));
        let helper = helper.or(config.creds_store.as_ref()).filter(|name| !name.is_empty());
        if let Some(helper) = helper
            && let Some(found) = ask_helper(helper, server).await?
        {
            return Ok(Some(found));
        }
        let mut entries = config.auths.iter();
        entries.find(|(name, _)| names(name, host)).map_or(Ok(None), |(_, entry)| entry.decode())
    }
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Config {
    auths: HashMap<String, Entry>,
    cred_helpers: HashMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

impl Entry {
    fn decode(&self) -> Result<Option<Credentials>> {
        let present = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(token) = present(&self.identitytoken) {
            return Ok(Some(Credentials::Identity(Secret::new(token))));
        }
        if let Some(token) = present(&self.registrytoken) {
            return Ok(Some(Credentials::Bearer(Secret::new(token))));
        }
        if let (Some(username), Some(password)) = (present(&self.username), present(&self.password))
        {
            return Ok(Some(Credentials::Basic { username, password: Secret::new(password) }));
        }
        let Some(auth) = present(&self.auth) else { return Ok(None) };
        let decoded = base64::engine::general_purpose::STANDARD.decode(auth.trim()).ok();
        let text = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
        let pair = text.as_deref().and_then(|text| text.split_once(':'));
        let (username, password) = pair.ok_or_else(|| {
            let rule = "`auth` must be base64 of user:password; log in again";
            Error::new(ErrorKind::Config, "docker_config::read", rule)
        })?;
        // Docker pads passwords with NUL bytes.
        let password = Secret::new(password.trim_end_matches('\0'));
        Ok(Some(Credentials::Basic { username: username.to_owned(), password }))
    }
}

/// Whether an entry of `auths` belongs to `host`: entries may be URLs, with a path.
fn names(entry: &str, host: &str) -> bool {
    let bare = entry.strip_prefix("https://").or_else(|| entry.strip_prefix("http://"));
    let bare = bare.unwrap_or(entry);
    match bare.split('/').next().unwrap_or(bare) {
        "index.docker.io" | "registry-1.docker.io" => host == "docker.io",
        name => name == host,
    }
}

#[derive(Deserialize)]
struct HelperAnswer {
    #[serde(rename = "Username")]
    username: String,
    #[serde(rename = "Secret")]
    secret: String,
}

fn helper_error(helper: &str, rule: &'static str) -> Error {
    Error::new(ErrorKind::Config, "docker_config::helper", rule)
        .with_context("helper", format!("docker-credential-{helper}"))
}

async fn ask_helper(helper: &str, server: &str) -> Result<Option<Credentials>> {
    let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if !helper.bytes().all(is_name) {
        let rule = "a helper's name is letters, digits, '-', '_' and '.'";
        return Err(Error::new(ErrorKind::Config, "docker_config::helper", rule));
    }
    let run = tokio::time::timeout(HELPER_TIMEOUT, run_helper(helper, server));
    let Ok(finished) = run.await else {
        return Err(helper_error(helper, "a credential helper must answer within 30 s"));
    };
    let (success, answer) =
        finished.map_err(|error| helper_error(helper, "it could not be run").with_source(error))?;
    if !success {
        // Helpers say so in words; it is how they answer for hosts they do not know.
        return if answer.windows(9).any(|words| words == b"not found") {
            Ok(None)
        } else {
            Err(helper_error(helper, "the credential helper failed"))
        };
    }
    let answer: HelperAnswer = serde_json::from_slice(&answer)
        .map_err(|_| helper_error(helper, "a credential helper answers with JSON"))?;
    let secret = Secret::new(answer.secret);
    Ok(Some(match answer.username.as_str() {
        "<token>" => Credentials::Identity(secret),
        _ => Credentials::Basic { username: answer.username, password: secret },
    }))
}

async fn run_helper(helper: &str, server: &str) -> std::io::Result<(bool, Vec<u8>)> {
    let mut child = Command::new(format!("docker-credential-{helper}"))
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read its input still answers or fails by its status.
        let _ = stdin.write_all(server.as_bytes()).await;
    }
    let mut answer = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(MAX_HELPER_ANSWER).read_to_end(&mut answer).await?;
    }
    Ok((child.wait().await?.success(), answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(config: &str, host: &str) -> Result<Option<Credentials>> {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("config.json");
        std::fs::write(&path, config).expect("written");
        DockerConfigCredentials::new(path).credentials(host).await
    }

    fn basic(username: &str, password: &str) -> Credentials {
        Credentials::Basic { username: username.into(), password: Secret::new(password) }
    }

    #[tokio::test]
    async fn entries_are_found_under_docker_s_names() {
        // "u:p:q" and "hub:x"
        let config = r#"{"auths": {"r.io:5000": {"auth": "dTpwOnE="}, "other.io": {},
            "https://index.docker.io/v1/": {"auth": "aHViOng="},
            "t.io": {"auth": "dTo=", "identitytoken": "id"}}}"#;
        assert_eq!(ask(config, "r.io:5000").await.expect("read"), Some(basic("u", "p:q")));
        assert_eq!(ask(config, "docker.io").await.expect("read"), Some(basic("hub", "x")));
        assert_eq!(ask(config, "other.io").await.expect("read"), None);
        assert_eq!(ask(config, "r.io").await.expect("read"), None);
        let identity = Some(Credentials::Identity(Secret::new("id")));
        assert_eq!(ask(config, "t.io").await.expect("read"), identity);
    }

    #[tokio::test]
    async fn a_missing_file_is_anonymous_and_a_broken_one_is_an_error() {
        let missing = DockerConfigCredentials::new("/nonexistent/config.json");
        assert_eq!(missing.credentials("r.io").await.expect("anonymous"), None);
        for config in ["{", r#"{"auths": {"r.io": {"auth": "%"}}}"#] {
            let error = ask(config, "r.io").await.expect_err(config);
            assert_eq!(error.kind(), ErrorKind::Config);
        }
    }

    #[tokio::test]
    async fn helper_names_are_not_paths() {
        let error = ask(r#"{"credsStore": "../../bin/sh"}"#, "r.io").await.expect_err("a path");
        assert_eq!(error.kind(), ErrorKind::Config);
    }
}
