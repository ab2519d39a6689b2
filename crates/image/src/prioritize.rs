//! Which files of an image come first in its layers: records of use, and lists that people write.
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    io::BufRead,
};

use bolide_core::{Digest, Error, ErrorKind, Result};
use globset::{GlobBuilder, GlobMatcher};
use serde::Deserialize;

/// Most lines of a list.
const MAX_LINES: usize = 1_000_000;

/// Paths in the order of their first use, some of them as patterns.
#[derive(Clone, Debug, Default)]
pub struct PathList {
    lines: Vec<Line>,
    /// Whether what matches nothing is worth a word: people wrote it.
    is_checked: bool,
}

#[derive(Clone, Debug)]
enum Line {
    Path(String),
    Glob(Box<GlobMatcher>),
}

impl Line {
    fn text(&self) -> &str {
        match self {
            Self::Path(path) => path,
            Self::Glob(glob) => glob.glob().glob(),
        }
    }
}

/// What a list comes to in one layer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Expanded {
    pub(crate) paths: Vec<String>,
    /// Numbers of the lines that matched something.
    pub(crate) matched: BTreeSet<usize>,
}

/// A record of what was used of an image, in the order of first use.
#[derive(Clone, Debug)]
pub struct UsageRecord(Vec<Recorded>);

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Recorded {
    path: String,
    manifest_digest: Option<Digest>,
    layer_index: Option<usize>,
}

impl FromIterator<(String, Digest, usize)> for UsageRecord {
    /// Paths, the image they are of, and the number of the layer that served each.
    fn from_iter<I: IntoIterator<Item = (String, Digest, usize)>>(used: I) -> Self {
        let line = |(path, manifest, layer)| Recorded {
            path,
            manifest_digest: Some(manifest),
            layer_index: Some(layer),
        };
        Self(used.into_iter().map(line).collect())
    }
}

impl UsageRecord {
    /// Reads a record: a path a line, or a JSON object with a `path`.
    ///
    /// `Malformed`, with the number of the line, when it is neither; `Exhausted` when it is too long.
    pub fn read(input: impl BufRead) -> Result<Self> {
        let read = |line: &str| {
            if !line.starts_with('{') {
                return Ok(Recorded { path: line.to_owned(), ..Recorded::default() });
            }
            serde_json::from_str(line).map_err(|error| {
                malformed("a line of a record is a path, or a JSON object with a `path`")
                    .with_source(error)
            })
        };
        let mut lines: Vec<Recorded> = lines(input, read)?;
        lines.retain(|line| !line.path.is_empty());
        Ok(Self(lines))
    }

    /// What comes first in the layers of an image. Where the record is of this very image, each
    /// layer gets what it served; otherwise each gets all, and passes over what it lacks.
    #[must_use]
    pub fn prioritized(&self, image: Digest, layers: &[Digest]) -> Prioritized {
        let is_of = |line: &Recorded| {
            line.manifest_digest == Some(image)
                && line.layer_index.is_some_and(|number| number < layers.len())
        };
        if self.0.is_empty() || !self.0.iter().all(is_of) {
            let all = self.0.iter().map(|line| line.path.clone());
            return Prioritized::everywhere(all.collect());
        }
        let mut prioritized = Prioritized::default();
        for (number, layer) in layers.iter().enumerate() {
            let own = self.0.iter().filter(|line| line.layer_index == Some(number));
            let own = own.map(|line| line.path.clone()).collect();
            prioritized = prioritized.with_layer(*layer, own);
        }
        prioritized
    }
}

impl FromIterator<String> for PathList {
    /// Paths, none of them a pattern.
    fn from_iter<I: IntoIterator<Item = String>>(paths: I) -> Self {
        let lines = paths.into_iter().map(|path| Line::Path(normal(&path).to_owned())).collect();
        Self { lines, is_checked: false }
    }
}

