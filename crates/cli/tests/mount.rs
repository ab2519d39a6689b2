//! An image on a directory: for everybody, for a command, and with nothing left afterwards.
mod lab;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

use lab::{Lab, can_mount, fails, is_root, succeeds};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

/// A lower file, an upper file, and one that the upper layer took away.
const SEEN: &str = "test -s etc/passwd && test ! -e gone/below";

/// A mount in the foreground, once it shows the image.
fn foreground(lab: &Lab) -> Child {
    let mut mount = lab.bolide(&["mount", "oci:image:lazy", "target"]);
    let mut child = mount.stdout(Stdio::piped()).spawn().expect("runs");
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().expect("output")).read_line(&mut line).expect("line");
    assert!(line.starts_with("oci:image:lazy is shown on /"), "{line:?}");
    child
}

fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("pid")).expect("pid");
    kill_process(pid, signal).expect("sent");
}

#[test]
fn an_image_is_shown_in_the_background_until_umount() {
    if !is_root() {
        return;
    }
    let lab = Lab::new();
    lab.image();
    let target = lab.target();
    succeeds(&mut lab.bolide(&["mount", "oci:image:lazy", "target", "--background"]));
    assert_ne!(fs::read_dir(&target).expect("shown").count(), 0);
    let file = target.join("etc/passwd");
    assert!(!fs::read(&file).expect("read").is_empty());
    assert!(fs::write(target.join("new"), "x").is_err(), "it is read-only");

    let again = lab.bolide(&["mount", "oci:image:lazy", "target"]).output().expect("runs");
    assert!(lab::complaint(&again).contains("shows an image already"));
    let open = fs::File::open(&file).expect("opens");
    assert!(fails(&mut lab.bolide(&["umount", "target"]), 1).contains("in use"));
    assert!(!fs::read(&file).expect("still there").is_empty());
    drop(open);
    succeeds(&mut lab.bolide(&["umount", "target"]));
    lab.assert_clean();
    assert_eq!(fs::read_dir(&target).expect("empty").count(), 0);
    assert!(fails(&mut lab.bolide(&["umount", "target"]), 1).contains("nothing mounted"));
}

#[test]
fn a_mount_ends_by_signal_or_when_someone_unmounts_it() {
    if !is_root() {
        return;
    }
    let lab = Lab::new();
    lab.image();
    let target = lab.target();
    for end in [Signal::TERM, Signal::INT] {
        let mut child = foreground(&lab);
        signal(&child, end);
        assert!(child.wait().expect("ends").success());
        lab.assert_clean();
    }
    let mut child = foreground(&lab);
    succeeds(Command::new("umount").arg(&target));
    assert!(child.wait().expect("ends").success());
    lab.assert_clean();
}

#[test]
fn what_a_killed_process_left_is_removed() {
    if !is_root() {
        return;
    }
    let lab = Lab::new();
    lab.image();
    lab.target();
    for next in ["umount", "mount"] {
        let mut child = foreground(&lab);
        signal(&child, Signal::KILL);
        child.wait().expect("ends");
        if next == "umount" {
            succeeds(&mut lab.bolide(&["umount", "target"]));
        } else {
            let mut child = foreground(&lab);
            signal(&child, Signal::TERM);
            assert!(child.wait().expect("ends").success());
        }
        lab.assert_clean();
    }
}

#[test]
fn what_is_written_is_seen_and_gone_at_the_end() {
    if !can_mount() {
        return;
    }
    let lab = Lab::new();
    lab.image();
    let target = lab.target();
    let script = format!("cd target && {SEEN} && echo x > new && rm etc/passwd && cat new");
    let arguments = ["mount", "oci:image:lazy", "target", "--writable", "--", "sh", "-c", &script];
    assert_eq!(succeeds(&mut lab.bolide(&arguments)), "x\n");
    assert_eq!(succeeds(&mut lab.bolide(&arguments)), "x\n");
    lab.assert_clean();
    assert_eq!(fs::read_dir(target).expect("empty").count(), 0);
}

