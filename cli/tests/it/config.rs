//! A fleet that is made by hand, as docs/GETTING-STARTED.md says: settings, authority, certificates, daemons, volume. And certificates
//! that are renewed under load.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;

use rustix::process::Signal;
use sixfold::{Cluster, Database};

use crate::load::{Load, block_on};
use crate::process::{Running, eventually, run, scratch};
use crate::real_cluster::RealCluster;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Ports that are free now.
fn free_addresses(count: usize) -> Vec<SocketAddr> {
    let sockets: Vec<UdpSocket> = (0..count)
        .map(|_| UdpSocket::bind("127.0.0.1:0").unwrap())
        .collect();
    sockets
        .iter()
        .map(|socket| socket.local_addr().unwrap())
        .collect()
}

#[test]
fn a_fleet_is_made_by_hand_from_written_files() {
    let dir = scratch();
    let root = dir.path();
    let path = |name: &str| root.join(name).to_str().unwrap().to_owned();
    run(&["config", "init", "--cluster", &path("cluster.toml")], "").well();
    let again = run(&["config", "init", "--cluster", &path("cluster.toml")], "").one_line();
    assert!(again.contains("cannot write"), "{again}");
    let mut cluster = Cluster::load(root.join("cluster.toml")).unwrap();
    for (node, address) in cluster.nodes.iter_mut().zip(free_addresses(6)) {
        node.address = address;
    }
    cluster.save(root.join("cluster.toml")).unwrap();
    let lacking = run(&["config", "check", &path("cluster.toml")], "").one_line();
    assert!(lacking.contains("holds none of writer.pem"), "{lacking}");

    run(&["cert", "ca", &path("ca")], "").well();
    let again = run(&["cert", "ca", &path("ca")], "").one_line();
    assert!(again.ends_with("ca.pem is there already"), "{again}");
    let issue = |role: &str, out: &str, more: &[&str]| {
        let args = ["cert", "issue", role, "--ca", &path("ca"), "--out", out];
        run(&[&args[..], more].concat(), "")
    };
    for role in ["writer", "reader", "operator"] {
        issue(role, &path("tls"), &["--days", "90"]).well();
    }
    let again = issue("writer", &path("tls"), &[]).one_line();
    assert!(
        again.contains("`sixfold cert renew` replaces it"),
        "{again}"
    );
    let mut nodes = Vec::new();
    for (index, node) in cluster.nodes.iter().enumerate() {
        let home = path(&format!("node-{index}"));
        std::fs::create_dir_all(Path::new(&home).join("data")).unwrap();
        let id = node.node.to_string();
        issue("node", &format!("{home}/tls"), &["--node", &id]).well();
        let config = format!("{home}/node.toml");
        let address = node.address.to_string();
        let args = [
            "config", "init", &config, "--id", &id, "--az", &node.az, "--listen", &address,
        ];
        run(&args, "").well();
        let said = run(&["config", "check", &config], "").well();
        assert!(
            said.output[0].ends_with("settings of a node, nothing is wrong"),
            "{said:?}"
        );
        let args = [
            "storage-node",
            "--stop-with-stdin",
            "--config",
            &config,
            "--hot-log-file-mib",
            "8",
        ];
        nodes.push(Running::start(&args));
    }
    for node in &mut nodes {
        node.wait_for("ready ");
    }
    run(&["config", "check", &path("cluster.toml")], "").well();
    run(&["volume", "create", "--dir", text(root)], "").well();
    let said = run(&["shell", "--dir", text(root)], "put a 1\nget a\n").well();
    assert_eq!(said.output[1], "1");
    // A node ends when it is told to, in order.
    for node in nodes {
        node.signal(Signal::TERM);
        node.wait().well();
    }
}

