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

#[derive(Deserialize)]
struct Recorded {
    path: String,
}

impl FromIterator<String> for PathList {
    /// Paths, none of them a pattern.
    fn from_iter<I: IntoIterator<Item = String>>(paths: I) -> Self {
        let lines = paths.into_iter().map(|path| Line::Path(normal(&path).to_owned())).collect();
        Self { lines, is_checked: false }
    }
}

impl PathList {
    /// Reads a record of use: a path a line, or a JSON object with a `path`. Of the reference's
    /// records, which name a layer too, the path alone counts.
    ///
    /// `Malformed`, with the number of the line, when it is neither; `Exhausted` when it is too long.
    pub fn read_record(input: impl BufRead) -> Result<Self> {
        let read = |line: &str| {
            if !line.starts_with('{') {
                return Ok(line.to_owned());
            }
            let recorded = serde_json::from_str(line).map(|recorded: Recorded| recorded.path);
            recorded.map_err(|error| {
                malformed("a line of a record is a path, or a JSON object with a `path`")
                    .with_source(error)
            })
        };
        let paths: Vec<String> = lines(input, read)?;
        Ok(paths.into_iter().filter(|path| !path.is_empty()).collect())
    }

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
        let list = PathList::read_record(record.as_bytes()).expect("record");
        assert_eq!(list.paths(), ["bin/a b", "etc/x"]);
        assert!(!list.needs_names());
        let error = PathList::read_record(&b"ok\n{\"no\": 1}\n"[..]).expect_err("no path");
        assert_eq!(error.context("line"), Some("2"));
        let error = PathList::read_list(&b"ok\na[\n"[..]).expect_err("no pattern");
        assert_eq!((error.kind(), error.context("line")), (ErrorKind::Malformed, Some("2")));
    }
}
