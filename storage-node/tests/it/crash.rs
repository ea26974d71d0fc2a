//! A node that is killed at any moment, and files that are damaged while it is down: what was acknowledged is there, and no
//! page is ever served wrong.

use std::fs;
use std::io::{BufRead, BufReader, Lines};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use sixfold_log_format::Lsn;
use sixfold_log_format::wire::{Message, Role};
use sixfold_storage_node::inspect::Inspection;
use sixfold_storage_node::{NodeOptions, run};

use crate::client::{Client, LAL, bounded};
use crate::cluster::{Cluster, Daemon};
use crate::script::{Draw, Script};

const CHILD: &str = "SIXFOLD_TEST_NODE";

/// Small budgets, so that layers are written all the time.
pub fn small(cluster: &Cluster) -> NodeOptions {
    shrunk(cluster.options(1))
}

pub fn shrunk(mut options: NodeOptions) -> NodeOptions {
    options.resident_redo_bytes_max = 256 << 10;
    options.page_cache_bytes_max = 256 << 10;
    options.layer_cache_bytes_max = 256 << 10;
    options.unfolded_bytes_max = 1 << 20;
    options.log_window_bytes = 0;
    options.log_bytes_max = 64 << 20;
    options.reserve_bytes = 0;
    options
}

/// Not a test of its own: the process that the kill loop kills. Without its variable it is nothing.
#[test]
fn a_node_in_a_process_of_its_own() {
    let Ok(value) = std::env::var(CHILD) else {
        return;
    };
    let (data, tls) = value.split_once('|').unwrap();
    let mut options = NodeOptions::with_defaults(
        data.into(),
        crate::cluster::node_id(1),
        "az1".to_owned(),
        SocketAddr::from(([127, 0, 0, 1], 0)),
        tls.into(),
    );
    options.hot_log_file_bytes = 8 << 20;
    run(
        shrunk(options),
        |address| println!("ready {address}"),
        std::future::pending(),
    )
    .unwrap();
}

/// A node that can be killed.
pub struct Process {
    child: Child,
    /// Kept open: the test harness in it says something after a minute, and ends when nobody listens.
    _output: Lines<BufReader<ChildStdout>>,
    pub address: SocketAddr,
}

impl Process {
    /// Memory that it has resident, bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.unwrap().trim().trim_end_matches(" kB");
        kib.parse::<u64>().unwrap() << 10
    }

    /// Panics when it has ended.
    pub fn check_alive(&mut self) {
        let ended = self.child.try_wait().unwrap();
        assert!(ended.is_none(), "the node ended: {ended:?}");
    }

    pub fn start(options: &NodeOptions) -> Process {
        let value = format!(
            "{}|{}",
            options.data_dir.display(),
            options.tls_dir.display()
        );
        // What it says is worth seeing where somebody watches a long run.
        let errors = if std::env::var_os(crate::soak::SECONDS).is_some() {
            Stdio::inherit()
        } else {
            Stdio::null()
        };
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "crash::a_node_in_a_process_of_its_own",
                "--nocapture",
            ])
            .env(CHILD, value)
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| Some(line.split_once("ready ")?.1.parse().unwrap()));
        let Some(address) = address else {
            panic!("the node ended: {:?}", child.wait())
        };
        Process {
            child,
            _output: lines,
            address,
        }
    }
}

