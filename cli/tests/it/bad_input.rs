//! Bad input: one clear line, an exit code that is not zero, and no data touched.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::path::Path;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
use sixfold_log_format::checksum::checksum;
use sixfold_log_format::hot_log::SUPERBLOCK_COPY_BYTES;
use sixfold_log_format::wire::Role;
use sixfold_transport::ClusterCa;

use crate::process::{Running, eventually, picture, run, scratch};
use crate::real_cluster::RealCluster;

/// Where the superblock's version stands, behind checksum and magic.
const VERSION_AT: usize = 12;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Runs it; it must end with one line that holds `expected`, and change nothing below `directory`.
fn assert_refused(directory: &Path, args: &[&str], expected: &str) {
    let before = picture(directory);
    let line = run(args, "").one_line();
    assert!(
        line.contains(expected),
        "{line:?} does not say {expected:?}"
    );
    assert!(picture(directory) == before, "{args:?} touched something");
}

/// The same for the daemon on its settings file.
fn assert_node_refused(cluster: &RealCluster, index: usize, expected: &str) {
    assert_refused(
        cluster.path(),
        &["storage-node", "--config", text(&cluster.config(index))],
        expected,
    );
}

/// A cluster whose first node was started once: its directory is formatted.
fn formatted() -> RealCluster {
    let cluster = RealCluster::lay_out();
    let mut node = cluster.spawn(0);
    node.wait_for("ready ");
    let first_file = cluster.data_dir(0).join("hot-log/0000000000000001.log");
    eventually("the first file is prepared", || first_file.exists());
    node.finish().well();
    cluster
}

/// Replaces a part of the first node's settings.
fn edit_config(cluster: &RealCluster, from: &str, to: &str) {
    let path = cluster.config(0);
    let before = std::fs::read_to_string(&path).unwrap();
    assert!(before.contains(from), "{before}");
    std::fs::write(path, before.replace(from, to)).unwrap();
}

#[test]
fn wrong_settings_are_named_with_their_line() {
    let cluster = formatted();
    let good = std::fs::read_to_string(cluster.config(0)).unwrap();
    let port = cluster.cluster.nodes[0].address;
    let listen = format!("listen = \"{port}\"");
    for (from, to, expected) in [
        (
            "hot_log_file_mib = 8",
            "hot_log_file_mb = 8",
            "node.toml: line 6, column 1: unknown key `hot_log_file_mb`, did you mean `hot_log_file_mib`?",
        ),
        (
            "hot_log_file_mib = 8",
            "hot_log_file_mib = \"much\"",
            "node.toml: line 6, column 20: invalid type",
        ),
        (
            "hot_log_file_mib = 8",
            "hot_log_file_mib = -1",
            "node.toml: line 6, column 20: invalid value",
        ),
        ("az = ", "az ", "node.toml: line 2, column "),
        (
            &listen,
            "listen = \"here\"",
            "node.toml: line 3, column 10: ",
        ),
        (
            &listen,
            "listen = \"localhost:99999\"",
            "node.toml: line 3, column 10: ",
        ),
        (
            "data_dir = \"data\"\n",
            "",
            "data_dir is not set (in the settings file, as a flag, or as SIXFOLD_DATA_DIR)",
        ),
        ("tls_dir = \"tls\"\n", "", "tls_dir is not set"),
        (&format!("{listen}\n"), "", "listen is not set"),
        ("az = \"az1\"\n", "", "az is not set"),
        (
            "az = \"az1\"",
            "az = \"\"",
            "node.toml: line 2, column 6: az: its length is 0 bytes",
        ),
        (
            "hot_log_file_mib = 8",
            "hot_log_file_mib = 1",
            "node.toml: line 6, column 20: hot_log_file_mib: 1048576 is not in",
        ),
        (
            "hot_log_file_mib = 8",
            "hot_log_file_mib = 9000000000000000000",
            "hot_log_file_mib: 9000000000000000000 is too large",
        ),
        (
            &cluster.cluster.nodes[0].node.to_string(),
            "me",
            "node: \"me\" is not 32 hexadecimal digits",
        ),
        (&good, "\u{0}", "node.toml: line 1, column "),
    ] {
        edit_config(&cluster, from, to);
        assert_node_refused(&cluster, 0, expected);
        std::fs::write(cluster.config(0), &good).unwrap();
    }
    std::fs::write(cluster.config(0), b"node = \"\xff\"").unwrap();
    assert_node_refused(&cluster, 0, "cannot read");
    // Unharmed: with good settings it starts again.
    std::fs::write(cluster.config(0), &good).unwrap();
    let mut node = cluster.spawn(0);
    node.wait_for("ready ");
    node.finish().well();
}

