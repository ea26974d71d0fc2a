//! The hot log of a real node under load: files come back, and what they hold is read again after a start.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use sixfold_log_format::Lsn;
use sixfold_log_format::wire::{Message, Role};
use sixfold_storage_node::NodeOptions;
use sixfold_storage_node::inspect::{Inspection, Verdict};

use crate::client::{Client, bounded, large_batch};
use crate::cluster::{Cluster, Daemon};

/// Number and inode of each hot-log file, sorted.
fn files(options: &NodeOptions) -> Vec<(u64, u64)> {
    let dir = std::fs::read_dir(options.data_dir.join("hot-log")).unwrap();
    let mut files: Vec<(u64, u64)> = dir
        .map(|entry| entry.unwrap())
        .filter_map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            let number = u64::from_str_radix(name.strip_suffix(".log")?, 16).unwrap();
            // A file may be renamed meanwhile.
            Some((number, entry.metadata().ok()?.ino()))
        })
        .collect();
    files.sort_unstable();
    files
}

/// Whether a file was seen under two numbers.
fn comes_back(seen: &BTreeSet<(u64, u64)>) -> bool {
    let inodes: BTreeSet<u64> = seen.iter().map(|(_, inode)| *inode).collect();
    let numbers: BTreeSet<u64> = seen.iter().map(|(number, _)| *number).collect();
    inodes.len() < numbers.len()
}

#[test]
fn a_node_under_load_goes_on_with_the_files_that_it_has() {
    let cluster = Cluster::new();
    let mut options = cluster.options(1);
    options.log_window_bytes = 16 << 20;
    let daemon = Daemon::start(options.clone()).unwrap();
    let (mut prev, mut inodes) = (Lsn::NONE, BTreeSet::new());
    bounded(async {
        let client = Client::connect(&cluster, &daemon, Role::Writer).await;
        assert_eq!(client.create_segment().await, Message::Done);
        let mut stream = client.attach().await;
        for _ in 0..100 {
            let batch = large_batch(prev);
            prev = batch.header().last;
            stream.append(&batch).await;
            stream.ack(|ack| ack.scl == prev).await;
            stream.heartbeat_at(prev).await;
            inodes.extend(files(&options));
        }
        // Layers let them go in the background; what is let go comes back under another number.
        while !comes_back(&inodes) {
            stream.heartbeat_at(prev).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            inodes.extend(files(&options));
        }
    });
    daemon.stop().unwrap();
    let inspection = Inspection::of(&options.data_dir).unwrap();
    let verdict = &inspection.verdict;
    assert!(
        !matches!(verdict, Verdict::Corrupt { .. }),
        "{verdict:?} {:?} {:?}",
        inspection.flaws,
        inspection.files
    );
    let segment = &inspection.segments[&inspection.segment(None).unwrap()];
    assert_eq!(segment.scl(), prev);
    drop(inspection);
    let daemon = Daemon::start(options).unwrap();
    bounded(async {
        let client = Client::connect(&cluster, &daemon, Role::Writer).await;
        let mut stream = client.attach().await;
        let batch = large_batch(prev);
        let last = batch.header().last;
        stream.append(&batch).await;
        stream.ack(|ack| ack.scl == last).await;
    });
    daemon.stop().unwrap();
}
