//! `bolide optimize`: workloads that really run, what is recorded of them, and what is left.
mod image;
#[path = "../lab/mod.rs"]
mod lab;

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::{Command, Stdio},
};

use bolide_image::Layout;
use lab::{Lab, fails, is_root, succeeds};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

const SRC: &str = "oci:image:plain";
const DST: &str = "oci:out:fast";

/// Says loudly when this machine cannot run the test.
fn can_run() -> bool {
    let runc = Command::new("runc").arg("--version").output().is_ok();
    if !runc {
        bolide_testkit::skip("runc is not installed");
    }
    runc && is_root()
}

fn lab() -> Lab {
    let lab = Lab::new();
    image::build(&lab.path("image"));
    lab
}

/// The command, which runs a script of the image's shell.
fn script(lab: &Lab, flags: &[&str], script: &str) -> Command {
    let mut command = lab.bolide(&["optimize", SRC, DST, "--entrypoint", r#"["sh", "-c"]"#]);
    command.arg("--args").arg(json!([script]).to_string()).args(flags);
    command
}

fn record(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("a record");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn paths(record: &[Value]) -> Vec<&str> {
    record.iter().map(|line| line["path"].as_str().expect("a path")).collect()
}

/// Whether the last line names what was written.
fn tells_the_image(printed: &str) -> bool {
    printed.lines().last().is_some_and(|line| line.starts_with("oci:out:fast sha256:"))
}

fn written(lab: &Lab) -> bool {
    lab.path("out/index.json").is_file()
}

#[test]
fn a_program_is_recorded_from_its_start_and_its_image_laid_out_so() {
    if !can_run() {
        return;
    }
    let lab = lab();
    let printed = succeeds(&mut lab.bolide(&["optimize", SRC, DST, "--record-out", "record"]));
    lab.assert_clean();
    assert!(printed.starts_with("one\ntwo\nmapped\ndone\n"), "{printed}");
    assert!(tells_the_image(&printed), "{printed}");

    let lines = record(&lab.path("record"));
    let wanted = [
        "etc/passwd",
        "etc/group",
        "app/start",
        "bin/sh",
        "etc/first",
        "bin/cat",
        "data/mapped",
        "bin/ls",
        "data/listed",
        "bin/readlink",
        "data/link",
    ];
    let all = paths(&lines);
    let found: Vec<_> = all.iter().copied().filter(|path| wanted.contains(path)).collect();
    assert_eq!(found, wanted);
    assert!(all.iter().any(|path| path.contains("ld-linux") || path.contains("ld-musl")));
    for never in ["data/seen", "app/never", "data/listed/one", ""] {
        assert!(!all.contains(&never), "{never}");
    }
    let of = |path: &str| lines.iter().find(|line| line["path"] == path).expect("used");
    let digest = Layout::open(lab.path("image")).expect("layout").resolve(Some("plain"));
    assert_eq!(
        *of("etc/first"),
        json!({"path": "etc/first", "manifestDigest": digest.expect("image").digest,
            "layerIndex": 1, "uses": ["open", "read"], "ranges": [[0, 19]]}),
        "the upper layer's, and it alone"
    );
    assert_eq!(of("data/mapped")["ranges"], json!([[0, 9000]]));
    assert_eq!(of("data/link")["uses"], json!(["link"]));
    assert_eq!(of("data/listed")["uses"], json!(["open", "list"]));

    // Directories come before what is in them, and nothing else in between.
    let shown = succeeds(&mut lab.bolide(&["inspect", "--toc", DST]));
    let tocs = serde_json::Deserializer::from_str(&shown).into_iter::<Value>();
    let tocs: Vec<_> = tocs.collect::<Result<_, _>>().expect("JSON");
    let first: Vec<_> = prioritized(&tocs[1]);
    assert_eq!(first, ["app/start", "etc/first"]);
    let base = prioritized(&tocs[0]);
    // What the upper layer served is not first here; the directory of files that are mounted over has
    // no entry of its own.
    let expected: Vec<_> = lines
        .iter()
        .filter(|line| line["layerIndex"] == 0)
        .filter_map(|line| line["path"].as_str())
        .filter(|path| *path != "etc")
        .collect();
    assert_eq!(base, expected);

    // The record alone makes the same image.
    let again = ["optimize", SRC, "oci:again:fast", "--record-in", "record"];
    let again = succeeds(&mut lab.bolide(&again));
    assert_eq!(again.rsplit(' ').next(), printed.rsplit(' ').next());
    let none = succeeds(&mut lab.bolide(&["optimize", SRC, "oci:none:a", "--no-optimize"]));
    assert_ne!(none.rsplit(' ').next(), printed.rsplit(' ').next());
}

/// The names before the landmark, without directories that were not used themselves.
fn prioritized(toc: &Value) -> Vec<&str> {
    let entries = toc["entries"].as_array().expect("entries");
    let name = |entry: &'_ Value| entry["name"].as_str().expect("name").to_owned();
    let end = entries.iter().position(|entry| name(entry) == ".prefetch.landmark");
    entries[..end.expect("a landmark")]
        .iter()
        .filter(|entry| entry["type"] != "chunk")
        .filter(|entry| entry["type"] != "dir" || name(entry).starts_with("data/listed"))
        .map(|entry| entry["name"].as_str().expect("name").trim_end_matches('/'))
        .collect()
}

#[test]
fn the_command_line_says_how_it_runs() {
    if !can_run() {
        return;
    }
    let lab = lab();
    fs::create_dir(lab.path("data")).expect("dir");
    fs::write(lab.path("data/file"), "mounted\n").expect("file");
    fs::write(lab.path("variables"), "# none\nFILE=file\nBOTH=file\n").expect("file");
    let mount = format!("type=bind,src={},dst=/mnt,options=ro", lab.path("data").display());
    let flags = [
        "--env-file",
        "variables",
        "--env",
        "BOTH=flag",
        "--cwd",
        "/data",
        "--mount",
        &mount,
        "--add-hosts",
        "db:10.0.0.7",
        "--dns-nameservers",
        "1.1.1.1",
        "--dns-search-domains",
        "lan",
        "--dns-options",
        "ndots:2",
    ];
    let what = "echo $FROM $FILE $BOTH; readlink /proc/self/cwd; cat /mnt/file /etc/resolv.conf; \
        id -u; id -G; cat /etc/hosts; : > /mnt/new";
    let printed = succeeds(&mut script(&lab, &flags, what));
    lab.assert_clean();
    let expected = "image file flag\n/data\nmounted\nnameserver 1.1.1.1\nsearch lan\n\
        options ndots:2\n33\n34 70\n127.0.0.1\tlocalhost\n";
    assert!(printed.starts_with(expected), "{printed}");
    assert!(printed.contains("10.0.0.7\tdb\n"), "{printed}");
    assert!(!lab.path("data/new").is_file(), "it was mounted read-only");
    let printed = succeeds(&mut script(&lab, &["--user", "root:tls"], "id -u; id -g"));
    assert!(printed.starts_with("0\n70\n"), "{printed}");
}

#[test]
fn a_line_a_period_and_a_signal_end_the_recording() {
    if !can_run() {
        return;
    }
    let lab = lab();
    // What follows the line is after the recording: it waits for an input that never comes.
    let what = "cat /data/mapped > /dev/null; echo -n ready; echo ' to serve'; sleep 1000";
    for flags in [
        &["--wait-on-line", "ready to", "--period", "1h", "--record-out", "record"][..],
        &["--period", "2s", "--record-out", "record"],
    ] {
        let printed = succeeds(&mut script(&lab, flags, what));
        assert!(printed.starts_with("ready to serve\n"), "{printed}");
        assert!(tells_the_image(&printed), "{printed}");
        lab.assert_clean();
        let lines = record(&lab.path("record"));
        assert!(paths(&lines).contains(&"data/mapped"));
        fs::remove_file(lab.path("record")).expect("removed");
    }
    for (flags, code) in [(&["--wait-on-signal"][..], 0), (&[], 1)] {
        fs::remove_dir_all(lab.path("out")).expect("removed");
        let mut command = script(&lab, flags, what);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("runs");
        let mut out = BufReader::new(child.stdout.take().expect("output"));
        out.read_line(&mut String::new()).expect("a line");
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("pid")).expect("pid");
        kill_process(pid, Signal::INT).expect("sent");
        let ended = child.wait().expect("ends");
        assert_eq!(ended.code(), Some(code));
        out.read_to_end(&mut Vec::new()).expect("nobody holds it any more");
        lab.assert_clean();
        assert_eq!(written(&lab), code == 0, "an interrupted run writes no image");
    }
}

#[test]
fn a_workload_that_fails_is_recorded_and_one_that_cannot_start_is_an_error() {
    if !can_run() {
        return;
    }
    let lab = lab();
    let mut failing = script(&lab, &["--record-out", "record"], "cat /data/mapped; exit 3");
    let done = failing.output().expect("runs");
    let complaint = lab::complaint(&done);
    assert!(done.status.success() && complaint.contains("code=3"), "{complaint}");
    assert!(paths(&record(&lab.path("record"))).contains(&"data/mapped"));
    lab.assert_clean();
    fs::remove_dir_all(lab.path("out")).expect("removed");
    let crash = script(&lab, &[], "kill -SEGV $$").output().expect("runs");
    assert!(crash.status.success(), "{}", lab::complaint(&crash));
    lab.assert_clean();
    fs::remove_dir_all(lab.path("out")).expect("removed");

    for (flags, cause) in [
        (&["--entrypoint", r#"["/nothing"]"#][..], "/nothing"),
        (&["--user", "stranger"], "stranger"),
        (&["--mount", "type=bind,src=/nowhere,dst=/mnt"], "/nowhere"),
        (&["--env-file", "nowhere"], "nowhere"),
        (&["--gpus", "0", "--cdi-spec-dir", "tmp"], "nvidia.com/gpu=0"),
        (&["--cni", "--cni-plugin-conf-dir", "tmp"], "no network in tmp"),
        (&["--record-out", "nowhere/record"], "nowhere/record"),
    ] {
        let all = [&["optimize", SRC, DST][..], flags].concat();
        let complaint = fails(&mut lab.bolide(&all), 1);
        assert!(complaint.contains(cause), "{flags:?}: {complaint}");
        assert!(!written(&lab), "{flags:?}");
        lab.assert_clean();
    }
}

#[test]
fn a_network_is_its_own_the_hosts_or_that_of_plugins() {
    if !can_run() {
        return;
    }
    let lab = lab();
    let interfaces = "ls /sys/class/net; cat /proc/net/route";
    let own = succeeds(&mut script(&lab, &[], interfaces));
    assert!(own.starts_with("lo\nIface"), "{own}");
    let host = succeeds(&mut script(&lab, &["--net-host"], "readlink /proc/self/ns/net"));
    let here = fs::read_link("/proc/self/ns/net").expect("a namespace");
    assert!(host.starts_with(here.to_str().expect("text")), "{host}");

    let plugins = ["/opt/cni/bin", "/usr/lib/cni"];
    let Some(plugins) = plugins.iter().find(|dir| Path::new(dir).join("ptp").is_file()) else {
        bolide_testkit::skip("the CNI plugins are not installed");
        return;
    };
    fs::create_dir(lab.path("net.d")).expect("dir");
    let network = json!({"cniVersion": "0.4.0", "name": "bolide-test", "plugins": [{"type": "ptp",
        "ipam": {"type": "host-local", "dataDir": lab.path("ipam"),
            "ranges": [[{"subnet": "10.213.77.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]});
    fs::write(lab.path("net.d/lab.conflist"), network.to_string()).expect("file");
    let flags = ["--cni", "--cni-plugin-conf-dir", "net.d", "--cni-plugin-dir", plugins];
    let printed = succeeds(&mut script(&lab, &flags, interfaces));
    assert!(printed.starts_with("eth0\nlo\nIface") && printed.contains("eth0\t"), "{printed}");
    lab.assert_clean();
    let leased = fs::read_dir(lab.path("ipam/bolide-test")).expect("leases");
    let leased: Vec<_> = leased.map(|entry| entry.expect("entry").file_name()).collect();
    assert!(!leased.iter().any(|name| name.to_string_lossy().starts_with("10.")), "{leased:?}");
}

#[test]
fn a_gpu_comes_with_what_its_specification_says() {
    if !can_run() {
        return;
    }
    let lab = lab();
    fs::create_dir(lab.path("cdi")).expect("dir");
    let hook = lab.path("hook");
    // A hook that looks into the image before the workload does.
    let look = json!([
        "sh",
        "-c",
        format!(
            "root=$(sed -n 's/.*\"bundle\": *\"\\([^\"]*\\)\".*/\\1/p'); cat $root/../root/data/seen > {}",
            hook.display()
        )
    ]);
    let spec = json!({"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu",
        "containerEdits": {"hooks": [
            {"hookName": "createRuntime", "path": "/bin/sh", "args": look}]},
        "devices": [{"name": "0", "containerEdits": {
            "env": ["GPU=zero"], "deviceNodes": [{"path": "/dev/gpu0", "hostPath": "/dev/zero"}]}}]});
    fs::write(lab.path("cdi/gpu.json"), spec.to_string()).expect("file");
    let flags = ["--gpus", "all", "--cdi-spec-dir", "cdi", "--record-out", "record"];
    let printed = succeeds(&mut script(&lab, &flags, "echo $GPU; test -c /dev/gpu0 && echo there"));
    assert!(printed.starts_with("zero\nthere\n"), "{printed}");
    lab.assert_clean();
    assert_eq!(fs::read_to_string(hook).expect("the hook ran"), "never opened");
    let lines = record(&lab.path("record"));
    let at = |path: &str| paths(&lines).iter().position(|it| *it == path);
    assert!(at("data/seen").expect("recorded") < at("bin/sh").expect("recorded"));
}

#[test]
fn others_than_root_are_told_another_way() {
    if !lab::can_mount() {
        return;
    }
    let lab = lab();
    let refused = fails(&mut lab.bolide_as_nobody(&["optimize", SRC, "oci:tmp/out:fast"]), 1);
    assert!(refused.contains("--record-in"), "{refused}");
    fs::write(lab.path("record"), "{\"path\": \"etc/first\"}\n").expect("record");
    let given = ["optimize", SRC, "oci:tmp/out:fast", "--record-in", "record"];
    succeeds(&mut lab.bolide_as_nobody(&given));
}
