//! The drawing of dependencies, enforced.
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use crate::shell::{self, cargo};

#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
}

type Edges = BTreeMap<String, BTreeSet<String>>;

/// Fails on an edge between crates of the workspace that ARCHITECTURE.md does not draw.
pub(crate) fn run(root: &Path) -> Result<()> {
    let drawing = fs::read_to_string(root.join("ARCHITECTURE.md")).context("ARCHITECTURE.md")?;
    let drawn = parse(&drawing)?;
    let missing = undrawn(&edges(root)?, &drawn);
    if missing.is_empty() {
        return Ok(());
    }
    bail!("ARCHITECTURE.md does not draw these dependencies:\n{}", missing.join("\n"))
}

fn edges(root: &Path) -> Result<Edges> {
    let output =
        shell::output(&mut cargo(root, &["metadata", "--format-version", "1", "--no-deps"]))?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Metadata = serde_json::from_slice(&output.stdout)?;
    let names: BTreeSet<_> = metadata.packages.iter().map(|package| package.name.clone()).collect();
    let own = |package: &Package| -> BTreeSet<String> {
        let normal = package.dependencies.iter().filter(|dependency| dependency.kind.is_none());
        normal
            .map(|dependency| dependency.name.clone())
            .filter(|name| names.contains(name))
            .collect()
    };
    Ok(metadata.packages.iter().map(|package| (package.name.clone(), own(package))).collect())
}

/// Reads lines `crate: dependency, dependency` of the fenced block named `deps`.
fn parse(document: &str) -> Result<Edges> {
    let (_, rest) =
        document.split_once("```deps\n").context("ARCHITECTURE.md has no ```deps block")?;
    let (block, _) = rest.split_once("```").context("the ```deps block does not end")?;
    let mut drawn = Edges::new();
    for line in block.lines().filter(|line| !line.trim().is_empty()) {
        let (name, list) = line.split_once(':').with_context(|| format!("no colon in {line:?}"))?;
        let list = list.split(',').map(str::trim).filter(|name| !name.is_empty()).map(prefixed);
        drawn.insert(prefixed(name.trim()), list.collect());
    }
    Ok(drawn)
}

fn prefixed(name: &str) -> String {
    if name == "xtask" { name.to_owned() } else { format!("bolide-{name}") }
}

fn undrawn(edges: &Edges, drawn: &Edges) -> Vec<String> {
    let none = BTreeSet::new();
    let mut missing = Vec::new();
    for (name, dependencies) in edges {
        let allowed = drawn.get(name).unwrap_or(&none);
        missing.extend(
            dependencies.difference(allowed).map(|dependency| format!("{name} -> {dependency}")),
        );
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edge_that_is_not_drawn_is_found() {
        let drawn = parse("text\n```deps\nfs: core\n```\n").expect("parses");
        let edge =
            |to: &str| Edges::from([("bolide-fs".to_owned(), BTreeSet::from([to.to_owned()]))]);
        assert!(undrawn(&edge("bolide-core"), &drawn).is_empty());
        assert_eq!(undrawn(&edge("bolide-cache"), &drawn), ["bolide-fs -> bolide-cache"]);
    }
}
