//! A directory that is not this node's gives one clear line and is left as it was found.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use sixfold_log_format::Lsn;
use sixfold_log_format::checksum::checksum;
use sixfold_log_format::hot_log::{HOT_LOG_VERSION, SUPERBLOCK_COPY_BYTES};
use sixfold_log_format::wire::{Message, Role};
use sixfold_storage_node::inspect::Inspection;
use sixfold_storage_node::run;

use crate::client::{Client, LAL, batch, bounded, segment};
use crate::cluster::{Cluster, Daemon, node_id, refusal};
use crate::scratch::picture;

/// Where the superblock's version stands, behind checksum and magic.
const VERSION_AT: usize = 12;

/// A node's directory with a segment in its hot log.
fn formatted(cluster: &Cluster, number: u8) -> PathBuf {
    let daemon = Daemon::start(cluster.options(number)).unwrap();
    bounded(async {
        let client = Client::connect(cluster, &daemon, Role::Writer).await;
        assert_eq!(client.create_segment().await, Message::Done);
    });
    daemon.stop().unwrap();
    cluster.data_dir(number)
}

/// Starts node 1 on its directory, which must be refused with a line that holds `expected`, and must not be touched.
fn assert_refused_untouched(cluster: &Cluster, expected: &str) {
    let directory = cluster.data_dir(1);
    let before = picture(&directory);
    let line = refusal(cluster.options(1));
    assert!(line.contains(expected), "{line}");
    assert!(!line.contains('\n'), "{line}");
    assert!(picture(&directory) == before, "the directory was touched");
}

