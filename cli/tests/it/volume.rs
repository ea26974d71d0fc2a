//! `sixfold volume create`, `status` and `retire`, `sixfold node make` and `add`; and what they say to those who hold them wrong.

use serde_json::Value;
use sixfold::{Database, Error};

use crate::load::{block_on, commit};
use crate::membership::{assert_whole, failing_verb, hosts, id, patient, status, verb};
use crate::process::{Running, eventually, run, scratch};
use crate::real_cluster::RealCluster;

#[test]
fn a_volume_is_created_shown_and_retired_by_verbs_alone() {
    let cluster = RealCluster::start();
    let (none, line) = failing_verb(&cluster, &["volume", "retire", "--volume", "00"]);
    assert_eq!(none["state"], "failed", "{none}");
    assert!(line.contains("is not 32 hexadecimal digits"), "{line}");
    let planned = verb(&cluster, &["volume", "create", "--dry-run"]);
    assert_eq!(planned["state"], "planned", "{planned}");
    let created = verb(&cluster, &["volume", "create", "--pages-per-pg", "64"]);
    assert_eq!(created["state"], "done", "{created}");
    let shown = status(&cluster);
    assert_whole(&shown);
    assert_eq!(shown["pages_per_pg"], 64);
    let (_, line) = failing_verb(&cluster, &["volume", "create"]);
    assert!(line.contains("exists already"), "{line}");

    // Not while somebody writes, not unconfirmed, not under another name.
    let database = block_on(Database::take_over(patient(&cluster))).unwrap();
    block_on(commit(&database, "one")).unwrap();
    let volume = cluster.cluster.volume.to_string();
    let retire = ["volume", "retire", "--volume", &volume];
    let (_, line) = failing_verb(&cluster, &retire);
    assert!(line.contains("in use"), "{line}");
    block_on(database.close());
    let mut planned = Value::Null;
    eventually("the writer is not heard any more", || {
        let dir = cluster.path().to_str().unwrap();
        let said = run(
            &["volume", "retire", "--dry-run", "--json", "--dir", dir],
            "",
        );
        planned = serde_json::from_str(said.output.last().unwrap()).unwrap();
        said.status.success()
    });
    assert_eq!(planned["state"], "planned", "{planned}");
    let (_, line) = failing_verb(&cluster, &["volume", "retire"]);
    assert!(line.contains("--volume"), "{line}");
    let other = "0".repeat(32);
    let (_, line) = failing_verb(&cluster, &["volume", "retire", "--volume", &other]);
    assert!(line.contains(&volume), "{line}");
    assert_whole(&status(&cluster));

    let retired = verb(&cluster, &retire);
    assert_eq!(retired["state"], "done", "{retired}");
    let gone = run(
        &["node", "list", "--dir", cluster.path().to_str().unwrap()],
        "",
    )
    .well();
    assert_eq!(gone.output, Vec::<String>::new());
    let (_, line) = failing_verb(&cluster, &["volume", "status"]);
    assert!(line.contains("no node holds anything"), "{line}");
    block_on(async {
        let opened = Database::open(cluster.options()).await;
        assert!(matches!(opened, Err(Error::NoVolume { .. })), "{opened:?}");
    });
}

#[test]
fn a_node_that_was_made_and_added_is_given_segments() {
    let cluster = RealCluster::start();
    cluster.ca.save(&cluster.path().join("tls")).unwrap();
    let database = block_on(Database::create(patient(&cluster))).unwrap();
    let made = verb(
        &cluster,
        &["node", "make", "--az", "az2", "--hot-log-file-mib", "8"],
    );
    assert_eq!(made["state"], "done", "{made}");
    let config = cluster.path().join("node-7/node.toml");
    let config = config.to_str().unwrap();
    // It does not run yet.
    let (failed, line) = failing_verb(&cluster, &["node", "add", "--config", config]);
    assert_eq!(failed["state"], "failed", "{failed}");
    assert!(line.starts_with("node "), "{line}");
    let mut node = Running::start(&["storage-node", "--stop-with-stdin", "--config", config]);
    let address = node.wait_for("ready ");
    let text = || std::fs::read_to_string(cluster.path().join("cluster.toml")).unwrap();
    let planned = verb(&cluster, &["node", "add", "--config", config, "--dry-run"]);
    assert_eq!(planned["state"], "planned", "{planned}");
    assert!(!text().contains(&address), "{}", text());
    let added = verb(&cluster, &["node", "add", "--config", config]);
    assert_eq!(added["state"], "done", "{added}");
    assert!(text().contains(&address), "{}", text());
    let fleet = status(&cluster);
    assert_eq!(fleet["nodes"].as_array().unwrap().len(), 7, "{fleet}");

    let out = id(&cluster, 2);
    let replaced = verb(&cluster, &["node", "replace", "--node", &out]);
    assert_eq!(replaced["state"], "done", "{replaced}");
    block_on(commit(&database, "after")).unwrap();
    block_on(database.close());
    // Also for those who have the old list of nodes.
    block_on(async {
        let database = Database::take_over(patient(&cluster)).await.unwrap();
        commit(&database, "by the next").await.unwrap();
        database.close().await;
    });
    node.finish().well();
}

