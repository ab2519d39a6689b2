//! What a program touched of a lazily pulled image, found without asking who fetched it.
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    path::Path,
};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::{bolide, run};

const PATIENCE: std::time::Duration = std::time::Duration::from_mins(1);

#[derive(Debug, Deserialize)]
struct Toc {
    entries: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
struct Entry {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    offset: u64,
}

/// Compressed bytes of the chunks of `files`, each of which is read whole from the topmost layer that
/// has it. `reference` names an eStargz image; `sizes` are those of its layers, the lowest first.
pub fn touched_bytes(
    plain_http: &str,
    reference: &str,
    sizes: &[u64],
    files: &[String],
) -> Result<u64> {
    let mut command = bolide(["inspect", "--toc", "--plain-http", plain_http])?;
    let shown = run(command.arg(reference), PATIENCE)?.success("bolide inspect")?;
    let documents = serde_json::Deserializer::from_str(&shown).into_iter::<Toc>();
    let tocs: Vec<Toc> = documents.collect::<Result<_, _>>().context("a TOC")?;
    let mut wanted: HashSet<&str> = files.iter().map(String::as_str).collect();
    let mut total = 0;
    for (toc, size) in tocs.iter().zip(sizes).rev() {
        let members = members(toc, *size);
        let mut found = BTreeSet::new();
        let mut offsets = BTreeSet::new();
        for (name, offset) in chunks(toc) {
            if wanted.contains(name) {
                found.insert(name);
                offsets.insert(offset);
            }
        }
        total += offsets.iter().filter_map(|offset| members.get(offset)).sum::<u64>();
        wanted.retain(|name| !found.contains(name));
    }
    Ok(total)
}

/// Name and member of every chunk; further chunks of a file follow its entry.
fn chunks(toc: &Toc) -> impl Iterator<Item = (&str, u64)> {
    let mut name = "";
    toc.entries.iter().filter_map(move |entry| {
        if entry.kind != "chunk" {
            name = Path::new(&entry.name).to_str().unwrap_or_default().trim_start_matches("./");
        }
        (entry.offset > 0).then_some((name, entry.offset))
    })
}

/// Size of every member, by its offset: it ends where the next one starts.
fn members(toc: &Toc, size: u64) -> BTreeMap<u64, u64> {
    let offsets: BTreeSet<u64> = chunks(toc).map(|(_, offset)| offset).collect();
    let ends = offsets.iter().skip(1).copied().chain([size]);
    offsets.iter().copied().zip(ends).map(|(start, end)| (start, end - start)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_end_where_the_next_begins() {
        let text = r#"{"entries": [{"name": "a", "type": "reg", "offset": 10},
            {"name": "a", "type": "chunk", "offset": 30}, {"name": "d", "type": "dir"},
            {"name": "b", "type": "reg", "offset": 70}]}"#;
        let toc: Toc = serde_json::from_str(text).expect("parses");
        let all: Vec<_> = chunks(&toc).collect();
        assert_eq!(all, [("a", 10), ("a", 30), ("b", 70)]);
        assert_eq!(members(&toc, 100), BTreeMap::from([(10, 20), (30, 40), (70, 30)]));
    }
}
