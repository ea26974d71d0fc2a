//! `sixfold bench node`: a storage node beside its device.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use sixfold_benches::node::{NodeOptions, NodeRun, run as measure};

/// Flags of `bench node`.
#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    /// A directory on the device to be measured. Default: a temporary directory
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Redo to append in groups, MiB
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    append_mib: u64,
    /// Lone appends
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    lone: u32,
    /// Pages with chains of the longest length
    #[arg(long, default_value_t = 4_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pages: u64,
    /// Cold page reads
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    reads: u32,
    /// Sizes of hot logs to restart on, MiB
    #[arg(long, value_delimiter = ',', default_value = "32,256")]
    restart_mib: Vec<u64>,
    /// End with one JSON object on the last line
    #[arg(long)]
    json: bool,
}

/// Measures and prints.
pub(super) fn run(args: &NodeArgs) -> Result<()> {
    ensure!(
        args.restart_mib
            .iter()
            .all(|mib| (1..=16_384).contains(mib)),
        "--restart-mib must be 1 to 16384"
    );
    let scratch = match &args.dir {
        Some(_) => None,
        None => Some(tempfile::tempdir().context("cannot make a directory")?),
    };
    let dir = match (&args.dir, &scratch) {
        (Some(dir), _) => dir.clone(),
        (None, Some(scratch)) => scratch.path().to_owned(),
        (None, None) => unreachable!("a directory was made when none was given"),
    };
    let options = NodeOptions {
        dir,
        append_bytes: args.append_mib << 20,
        lone_count: args.lone as usize,
        page_count: args.pages,
        read_count: args.reads as usize,
        restart_bytes: args.restart_mib.iter().map(|mib| mib << 20).collect(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = tokio::task::LocalSet::new().block_on(&runtime, measure(&options))?;
    print(&result)?;
    if args.json {
        say!("{}", serde_json::to_string(&result)?);
    }
    Ok(())
}

fn print(run: &NodeRun) -> Result<()> {
    say!(
        "append   {:>8.0} MB/s       plain writer {:>8.0} MB/s   {:.0} %",
        run.append_mb_per_second,
        run.plain_append_mb_per_second,
        100.0 * run.append_mb_per_second / run.plain_append_mb_per_second
    );
    say!(
        "lone     {:>8} us p50     plain writer {:>8} us p50 {:.2} x",
        run.lone_p50_us,
        run.plain_lone_p50_us,
        run.lone_p50_us as f64 / run.plain_lone_p50_us as f64
    );
    say!(
        "read     {:>8} us p50     device read  {:>8} us p50 {:.2} x   {:.1} device reads each, {} bytes not in layers",
        run.read_p50_us,
        run.device_read_p50_us,
        run.read_p50_us as f64 / run.device_read_p50_us as f64,
        run.device_reads_per_read,
        run.unfolded_bytes
    );
    for restart in &run.restarts {
        say!(
            "restart  {:>8.0} ms after {} MiB of redo, {} MiB read",
            restart.restart_ms,
            restart.appended_bytes >> 20,
            restart.read_bytes >> 20
        );
    }
    Ok(())
}