#[test]
fn a_fleet_of_nine_is_started_by_one_word_and_a_volume_takes_two_nodes_of_each_zone() {
    let dir = scratch();
    let path = dir.path().to_str().unwrap();
    let local = [
        "local",
        "--nodes",
        "9",
        "--hot-log-file-mib",
        "8",
        "--stop-with-stdin",
        "--dir",
        path,
    ];
    let mut local = Running::start(&local);
    local.wait_for("ready: ");
    let created = run(&["volume", "create", "--dir", path], "").well();
    assert!(
        created.output[0].starts_with("created volume "),
        "{created:?}"
    );
    let said = run(&["volume", "status", "--json", "--dir", path], "").well();
    let status: Value = serde_json::from_str(said.output.last().unwrap()).unwrap();
    assert_whole(&status);
    assert_eq!(status["nodes"].as_array().unwrap().len(), 9, "{status}");
    local.finish().well();
    let refused = run(&["local", "--nodes", "5", "--dir", path], "");
    assert!(refused.errors.contains("not in 6..=64"), "{refused:?}");
}

#[test]
fn verbs_say_in_a_line_what_is_wrong_with_what_they_were_told() {
    let cluster = RealCluster::start();
    let nobody = "f".repeat(32);
    let (_, line) = failing_verb(&cluster, &["volume", "grow"]);
    assert!(line.contains("no node holds anything"), "{line}");
    block_on(async {
        let database = Database::create(patient(&cluster)).await.unwrap();
        database.close().await;
    });
    let before = status(&cluster);
    let first = id(&cluster, 0);
    let other = id(&cluster, 2);
    let address = cluster.cluster.nodes[0].address.to_string();
    let cases: &[(&[&str], &str)] = &[
        (
            &["node", "replace", "--node", "zz"],
            "is not 32 hexadecimal digits",
        ),
        (
            &["node", "replace", "--segment", &nobody, "--dry-run"],
            "holds nothing of the volume",
        ),
        (
            &["node", "replace", "--node", &nobody, "--dry-run"],
            "holds nothing of the volume",
        ),
        (
            &["node", "replace", "--node", &first, "--dry-run"],
            "no spare node in availability zone az1",
        ),
        (
            &[
                "node",
                "replace",
                "--node",
                &first,
                "--onto",
                &nobody,
                "--dry-run",
            ],
            "is not in the fleet",
        ),
        (
            &[
                "node",
                "replace",
                "--node",
                &first,
                "--onto",
                &other,
                "--dry-run",
            ],
            "hosts a segment of protection group 0 already",
        ),
        (
            &["node", "restore", "--node", &first, "--dry-run"],
            "is not being replaced",
        ),
        (
            &["node", "drain", "--node", &nobody, "--dry-run"],
            "is not in the fleet",
        ),
        (
            &["node", "forget", "--node", &first, "--dry-run"],
            "drain it first",
        ),
        (
            &[
                "node",
                "add",
                "--node",
                &first,
                "--az",
                "az9",
                "--address",
                &address,
            ],
            "is in az1 already",
        ),
        (
            &[
                "node",
                "add",
                "--node",
                &nobody,
                "--az",
                "az1",
                "--address",
                &address,
            ],
            "is that of node",
        ),
        (
            &[
                "node",
                "add",
                "--node",
                &nobody,
                "--az",
                "az1",
                "--address",
                "127.0.0.1:1",
            ],
            "node ffff",
        ),
        (
            &["node", "add", "--config", "/nowhere/node.toml"],
            "cannot read /nowhere/node.toml",
        ),
        // What the writer says.
        (
            &["node", "replace", "--node", &first],
            "no spare node in availability zone az1",
        ),
        (
            &["node", "drain", "--node", &first],
            "no spare node in availability zone az1",
        ),
        (&["node", "restore", "--node", &first], "replace"),
    ];
    for (args, expected) in cases {
        let (object, line) = failing_verb(&cluster, args);
        assert!(
            line.contains(expected),
            "{args:?}: {line:?} does not say {expected:?}"
        );
        let state = object["state"].as_str().unwrap();
        assert!(
            state == "failed" || state == "refused",
            "{args:?}: {object}"
        );
        assert!(
            object["text"].as_str().unwrap().contains(expected),
            "{object}"
        );
    }
    let after = status(&cluster);
    assert_eq!(hosts(&cluster, &before, 0), hosts(&cluster, &after, 0));
    assert_whole(&after);
    // What clap refuses.
    for args in [
        &["node", "replace"][..],
        &["node", "add"],
        &["node", "replace", "--node", &first, "--segment", &nobody],
        &["volume", "grow", "--timeout", "0"],
    ] {
        let said = run(&[args, &["--dir", "x"]].concat(), "");
        assert_eq!(said.status.code(), Some(2), "{said:?}");
    }
}