#[test]
fn a_setting_stands_in_the_file_the_environment_or_a_flag() {
    let cluster = formatted();
    edit_config(&cluster, "az = \"az1\"\n", "");
    let config = cluster.config(0);
    let daemon = [
        "storage-node",
        "--stop-with-stdin",
        "--config",
        text(&config),
    ];
    let mut node = Running::start_with(&daemon, &[("SIXFOLD_AZ", "az1")]);
    node.wait_for("ready ");
    node.finish().well();
    let mut node = Running::start(&[&daemon[..], &["--az", "az1"]].concat());
    node.wait_for("ready ");
    node.finish().well();
    let refused = Running::start_with(&daemon, &[("SIXFOLD_NODE", "me")])
        .finish()
        .one_line();
    assert!(
        refused.contains("\"me\" is not 32 hexadecimal digits"),
        "{refused}"
    );
    let refused = Running::start_with(&daemon, &[("SIXFOLD_LOG", "sixfold=loud")])
        .finish()
        .one_line();
    assert!(refused.contains("--log sixfold=loud"), "{refused}");
}

#[test]
fn missing_files_are_named() {
    let cluster = formatted();
    let missing = cluster.path().join("missing");
    assert_refused(
        cluster.path(),
        &["storage-node", "--config", text(&missing)],
        "missing: No such file",
    );
    assert_refused(cluster.path(), &["storage-node"], "node is not set");
    edit_config(&cluster, "data_dir = \"data\"", "data_dir = \"elsewhere\"");
    assert_node_refused(&cluster, 0, "elsewhere does not exist");
    edit_config(
        &cluster,
        "data_dir = \"elsewhere\"",
        "data_dir = \"node.toml\"",
    );
    assert_node_refused(&cluster, 0, "node.toml is not a directory");
    edit_config(&cluster, "data_dir = \"node.toml\"", "data_dir = \"data\"");
    std::fs::remove_file(cluster.node_tls_dir(0).join("node-key.pem")).unwrap();
    assert_node_refused(&cluster, 0, "node-key.pem");
}

#[test]
fn a_port_in_use_is_refused() {
    let cluster = formatted();
    let address = cluster.cluster.nodes[0].address;
    let _taken = UdpSocket::bind(address).unwrap();
    assert_node_refused(&cluster, 0, &format!("cannot listen on {address}"));
}

#[test]
fn a_node_that_is_not_of_the_ca_is_refused() {
    let cluster = formatted();
    let (node, tls) = (cluster.cluster.nodes[0].node, cluster.node_tls_dir(0));
    let ca = std::fs::read(tls.join("ca.pem")).unwrap();
    let foreign = ClusterCa::generate()
        .unwrap()
        .issue(Role::Node, Some(node))
        .unwrap();
    foreign.save(&tls, "node").unwrap();
    std::fs::write(tls.join("ca.pem"), ca).unwrap();
    assert_node_refused(&cluster, 0, "node.pem");
    // One of the CA, but of another node, or of a writer.
    let other = cluster.cluster.nodes[1].node;
    cluster
        .ca
        .issue(Role::Node, Some(other))
        .unwrap()
        .save(&tls, "node")
        .unwrap();
    assert_node_refused(
        &cluster,
        0,
        &format!("the certificate names node {other}, this is node {node}"),
    );
    cluster
        .ca
        .issue(Role::Writer, None)
        .unwrap()
        .save(&tls, "node")
        .unwrap();
    assert_node_refused(&cluster, 0, "the certificate is a writer's, not a node's");
    std::fs::write(tls.join("node.pem"), "no certificate").unwrap();
    assert_node_refused(&cluster, 0, "node.pem");
}