#[test]
fn a_user_without_root_runs_a_command_that_sees_the_image() {
    if !can_mount() {
        return;
    }
    let lab = Lab::new();
    lab.image();
    lab.target();
    let script = format!("cd target && {SEEN} && id -u && exit 7");
    for image in ["oci:image:lazy", "oci:image:plain"] {
        let mut command = lab.bolide_as_nobody(&["mount", image, "target", "--"]);
        let done = command.args(["sh", "-c", &script]).output().expect("runs");
        assert_eq!(done.status.code(), Some(7), "{}", lab::complaint(&done));
        assert_eq!(done.stdout, b"0\n", "root of its own namespace");
        lab.assert_clean();
    }
    let refused = fails(&mut lab.bolide_as_nobody(&["mount", "oci:image:lazy", "target"]), 1);
    assert!(refused.contains("-- COMMAND"), "{refused}");
    lab.assert_clean();
}

#[test]
fn what_is_used_is_recorded_with_and_without_root() {
    if !can_mount() {
        return;
    }
    let lab = Lab::new();
    lab.image();
    lab.target();
    let layout = bolide_image::Layout::open(lab.path("image")).expect("layout");
    let out = lab.path("tmp/record");
    let script = "cd target && test -s etc/passwd && ls etc && cat etc/passwd";
    for image in ["oci:image:lazy", "oci:image:plain"] {
        for root in [true, false] {
            let arguments = ["mount", image, "target", "--record-out", "tmp/record", "--"];
            let mut command =
                if root { lab.bolide(&arguments) } else { lab.bolide_as_nobody(&arguments) };
            succeeds(command.args(["sh", "-c", script]));
            let text = fs::read_to_string(&out).expect("a record");
            let lines: Vec<serde_json::Value> =
                text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
            let digest = layout.resolve(image.rsplit(':').next()).expect("image").digest;
            // Only the lower layer has them.
            let expected = [
                json!({"path": "etc", "manifestDigest": digest, "layerIndex": 0,
                    "uses": ["open", "list"]}),
                json!({"path": "etc/passwd", "manifestDigest": digest, "layerIndex": 0,
                    "uses": ["open", "read"], "ranges": [[0, 30]]}),
            ];
            assert_eq!(lines, expected, "{image}, root: {root}");
            fs::remove_file(&out).expect("removed");
            lab.assert_clean();
        }
    }
}

#[test]
fn failures_name_their_cause_and_leave_nothing() {
    if !can_mount() {
        return;
    }
    let lab = Lab::new();
    lab.image();
    lab.target();
    fs::write(lab.path("file"), "").expect("file");
    let fail = |arguments: [&str; 2]| {
        let all = [&["mount"][..], &arguments, &["--", "true"]].concat();
        let complaint = fails(&mut lab.bolide(&all), 1);
        lab.assert_clean();
        complaint
    };
    for (arguments, cause) in [
        (["oci:image:lazy", "nowhere"], "nowhere"),
        (["oci:image:lazy", "file"], "no directory"),
        (["oci:nowhere", "target"], "nowhere/oci-layout"),
        (["oci:image:none", "target"], "no image of this tag"),
        (["127.0.0.1:1/none:x", "target"], "127.0.0.1:1/none:x"),
    ] {
        let complaint = fail(arguments);
        assert!(complaint.contains(cause), "{arguments:?}: {complaint}");
    }
    // The second layer breaks when the first is mounted already.
    let layout = bolide_image::Layout::open(lab.path("image")).expect("layout");
    let name = layout.resolve(Some("lazy")).expect("image");
    let manifest: serde_json::Value =
        serde_json::from_slice(&layout.document(&name).expect("manifest")).expect("json");
    let digest = manifest["layers"][1]["digest"].as_str().expect("digest").parse();
    fs::write(layout.blob_path(digest.expect("digest")), "short").expect("broken");
    fail(["oci:image:lazy", "target"]);
}

#[test]
fn a_host_without_fuse_is_told_so() {
    if !is_root() {
        return;
    }
    let lab = Lab::new();
    lab.image();
    lab.target();
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", "mount --bind /dev/null /dev/fuse && exec \"$@\"", "sh"]);
    command.arg(lab.path("bolide")).args(["mount", "oci:image:lazy", "target", "--", "true"]);
    command.env("TMPDIR", lab.path("tmp")).current_dir(lab.dir.path());
    assert!(fails(&mut command, 1).contains("/dev/fuse"));
    lab.assert_clean();
}
