//! The configuration of the container (OCI runtime-spec), as containerd's default has it.
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{args::MountArg, cdi::Edits, workload::Workload};

const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];
const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
    "/proc/scsi",
];
const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What the container has of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Network {
    /// A loopback interface.
    Loopback,
    /// This machine's.
    Host,
    /// A namespace that was made for it.
    Named(PathBuf),
}

/// Everything a container is made of.
#[derive(Debug)]
pub(super) struct Parts<'a> {
    pub(super) id: &'a str,
    pub(super) root: &'a Path,
    pub(super) workload: &'a Workload,
    pub(super) network: &'a Network,
    /// Mounts of the command line.
    pub(super) mounts: &'a [MountArg],
    /// Files over the image's.
    pub(super) files: Vec<Value>,
    pub(super) edits: Edits,
}

/// The content of `config.json`.
pub(super) fn config(parts: Parts<'_>) -> Value {
    let Parts { id, root, workload, network, mounts, files, edits } = parts;
    let mut environment = workload.environment.clone();
    environment.extend(edits.environment);
    let groups: Vec<u32> = workload.user.groups.iter().copied().chain(edits.groups).collect();
    let given = mounts.iter().map(|mount| {
        json!({"destination": mount.destination, "type": mount.kind, "source": mount.source,
            "options": mount.options})
    });
    let all: Vec<Value> =
        base_mounts().into_iter().chain(files).chain(edits.mounts).chain(given).collect();
    let mut devices = vec![json!({"allow": false, "access": "rwm"})];
    devices.extend(edits.device_rules);
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": workload.terminal,
            "user": {"uid": workload.user.uid, "gid": workload.user.gid, "additionalGids": groups},
            "args": workload.command,
            "env": environment,
            "cwd": workload.directory,
            "capabilities": {"bounding": CAPABILITIES, "effective": CAPABILITIES,
                "permitted": CAPABILITIES},
            "noNewPrivileges": true,
        },
        "root": {"path": root},
        "hostname": id,
        "mounts": all,
        "hooks": edits.hooks,
        "linux": {
            "namespaces": namespaces(network),
            "devices": edits.devices,
            "resources": {"devices": devices},
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
        },
    })
}

fn base_mounts() -> Vec<Value> {
    let nothing_special = ["nosuid", "noexec", "nodev"];
    let with = |more: &[&'static str]| [&nothing_special, more].concat();
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": source, "options": options});
    vec![
        mount("/proc", "proc", "proc", &nothing_special),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/shm", "tmpfs", "shm", &with(&["mode=1777", "size=65536k"])),
        mount("/dev/mqueue", "mqueue", "mqueue", &nothing_special),
        mount("/sys", "sysfs", "sysfs", &with(&["ro"])),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &with(&["relatime", "ro"])),
        mount("/run", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
    ]
}

fn namespaces(network: &Network) -> Vec<Value> {
    let mut all: Vec<Value> =
        ["pid", "ipc", "uts", "mount"].iter().map(|kind| json!({"type": kind})).collect();
    match network {
        Network::Loopback => all.push(json!({"type": "network"})),
        Network::Named(path) => all.push(json!({"type": "network", "path": path})),
        Network::Host => {}
    }
    // With the older kind of control groups containers see this machine's.
    if Path::new("/sys/fs/cgroup/cgroup.controllers").is_file() {
        all.push(json!({"type": "cgroup"}));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::User;

    #[test]
    fn everything_that_was_asked_for_is_in_the_configuration() {
        let workload = Workload {
            command: vec!["sh".to_owned()],
            environment: vec!["A=1".to_owned()],
            directory: "/srv".to_owned(),
            user: User { uid: 33, gid: 34, groups: vec![70] },
            terminal: true,
        };
        let mount: MountArg = "type=tmpfs,src=tmpfs,dst=/tmp,options=ro".parse().expect("mount");
        let edits =
            Edits { environment: vec!["GPU=0".to_owned()], groups: vec![44], ..Edits::default() };
        let parts = |network| Parts {
            id: "id",
            root: Path::new("/root"),
            workload: &workload,
            network,
            mounts: std::slice::from_ref(&mount),
            files: vec![json!({"destination": "/etc/hosts"})],
            edits: edits.clone(),
        };
        let host = config(parts(&Network::Host));
        assert_eq!(
            host["process"]["user"],
            json!({"uid": 33, "gid": 34, "additionalGids": [70, 44]})
        );
        assert_eq!(host["process"]["env"], json!(["A=1", "GPU=0"]));
        assert_eq!(host["process"]["cwd"], "/srv");
        let mounts = host["mounts"].as_array().expect("mounts");
        let places: Vec<_> = mounts.iter().rev().take(2).map(|it| &it["destination"]).collect();
        assert_eq!(places, ["/tmp", "/etc/hosts"], "the command line comes last, and wins");
        let network = |of: &Value| {
            let all = of["linux"]["namespaces"].as_array().expect("namespaces").clone();
            all.into_iter().find(|namespace| namespace["type"] == "network")
        };
        assert_eq!(network(&host), None);
        let named = Network::Named("/ns".into());
        assert_eq!(network(&config(parts(&named))).expect("named")["path"], "/ns");
        assert!(network(&config(parts(&Network::Loopback))).expect("own").get("path").is_none());
    }
}
