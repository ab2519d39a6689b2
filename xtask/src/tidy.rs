//! Rules of shape: every file says what it is, and none hides two ideas.
use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use syn::{spanned::Spanned as _, visit::Visit};

/// Longest file of production code, in lines.
const MAX_FILE: usize = 400;
/// Longest function, in lines.
const MAX_FUNCTION: usize = 60;
/// A file that says `// tidy: <reason>` may be longer.
const EXCUSE: &str = "// tidy: ";

/// Checks every file; fails with the list of faults.
pub(crate) fn run(root: &Path) -> Result<()> {
    let mut faults = Vec::new();
    for dir in ["crates", "xtask", "tests"] {
        for file in sources(&root.join(dir))? {
            let text = fs::read_to_string(&file)?;
            let shown = file.strip_prefix(root).unwrap_or(&file).display().to_string();
            faults.extend(
                check(&text)
                    .with_context(|| shown.clone())?
                    .into_iter()
                    .map(|fault| format!("{shown}: {fault}")),
            );
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

fn check(text: &str) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    if !text.starts_with("//!") {
        faults.push("the first line must say in //! what the file is for".to_owned());
    }
    if text.contains(EXCUSE) {
        return Ok(faults);
    }
    let file = syn::parse_file(text)?;
    let tests: usize = file.items.iter().filter(|item| is_test_module(item)).map(lines).sum();
    let production = text.lines().count() - tests;
    if production > MAX_FILE {
        faults.push(format!("{production} lines of production code; {MAX_FILE} are allowed"));
    }
    let mut functions = Functions::default();
    functions.visit_file(&file);
    faults.extend(functions.faults);
    Ok(faults)
}

fn lines<T: syn::spanned::Spanned>(node: &T) -> usize {
    let span = node.span();
    span.end().line - span.start().line + 1
}

fn is_test_module(item: &syn::Item) -> bool {
    let syn::Item::Mod(module) = item else { return false };
    module.attrs.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && matches!(&attribute.meta, syn::Meta::List(list) if list.tokens.to_string() == "test")
    })
}

#[derive(Default)]
struct Functions {
    faults: Vec<String>,
}

impl Functions {
    fn check(&mut self, name: &syn::Ident, block: &syn::Block) {
        let length = block.span().end().line - name.span().start().line + 1;
        if length > MAX_FUNCTION {
            self.faults
                .push(format!("function {name} has {length} lines; {MAX_FUNCTION} are allowed"));
        }
    }
}

impl<'ast> Visit<'ast> for Functions {
    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.check(&function.sig.ident, &function.block);
        syn::visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.check(&function.sig.ident, &function.block);
        syn::visit::visit_impl_item_fn(self, function);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_line_and_a_long_function_are_found() {
        let body = "    let _ = 1;\n".repeat(60);
        let faults = check(&format!("fn long() {{\n{body}}}\n")).expect("parses");
        assert_eq!(faults.len(), 2, "{faults:?}");
        let excused = check(&format!("//! Doc.\n// tidy: a table\nfn long() {{\n{body}}}\n"));
        assert!(excused.expect("parses").is_empty());
    }

    #[test]
    fn test_modules_do_not_count() {
        let body = "    fn a() {}\n".repeat(500);
        let faults = check(&format!("//! Doc.\n#[cfg(test)]\nmod tests {{\n{body}}}\n"));
        assert!(faults.expect("parses").is_empty());
    }
}