impl PathList {
    /// Reads a list that a person wrote: a path or a pattern a line, empty lines and those that
    /// start with `#` aside. In patterns `*` and `?` stand for characters of one name, `[]` for one
    /// of several, `**` for any number of directories.
    ///
    /// `Malformed`, with the number of the line, for a broken pattern; `Exhausted` when it is too
    /// long.
    pub fn read_list(input: impl BufRead) -> Result<Self> {
        let read = |line: &str| {
            let line = normal(line.trim_end());
            if !line.contains(['*', '?', '[']) {
                return Ok(Line::Path(line.to_owned()));
            }
            let glob = GlobBuilder::new(line).literal_separator(true).build();
            glob.map(|glob| Line::Glob(Box::new(glob.compile_matcher())))
                .map_err(|error| malformed("a pattern must be well-formed").with_source(error))
        };
        let commented = |line: &str| line.starts_with('#') || line.trim().is_empty();
        let read = |line: &str| (!commented(line)).then(|| read(line)).transpose();
        let lines: Vec<Option<Line>> = lines(input, read)?;
        Ok(Self { lines: lines.into_iter().flatten().collect(), is_checked: true })
    }

    /// Whether it lists nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Whether the names of a layer must be known to use it there.
    pub(crate) fn needs_names(&self) -> bool {
        self.is_checked && !self.is_empty()
    }

    /// The lines: paths from the root without a slash before them, and patterns as they were
    /// written.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        self.lines.iter().map(|line| line.text().to_owned()).collect()
    }

    /// What is listed of these names: line by line, and within a pattern in the order of bytes.
    pub(crate) fn expand(&self, names: &BTreeSet<String>) -> Expanded {
        let mut expanded = Expanded::default();
        let mut known = HashSet::new();
        for (number, line) in self.lines.iter().enumerate() {
            let mut add = |name: &String| {
                expanded.matched.insert(number);
                if known.insert(name.clone()) {
                    expanded.paths.push(name.clone());
                }
            };
            match line {
                Line::Path(path) => names.get(path).into_iter().for_each(&mut add),
                Line::Glob(glob) => {
                    names.iter().filter(|name| glob.is_match(name)).for_each(&mut add);
                }
            }
        }
        expanded
    }

    /// The lines that are not among `matched`.
    pub(crate) fn unmatched(&self, matched: &BTreeSet<usize>) -> Vec<String> {
        let lines = self.lines.iter().enumerate().filter(|_| self.is_checked);
        let missing = lines.filter(|(number, _)| !matched.contains(number));
        missing.map(|(_, line)| line.text().to_owned()).collect()
    }
}

/// A list for each layer of an image.
#[derive(Clone, Debug, Default)]
pub struct Prioritized {
    everywhere: PathList,
    layers: HashMap<Digest, PathList>,
}

impl Prioritized {
    /// One list for all layers. Each passes over what it does not have.
    #[must_use]
    pub fn everywhere(list: PathList) -> Self {
        Self { everywhere: list, layers: HashMap::new() }
    }

    /// Gives one layer a list of its own, by the digest of the source's blob.
    #[must_use]
    pub fn with_layer(mut self, layer: Digest, list: PathList) -> Self {
        self.layers.insert(layer, list);
        self
    }

    /// Whether nothing comes first anywhere.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.everywhere.is_empty() && self.layers.values().all(PathList::is_empty)
    }

    /// The list of a layer.
    pub(crate) fn of(&self, layer: Digest) -> &PathList {
        self.layers.get(&layer).unwrap_or(&self.everywhere)
    }

    /// The list of the layers that have none of their own.
    pub(crate) fn common(&self) -> &PathList {
        &self.everywhere
    }
}

/// A path without slashes around it and without a `.` at its start.
pub(crate) fn normal(path: &str) -> &str {
    let mut path = path.trim_end_matches('/');
    while let Some(rest) = path.strip_prefix("./").or_else(|| path.strip_prefix('/')) {
        path = rest;
    }
    path
}

