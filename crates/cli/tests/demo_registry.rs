//! The demonstration of an image of a registry: by itself, and through a containerd of its own.
#[allow(dead_code, reason = "the tests of pull use more of it")]
#[path = "pull/image.rs"]
mod image;
mod lab;

use std::{
    fs,
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use bolide_e2e::{Process, Registry};
use image::{LARGE_BYTES, Sample};
use lab::{Lab, can_mount, complaint, fails, is_root, succeeds};
use serde_json::Value;

const LINK: [&str; 5] = ["--json", "--bandwidth", "10Gbit", "--rtt", "1ms"];
/// Longest time to a running container, of a debug build on a busy machine.
const PATIENCE: Duration = Duration::from_mins(2);

/// A registry with an image that can be lazy.
struct Served {
    // Ends before its directory goes.
    registry: Registry,
    lab: Lab,
    image: String,
}

impl Served {
    fn new() -> Self {
        let lab = Lab::new();
        let registry = Registry::start(&lab.path("registry")).expect("registry");
        let host = registry.host();
        Sample::new().expect("image").push(&host).expect("pushed");
        let (plain, image) = (format!("{host}/sample:plain"), format!("{host}/sample:lazy"));
        succeeds(&mut lab.bolide(&["convert", &plain, &image, "--plain-http", &host]));
        Self { registry, lab, image }
    }

    fn demo(&self, arguments: &[&str]) -> Command {
        let mut command = self.lab.bolide(&["demo", &self.image]);
        command.args(LINK).args(arguments);
        command
    }

    /// Requests that a demonstration made, by its own count and by the registry's, and its report.
    fn demonstrate(&self, arguments: &[&str]) -> (u64, u64, Value) {
        let before = self.registry.requests().expect("log");
        let text = succeeds(&mut self.demo(arguments));
        self.lab.assert_clean();
        let answered = self.registry.requests().expect("log") - before;
        let report: Value = serde_json::from_str(&text).expect("one JSON document");
        let count = |way: &str| report[way]["requests"].as_u64().expect("a number");
        (count("full") + count("lazy"), answered, report)
    }
}

fn expect_comparable(image: &str, report: &Value) {
    assert_eq!((&report["image"], &report["link"]), (&image.into(), &"10 Gbit/s, 1 ms".into()));
    assert_eq!((&report["full"]["exit"], &report["lazy"]["exit"]), (&0.into(), &0.into()));
    let bytes = |way: &str| report[way]["bytes"].as_u64().expect("a number");
    assert!(bytes("full") > LARGE_BYTES as u64, "{report}");
    // The large file stays where it is, but for what comes with the end of its layer.
    assert!(bytes("lazy") < bytes("full") / 2, "{report}");
    assert!(report["lazy"]["touched_bytes"].as_u64().is_some_and(|touched| touched > 0));
}

/// Says loudly when this machine cannot run the test.
fn has(programs: &[&str]) -> bool {
    let missing =
        programs.iter().find(|name| Command::new(name).arg("--version").output().is_err());
    if let Some(program) = missing {
        bolide_testkit::skip(&format!("{program} is not installed"));
    }
    missing.is_none()
}

fn has_containerd() -> bool {
    is_root() && has(&["containerd", "ctr", "runc", "docker-registry"])
}

#[test]
fn a_registry_of_plain_http_is_behind_the_link() {
    if !can_mount() || !has(&["docker-registry"]) {
        return;
    }
    let served = Served::new();
    let host = served.registry.host();
    let (counted, answered, report) = served.demonstrate(&["--plain-http", &host]);
    expect_comparable(&served.image, &report);
    assert_eq!(counted, answered, "{report}");
}

#[test]
fn both_ways_go_through_a_private_containerd() {
    if !has_containerd() {
        return;
    }
    let served = Served::new();
    let (counted, answered, report) = served.demonstrate(&["--containerd"]);
    expect_comparable(&served.image, &report);
    assert_eq!(counted, answered, "{report}");

    let mut failing = served.demo(&["--containerd", "--", "/no/such/program"]);
    let complaint = fails(&mut failing, 1);
    assert!(complaint.contains("/no/such/program"), "{complaint}");
    served.lab.assert_clean();
}

#[test]
fn an_interrupt_ends_the_containers() {
    if !has_containerd() {
        return;
    }
    let served = Served::new();
    // It never ends by itself, and nobody else runs it.
    let mark = served.lab.path("no-such-file");
    let program = ["/bin/cat", "/dev/zero", mark.to_str().expect("text")];
    let mut command = served.demo(&["--containerd", "--"]);
    let (out, err) = (served.lab.path("out"), served.lab.path("err"));
    let process = Process::spawn("bolide demo", command.args(program), &out, &err);
    let mut process = process.expect("runs");
    let running = || is_running(&program).then_some(());
    process.wait_until("its container", PATIENCE, running).expect("a container");
    let status = process.stop().expect("it ends");
    assert_eq!(status.code(), Some(1), "{}", fs::read_to_string(&err).expect("log"));
    assert!(!is_running(&program), "a container stays");
    served.lab.assert_clean();
}

fn is_running(program: &[&str]) -> bool {
    let wanted: Vec<u8> =
        program.iter().flat_map(|word| [word.as_bytes(), b"\0"].concat()).collect();
    let of = |process: &Path| fs::read(process.join("cmdline")).is_ok_and(|line| line == wanted);
    let mut processes = fs::read_dir("/proc").expect("processes").flatten();
    processes.any(|process| of(&process.path()))
}

#[test]
fn what_containerd_needs_is_named() {
    if !is_root() {
        return;
    }
    let lab = Lab::new();
    let missing = fails(lab.bolide(&["demo", "--containerd"]).env("PATH", lab.path("none")), 1);
    assert!(missing.contains("apt-get install containerd runc"), "{missing}");
    let done: Output = lab.bolide_as_nobody(&["demo", "--containerd"]).output().expect("runs");
    assert_eq!(done.status.code(), Some(1));
    assert!(complaint(&done).contains("--containerd needs root"), "{}", complaint(&done));
    lab.assert_clean();
}