#[test]
fn a_client_of_a_foreign_ca_gets_nothing() {
    let mut cluster = RealCluster::lay_out();
    cluster.start_nodes(&[0, 1, 2, 3, 4, 5]);
    let tls = cluster.path().join("tls");
    let foreign = ClusterCa::generate().unwrap();
    foreign
        .issue(Role::Writer, None)
        .unwrap()
        .save(&tls, "writer")
        .unwrap();
    foreign
        .issue(Role::Operator, None)
        .unwrap()
        .save(&tls, "operator")
        .unwrap();
    let data = |index| picture(&cluster.data_dir(index));
    let before: BTreeMap<_, _> = (0..6).map(|index| (index, data(index))).collect();
    let line = run(&["shell", "--dir", text(cluster.path())], "put a 1\n").one_line();
    assert!(line.contains("certificate"), "{line}");
    let status = run(&["status", "--dir", text(cluster.path())], "").one_line();
    assert_eq!(status, "no node answered");
    assert!(
        (0..6).all(|index| data(index) == before[&index]),
        "a node's data was touched"
    );
}

#[test]
fn a_directory_that_is_not_the_nodes_is_refused() {
    let cluster = formatted();
    let (ours, data) = (cluster.cluster.nodes[0].node, cluster.data_dir(0));
    // Another node on it.
    let theirs = cluster.cluster.nodes[1].node;
    std::fs::remove_dir(cluster.data_dir(1)).unwrap();
    std::fs::rename(&data, cluster.data_dir(1)).unwrap();
    assert_node_refused(
        &cluster,
        1,
        &format!("belongs to node {ours}, this is node {theirs}"),
    );
    std::fs::rename(cluster.data_dir(1), &data).unwrap();
    // Something foreign in it.
    std::fs::write(data.join("thesis.txt"), "precious").unwrap();
    assert_node_refused(
        &cluster,
        0,
        "thesis.txt does not belong in a node's data directory",
    );
    std::fs::remove_file(data.join("thesis.txt")).unwrap();
    // Without its superblock it is not an empty one.
    let superblock = std::fs::read(data.join("superblock")).unwrap();
    std::fs::remove_file(data.join("superblock")).unwrap();
    assert_node_refused(&cluster, 0, "holds hot-log but no superblock");
    // Of another version.
    let mut newer = superblock.clone();
    for copy in newer.chunks_mut(SUPERBLOCK_COPY_BYTES) {
        copy[VERSION_AT] += 1;
        let sum = checksum(&[], &copy[4..]);
        copy[..4].copy_from_slice(&sum.to_le_bytes());
    }
    std::fs::write(data.join("superblock"), newer).unwrap();
    assert_node_refused(&cluster, 0, "has format version 3, this build reads 2");
    // Both copies damaged.
    let mut damaged = superblock.clone();
    damaged[100] ^= 1;
    damaged[SUPERBLOCK_COPY_BYTES + 100] ^= 1;
    std::fs::write(data.join("superblock"), damaged).unwrap();
    assert_node_refused(&cluster, 0, "is damaged");
    std::fs::write(data.join("superblock"), superblock).unwrap();
    let mut node = cluster.spawn(0);
    node.wait_for("ready ");
    node.finish().well();
}

#[test]
fn a_second_daemon_on_a_directory_is_refused() {
    let cluster = formatted();
    let mut first = cluster.spawn(0);
    first.wait_for("ready ");
    let config = cluster.config(0);
    let second = run(
        &[
            "storage-node",
            "--config",
            text(&config),
            "--listen",
            "127.0.0.1:0",
        ],
        "",
    )
    .one_line();
    assert!(second.ends_with("is in use by another process"), "{second}");
    assert!(first.is_running());
    first.finish().well();
}

/// Starts the binary where the system call that makes a ring fails: a filter on a thread is handed down to its children.
fn start_without_io_uring(args: &[&str], errno: u32) -> Running {
    /// The same number on all architectures.
    const IO_URING_SETUP: i64 = 425;
    let filter = SeccompFilter::new(
        [(IO_URING_SETUP, Vec::new())].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(errno),
        TargetArch::try_from(std::env::consts::ARCH).unwrap(),
    );
    let program = BpfProgram::try_from(filter.unwrap()).unwrap();
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            seccompiler::apply_filter(&program).unwrap();
            Running::start(args)
        });
        thread.join().unwrap()
    })
}