fn flip(path: &Path, offset: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[offset] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_missing_directory_is_not_made() {
    let cluster = Cluster::new();
    let mut options = cluster.options(1);
    options.data_dir = options.data_dir.join("missing");
    let line = refusal(options.clone());
    assert_eq!(
        line,
        format!(
            "data directory {} does not exist",
            options.data_dir.display()
        )
    );
    assert!(!options.data_dir.exists());
}

#[test]
fn a_file_is_no_data_directory() {
    let cluster = Cluster::new();
    let mut options = cluster.options(1);
    options.data_dir = options.data_dir.join("file");
    fs::write(&options.data_dir, b"precious").unwrap();
    assert!(refusal(options.clone()).ends_with("is not a directory"));
    assert_eq!(fs::read(&options.data_dir).unwrap(), b"precious");
}

#[test]
fn a_directory_with_somebody_elses_files_is_not_formatted() {
    let cluster = Cluster::new();
    let options = cluster.options(1);
    fs::write(options.data_dir.join("thesis.txt"), b"precious").unwrap();
    assert_refused_untouched(&cluster, "holds thesis.txt but no superblock");
}

#[test]
fn a_lost_superblock_does_not_make_the_node_an_empty_one() {
    let cluster = Cluster::new();
    fs::remove_file(formatted(&cluster, 1).join("superblock")).unwrap();
    assert_refused_untouched(&cluster, "holds hot-log but no superblock");
}

#[test]
fn a_lost_hot_log_does_not_make_the_node_an_empty_one() {
    let cluster = Cluster::new();
    let hot_log = formatted(&cluster, 1).join("hot-log");
    for entry in fs::read_dir(&hot_log).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    assert_refused_untouched(&cluster, "has a superblock but no hot-log file");
    fs::remove_dir(&hot_log).unwrap();
    assert_refused_untouched(&cluster, "cannot list");
}

#[test]
fn a_formatted_directory_has_its_first_hot_log_file_before_the_superblock() {
    let cluster = Cluster::new();
    let directory = cluster.options(1).data_dir;
    // What a crash leaves right before the superblock gets its name.
    fs::write(directory.join("superblock.tmp"), b"half").unwrap();
    fs::create_dir(directory.join("hot-log")).unwrap();
    let first = directory.join("hot-log/0000000000000001.log");
    fs::write(&first, b"of the format that was cut short").unwrap();
    formatted(&cluster, 1);
    assert_eq!(fs::metadata(&first).unwrap().len(), 8 << 20);

    // Without the temporary superblock the same file is an older node's.
    let cluster = Cluster::new();
    let directory = cluster.options(1).data_dir;
    fs::create_dir(directory.join("hot-log")).unwrap();
    fs::write(directory.join("hot-log/0000000000000001.log"), b"").unwrap();
    assert_refused_untouched(&cluster, "holds hot-log but no superblock");
}

#[test]
fn a_file_that_is_no_layer_is_refused() {
    let cluster = Cluster::new();
    let layers = formatted(&cluster, 1).join("layers");
    fs::write(layers.join("1.layer"), b"").unwrap();
    assert_refused_untouched(&cluster, "1.layer does not belong");
}

#[test]
fn the_directory_of_another_node_is_refused() {
    let cluster = Cluster::new();
    let theirs = formatted(&cluster, 2);
    let ours = cluster.options(1).data_dir;
    fs::remove_dir(&ours).unwrap();
    fs::rename(theirs, ours).unwrap();
    assert_refused_untouched(
        &cluster,
        &format!(
            "belongs to node {}, this is node {}",
            node_id(2),
            node_id(1)
        ),
    );
}

#[test]
fn the_directory_of_another_format_version_is_refused() {
    let cluster = Cluster::new();
    let path = formatted(&cluster, 1).join("superblock");
    let mut bytes = fs::read(&path).unwrap();
    for copy in bytes.chunks_mut(SUPERBLOCK_COPY_BYTES) {
        copy[VERSION_AT] += 1;
        let sum = checksum(&[], &copy[4..]);
        copy[..4].copy_from_slice(&sum.to_le_bytes());
    }
    fs::write(&path, bytes).unwrap();
    let expected = format!(
        "has format version {}, this build reads {HOT_LOG_VERSION}",
        HOT_LOG_VERSION + 1
    );
    assert_refused_untouched(&cluster, &expected);
}

#[test]
fn a_superblock_is_read_from_the_copy_that_is_sound_and_refused_without_one() {
    let cluster = Cluster::new();
    let path = formatted(&cluster, 1).join("superblock");
    flip(&path, 100);
    Daemon::start(cluster.options(1)).unwrap().stop().unwrap();
    flip(&path, SUPERBLOCK_COPY_BYTES + 100);
    assert_refused_untouched(&cluster, "is damaged");
}

#[test]
fn an_unknown_file_is_refused() {
    let cluster = Cluster::new();
    let directory = formatted(&cluster, 1);
    fs::write(directory.join("notes"), b"").unwrap();
    assert_refused_untouched(&cluster, "notes does not belong");
    fs::remove_file(directory.join("notes")).unwrap();
    fs::write(directory.join("hot-log/1.log"), b"").unwrap();
    assert_refused_untouched(&cluster, "1.log does not belong");
}

#[test]
fn a_hot_log_file_that_was_cut_is_refused() {
    let cluster = Cluster::new();
    let path = formatted(&cluster, 1).join("hot-log/0000000000000001.log");
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len((8 << 20) - 4096).unwrap();
    assert_refused_untouched(&cluster, "has 8384512 bytes, expected 8388608");
}

#[test]
fn a_directory_in_use_is_refused_until_it_is_free() {
    let cluster = Cluster::new();
    let daemon = Daemon::start(cluster.options(1)).unwrap();
    let line = refusal(cluster.options(1));
    assert!(line.ends_with("is in use by another process"), "{line}");
    daemon.stop().unwrap();
    Daemon::start(cluster.options(1)).unwrap().stop().unwrap();
}

#[test]
fn what_a_crash_left_of_a_format_or_a_preparation_is_cleared_away() {
    let cluster = Cluster::new();
    let directory = cluster.options(1).data_dir;
    fs::write(directory.join("superblock.tmp"), b"half").unwrap();
    fs::create_dir(directory.join("hot-log")).unwrap();
    formatted(&cluster, 1);
    let leftover = directory.join("hot-log/0000000000000009.log.tmp");
    fs::write(&leftover, b"half").unwrap();
    formatted(&cluster, 1);
    assert!(!leftover.exists());
    assert!(!directory.join("superblock.tmp").exists());
}

#[test]
fn damage_before_something_sound_is_told_and_not_counted() {
    let cluster = Cluster::new();
    let directory = formatted(&cluster, 1);
    let daemon = Daemon::start(cluster.options(1)).unwrap();
    let mut prev = Lsn::NONE;
    bounded(async {
        let client = Client::connect(&cluster, &daemon, Role::Writer).await;
        let mut stream = client.attach().await;
        for number in 1..=3 {
            let batch = batch(LAL + number, prev);
            prev = batch.header().last;
            stream.append(&batch).await;
            stream.ack(|ack| ack.scl == prev).await;
        }
    });
    daemon.stop().unwrap();
    let found = Inspection::of(&directory).unwrap();
    let second = &found.segments[&segment(1)].batches[1];
    let at = usize::try_from(second.offset).unwrap() + 20;
    drop(found);
    flip(&directory.join("hot-log/0000000000000001.log"), at);
    let daemon = Daemon::start(cluster.options(1)).unwrap();
    bounded(async {
        let client = Client::connect(&cluster, &daemon, Role::Writer).await;
        assert_eq!(client.probe().await.0, Lsn::new(LAL + 1));
        match client.call(Message::AskStatus).await {
            Message::NodeStatus(status) => assert!(status.segments[0].damaged, "{status:?}"),
            other => panic!("{other:?}"),
        }
    });
    daemon.stop().unwrap();
}

/// The lock that a write still on its way to the disk keeps, when its process was killed.
fn locked(path: &Path) -> Option<fs::File> {
    let file = fs::File::open(path).unwrap();
    flock(&file, FlockOperation::NonBlockingLockExclusive)
        .ok()
        .map(|()| file)
}

#[test]
fn a_node_reads_and_writes_nothing_while_a_write_of_its_earlier_life_is_on_its_way() {
    let cluster = Cluster::new();
    let directory = formatted(&cluster, 1);
    let path = directory.join("hot-log/0000000000000001.log");
    let in_flight = locked(&path).unwrap();
    let before = picture(&directory);
    run(cluster.options(1), |_| panic!("it is ready"), async {
        tokio::time::sleep(Duration::from_millis(300)).await
    })
    .unwrap();
    assert!(picture(&directory) == before, "the directory was touched");

    drop(in_flight);
    let daemon = Daemon::start(cluster.options(1)).unwrap();
    assert!(locked(&path).is_none(), "the daemon has it");
    daemon.stop().unwrap();
    assert!(locked(&path).is_some());
}
