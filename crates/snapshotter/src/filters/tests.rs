//! Filters match what containerd's match, and bad ones are refused in bounded memory.
use std::time::SystemTime;

use super::*;
use crate::{
    labels::Labels,
    lifecycle::{Kind, NewSnapshot, create},
};

fn snapshot() -> Snapshot {
    let labels = [("containerd.io/snapshot.ref", "sha256:aa"), ("plain", "v,w"), ("a.b", "dots")];
    let labels: Labels = labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let (name, kind) = ("sha256:0b/c".to_owned(), Kind::Active);
    let new = NewSnapshot { id: 1, name, parent: String::new(), kind, labels };
    create(new, None, None, SystemTime::UNIX_EPOCH).expect("made")
}

fn matches(filters: &[&str]) -> bool {
    Filters::parse(filters).expect("parses").matches(&snapshot())
}

#[test]
fn fields_and_operators() {
    for (filter, expected) in [
        ("", true),
        ("name==sha256:0b/c", true),
        ("name==sha256:0b", false),
        ("name!=other", true),
        ("name~=/^sha256:.*\\/c$/", true),
        ("name~=|^sha256:.*/c$|", true),
        ("name~=sha", true),
        ("name~=/\\d[a-f]\\/c/", true),
        ("kind==active", true),
        ("kind==committed", false),
        ("parent==", false),
        ("parent==\"\"", true),
        ("parent!=x", true),
        ("labels.\"containerd.io/snapshot.ref\"==sha256:aa", true),
        ("labels.\"containerd.io/snapshot.ref\"==sha256:ab", false),
        ("labels.\"containerd.io/snapshot.ref\"", true),
        ("labels.\"none\"", false),
        ("labels.none!=x", true),
        ("labels.none==\"\"", false),
        ("labels.plain==\"v,w\"", true),
        ("labels.a.b==dots", true),
        ("kind==active,name~=/c$/", true),
        ("kind==active , name==nope", false),
        ("id==1", false),
        ("id", false),
    ] {
        let parsed = Filters::parse(&[filter]);
        let matched = parsed.map(|filters| filters.matches(&snapshot()));
        assert_eq!(matched.unwrap_or(false), expected, "{filter}");
    }
}

#[test]
fn several_filters_are_alternatives() {
    assert!(matches(&[]));
    assert!(matches(&["kind==view", "kind==active"]));
    assert!(!matches(&["kind==view", "kind==committed"]));
}

#[test]
fn what_breaks_a_rule_is_refused() {
    for filter in [
        "=",
        "==x",
        "name=x",
        "name==",
        "name==x,",
        ",",
        "name==\"x",
        "name~=/x",
        "name~=/(/",
        "labels.",
        "labels.\"x",
        "name x",
        "name==x y",
        "name==\"\\q\"",
        ".name",
        "näme",
        "name==\"x\"y",
    ] {
        let error = Filters::parse(&[filter]).expect_err(filter);
        assert_eq!(error.kind(), ErrorKind::Malformed, "{filter}");
        assert!(error.context("filter").is_some());
    }
}

#[test]
fn hostile_filters_cost_little() {
    let many = vec!["name"; MAX_FILTERS + 1];
    assert_eq!(Filters::parse(&many).expect_err("many").kind(), ErrorKind::Exhausted);
    let long = "x".repeat(MAX_LEN + 1);
    assert_eq!(Filters::parse(&[&long]).expect_err("long").kind(), ErrorKind::Exhausted);
    let bomb = "name~=/((a{1000}){1000}){1000}/";
    assert_eq!(Filters::parse(&[bomb]).expect_err("bomb").kind(), ErrorKind::Malformed);
    // Backtracking would take 2^30 steps here.
    assert!(!matches(&["name~=/(s|sh|sha)*(s|s)*x$/"]));
    for len in 0..64 {
        for seed in 0..64_u8 {
            let alphabet = b"name.=~!,\"\\/|lk\xc3\xa4 ";
            let pick =
                |n: usize| alphabet[(n * 31 + usize::from(seed) * 7 + n * n) % alphabet.len()];
            let text: Vec<u8> = (0..len).map(pick).collect();
            // Must end, well or badly.
            let _ = Filters::parse(&[String::from_utf8_lossy(&text)]);
        }
    }
}
