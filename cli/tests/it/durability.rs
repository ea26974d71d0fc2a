//! How a node writes, as the kernel sees it: through a ring, past the page cache, each write durable when it is done.

use std::fs;

use rustix::fs::OFlags;
use sixfold::Database;

use crate::load::{Load, block_on};
use crate::real_cluster::RealCluster;

/// The same number on x86-64 and on ARM.
const O_DSYNC: u32 = 0o10_000;

/// What a process has open: where it points to, and its flags.
fn open_files(process: u32) -> Vec<(String, u32)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(format!("/proc/{process}/fd")).unwrap() {
        let path = entry.unwrap().path();
        let number = path.file_name().unwrap().to_str().unwrap();
        // A file may be closed meanwhile.
        let info = fs::read_to_string(format!("/proc/{process}/fdinfo/{number}"));
        let (Ok(target), Ok(info)) = (fs::read_link(&path), info) else {
            continue;
        };
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = u32::from_str_radix(flags.unwrap().trim(), 8).unwrap();
        files.push((target.to_str().unwrap().to_owned(), flags));
    }
    files
}

#[test]
fn the_hot_log_is_written_through_a_ring_past_the_page_cache() {
    let cluster = RealCluster::start();
    let database = block_on(Database::create(cluster.options())).unwrap();
    let load = Load::start(&database, "load", 4);
    load.until_answered(50);
    for index in cluster.running() {
        let files = open_files(cluster.process(index));
        assert!(
            files
                .iter()
                .any(|(target, _)| target.contains("[io_uring]")),
            "{files:?}"
        );
        let hot_log = cluster.data_dir(index).join("hot-log");
        let hot_log: Vec<_> = files
            .iter()
            .filter(|(target, _)| target.starts_with(hot_log.to_str().unwrap()))
            .filter(|(target, _)| target.ends_with(".log"))
            .collect();
        assert!(!hot_log.is_empty(), "{files:?}");
        for (target, flags) in hot_log {
            for flag in [OFlags::DIRECT.bits(), O_DSYNC] {
                assert!(flags & flag == flag, "{target} {flags:o}");
            }
        }
    }
    load.stop();
    block_on(database.close());
}
