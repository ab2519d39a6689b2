//! `cargo xtask bench`: what a cold start, the file system and a conversion cost, beside the ordinary way
//! on the same machine in the same run.
#![forbid(unsafe_code)]

mod cache;
mod cold;
mod content;
mod convert;
mod fs;
mod host;
mod images;
mod interrupt;
mod large_layer;
mod link;
mod node;
mod reads;
mod report;
mod spread;
mod table;

use std::{io::Write as _, path::PathBuf};

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};

use crate::{interrupt::Interrupt, report::Document};

#[derive(Debug, Parser)]
#[command(name = "bolide-bench")]
struct Arguments {
    /// What to measure
    #[arg(value_enum, default_value_t)]
    what: What,
    /// How often each figure is taken
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// The reference's ctr-remote, whose conversion is measured beside ours
    #[arg(long, value_name = "PROGRAM")]
    ctr_remote: Option<PathBuf>,
    /// Convert a layer of 4 GiB, too; takes 8 GB of disk below /tmp
    #[arg(long)]
    large: bool,
    /// Print one JSON document in place of the tables
    #[arg(long)]
    json: bool,
    /// Replace the tables between the markers of the document
    #[arg(long)]
    write: bool,
    /// The document
    #[arg(long, value_name = "FILE", env = "BOLIDE_BENCH_DOCUMENT", hide_env = true)]
    #[arg(default_value = "docs/BENCHMARKS.md")]
    document: PathBuf,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum What {
    /// From an image in a registry to the end of a program
    Cold,
    /// A large layer: its mount, its metadata, its content
    Fs,
    /// Conversions of an image
    Convert,
    /// All of them
    #[default]
    All,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let runtime = link::runtime()?;
    let interrupt = Interrupt::listen(&runtime)?;
    let mut document = Document::new(arguments.runs)?;
    let wanted = |what| [what, What::All].contains(&arguments.what);
    if wanted(What::Cold) {
        document.cold = Some(cold::measure(&runtime, &interrupt, arguments.runs)?);
    }
    if wanted(What::Fs) {
        document.fs = Some(fs::measure(&interrupt, arguments.runs)?);
    }
    if wanted(What::Convert) {
        let reference = arguments.ctr_remote.as_deref();
        let measured = convert::measure(&interrupt, arguments.runs, reference, arguments.large);
        document.conversion = Some(measured?);
    }
    let sections = table::sections(&document);
    if arguments.write {
        let file = &arguments.document;
        let mut text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        for (what, tables) in &sections {
            text = table::replace(&text, what, tables)?;
        }
        std::fs::write(file, text)?;
    }
    let mut out = std::io::stdout().lock();
    if arguments.json {
        serde_json::to_writer_pretty(&mut out, &document)?;
        writeln!(out)?;
    } else {
        for (_, tables) in &sections {
            writeln!(out, "{tables}")?;
        }
    }
    Ok(())
}
