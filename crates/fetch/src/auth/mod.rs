//! Who we are to a registry: credentials, challenges and tokens.
use std::{collections::HashMap, fmt};

use async_trait::async_trait;
use bolide_core::Result;

pub(crate) mod challenge;
mod docker_config;
pub(crate) mod token;

pub use docker_config::DockerConfigCredentials;

/// A text that never shows up in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Holds a secret.
    #[must_use]
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The secret itself, for the one place that sends it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// What identifies us to one registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// A user's name and password.
    Basic {
        /// Name of the user.
        username: String,
        /// Their password.
        password: Secret,
    },
    /// An `OAuth2` refresh token, which Docker calls an identity token.
    Identity(Secret),
    /// A token the registry takes as it is.
    Bearer(Secret),
}

/// Where credentials come from. Asked on every exchange, so that rotation needs no restart.
#[async_trait]
pub trait CredentialProvider: fmt::Debug + Send + Sync + 'static {
    /// The credentials for `host`, written as in image names (`docker.io`, `localhost:5000`);
    /// `None` if it is to be asked anonymously.
    async fn credentials(&self, host: &str) -> Result<Option<Credentials>>;
}

/// Asks every registry anonymously.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoCredentials;

#[async_trait]
impl CredentialProvider for NoCredentials {
    async fn credentials(&self, _: &str) -> Result<Option<Credentials>> {
        Ok(None)
    }
}

/// A fixed list of hosts and their credentials.
#[derive(Clone, Debug, Default)]
pub struct StaticCredentials(HashMap<String, Credentials>);

impl StaticCredentials {
    /// Starts with no host.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the credentials of one host, written as in image names.
    #[must_use]
    pub fn with(mut self, host: impl Into<String>, credentials: Credentials) -> Self {
        self.0.insert(host.into(), credentials);
        self
    }
}

#[async_trait]
impl CredentialProvider for StaticCredentials {
    async fn credentials(&self, host: &str) -> Result<Option<Credentials>> {
        Ok(self.0.get(host).cloned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_print() {
        let password = Secret::new("hunter2");
        let shown = format!("{:?}", Credentials::Basic { username: "u".into(), password });
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
