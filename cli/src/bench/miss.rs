//! `sixfold bench miss`: point reads whose page is in no cache, beside a round trip and one device read in the same run.
//!
//! The rows are updated at random until each page has a chain of redo as long as a node lets it grow. The nodes keep next to nothing in
//! memory, and so does the writer that reads.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use sixfold::{Database, WRITER_IDENTITY};
use sixfold_benches::pace::Pace;
use sixfold_benches::wire::{Load, run as update};
use sixfold_transport::{Identity, TransportOptions};

use super::site::{Site, on_a_cluster};
use crate::cluster_dir::LOOPBACK_MTU_BYTES;

/// Length of a value, bytes.
const VALUE_BYTES: usize = 100;
/// A row in a page, bytes, about: key, value, and what a page holds beside them, where it is two thirds full.
const ROW_BYTES: u64 = 200;
/// Clients that update.
const CLIENTS: usize = 64;
/// Page cache of the writer that updates, and of the one that reads, MiB.
const FILL_CACHE_MIB: u64 = 512;
const READ_CACHE_MIB: u64 = 4;
/// What keeps a node's memory small.
const NODE_FLAGS: [&str; 3] = [
    "--page-cache-mib=1",
    "--layer-cache-mib=8",
    "--resident-redo-mib=8",
];

/// Flags of `bench miss`.
#[derive(Debug, Args)]
pub(super) struct MissArgs {
    /// Pages with rows, MiB
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u64).range(16..=65_536))]
    mib: u64,
    /// Seconds of updates before the reads
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Reads, and rounds of the floor
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1_000..=10_000_000))]
    reads: u32,
    /// End with one JSON object on the last line
    #[arg(long)]
    json: bool,
    /// Where to keep the cluster; must be missing or empty. Default: a temporary directory
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Report {
    reads: u32,
    fetches_per_read: f64,
    read_p50_us: u64,
    read_p99_us: u64,
    /// A round trip to one node, then one device read.
    floor_p50_us: u64,
    floor_p99_us: u64,
    p99_over_floor: f64,
}

/// Measures and prints.
pub(super) fn run(args: &MissArgs) -> Result<()> {
    let report = on_a_cluster(args.dir.as_deref(), &NODE_FLAGS, async |site| {
        measure(args, site).await
    })?;
    say!(
        "reads: p50 {} us, p99 {} us, {:.2} pages fetched for one; round trip and device read: p50 {} us, p99 {} us",
        report.read_p50_us,
        report.read_p99_us,
        report.fetches_per_read,
        report.floor_p50_us,
        report.floor_p99_us
    );
    if args.json {
        say!("{}", serde_json::to_string(&report)?);
    }
    Ok(())
}

async fn measure(args: &MissArgs, site: &Site) -> Result<Report> {
    let keys = (args.mib << 20) / ROW_BYTES;
    let database = site.create_volume(FILL_CACHE_MIB).await?;
    sixfold_benches::fill::rows(&database, keys, VALUE_BYTES).await?;
    let pace = Pace {
        clients: CLIENTS,
        time: Duration::from_secs(args.seconds),
        rate: None,
    };
    update(&database, Load::Update, pace, VALUE_BYTES, keys).await?;
    database.close().await;

    // Its own lease may run still.
    let database = Database::take_over(site.options(READ_CACHE_MIB)?).await?;
    let read = sixfold_benches::miss::reads(&database, keys, args.reads).await?;
    let cluster = site.cluster();
    let identity = Identity::load(&cluster.tls_dir, WRITER_IDENTITY)?;
    let transport = TransportOptions {
        mtu_bytes: Some(LOOPBACK_MTU_BYTES),
        ..TransportOptions::default()
    };
    let node = (cluster.nodes[0].node, cluster.nodes[0].address);
    let floor =
        sixfold_benches::miss::floor(&identity, &transport, node, site.root(), args.reads).await?;
    database.close().await;
    Ok(Report {
        reads: args.reads,
        fetches_per_read: read.fetches_per_read,
        read_p50_us: read.latencies.p50_us(),
        read_p99_us: read.latencies.p99_us(),
        floor_p50_us: floor.p50_us(),
        floor_p99_us: floor.p99_us(),
        p99_over_floor: read.latencies.p99_us() as f64 / floor.p99_us().max(1) as f64,
    })
}
