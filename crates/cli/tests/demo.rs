//! The demonstration: equal outputs, figures that make sense, and nothing left.
mod lab;

use std::process::Command;

use lab::{Lab, can_mount, fails, is_root, succeeds};
use serde_json::Value;

/// Runs the demonstration on a link that costs no time.
fn demonstrate(lab: &Lab, command: &mut Command) -> Value {
    let text = succeeds(command);
    lab.assert_clean();
    let report: Value = serde_json::from_str(&text).expect("one JSON document");
    let mut keys: Vec<_> = report.as_object().expect("object").keys().collect();
    keys.sort();
    assert_eq!(keys, ["full", "image", "lazy", "link", "mounter"]);
    assert_eq!(report["link"], "10 Gbit/s, 1 ms");
    assert_eq!(report["mounter"], "fuse");
    let number = |way: &str, key: &str| report[way][key].as_f64().expect(key);
    for way in ["full", "lazy"] {
        assert_eq!(report[way]["exit"], 0);
        assert!(number(way, "seconds") > 0.0);
    }
    assert!(number("full", "bytes") >= 100e6, "{report}");
    assert!(number("lazy", "bytes") < number("full", "bytes") / 2.0, "{report}");
    assert!(number("lazy", "touched_bytes") > 0.0);
    let hinted = &report["lazy"]["optimized"];
    assert_eq!(hinted["exit"], 0);
    // What is used first comes in long pieces.
    assert!(hinted["requests"].as_f64() < report["lazy"]["requests"].as_f64(), "{report}");
    // Documents, and then a request for many a file.
    assert!(number("lazy", "requests") > number("full", "requests"));
    report
}

const ARGUMENTS: [&str; 6] = ["demo", "--json", "--bandwidth", "10Gbit", "--rtt", "1ms"];

#[test]
fn it_runs_as_whoever_runs_the_tests() {
    if can_mount() {
        let lab = Lab::new();
        demonstrate(&lab, &mut lab.bolide(&ARGUMENTS));
    }
}

#[test]
fn it_runs_as_a_user_without_root() {
    if can_mount() {
        let lab = Lab::new();
        demonstrate(&lab, &mut lab.bolide_as_nobody(&ARGUMENTS));
    }
}

/// Covers programs of this machine in a mount namespace of its own.
const WITHOUT: &str = r#"
set -e
mount --make-rprivate /
for program in $WITHOUT; do
    [ ! -e "/usr/bin/$program" ] || mount --bind /dev/null "/usr/bin/$program"
done
exec "$@"
"#;

#[test]
fn it_makes_do_with_the_interpreters_there_are() {
    // Covering files for one process alone takes root.
    if !is_root() {
        return;
    }
    for (without, found) in [("python3", "perl"), ("python3 perl", "sh")] {
        let lab = Lab::new();
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", WITHOUT, "sh"]).arg(lab.path("bolide"));
        command.args(ARGUMENTS).env("WITHOUT", without).env("TMPDIR", lab.path("tmp"));
        let report = demonstrate(&lab, command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"));
        let image = report["image"].as_str().expect("text");
        assert!(image.starts_with(&format!("{found} and other software")), "{image}");
    }
}

#[test]
fn a_program_that_fails_fails_the_demonstration() {
    if !can_mount() {
        return;
    }
    let lab = Lab::new();
    lab.image();
    let mut command = lab.bolide(&["demo", "oci:image:lazy", "--", "/no/such/program"]);
    let complaint = fails(&mut command, 1);
    assert!(complaint.contains("cannot run \"/no/such/program\" of the image"), "{complaint}");
    lab.assert_clean();
    let missing = fails(&mut lab.bolide(&["demo", "oci:nowhere", "--", "x"]), 1);
    assert!(missing.contains("nowhere/oci-layout"), "{missing}");
    lab.assert_clean();
}
