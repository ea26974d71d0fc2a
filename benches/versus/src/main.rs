//! `sixfold-versus`: the loads of `sixfold bench` on other systems, started by `sixfold bench versus`, `read` and `scan`.
//!
//! A server that a load needs is started here, in the directory that is named, listens on loopback, and ends with this process.
//! Nothing is tuned, for or against a system: what is set beside the defaults is in the line that each result carries.
//! This program speaks to its parent in lines: `done JSON`, `ready JSON`, `round JSON`; it ends when standard input ends.

mod commits;
mod outcome;
mod server;

mod etcd;
mod postgresql;
mod redis;

mod embedded;
mod lmdb;
mod redb;
#[cfg(feature = "rocksdb")]
mod rocksdb;

mod reads;

// The loops themselves are those that measure Sixfold.
#[allow(dead_code, unreachable_pub)]
#[path = "../../src/draw.rs"]
mod draw;
#[allow(dead_code, unreachable_pub)]
#[path = "../../src/latency.rs"]
mod latency;
#[allow(dead_code, unreachable_pub)]
#[path = "../../src/pace.rs"]
mod pace;
#[allow(dead_code, unreachable_pub)]
#[path = "../../src/points.rs"]
mod points;

use std::io::BufRead;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "sixfold-versus", version, about)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Durable commits of one put each, in a closed loop
    Commit(CommitArgs),
    /// Hold rows, and run rounds of reads as standard input asks for them
    Read(ReadArgs),
}

/// Flags of `commit`.
#[derive(Debug, Args)]
struct CommitArgs {
    /// etcd-3, etcd-5, postgresql-4of6, redis, redb, rocksdb, lmdb
    #[arg(long)]
    system: String,
    #[arg(long)]
    clients: usize,
    #[arg(long)]
    value_bytes: usize,
    #[arg(long)]
    seconds: u64,
    #[arg(long, default_value_t = 1)]
    warm_up_seconds: u64,
    /// An empty directory
    #[arg(long)]
    dir: PathBuf,
}

/// Flags of `read`.
#[derive(Debug, Args)]
struct ReadArgs {
    /// redb, rocksdb, lmdb
    #[arg(long)]
    system: String,
    #[arg(long)]
    keys: u64,
    #[arg(long)]
    value_bytes: usize,
    #[arg(long)]
    cache_mib: usize,
    /// An empty directory
    #[arg(long)]
    dir: PathBuf,
}

fn main() -> ExitCode {
    let result = match Cli::parse().verb {
        Verb::Commit(args) => {
            end_with_stdin();
            say("done", &commits::run(&args))
        }
        Verb::Read(args) => reads::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sixfold: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A line for the parent.
fn say<T: serde::Serialize>(word: &str, result: &Result<T>) -> Result<()> {
    match result {
        Ok(result) => {
            use std::io::Write;
            writeln!(
                std::io::stdout(),
                "{word} {}",
                serde_json::to_string(result)?
            )?;
            Ok(())
        }
        Err(error) => anyhow::bail!("{error:#}"),
    }
}

/// Whoever started this has ended when standard input does, or wants no more; servers are then killed with this process.
fn end_with_stdin() {
    std::thread::spawn(|| {
        for line in std::io::stdin().lock().lines() {
            if line.is_err() {
                break;
            }
        }
        std::process::exit(0);
    });
}
