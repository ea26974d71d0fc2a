//! No process outlives the one that it belongs to.

use rustix::process::Signal;

use crate::process::{Running, eventually, processes_of, scratch};
use crate::real_cluster::RealCluster;

#[test]
fn a_daemon_ends_with_its_standard_input_or_a_signal() {
    let cluster = RealCluster::lay_out();
    let mut node = cluster.spawn(0);
    node.wait_for("ready ");
    let ended = node.finish().well();
    assert_eq!(ended.errors, "");
    for signal in [Signal::TERM, Signal::INT] {
        let mut node = cluster.spawn(0);
        node.wait_for("ready ");
        node.signal(signal);
        node.wait().well();
    }
    // Without the flag its input does not count.
    let config = cluster.config(0);
    let mut node = Running::start(&["storage-node", "--config", config.to_str().unwrap()]);
    node.end_input();
    node.wait_for("ready ");
    assert!(node.is_running());
    node.signal(Signal::TERM);
    node.wait().well();
}

#[test]
fn the_nodes_of_a_killed_local_cluster_end_by_themselves() {
    let dir = scratch();
    let path = dir.path();
    let mut local = Running::start(&[
        "local",
        "--hot-log-file-mib",
        "8",
        "--dir",
        path.to_str().unwrap(),
    ]);
    local.wait_for("ready: ");
    assert_eq!(processes_of(path).len(), 7);
    local.kill();
    eventually("the nodes end", || processes_of(path).is_empty());
}

#[test]
fn an_interrupted_demo_leaves_neither_processes_nor_files() {
    // While the nodes start, and under load.
    for (others, signal) in [(1, Signal::TERM), (7, Signal::INT)] {
        let dir = scratch();
        let path = dir.path();
        let args = [
            "demo",
            "--seconds",
            "60",
            "--chunks",
            "10",
            "--clients",
            "2",
        ];
        let mut demo = Running::start_with(&args, &[("TMPDIR", path.to_str().unwrap())]);
        // The demo's own command line does not name the directory.
        eventually("its children run", || processes_of(path).len() >= others);
        assert!(demo.is_running());
        demo.signal(signal);
        let finished = demo.wait();
        assert_eq!(finished.output, Vec::<String>::new());
        assert_eq!(finished.one_line(), "interrupted");
        // Reaped before the demo ended; nothing has to be waited for.
        assert_eq!(processes_of(path), Vec::<u32>::new());
        assert!(
            std::fs::read_dir(path).unwrap().next().is_none(),
            "files are left"
        );
    }
}

#[test]
fn the_children_of_a_killed_demo_end_by_themselves() {
    let dir = scratch();
    let path = dir.path().join("demo");
    let args = [
        "demo",
        "--seconds",
        "60",
        "--chunks",
        "10",
        "--clients",
        "2",
        "--dir",
        path.to_str().unwrap(),
    ];
    let demo = Running::start(&args);
    eventually("its children run", || processes_of(&path).len() > 7);
    demo.kill();
    eventually("its children end", || processes_of(&path).is_empty());
}
