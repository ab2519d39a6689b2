//! Networks by CNI plugins (Container Network Interface, section 4): each is a program that is told
//! what to do by its environment and standard input.
use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Map, Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
    time::timeout,
};

/// The interface in the container.
const INTERFACE: &str = "eth0";
/// Longest time for one plugin.
const PATIENCE: Duration = Duration::from_mins(1);
/// Longest answer of a plugin, in bytes.
const MAX_ANSWER: u64 = 1 << 20;

/// A network that a container is connected to, or was, or will be.
#[derive(Debug)]
pub(super) struct CniNetwork {
    config: NetworkConfig,
    plugin_dir: PathBuf,
    id: String,
    netns: PathBuf,
    /// What the last plugin answered.
    result: Option<Value>,
}

/// A list of plugins, in the order of their work.
#[derive(Debug, PartialEq)]
struct NetworkConfig {
    version: String,
    name: String,
    plugins: Vec<Map<String, Value>>,
}

impl CniNetwork {
    /// The network of the first file in `config_dir`.
    pub(super) fn load(
        config_dir: &Path,
        plugin_dir: &Path,
        id: &str,
        netns: &Path,
    ) -> Result<Self> {
        let listed = fs::read_dir(config_dir).and_then(|dir| {
            dir.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<PathBuf>>>()
        });
        let mut files = listed.with_context(|| format!("cannot list {}", config_dir.display()))?;
        files.retain(|file| {
            file.extension().is_some_and(|it| it == "conflist" || it == "conf" || it == "json")
        });
        let file = files.into_iter().min();
        let file = file.with_context(|| format!("no network in {}", config_dir.display()))?;
        let text = fs::read(&file).with_context(|| file.display().to_string())?;
        let config = NetworkConfig::parse(&text);
        let config = config.with_context(|| format!("cannot use {}", file.display()))?;
        Ok(Self {
            config,
            plugin_dir: plugin_dir.to_owned(),
            id: id.to_owned(),
            netns: netns.to_owned(),
            result: None,
        })
    }

    /// Connects the namespace. To be [disconnected](Self::disconnect) also when it fails.
    pub(super) async fn connect(&mut self) -> Result<()> {
        if self.plugin_dir.join("loopback").is_file() {
            let loopback = json!({"cniVersion": self.config.version, "name": "loopback",
                "type": "loopback"});
            self.call("ADD", "lo", &loopback).await?;
        }
        for plugin in &self.config.plugins {
            let input = self.config.input(plugin, self.result.as_ref());
            let answer = self.call("ADD", INTERFACE, &input).await?;
            self.result = answer.or(self.result.take());
        }
        Ok(())
    }

    /// Takes back what was done for the namespace.
    pub(super) async fn disconnect(&self) -> Result<()> {
        let mut done = Ok(());
        for plugin in self.config.plugins.iter().rev() {
            let input = self.config.input(plugin, self.result.as_ref());
            // The others have something to take back, too.
            let deleted = self.call("DEL", INTERFACE, &input).await.map(drop);
            done = done.and(deleted);
        }
        done
    }

    async fn call(&self, command: &str, interface: &str, input: &Value) -> Result<Option<Value>> {
        let kind = input["type"].as_str().unwrap_or_default();
        let called = timeout(PATIENCE, self.run(kind, command, interface, input)).await;
        let called = called.unwrap_or_else(|_| bail!("it does not end"));
        called.with_context(|| format!("CNI plugin {kind}, {command}"))
    }

    async fn run(
        &self,
        kind: &str,
        command: &str,
        interface: &str,
        input: &Value,
    ) -> Result<Option<Value>> {
        ensure!(!kind.is_empty() && !kind.contains('/'), "a plugin is named by its type");
        let program = self.plugin_dir.join(kind);
        let mut child = Command::new(&program)
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", &self.id)
            .env("CNI_NETNS", &self.netns)
            .env("CNI_IFNAME", interface)
            .env("CNI_PATH", &self.plugin_dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            // An interrupt from the keyboard is for this process, which disconnects in good order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot run {}", program.display()))?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (mut stdin, stdout) = stdin.zip(stdout).context("a pipe is missing")?;
        let (told, mut answer) = (serde_json::to_vec(input)?, Vec::new());
        let tell = async {
            // It may need less than it is told.
            let _ = stdin.write_all(&told).await;
            drop(stdin);
        };
        let mut stdout = stdout.take(MAX_ANSWER);
        let ((), read) = tokio::join!(tell, stdout.read_to_end(&mut answer));
        read.context("cannot read its answer")?;
        let status = child.wait().await.context("cannot wait for it")?;
        let parsed: Option<Value> = serde_json::from_slice(&answer).ok();
        if !status.success() {
            let said = parsed.as_ref().and_then(|it| it["msg"].as_str());
            bail!("{status}: {}", said.unwrap_or("it says nothing"));
        }
        Ok(parsed)
    }
}

impl NetworkConfig {
    fn parse(text: &[u8]) -> Result<Self> {
        let config: Value = serde_json::from_slice(text)?;
        let word = |key: &str| config[key].as_str().map(str::to_owned);
        let plugins = match config.get("plugins") {
            Some(list) => serde_json::from_value(list.clone()).context("plugins is a list")?,
            // One plugin's own configuration is a network, too.
            None => vec![serde_json::from_value(config.clone())?],
        };
        ensure!(!plugins.is_empty(), "a network has plugins");
        Ok(Self {
            version: word("cniVersion").unwrap_or_else(|| "0.1.0".to_owned()),
            name: word("name").context("a network has a name")?,
            plugins,
        })
    }

