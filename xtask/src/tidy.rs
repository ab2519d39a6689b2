//! Rules of shape: every file says what it is, and none hides two ideas.
use std::{
    fs,
    ops::Range,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use proc_macro2::Ident;
use syn::{Block, ImplItemFn, Item, ItemFn, TraitItemFn, spanned::Spanned as _, visit::Visit};

/// Longest file of production code, in lines.
const MAX_FILE: usize = 400;
/// Longest function, in lines.
const MAX_FUNCTION: usize = 60;
/// What is longer needs a comment `// tidy: <reason>`: a file before its first item, a function
/// within it or on the line above its name, documentation and attributes.
const EXCUSE: &str = "// tidy: ";

/// Checks every file; fails with the list of faults.
pub(crate) fn run(root: &Path) -> Result<()> {
    let mut faults = Vec::new();
    for dir in ["crates", "xtask", "tests"] {
        for file in sources(&root.join(dir))? {
            let text = fs::read_to_string(&file)?;
            let shown = file.strip_prefix(root).unwrap_or(&file);
            let found = check(&text, is_test_file(shown));
            let found = found.with_context(|| shown.display().to_string())?;
            faults.extend(found.iter().map(|fault| format!("{}: {fault}", shown.display())));
        }
    }
    if faults.is_empty() {
        return Ok(());
    }
    bail!("tidy found {} faults:\n{}", faults.len(), faults.join("\n"))
}

fn sources(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && !matches!(&*name, "generated" | "target" | "testdata") {
            found.extend(sources(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// `name/tests.rs` and what lies below a crate's `tests/` hold no production code.
fn is_test_file(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == "tests.rs")
        || path.parent().is_some_and(|dir| dir.components().any(|part| part.as_os_str() == "tests"))
}

fn check(text: &str, is_test: bool) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    if !text.starts_with("//!") {
        faults.push("the first line must say in //! what the file is for".to_owned());
    }
    if is_test {
        return Ok(faults);
    }
    let file = syn::parse_file(text)?;
    let lines: Vec<_> = text.lines().collect();
    let tests: usize =
        file.items.iter().filter(|item| is_test_module(item)).map(|item| span(item).len()).sum();
    let production = lines.len() - tests;
    let head = file.items.first().map_or(0..lines.len(), |item| 0..span(item).end);
    if production > MAX_FILE && !excused(&lines[head]) {
        faults.push(format!("{production} lines of production code; {MAX_FILE} are allowed"));
    }
    let mut functions = Functions { lines: &lines, faults };
    functions.visit_file(&file);
    Ok(functions.faults)
}

/// Lines of a node, counted from 0.
fn span<T: syn::spanned::Spanned>(node: &T) -> Range<usize> {
    let span = node.span();
    span.start().line - 1..span.end().line
}

fn excused(lines: &[&str]) -> bool {
    let reasons = lines.iter().filter_map(|line| line.trim_start().strip_prefix(EXCUSE));
    reasons.into_iter().any(|reason| !reason.trim().is_empty())
}

fn is_test_module(item: &Item) -> bool {
    let Item::Mod(module) = item else { return false };
    module.attrs.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && matches!(&attribute.meta, syn::Meta::List(list) if list.tokens.to_string() == "test")
    })
}

struct Functions<'a> {
    lines: &'a [&'a str],
    faults: Vec<String>,
}

impl Functions<'_> {
    fn check<T: syn::spanned::Spanned>(&mut self, function: &T, name: &Ident, block: &Block) {
        let length = block.span().end().line - name.span().start().line + 1;
        let whole = span(function);
        // The comment above documentation and attributes is no part of the function's own span.
        let excused = excused(&self.lines[whole.start.saturating_sub(1)..whole.end]);
        if length > MAX_FUNCTION && !excused {
            self.faults
                .push(format!("function {name} has {length} lines; {MAX_FUNCTION} are allowed"));
        }
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        if !is_test_module(item) {
            syn::visit::visit_item(self, item);
        }
    }

    fn visit_item_fn(&mut self, function: &'ast ItemFn) {
        self.check(function, &function.sig.ident, &function.block);
        syn::visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast ImplItemFn) {
        self.check(function, &function.sig.ident, &function.block);
        syn::visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast TraitItemFn) {
        if let Some(block) = &function.default {
            self.check(function, &function.sig.ident, block);
        }
        syn::visit::visit_trait_item_fn(self, function);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long_function() -> String {
        format!("fn long() {{\n{}}}\n", "    let _ = 1;\n".repeat(60))
    }

    #[test]
    fn a_missing_line_and_a_long_function_are_found() {
        let faults = check(&long_function(), false).expect("parses");
        assert_eq!(faults.len(), 2, "{faults:?}");
    }

    #[test]
    fn a_reason_excuses_the_function_it_stands_at_and_no_other() {
        let long = long_function();
        let excused = format!("//! Doc.\nfn a() {{}}\n// tidy: a table\n{long}");
        assert_eq!(check(&excused, false).expect("parses"), Vec::<String>::new());
        let other = format!("//! Doc.\n// tidy: a table\nfn a() {{}}\n{long}");
        assert_eq!(check(&other, false).expect("parses").len(), 1);
        let empty = format!("//! Doc.\n// tidy: \n{long}");
        assert_eq!(check(&empty, false).expect("parses").len(), 1);
    }

    #[test]
    fn a_long_file_needs_its_reason_before_the_first_item() {
        let body = "fn a() {}\n".repeat(500);
        let faults = |text: String| check(&text, false).expect("parses").len();
        assert_eq!(faults(format!("//! Doc.\n{body}")), 1);
        assert_eq!(faults(format!("//! Doc.\n// tidy: a table\n{body}")), 0);
        assert_eq!(faults(format!("//! Doc.\n{body}// tidy: too late\nfn b() {{}}\n")), 1);
    }

    #[test]
    fn tests_do_not_count() {
        let body = format!("{}{}", "    fn a() {}\n".repeat(500), long_function());
        let inline = format!("//! Doc.\n#[cfg(test)]\nmod tests {{\n{body}}}\n");
        assert_eq!(check(&inline, false).expect("parses"), Vec::<String>::new());
        assert_eq!(check(&format!("//! Doc.\n{body}"), true).expect("parses").len(), 0);
        assert!(is_test_file(Path::new("crates/fs/src/tree/tests.rs")));
        assert!(is_test_file(Path::new("crates/fs/tests/mount.rs")));
        assert!(!is_test_file(Path::new("crates/fs/src/tests_of.rs")));
    }
}
