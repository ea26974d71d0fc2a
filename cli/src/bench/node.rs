//! `sixfold bench node`: a storage node beside its device.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use sixfold_benches::node::{
    Beside, BesideOptions, NodeOptions, NodeRun, Side, run as measure, run_beside as measure_beside,
};

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
    /// Seconds of load beside background work, and as many without; 0 for none
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=3_600))]
    beside_seconds: u64,
    /// Appends a second beside background work, 16 KiB each
    #[arg(long, default_value_t = 800, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    beside_appends: u32,
    /// Page reads a second beside background work
    #[arg(long, default_value_t = 800, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    beside_reads: u32,
    /// What the scrub verifies each round meanwhile, KiB
    #[arg(long, default_value_t = 1_024, value_parser = clap::value_parser!(u32).range(0..=65_536))]
    beside_scrub_kib: u32,
    /// Pace of freezes and merges meanwhile, MiB a second; 0 for the default
    #[arg(long, default_value_t = 0)]
    beside_pace_mib: u32,
    /// Measure nothing but latencies beside background work
    #[arg(long)]
    beside_only: bool,
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
    let beside = (args.beside_seconds > 0).then(|| BesideOptions {
        time: Duration::from_secs(args.beside_seconds),
        appends_per_second: args.beside_appends,
        reads_per_second: args.beside_reads,
        scrub_bytes: (args.beside_scrub_kib as usize) << 10,
        background_bytes_per_second: u64::from(args.beside_pace_mib) << 20,
    });
    let options = NodeOptions {
        dir,
        beside,
        append_bytes: args.append_mib << 20,
        lone_count: args.lone as usize,
        page_count: args.pages,
        read_count: args.reads as usize,
        restart_bytes: args.restart_mib.iter().map(|mib| mib << 20).collect(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = tokio::task::LocalSet::new();
    if args.beside_only {
        let beside = options.beside.as_ref().context("--beside-seconds is 0")?;
        let result = local.block_on(&runtime, measure_beside(&options.dir, beside))?;
        print_beside(&result)?;
        if args.json {
            say!("{}", serde_json::to_string(&result)?);
        }
        return Ok(());
    }
    let result = local.block_on(&runtime, measure(&options))?;
    print(&result)?;
    if args.json {
        say!("{}", serde_json::to_string(&result)?);
    }
    Ok(())
}

fn print_beside(run: &Beside) -> Result<()> {
    let row = |name: &str, side: &Side| -> Result<()> {
        say!(
            "{name:<8} append {:>6} us p50 {:>6} us p99 {:>6} us p99.9   read {:>6} us p50 {:>6} us p99 {:>6} us p99.9",
            side.append_p50_us,
            side.append_p99_us,
            side.append_p999_us,
            side.read_p50_us,
            side.read_p99_us,
            side.read_p999_us
        );
        Ok(())
    };
    row("quiet", &run.quiet)?;
    row("busy", &run.busy)?;
    say!(
        "beside   append p99 {:+.0} %, read p99 {:+.0} %; {} freezes, {} merges, {} MiB of layers, {} MiB scrubbed, {} MiB of redo; turns {} us p50 {} us p99 {} us p99.9",
        100.0 * run.append_p99_growth,
        100.0 * run.read_p99_growth,
        run.freezes,
        run.merges,
        run.layer_bytes >> 20,
        run.scrub_bytes >> 20,
        run.redo_bytes >> 20,
        run.turn_p50_us,
        run.turn_p99_us,
        run.turn_p999_us
    );
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
    say!(
        "disk     {:>8.2} bytes a byte of redo at 64 KiB groups, {:.2} for batches of {} bytes; {} MiB of zeros before",
        run.disk_bytes_per_redo_byte,
        run.mixed_disk_bytes_per_redo_byte,
        run.mixed_batch_bytes,
        run.zeroed_bytes >> 20
    );
    if let Some(beside) = &run.beside {
        print_beside(beside)?;
    }
    for restart in &run.restarts {
        say!(
            "restart  {:>8.0} ms after {} MiB of redo{}, {} MiB read",
            restart.restart_ms,
            restart.appended_bytes >> 20,
            if restart.folded {
                ", in layers, its files kept"
            } else {
                ""
            },
            restart.read_bytes >> 20
        );
    }
    Ok(())
}