impl Drop for Process {
    /// `SIGKILL`, at whatever the node is doing.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_node_that_is_killed_again_and_again_under_load_keeps_what_it_acknowledged_and_serves_no_wrong_page()
 {
    let cluster = Cluster::new();
    let options = small(&cluster);
    let script = Script::new(11, 60, 1_500);
    let mut draw = Draw(5);
    let mut acknowledged = Lsn::NONE;
    let mut layers = 0;
    for round in 0..12 {
        let process = Process::start(&options);
        bounded(async {
            let client = Client::connect_to(&cluster, 1, process.address, Role::Writer).await;
            if round == 0 {
                assert_eq!(client.create_segment().await, Message::Done);
            }
            let held = client.attach().await.scl;
            assert!(held >= acknowledged, "{held} after {acknowledged}");
            if !held.is_none() {
                assert_eq!(script.check_pages(&client, held).await, []);
            }
            let batches = script.after(held);
            let count = draw.below(120) as usize;
            // Killed with some more under way.
            let until = batches[count.min(batches.len() - 1)].header().last;
            acknowledged = script.append_until(&client, until).await;
        });
        drop(process);
        let found = Inspection::of(&options.data_dir).unwrap();
        assert_eq!(found.flaws, Vec::<String>::new());
        let segment = found.segments.values().next().unwrap();
        assert!(
            segment.scl() >= acknowledged,
            "{} after {acknowledged}",
            segment.scl()
        );
        layers = layers.max(found.layers.iter().filter(|layer| layer.listed).count());
    }
    assert!(layers > 0, "no layer was ever written");
}

/// A stopped node's directory with layers, and the last LSN.
fn with_layers(cluster: &Cluster, script: &Script) -> (PathBuf, Lsn) {
    let daemon = Daemon::start(small(cluster)).unwrap();
    let mut last = Lsn::new(LAL);
    bounded(async {
        let client = Client::connect(cluster, &daemon, Role::Writer).await;
        assert_eq!(client.create_segment().await, Message::Done);
        last = script.batches.last().unwrap().header().last;
        script.append_until(&client, last).await;
    });
    daemon.stop().unwrap();
    // Whatever was on its way to a layer when the node stopped is folded by the next start.
    let daemon = Daemon::start(small(cluster)).unwrap();
    bounded(async {
        let client = Client::connect(cluster, &daemon, Role::Writer).await;
        assert_eq!(script.check_pages(&client, last).await, []);
    });
    daemon.stop().unwrap();
    (cluster.data_dir(1), last)
}

fn layer_files(directory: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(directory.join("layers"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}

/// Starts the node on what is there and reads every page. It may refuse to start or refuse pages; it may not be wrong. Returns whether
/// it noticed.
fn notices(cluster: &Cluster, script: &Script, last: Lsn) -> bool {
    let Ok(daemon) = Daemon::start(small(cluster)) else {
        return true;
    };
    let mut refused = false;
    bounded(async {
        let client = Client::connect(cluster, &daemon, Role::Writer).await;
        refused = !script.check_pages(&client, last).await.is_empty();
    });
    let stopped = daemon.stop();
    refused || stopped.is_err()
}

/// Each file that a catalog names, with its bytes, put back in the end.
fn listed(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let found = Inspection::of(directory).unwrap();
    assert_eq!(found.flaws, Vec::<String>::new());
    let names: Vec<String> = found
        .layers
        .iter()
        .filter(|layer| layer.listed)
        .map(|layer| format!("{}-{:016x}.layer", layer.segment, layer.number.0))
        .collect();
    layer_files(directory)
        .into_iter()
        .filter(|path| names.iter().any(|name| path.ends_with(name)))
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect()
}

#[test]
fn a_bit_flip_in_a_layer_never_gives_a_wrong_page() {
    let cluster = Cluster::new();
    let script = Script::new(3, 30, 200);
    let (directory, last) = with_layers(&cluster, &script);
    let layers = listed(&directory);
    assert!(!layers.is_empty(), "no layer was written");
    let mut draw = Draw(17);
    let mut noticed = 0;
    for round in 0..24 {
        let (path, sound) = &layers[draw.below(layers.len() as u64) as usize];
        let mut bytes = sound.clone();
        let at = draw.below(bytes.len() as u64) as usize;
        bytes[at] ^= 1 << (round % 8);
        fs::write(path, bytes).unwrap();
        noticed += usize::from(notices(&cluster, &script, last));
        if path.exists() {
            fs::write(path, sound).unwrap();
        }
    }
    assert!(noticed > 0, "every page is served from undamaged blocks");
}

#[test]
fn a_layer_that_was_cut_or_lost_never_gives_a_wrong_page() {
    let cluster = Cluster::new();
    let script = Script::new(3, 30, 200);
    let (directory, last) = with_layers(&cluster, &script);
    let layers = listed(&directory);
    let (path, sound) = layers.last().unwrap();
    for length in (0..sound.len()).step_by(sound.len() / 12 + 1) {
        fs::write(path, &sound[..length]).unwrap();
        assert!(
            notices(&cluster, &script, last),
            "{length} of {} bytes",
            sound.len()
        );
        fs::write(path, sound).unwrap();
    }
    fs::remove_file(path).unwrap();
    assert!(notices(&cluster, &script, last), "the file is gone");
}

#[test]
fn a_layer_of_another_time_in_the_place_of_a_layer_never_gives_a_wrong_page() {
    let cluster = Cluster::new();
    let script = Script::new(3, 30, 200);
    let (directory, last) = with_layers(&cluster, &script);
    let layers = listed(&directory);
    let (path, sound) = layers.last().unwrap();
    // The same node's bytes, from a layer of the same length if there is one: only identities differ.
    let mut other = layers[0].1.clone();
    other.resize(sound.len(), 0);
    if layers.len() > 1 {
        fs::write(path, other).unwrap();
        assert!(notices(&cluster, &script, last));
        fs::write(path, sound).unwrap();
    }
    let mut zeros = sound.clone();
    zeros.fill(0);
    fs::write(path, zeros).unwrap();
    assert!(notices(&cluster, &script, last));
}

#[test]
fn a_bit_flip_in_the_hot_log_never_gives_a_wrong_page() {
    let cluster = Cluster::new();
    let script = Script::new(3, 30, 200);
    let (directory, last) = with_layers(&cluster, &script);
    let mut files: Vec<_> = fs::read_dir(directory.join("hot-log"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let used = Inspection::of(&directory).unwrap().files[0].used_bytes;
    let path = &files[0];
    let sound = fs::read(path).unwrap();
    let mut draw = Draw(23);
    for round in 0..16 {
        let mut bytes = sound.clone();
        bytes[draw.below(used) as usize] ^= 1 << (round % 8);
        fs::write(path, &bytes).unwrap();
        // What is damaged before something sound ends the node; in the last group it looks like a torn tail, and the SCL falls.
        if let Ok(daemon) = Daemon::start(small(&cluster)) {
            bounded(async {
                let client = Client::connect(&cluster, &daemon, Role::Writer).await;
                let (scl, _) = client.probe().await;
                assert!(scl <= last);
                script.check_pages(&client, scl.min(last)).await;
            });
            let _ = daemon.stop();
        }
        for entry in fs::read_dir(directory.join("hot-log")).unwrap() {
            let path = entry.unwrap().path();
            if !files.contains(&path) {
                fs::remove_file(path).unwrap();
            }
        }
        fs::write(path, &sound).unwrap();
    }
}