#[test]
fn a_host_without_io_uring_is_refused() {
    let cluster = RealCluster::lay_out();
    let before = picture(cluster.path());
    // EPERM: switched off by sysctl or by a container. ENOSYS: not in the kernel.
    for errno in [1, 38] {
        let config = cluster.config(0);
        let line = start_without_io_uring(&["storage-node", "--config", text(&config)], errno)
            .finish()
            .one_line();
        assert!(
            line.starts_with("io_uring is not available on this host"),
            "{line}"
        );
        assert!(
            line.ends_with("see /proc/sys/kernel/io_uring_disabled"),
            "{line}"
        );
    }
    assert!(picture(cluster.path()) == before, "something was touched");
    // Six nodes say it, the user reads it once.
    let dir = scratch();
    for verb in ["local", "demo"] {
        let cluster = dir.path().join(verb);
        let line = start_without_io_uring(&[verb, "--dir", text(&cluster)], 1)
            .wait()
            .one_line();
        assert!(
            line.starts_with("node 1: io_uring is not available on this host"),
            "{line}"
        );
    }
}

#[test]
fn a_local_cluster_with_a_port_in_use_says_so_in_one_line() {
    let cluster = RealCluster::lay_out();
    let _taken = UdpSocket::bind(cluster.cluster.nodes[0].address).unwrap();
    let line = Running::start(&["local", "--dir", text(cluster.path())])
        .wait()
        .one_line();
    assert!(line.starts_with("node 1: cannot listen on "), "{line}");
}

#[test]
fn a_directory_without_a_cluster_is_refused_by_all() {
    let dir = scratch();
    let path = text(dir.path());
    for verb in ["shell", "status"] {
        assert_refused(
            dir.path(),
            &[verb, "--dir", path],
            "cluster.toml: No such file",
        );
    }
    let missing = dir.path().join("missing");
    for verb in ["shell", "status"] {
        assert_refused(
            dir.path(),
            &[verb, "--dir", text(&missing)],
            "missing: No such file",
        );
    }
    std::fs::write(dir.path().join("thesis.txt"), "precious").unwrap();
    for verb in [&["demo"][..], &["local"], &["bench", "commit"]] {
        let args = [verb, &["--dir", path]].concat();
        assert_refused(dir.path(), &args, "is not empty and holds no cluster.toml");
    }
    let file = dir.path().join("thesis.txt");
    for verb in ["demo", "local", "shell", "status"] {
        assert_refused(dir.path(), &[verb, "--dir", text(&file)], "thesis.txt");
    }
}

#[test]
fn a_cluster_file_that_makes_no_sense_is_refused_by_all() {
    let cluster = RealCluster::lay_out();
    let path = cluster.path().join("cluster.toml");
    let good = std::fs::read_to_string(&path).unwrap();
    for (content, expected) in [
        ("\u{1}garbage".to_owned(), "cluster.toml: line 1, column "),
        (String::new(), "cluster.toml: "),
        (
            good.replace("volume = \"", "volume = \"x"),
            "is not 32 hexadecimal digits",
        ),
        (
            good.replace("tls_dir", "tsl_dir"),
            "cluster.toml: line 2, column 1: unknown key `tsl_dir`, did you mean `tls_dir`?",
        ),
        (
            good.replace("127.", "host."),
            "is not an IP address with a port",
        ),
        (good.replace(":7101", ":7100"), " already"),
    ] {
        assert_ne!(content, good);
        std::fs::write(&path, content).unwrap();
        for verb in ["shell", "status", "local"] {
            assert_refused(
                cluster.path(),
                &[verb, "--dir", text(cluster.path())],
                expected,
            );
        }
    }
    std::fs::write(&path, &good).unwrap();
    assert_refused(
        cluster.path(),
        &["demo", "--dir", text(cluster.path())],
        "holds a cluster already",
    );
    // It makes sense, but nobody is there.
    assert_refused(
        cluster.path(),
        &["status", "--dir", text(cluster.path())],
        "no node answered",
    );
    let before = picture(cluster.path());
    let finished = run(&["shell", "--dir", text(cluster.path())], "");
    assert!(finished.one_line().starts_with("unavailable: "));
    assert!(picture(cluster.path()) == before, "something was touched");
}
