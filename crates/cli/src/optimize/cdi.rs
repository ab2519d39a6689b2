//! Devices by the Container Device Interface: what a container must be given for a GPU to work in it.
use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::{major, minor};
use serde::Deserialize;
use serde_json::{Value, json};

/// The kind of device that `--gpus` names.
const GPU: &str = "nvidia.com/gpu";
/// Name of all devices of a kind.
const ALL: &str = "all";
/// Largest specification, in bytes.
const MAX_SPEC: u64 = 16 << 20;

/// What is changed in a container's configuration, in its words (OCI runtime-spec).
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Edits {
    pub(super) environment: Vec<String>,
    pub(super) devices: Vec<Value>,
    pub(super) device_rules: Vec<Value>,
    pub(super) mounts: Vec<Value>,
    pub(super) hooks: BTreeMap<String, Vec<Value>>,
    pub(super) groups: Vec<u32>,
}

/// A specification: one kind of devices.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    kind: String,
    devices: Vec<Device>,
    #[serde(default)]
    container_edits: ContainerEdits,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Device {
    name: String,
    #[serde(default)]
    container_edits: ContainerEdits,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ContainerEdits {
    env: Vec<String>,
    device_nodes: Vec<DeviceNode>,
    mounts: Vec<Mount>,
    hooks: Vec<Hook>,
    #[serde(rename = "additionalGids")]
    additional_gids: Vec<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DeviceNode {
    path: PathBuf,
    host_path: Option<PathBuf>,
    #[serde(rename = "type")]
    kind: Option<String>,
    major: Option<u32>,
    minor: Option<u32>,
    file_mode: Option<u32>,
    permissions: Option<String>,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mount {
    host_path: String,
    container_path: String,
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    options: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Hook {
    #[serde(rename = "hookName")]
    name: String,
    path: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<String>,
    timeout: Option<u32>,
}

/// What a container must be given to use these GPUs, as the specifications in `dirs` say.
pub(super) fn gpus(names: &[String], dirs: &[PathBuf]) -> Result<Edits> {
    let mut edits = Edits::default();
    if names.is_empty() {
        return Ok(edits);
    }
    let specs: Vec<Spec> = read_all(dirs)?.into_iter().filter(|spec| spec.kind == GPU).collect();
    // Of one name, that of the later directory counts.
    let mut devices = BTreeMap::new();
    for (at, spec) in specs.iter().enumerate() {
        devices.extend(spec.devices.iter().map(|device| (device.name.as_str(), (at, device))));
    }
    let mut chosen = Vec::new();
    for name in names {
        match devices.get(name.as_str()) {
            Some(found) => chosen.push(*found),
            None if name == ALL && !devices.is_empty() => chosen.extend(devices.values().copied()),
            None => {
                let dirs: Vec<_> = dirs.iter().map(|dir| dir.display().to_string()).collect();
                bail!("no CDI specification in {} names the device {GPU}={name}", dirs.join(", "))
            }
        }
    }
    let mut begun = Vec::new();
    for (at, device) in chosen {
        edits.add(&device.container_edits)?;
        if !begun.contains(&at) {
            begun.push(at);
            edits.add(&specs[at].container_edits)?;
        }
    }
    Ok(edits)
}

fn read_all(dirs: &[PathBuf]) -> Result<Vec<Spec>> {
    let mut specs = Vec::new();
    for dir in dirs {
        let listed = match fs::read_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            listed => listed.with_context(|| dir.display().to_string())?,
        };
        let mut files: Vec<PathBuf> =
            listed.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
        files.retain(|file| file.extension().is_some_and(|it| it == "json" || it == "yaml"));
        files.sort();
        for file in files {
            let spec = read(&file);
            specs.push(spec.with_context(|| format!("cannot use {}", file.display()))?);
        }
    }
    Ok(specs)
}

fn read(file: &Path) -> Result<Spec> {
    ensure!(fs::metadata(file)?.len() <= MAX_SPEC, "a CDI specification may have 16 MiB");
    // JSON is YAML.
    Ok(serde_saphyr::from_str(&fs::read_to_string(file)?)?)
}

impl Edits {
    fn add(&mut self, given: &ContainerEdits) -> Result<()> {
        self.environment.extend(given.env.iter().cloned());
        self.groups.extend(given.additional_gids.iter().filter(|gid| **gid != 0));
        self.mounts.extend(given.mounts.iter().map(|mount| {
            json!({"destination": mount.container_path, "source": mount.host_path,
                "type": mount.kind.as_deref().unwrap_or("bind"), "options": mount.options})
        }));
        for hook in &given.hooks {
            let mut said = json!({"path": hook.path, "args": hook.args, "env": hook.env});
            if let Some(timeout) = hook.timeout {
                said["timeout"] = timeout.into();
            }
            self.hooks.entry(hook.name.clone()).or_default().push(said);
        }
        for node in &given.device_nodes {
            let (device, rule) = device(node)
                .with_context(|| format!("cannot give the device {}", node.path.display()))?;
            self.devices.push(device);
            self.device_rules.extend(rule);
        }
        Ok(())
    }
}

/// A device, and the rule that allows its use. What the specification leaves out is as on this host.
fn device(node: &DeviceNode) -> Result<(Value, Option<Value>)> {
    let mut known = (node.kind.clone(), node.major, node.minor);
    if !matches!(known, (Some(_), Some(_), Some(_))) && node.kind.as_deref() != Some("p") {
        let metadata = fs::metadata(node.host_path.as_ref().unwrap_or(&node.path))?;
        let kind = match metadata.file_type() {
            kind if kind.is_char_device() => "c",
            kind if kind.is_block_device() => "b",
            _ => bail!("it is no device"),
        };
        let number = metadata.rdev();
        known = (
            known.0.or_else(|| Some(kind.to_owned())),
            known.1.or_else(|| Some(major(number))),
            known.2.or_else(|| Some(minor(number))),
        );
    }
    let (kind, major, minor) = known;
    let mut device = json!({"path": node.path, "type": kind});
    for (name, value) in [
        ("major", major),
        ("minor", minor),
        ("fileMode", node.file_mode),
        ("uid", node.uid),
        ("gid", node.gid),
    ] {
        if let Some(value) = value {
            device[name] = value.into();
        }
    }
    let access = node.permissions.as_deref().unwrap_or("rwm");
    let rule = matches!(kind.as_deref(), Some("b" | "c")).then(
        || json!({"allow": true, "type": kind, "major": major, "minor": minor, "access": access}),
    );
    Ok((device, rule))
}

#[cfg(test)]
mod tests {
    use super::*;

    const YAML: &str = r#"
cdiVersion: 0.5.0
kind: nvidia.com/gpu
devices:
  - name: "0"
    containerEdits:
      deviceNodes:
        - path: /dev/gpu0
          hostPath: /dev/null
          permissions: rw
  - name: "1"
    containerEdits:
      deviceNodes:
        - {path: /dev/gpu1, type: c, major: 195, minor: 1, fileMode: 438, gid: 44}
containerEdits:
  env: ["NVIDIA_VISIBLE_DEVICES=void"]
  mounts:
    - {hostPath: /usr/lib/libcuda.so, containerPath: /usr/lib/libcuda.so, options: [ro, bind]}
  hooks:
    - {hookName: createContainer, path: /usr/bin/nvidia-cdi-hook, args: [nvidia-cdi-hook, chmod]}
"#;

    #[test]
    fn a_gpu_is_what_its_specification_says() {
        let (etc, run) = (tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir"));
        fs::write(etc.path().join("nvidia.yaml"), YAML).expect("file");
        let other = r#"{"cdiVersion": "0.5.0", "kind": "vendor.com/net",
            "devices": [{"name": "1", "containerEdits": {"env": ["WRONG=1"]}}]}"#;
        fs::write(run.path().join("other.json"), other).expect("file");
        let dirs = [etc.path().to_owned(), run.path().to_owned(), "/nowhere".into()];
        let gpus = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
            super::gpus(&names, &dirs)
        };
        assert_eq!(gpus(&[]).expect("none"), Edits::default());
        let all = gpus(&["all"]).expect("both");
        assert_eq!(all, gpus(&["0", "1"]).expect("both"));
        assert_eq!(all.environment, ["NVIDIA_VISIBLE_DEVICES=void"], "said once");
        assert_eq!(
            all.devices,
            [
                json!({"path": "/dev/gpu0", "type": "c", "major": 1, "minor": 3}),
                json!({"path": "/dev/gpu1", "type": "c", "major": 195, "minor": 1,
                    "fileMode": 438, "gid": 44}),
            ]
        );
        let access: Vec<_> = all.device_rules.iter().map(|rule| &rule["access"]).collect();
        assert_eq!(access, ["rw", "rwm"]);
        assert_eq!(all.hooks["createContainer"][0]["args"], json!(["nvidia-cdi-hook", "chmod"]));
        let missing = gpus(&["7"]).expect_err("no such device").to_string();
        assert!(missing.contains("nvidia.com/gpu=7"), "{missing}");

        let newer = r#"{"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu",
            "devices": [{"name": "1", "containerEdits": {"env": ["NEWER=1"]}}]}"#;
        fs::write(run.path().join("nvidia.json"), newer).expect("file");
        assert_eq!(gpus(&["1"]).expect("newer").environment, ["NEWER=1"]);
        fs::write(run.path().join("broken.json"), "{").expect("file");
        let broken = format!("{:#}", gpus(&["1"]).expect_err("broken"));
        assert!(broken.contains("broken.json"), "{broken}");
    }
}
