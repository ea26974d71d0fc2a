//! A storage node of `bench crash`: the daemon, ended with its parent, and before a disk that fails on command where it is told so.
//!
//! Standard input: `full`, `room`, `fail`, `cut power SEED`, `cut tail SEED`. A node whose disk fails ends with an error, as it should.
//! After a cut it takes back what the disk may lose, says `lost JSON`, and ends well.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args;
use rustix::process::Signal;
use sixfold_benches::crash::disk::{Disk, End};
use sixfold_storage_node::witness::Witness;
use tokio::sync::{oneshot, watch};

use super::outage_writer::lines_of_stdin;
use super::reopen_writer::say;
use crate::storage_node::{StorageNodeArgs, say_ready};

/// Flags of the process.
#[derive(Debug, Args)]
pub(super) struct CrashNodeArgs {
    #[command(flatten)]
    node: StorageNodeArgs,
    /// A disk that fails on command
    #[arg(long)]
    disk: bool,
    /// Its write cache is volatile; an empty directory, on the file system of the data, for what it needs for that
    #[arg(long, requires = "disk")]
    graves: Option<PathBuf>,
}

/// Runs the process.
pub(super) fn run(args: &CrashNodeArgs) -> Result<()> {
    // One that is stopped when its parent is killed would stay for ever.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .context("cannot ask to end with the parent")?;
    let options = args.node.clone().options()?;
    let data_dir = options.data_dir.clone();
    let disk = match (&args.graves, args.disk) {
        (_, false) => None,
        (None, true) => Some(Disk::new()),
        (Some(graves), true) => Some(Disk::with_cache(graves)),
    };
    let (stop, stopped) = oneshot::channel();
    let (cut, was_cut) = watch::channel(None);
    let of_commands = disk.clone();
    // A thread of its own: what happens to a disk does not wait for the node.
    std::thread::Builder::new()
        .name("commands".to_owned())
        .spawn(move || obey(of_commands.as_deref(), stop, &cut))
        .context("cannot start a thread")?;
    let witness = disk.clone().map(|disk| -> Arc<dyn Witness> { disk });
    let ended = sixfold_storage_node::run_before(options, witness, say_ready, async {
        // It ends with standard input, too.
        let _ = stopped.await;
    });
    let cut = *was_cut.borrow();
    match (cut, disk) {
        (Some((end, seed)), Some(disk)) => {
            let lost = disk.lose(&data_dir, end, seed)?;
            say("lost", &lost)
        }
        _ => Ok(ended?),
    }
}

/// Does what standard input says, until it ends.
fn obey(disk: Option<&Disk>, stop: oneshot::Sender<()>, cut: &watch::Sender<Option<(End, u64)>>) {
    let mut told = lines_of_stdin();
    while let Some(line) = told.blocking_recv() {
        let words: Vec<&str> = line.split(' ').collect();
        match (words.as_slice(), disk) {
            (["full"], Some(disk)) => disk.set_full(true),
            (["room"], Some(disk)) => disk.set_full(false),
            (["fail"], Some(disk)) => disk.fail(),
            (["cut", how, seed], Some(disk)) => {
                disk.cut();
                let end = match *how {
                    "tail" => End::TornTail,
                    _ => End::PowerCut,
                };
                cut.send_replace(Some((end, seed.parse().unwrap_or_default())));
                break;
            }
            _ => tracing::warn!(line, "not a command for this disk"),
        }
    }
    // Nobody waits when the node has ended.
    let _ = stop.send(());
}
