//! The report: what the summary says, written into the pages' tables and drawn as pictures.
//!
//! A page marks where a table stands; the prose around it is its own. A part of the bench that is not in the summary
//! leaves its tables as they are.

mod figures;
mod marks;
mod plots;
mod table;
mod tables;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;

use crate::summary;
use figures::Figures;

/// The pages that have tables, below the root.
const PAGES: [&str; 2] = ["README.md", "bench/README.md"];
/// The folder of the pictures, below the root.
const PICTURES: &str = "docs/bench";

/// Where the report is written.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The folder of the project's sources, whose pages are written
    #[arg(long, value_name = "DIR", default_value = ".")]
    root: PathBuf,
}

/// Writes the tables of the pages and the pictures, and says what was not measured.
///
/// # Errors
/// When a page has a mark that means nothing, naming its line, and when a file cannot be read or written.
pub(crate) fn run(options: &Options, output: &Path) -> anyhow::Result<()> {
    let figures = Figures::new(summary::read(output)?);
    let mut missing = Vec::new();
    let mut pages = Vec::new();
    // Every page is read before any is written, so that a wrong mark leaves all as they were.
    for name in PAGES {
        let path = options.root.join(name);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let written = marks::fill(&text, |table| tables::write(table, &figures));
        let filled = written.map_err(|fault| fault.of(name))?;
        missing.extend(filled.left.into_iter().map(|table| (name, table)));
        pages.push((path, text, filled.text));
    }
    for (path, before, after) in pages {
        write(&path, (before != after).then_some(after))?;
    }
    let folder = options.root.join(PICTURES);
    for (name, draw) in plots::ALL {
        let path = folder.join(format!("{name}.svg"));
        match draw(&figures) {
            Some(picture) => {
                fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
                write(&path, Some(picture))?;
            }
            None => missing.push((PICTURES, (*name).to_owned())),
        }
    }
    for (page, table) in missing {
        println!(
            "{page}: `{table}` stays as it is: {} has no figures for it",
            output.display()
        );
    }
    Ok(())
}

/// Writes a file, if there is something to write.
fn write(path: &Path, text: Option<String>) -> anyhow::Result<()> {
    let Some(text) = text else { return Ok(()) };
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    println!("written: {}", path.display());
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::Map;

    use super::*;

    #[test]
    fn every_mark_of_the_pages_is_known_and_without_figures_all_stays() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let nothing = Figures::new(Map::new());
        for name in PAGES {
            let page = fs::read_to_string(root.join(name)).unwrap();
            let filled = marks::fill(&page, |table| tables::write(table, &nothing));
            let filled = filled.map_err(|fault| fault.of(name).to_string()).unwrap();
            assert!(filled.text == page, "{name} does not stay as it is");
            assert!(!filled.left.is_empty(), "{name} has no tables");
        }
    }

    #[test]
    fn a_report_written_twice_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().to_owned();
        fs::create_dir(root.join("bench")).unwrap();
        let page = "words\n<!-- table: memory -->\n<!-- end -->\n<!-- table: veth -->\nold\n<!-- end -->\n";
        for name in PAGES {
            fs::write(root.join(name), page).unwrap();
        }
        let output = root.join("summary.json");
        fs::write(&output, r#"{"forward/64/65536": {"ns": 70.0, "cycles": 161.0}}"#).unwrap();
        let mut seen = Vec::new();
        for _ in 0..2 {
            run(&Options { root: root.clone() }, &output).unwrap();
            let text = fs::read_to_string(root.join(PAGES[0])).unwrap();
            let picture = fs::read_to_string(root.join(PICTURES).join("memory.svg")).unwrap();
            seen.push((text, picture));
        }
        assert!(
            seen[0].0.contains("| `forward` |") && seen[0].0.contains("\nold\n"),
            "{}",
            seen[0].0
        );
        assert_eq!(seen[0], seen[1]);
    }
}