    /// What a plugin is told.
    fn input(&self, plugin: &Map<String, Value>, result: Option<&Value>) -> Value {
        let mut input = plugin.clone();
        // Meant for those who call plugins.
        input.remove("capabilities");
        input.insert("name".to_owned(), self.name.as_str().into());
        input.insert("cniVersion".to_owned(), self.version.as_str().into());
        if let Some(result) = result {
            input.insert("prevResult".to_owned(), result.clone());
        }
        Value::Object(input)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// Writes what it was told to a file and answers by what it is.
    const PLUGIN: &str = r#"#!/bin/sh
name=${0##*/}
echo "$CNI_COMMAND $name $CNI_IFNAME $CNI_CONTAINERID $CNI_NETNS $(cat)" >> "$CNI_PATH/log"
test "$name" != broken || { echo '{"code": 7, "msg": "no more addresses"}'; exit 1; }
test "$CNI_COMMAND" != ADD || echo "{\"cniVersion\": \"1.0.0\", \"by\": \"$name\"}"
"#;

    #[tokio::test]
    async fn plugins_are_called_in_order_and_back() {
        let dir = tempfile::tempdir().expect("dir");
        let at = |name: &str| dir.path().join(name);
        for name in ["loopback", "bridge", "portmap", "broken"] {
            fs::write(at(name), PLUGIN).expect("plugin");
            fs::set_permissions(at(name), fs::Permissions::from_mode(0o755)).expect("mode");
        }
        fs::create_dir(at("net.d")).expect("dir");
        fs::write(at("net.d/99-other.conf"), "{}").expect("file");
        let list = json!({"cniVersion": "1.0.0", "name": "lab", "plugins": [
            {"type": "bridge", "mtu": 1400}, {"type": "portmap", "capabilities": {"x": true}}]});
        fs::write(at("net.d/10-lab.conflist"), list.to_string()).expect("file");
        let load = || CniNetwork::load(&at("net.d"), dir.path(), "id", Path::new("/ns"));
        let mut network = load().expect("a network");
        network.connect().await.expect("connected");
        network.disconnect().await.expect("disconnected");
        let log = fs::read_to_string(at("log")).expect("called");
        let calls: Vec<(&str, Value)> = log
            .lines()
            .map(|line| line.split_at(line.find('{').expect("JSON")))
            .map(|(call, input)| (call.trim_end(), serde_json::from_str(input).expect("JSON")))
            .collect();
        let by = |name: &str| json!({"cniVersion": "1.0.0", "by": name});
        let bridge = json!({"cniVersion": "1.0.0", "name": "lab", "type": "bridge", "mtu": 1400});
        let after = |mut input: Value, name: &str| {
            input["prevResult"] = by(name);
            input
        };
        let portmap = json!({"cniVersion": "1.0.0", "name": "lab", "type": "portmap"});
        let loopback = json!({"cniVersion": "1.0.0", "name": "loopback", "type": "loopback"});
        assert_eq!(
            calls,
            [
                ("ADD loopback lo id /ns", loopback),
                ("ADD bridge eth0 id /ns", bridge.clone()),
                ("ADD portmap eth0 id /ns", after(portmap.clone(), "bridge")),
                ("DEL portmap eth0 id /ns", after(portmap, "portmap")),
                ("DEL bridge eth0 id /ns", after(bridge, "portmap")),
            ]
        );

        let single = json!({"cniVersion": "0.4.0", "name": "one", "type": "broken"});
        fs::write(at("net.d/00-one.conf"), single.to_string()).expect("file");
        let error = format!("{:#}", load().expect("it").connect().await.expect_err("broken"));
        assert!(error.contains("broken, ADD") && error.contains("no more addresses"), "{error}");
        fs::write(at("net.d/00-one.conf"), "{").expect("file");
        assert!(format!("{:#}", load().expect_err("broken")).contains("00-one.conf"));
    }
}
