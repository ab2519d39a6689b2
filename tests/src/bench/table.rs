//! The document for people: Markdown that reads well in a terminal.
use std::fmt::Write as _;

use anyhow::{Context as _, Result};

use crate::{
    report::{Cold, Conversion, Document, FileSystem},
    spread::Spread,
};

/// The tables of a run, by what was measured: the word of the command line for it.
pub(crate) fn sections(document: &Document) -> Vec<(&'static str, String)> {
    let Document { host, runs, cold, fs, conversion } = document;
    let head = format!(
        "Linux {}, {} CPUs, {} MiB of memory, {runs} runs: median (least..most).\n",
        host.kernel, host.cpus, host.memory_mib
    );
    let tables = [
        ("cold", cold.as_ref().map(render_cold)),
        ("fs", fs.as_ref().map(render_fs)),
        ("convert", conversion.as_ref().map(render_conversion)),
    ];
    let measured = tables.into_iter().filter_map(|(what, table)| Some((what, table?)));
    measured.map(|(what, table)| (what, format!("{head}{table}"))).collect()
}

/// The text with another table between the markers of what was measured.
pub(crate) fn replace(text: &str, what: &str, table: &str) -> Result<String> {
    let (begin, end) = markers(what);
    let (before, rest) = text.split_once(&begin).context("the document has no begin marker")?;
    let (_, after) = rest.split_once(&end).context("the document has no end marker")?;
    Ok(format!("{before}{begin}\n{table}\n{end}{after}"))
}

fn markers(what: &str) -> (String, String) {
    let begin = format!("<!-- {what}: begin, written by `cargo xtask bench {what} --write` -->\n");
    (begin, format!("<!-- {what}: end -->"))
}

fn render_cold(cold: &Cold) -> String {
    let mut table = Table::new(&[
        "way",
        "pull s",
        "create s",
        "run s",
        "total s",
        "of overlayfs",
        "MB",
        "requests",
        "connections",
        "RSS MB",
        "peak MB",
    ]);
    let whole = cold.modes.first().map_or(1.0, |mode| mode.total.median);
    for mode in &cold.modes {
        let optional = |figure: &Option<Spread>| figure.as_ref().map_or_else(String::new, shown);
        table.row(vec![
            mode.name.clone(),
            shown(&mode.pull),
            shown(&mode.create),
            shown(&mode.run),
            shown(&mode.total),
            format!("{:.2}", mode.total.median / whole),
            shown(&mode.received),
            shown(&mode.requests),
            shown(&mode.connections),
            optional(&mode.rss),
            optional(&mode.peak),
        ]);
    }
    format!(
        "\nCold start of the python image, {:.1} MB compressed, over {}; mounter {}.\n\n{}\n\
         Floor {:.2} s = warm start {} s + {:.2} MB of files that the program opens + 3 round \
         trips.\n",
        cold.image_mb,
        cold.link,
        cold.mounter,
        table.render(),
        cold.floor,
        shown(&cold.warm),
        cold.needed_mb,
    )
}

fn render_fs(fs: &FileSystem) -> String {
    let mut table = Table::new(&["figure", "unit", &fs.mounter, &fs.beside]);
    for figure in &fs.figures {
        let side = |spread: &Option<Spread>| spread.as_ref().map_or_else(String::new, shown);
        table.row(vec![
            figure.name.clone(),
            figure.unit.to_owned(),
            side(&figure.bolide),
            side(&figure.directory),
        ]);
    }
    format!(
        "\nA layer of {} files, one of {} MiB, over loopback; mounter {}.\n\n{}",
        fs.files,
        fs.large_mib,
        fs.mounter,
        table.render()
    )
}

fn render_conversion(conversion: &Conversion) -> String {
    let mut table = Table::new(&["way", "s", "MB/s", "peak MB", "MB made"]);
    for way in &conversion.ways {
        table.row(vec![
            way.name.clone(),
            shown(&way.seconds),
            number(conversion.uncompressed_mb / way.seconds.median),
            shown(&way.peak),
            number(way.size.median),
        ]);
    }
    let mut text = format!(
        "\nConversion of the python image, {:.1} MB compressed, {:.1} MB uncompressed, from and to a \
         layout on disk.\n\n{}",
        conversion.image_mb,
        conversion.uncompressed_mb,
        table.render()
    );
    if let Some(large) = &conversion.large_layer {
        for (what, way) in
            [("in its order", &large.in_order), ("its last file put first", &large.put_first)]
        {
            // Writing into a string cannot fail.
            let _ = write!(
                text,
                "\nA layer of 4 GiB, {what}: {} s, peak {} MB, {} MB made.\n",
                number(way.seconds.median),
                number(way.peak.median),
                number(way.size.median),
            );
        }
    }
    text
}

fn shown(spread: &Spread) -> String {
    let Spread { median, min, max, .. } = spread;
    format!("{} ({}..{})", number(*median), number(*min), number(*max))
}

/// Three digits that count; a whole number as it is.
fn number(value: f64) -> String {
    match value.abs() {
        whole if whole.fract() == 0.0 => format!("{value:.0}"),
        large if large >= 99.95 => format!("{value:.0}"),
        middle if middle >= 9.995 => format!("{value:.1}"),
        small if small >= 0.0995 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Cells as wide as the widest of their column.
#[derive(Debug)]
struct Table(Vec<Vec<String>>);

impl Table {
    fn new(head: &[&str]) -> Self {
        Self(vec![head.iter().map(|&cell| cell.to_owned()).collect()])
    }

    fn row(&mut self, cells: Vec<String>) {
        self.0.push(cells);
    }

    fn render(&self) -> String {
        let columns = self.0.iter().map(Vec::len).max().unwrap_or_default();
        let width = |column: usize| {
            let cells = self.0.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        let mut text = String::new();
        for (at, row) in self.0.iter().enumerate() {
            for (cell, width) in row.iter().zip(&widths) {
                // Writing into a string cannot fail.
                let _ = write!(text, "| {cell:<width$} ");
            }
            text.push_str("|\n");
            if at == 0 {
                for width in &widths {
                    let _ = write!(text, "|{:-<1$}", "", width + 2);
                }
                text.push_str("|\n");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["a", "long"]);
        table.row(vec!["wide".into(), "b".into()]);
        assert_eq!(table.render(), "| a    | long |\n|------|------|\n| wide | b    |\n");
    }

    #[test]
    fn only_what_lies_between_the_markers_is_replaced() {
        let (begin, end) = markers("fs");
        let text = format!("before\n{begin}old\n{end}\nafter\n");
        let replaced = replace(&text, "fs", "new\n").expect("markers");
        assert_eq!(replaced, format!("before\n{begin}\nnew\n\n{end}\nafter\n"));
        assert_eq!(replace(&replaced, "fs", "new\n").expect("markers"), replaced);
        assert!(replace(&text, "cold", "new").is_err());
    }

    #[test]
    fn three_digits() {
        let shown = [0.01234, 1.234, 12.34, 1234.4, 7.0].map(number);
        assert_eq!(shown, ["0.012", "1.23", "12.3", "1234", "7"]);
    }
}
