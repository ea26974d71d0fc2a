//! `sixfold completions SHELL` and `sixfold man DIR`: made from the flags themselves, so that they cannot differ from them.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use clap_complete::Shell;

/// Flags of `completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// Which shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Flags of `man`.
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Where to write the pages; made when it is not there
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// Prints a shell's completions.
pub(crate) fn completions(args: &CompletionsArgs, mut command: clap::Command) -> Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command, "sixfold", &mut text);
    say!("{}", String::from_utf8(text)?.trim_end());
    Ok(())
}

/// Writes a page for each verb.
pub(crate) fn man(args: &ManArgs, command: clap::Command) -> Result<()> {
    let dir = &args.dir;
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    clap_mangen::generate_to(command, dir)
        .with_context(|| format!("cannot write pages into {}", dir.display()))?;
    say!("wrote the pages into {}", dir.display());
    Ok(())
}