fn lines<T>(input: impl BufRead, read: impl Fn(&str) -> Result<T>) -> Result<Vec<T>> {
    let mut all = Vec::new();
    for (at, line) in input.lines().enumerate() {
        let read = |line: String| read(&line);
        let line = line.map_err(|error| Error::io("prioritize::read", error)).and_then(read);
        all.push(line.map_err(|error| error.with_context("line", at + 1))?);
        if all.len() > MAX_LINES {
            let rule = "a list of paths may have a million lines";
            return Err(Error::new(ErrorKind::Exhausted, "prioritize::read", rule));
        }
    }
    Ok(all)
}

fn malformed(rule: &'static str) -> Error {
    Error::new(ErrorKind::Malformed, "prioritize::read", rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(list: &str, names: &[&str]) -> (Vec<String>, Vec<String>) {
        let list = PathList::read_list(list.as_bytes()).expect("list");
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let expanded = list.expand(&names);
        (expanded.paths, list.unmatched(&expanded.matched))
    }

    #[test]
    fn lines_come_in_order_and_patterns_in_that_of_bytes() {
        let list = "# first\n\n/bin/b\nlib/*.so\n./lib/**\netc/[ab]?\nno/such\n*.none\n";
        let names = ["bin/b", "lib/z.so", "lib/a.so", "lib/x/y.so", "etc/bc", "etc/cc", "lib/A"];
        let (paths, unmatched) = expand(list, &names);
        assert_eq!(paths, ["bin/b", "lib/a.so", "lib/z.so", "lib/A", "lib/x/y.so", "etc/bc"]);
        assert_eq!(unmatched, ["no/such", "*.none"]);
    }

    #[test]
    fn a_pattern_stays_in_its_directory() {
        assert_eq!(expand("a*\n", &["a", "a/b", "ab"]).0, ["a", "ab"]);
        assert_eq!(expand("**/c\n", &["c", "a/b/c"]).0, ["a/b/c", "c"]);
    }

    #[test]
    fn both_forms_of_a_record_are_read() {
        let record = "bin/a b\n{\"path\": \"/etc/x\", \"layerIndex\": 1}\n";
        let record = UsageRecord::read(record.as_bytes()).expect("record");
        let (image, layers) = (Digest::of(b"image"), [Digest::of(b"0"), Digest::of(b"1")]);
        let everywhere = record.prioritized(image, &layers);
        for layer in layers {
            assert_eq!(everywhere.of(layer).paths(), ["bin/a b", "etc/x"]);
            assert!(!everywhere.of(layer).needs_names());
        }
        let error = UsageRecord::read(&b"ok\n{\"no\": 1}\n"[..]).expect_err("no path");
        assert_eq!(error.context("line"), Some("2"));
        let error = PathList::read_list(&b"ok\na[\n"[..]).expect_err("no pattern");
        assert_eq!((error.kind(), error.context("line")), (ErrorKind::Malformed, Some("2")));
    }

    #[test]
    fn a_record_of_the_image_gives_each_layer_its_own() {
        let (image, layers) = (Digest::of(b"image"), [Digest::of(b"0"), Digest::of(b"1")]);
        let line = |path: &str, layer: usize| {
            format!(
                "{{\"path\":\"{path}\",\"manifestDigest\":\"{image}\",\"layerIndex\":{layer}}}\n"
            )
        };
        let text = [line("a", 1), line("b", 0), line("c", 1)].concat();
        let record = UsageRecord::read(text.as_bytes()).expect("record");
        let own = record.prioritized(image, &layers);
        assert_eq!(own.of(layers[0]).paths(), ["b"]);
        assert_eq!(own.of(layers[1]).paths(), ["a", "c"]);
        let other = record.prioritized(Digest::of(b"another"), &layers);
        assert_eq!(other.of(layers[0]).paths(), ["a", "b", "c"]);
    }
}
