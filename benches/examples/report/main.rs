//! Makes RESULTS.md and its pictures of what `benches/measure.sh` kept: `report FROM OUT`.
//!
//! Every figure comes from a file of a run; what was not measured is said to be so, and losses stand beside wins.

mod goals;
mod pictures;
mod runs;
mod tables;

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use runs::Runs;

fn main() -> Result<()> {
    let args: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    ensure!(args.len() == 2, "usage: report FROM OUT");
    let runs = Runs::read(&args[0])?;
    std::fs::create_dir_all(&args[1])
        .with_context(|| format!("cannot make {}", args[1].display()))?;
    let page = page(&runs, &args[1])?;
    let path = args[1].join("RESULTS.md");
    std::fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))
}

fn page(runs: &Runs, out: &Path) -> Result<String> {
    let mut page = String::from("# Results\n\n");
    page.push_str(&runs.origin()?);
    page.push_str(
        "\nOnly ratios within one run mean anything on a small machine whose neighbors come and go: all node processes, the writer and \
         the load share its processors and its disk. *Bare* is the bare quorum append of the same run: the same processes, transport, \
         disks and bytes, without tree and transactions.\n\n## Goals\n\n",
    );
    page.push_str(&goals::table(runs));
    page.push_str(
        "\n*Missed* is said where it is so, *not measured* where no run of these files says.\n",
    );
    for (title, name, picture) in pictures::draw_all(runs, out)? {
        writeln!(page, "\n![{title}]({picture})\n\n*{title}* (`{name}`)")?;
    }
    page.push_str(&tables::all(runs));
    Ok(page)
}
