//! A start with a bad setting gives one clear line and formats nothing.

use std::net::UdpSocket;

use sixfold_log_format::wire::Role;
use sixfold_storage_node::{NodeOptions, TLS_NAME};
use sixfold_transport::ClusterCa;

use crate::cluster::{Cluster, Daemon, node_id, refusal};
use crate::scratch::picture;

/// The start is refused with a line that holds `expected`; the data directory holds no superblock afterwards.
fn assert_refused_unformatted(options: NodeOptions, expected: &str) {
    let directory = options.data_dir.clone();
    let line = refusal(options);
    assert!(line.contains(expected), "{line}");
    assert!(!line.contains('\n'), "{line}");
    let names: Vec<_> = picture(&directory)
        .into_keys()
        .filter(|path| !path.ends_with("LOCK"))
        .collect();
    assert!(names.is_empty(), "{names:?}");
}

#[test]
fn a_port_in_use_is_refused() {
    let cluster = Cluster::new();
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut options = cluster.options(1);
    options.listen = taken.local_addr().unwrap();
    assert_refused_unformatted(
        options.clone(),
        &format!("cannot listen on {}", options.listen),
    );
    drop(taken);
    Daemon::start(options).unwrap().stop().unwrap();
}

#[test]
fn a_certificate_of_a_foreign_ca_is_refused() {
    let cluster = Cluster::new();
    let options = cluster.options(1);
    let ca = std::fs::read(options.tls_dir.join("ca.pem")).unwrap();
    let foreign = ClusterCa::generate()
        .unwrap()
        .issue(Role::Node, Some(node_id(1)))
        .unwrap();
    foreign.save(&options.tls_dir, TLS_NAME).unwrap();
    std::fs::write(options.tls_dir.join("ca.pem"), ca).unwrap();
    assert_refused_unformatted(options, "node.pem");
}

#[test]
fn a_missing_certificate_is_refused() {
    let cluster = Cluster::new();
    let options = cluster.options(1);
    std::fs::remove_file(options.tls_dir.join("node-key.pem")).unwrap();
    assert_refused_unformatted(options, "node-key.pem");
}

#[test]
fn a_certificate_of_another_node_or_role_is_refused() {
    let cluster = Cluster::new();
    let mut options = cluster.options(1);
    options.tls_dir = cluster.options(2).tls_dir;
    let expected = format!(
        "the certificate names node {}, this is node {}",
        node_id(2),
        node_id(1)
    );
    assert_refused_unformatted(options.clone(), &expected);
    cluster
        .issue(Role::Writer)
        .save(&options.tls_dir, TLS_NAME)
        .unwrap();
    assert_refused_unformatted(options, "the certificate is a writer's, not a node's");
}

#[test]
fn settings_out_of_range_are_refused_by_name() {
    let cluster = Cluster::new();
    let check = |change: fn(&mut NodeOptions), expected: &str| {
        let mut options = cluster.options(1);
        change(&mut options);
        assert_refused_unformatted(options, expected);
    };
    check(
        |options| options.hot_log_file_bytes = 4096,
        "setting hot_log_file_bytes: 4096 is not in",
    );
    check(
        |options| options.hot_log_file_bytes += 1,
        "setting hot_log_file_bytes: 8388609 is not a multiple of 4096",
    );
    check(
        |options| options.az = String::new(),
        "setting az: its length is 0 bytes",
    );
    check(
        |options| options.node = Default::default(),
        "setting node: the id is all zeros",
    );
    check(
        |options| options.unfolded_bytes_max = options.log_bytes_max + 1,
        "setting unfolded_bytes_max: 2147483649 bytes of redo do not fit a hot log of 2147483648",
    );
    check(
        |options| options.hot_log_file_bytes = 2 << 30,
        "setting log_bytes_max: 2147483648 bytes are not two files of 2147483648",
    );
    check(
        |options| options.gossip_interval = Default::default(),
        "setting gossip_interval: it is zero",
    );
}