#[test]
fn a_file_with_several_flaws_tells_them_all() {
    let dir = scratch();
    let file = dir.path().join("node.toml");
    std::fs::write(&file, "lisen = \"x\"\nzz = 1\n").unwrap();
    let ended = run(&["config", "check", "--node", text(&file)], "");
    assert!(!ended.status.success());
    assert_eq!(ended.errors.lines().count(), 2, "{}", ended.errors);
    assert!(
        ended
            .errors
            .contains("line 1, column 1: unknown key `lisen`, did you mean `listen`?")
    );
    std::fs::write(&file, "az = \"az1\"\n").unwrap();
    let line = run(&["config", "check", "--node", text(&file)], "").one_line();
    assert!(line.contains("node is not set"), "{line}");
    let missing = dir.path().join("missing.toml");
    let line = run(&["config", "check", text(&missing)], "").one_line();
    assert!(line.contains("missing.toml: No such file"), "{line}");
}

#[test]
fn a_certificate_of_another_node_or_a_missing_directory_is_told_with_its_place() {
    let cluster = RealCluster::lay_out();
    let config = cluster.config(0);
    run(&["config", "check", text(&config)], "").well();
    std::fs::remove_dir(cluster.data_dir(0)).unwrap();
    let line = run(&["config", "check", text(&config)], "").one_line();
    assert!(
        line.contains("node.toml: line 4, column 12: data_dir: ")
            && line.ends_with("data is no directory"),
        "{line}"
    );
    run(&["config", "check", "--file-only", text(&config)], "").well();
    std::fs::create_dir(cluster.data_dir(0)).unwrap();
    for name in ["node.pem", "node-key.pem"] {
        let other = cluster.node_tls_dir(1).join(name);
        std::fs::copy(other, cluster.node_tls_dir(0).join(name)).unwrap();
    }
    let line = run(&["config", "check", text(&config)], "").one_line();
    assert!(
        line.contains("node.toml: line 1, column 8: node: the certificate in tls_dir names node"),
        "{line}"
    );
}

#[test]
fn certificates_renewed_under_load_fail_no_commit() {
    let mut cluster = RealCluster::start();
    let ca = cluster.path().join("ca");
    cluster.ca.save(&ca).unwrap();
    let database = block_on(Database::create(cluster.options())).unwrap();
    let load = Load::start(&database, "renewal", 4);
    load.until_answered(100);
    for index in 0..6 {
        let dir = cluster.node_tls_dir(index);
        let before = std::fs::read(dir.join("node.pem")).unwrap();
        run(&["cert", "renew", text(&dir), "--ca", text(&ca)], "").well();
        assert_ne!(std::fs::read(dir.join("node.pem")).unwrap(), before);
    }
    let tls = cluster.path().join("tls");
    let said = run(
        &[
            "cert",
            "renew",
            text(&tls),
            "--ca",
            text(&ca),
            "--days",
            "30",
        ],
        "",
    )
    .well();
    assert_eq!(said.output.len(), 3, "{said:?}");
    // Each node is connected to anew, one after the other, with what stands in the files now.
    for index in 0..6 {
        cluster.terminate(index);
        cluster.start_nodes(&[index]);
        load.until_answered(50);
        eventually("all segments are attached", || {
            let stats = block_on(database.stats()).unwrap();
            let mut relations = stats.writer.relations.iter();
            relations.all(|relation| relation.attached)
        });
    }
    let outcomes = load.stop();
    outcomes.assert_none_failed();
    block_on(async {
        outcomes.check(&database.snapshot()).await;
        database.close().await;
    });
    let foreign = cluster.path().join("foreign");
    let said = run(&["cert", "ca", text(&foreign)], "").well();
    assert!(said.output[0].starts_with("made an authority"), "{said:?}");
    let args = ["cert", "renew", text(&tls), "--ca", text(&foreign)];
    let line = run(&args, "").one_line();
    assert!(line.contains("is of another authority than"), "{line}");
}

#[test]
fn completions_and_manual_pages_name_every_verb() {
    let dir = scratch();
    run(&["man", text(dir.path())], "").well();
    for page in [
        "sixfold.1",
        "sixfold-storage-node.1",
        "sixfold-config-check.1",
        "sixfold-dump.1",
    ] {
        let text = std::fs::read_to_string(dir.path().join(page)).unwrap();
        assert!(text.contains(".TH"), "{page}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let said = run(&["completions", shell], "").well();
        let all = said.output.join("\n");
        for verb in ["storage-node", "dump", "page-cache-mib", "renew"] {
            assert!(all.contains(verb), "{shell}: {verb}");
        }
    }
}
