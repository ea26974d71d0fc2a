//! Tokens, authorities and wire versions of real processes.

use sixfold::{Database, Error};
use sixfold_log_format::wire::WIRE_VERSION;
use sixfold_transport::VolumeToken;

use crate::load::{Load, block_on, commit};
use crate::membership::{failing_verb, patient, verb};
use crate::observe::get;
use crate::process::{eventually, run};
use crate::real_cluster::RealCluster;

/// How often each node took renewed certificates up.
fn renewals(cluster: &RealCluster) -> Vec<f64> {
    let nodes = cluster.cluster.nodes.iter();
    let asked = nodes.map(|node| {
        let (_, text) = get(node.address, "/metrics")?;
        sixfold_metrics::parse(&text)
            .unwrap()
            .sum("sixfold_node_certificate_renewals_total")
    });
    asked.map(|count| count.unwrap_or(-1.0)).collect()
}

/// Waits until every segment is attached.
fn attached(database: &Database) {
    eventually("all segments are attached", || {
        let stats = block_on(database.stats()).unwrap();
        let mut relations = stats.writer.relations.iter();
        relations.all(|relation| relation.attached)
    });
}

#[test]
fn a_volume_opens_to_its_token_alone() {
    let cluster = RealCluster::start();
    let token_file = cluster.path().join("tls/volume.token");
    let right = std::fs::read_to_string(&token_file).unwrap();
    let database = block_on(Database::create(cluster.options())).unwrap();
    block_on(commit(&database, "one")).unwrap();
    block_on(database.close());

    let refused = |error: Error| {
        let line = error.to_string();
        assert!(matches!(error, Error::Config { .. }), "{error:?}");
        assert!(
            line.contains("the one that was shown is missing or wrong"),
            "{line}"
        );
        assert!(
            !line.contains('\n') && !line.contains(right.trim()),
            "{line}"
        );
    };
    let strangers_are_refused = || {
        refused(block_on(Database::take_over(patient(&cluster))).unwrap_err());
        refused(block_on(Database::open_read_only(patient(&cluster))).unwrap_err());
        let line = run(&["shell", "--dir", cluster.path().to_str().unwrap()], "").one_line();
        assert!(line.contains("missing or wrong"), "{line}");
    };
    // None, as another tenant of the same cluster has none for this volume; then his own.
    std::fs::remove_file(&token_file).unwrap();
    strangers_are_refused();
    let (_, line) = failing_verb(&cluster, &["volume", "grow"]);
    assert!(line.contains("missing or wrong"), "{line}");
    VolumeToken::draw().save(&token_file).unwrap();
    strangers_are_refused();
    std::fs::write(&token_file, "no token").unwrap();
    let error = block_on(Database::take_over(patient(&cluster))).unwrap_err();
    assert!(
        error.to_string().contains("volume.token: no token"),
        "{error}"
    );

    // The right one opens it still, also after the nodes were started anew.
    std::fs::write(&token_file, &right).unwrap();
    let mut cluster = cluster;
    for index in 0..6 {
        cluster.terminate(index);
        cluster.start_nodes(&[index]);
    }
    let database = block_on(Database::take_over(patient(&cluster))).unwrap();
    block_on(commit(&database, "two")).unwrap();
    block_on(database.close());
}

#[test]
fn a_volume_that_is_created_by_the_verb_has_a_token_unless_it_is_told_otherwise() {
    let cluster = RealCluster::start();
    let token_file = cluster.path().join("tls/volume.token");
    let (_, line) = failing_verb(&cluster, &["volume", "create", "--no-token"]);
    assert!(line.contains("--no-token, but there is a token"), "{line}");
    std::fs::remove_file(&token_file).unwrap();
    let created = verb(&cluster, &["volume", "create"]);
    assert!(
        created["text"].as_str().unwrap().contains("volume.token"),
        "{created}"
    );
    assert!(cluster.cluster.volume_token().unwrap().is_some());
    let database = block_on(Database::take_over(patient(&cluster))).unwrap();
    block_on(database.close());
    std::fs::remove_file(&token_file).unwrap();
    assert!(block_on(Database::take_over(patient(&cluster))).is_err());
}

#[test]
fn an_authority_exchanged_under_load_fails_no_commit() {
    let mut cluster = RealCluster::start();
    let (old, new) = (cluster.path().join("ca"), cluster.path().join("new-ca"));
    let (old, new) = (old.to_str().unwrap(), new.to_str().unwrap());
    cluster.ca.save(old.as_ref()).unwrap();
    run(&["cert", "ca", new], "").well();
    let mut dirs: Vec<String> = (0..6)
        .map(|index| cluster.node_tls_dir(index).to_str().unwrap().to_owned())
        .collect();
    dirs.push(cluster.path().join("tls").to_str().unwrap().to_owned());
    let database = block_on(Database::create(cluster.options())).unwrap();
    let load = Load::start(&database, "authority", 4);
    load.until_answered(100);
    // Before its time nobody changes over.
    let line = run(&["cert", "renew", &dirs[0], "--ca", new], "").one_line();
    assert!(line.contains("`sixfold cert trust` adds it"), "{line}");
    let line = run(&["cert", "distrust", &dirs[0], "--ca", old], "").one_line();
    assert!(line.contains("no authority would be left"), "{line}");
    for (verb, ca) in [("trust", new), ("renew", new), ("distrust", old)] {
        let before = renewals(&cluster);
        for dir in &dirs {
            run(&["cert", verb, dir, "--ca", ca], "").well();
        }
        eventually("every node has taken the files up", || {
            let now = renewals(&cluster);
            now.iter().zip(&before).all(|(now, before)| now > before)
        });
        load.until_answered(50);
        // Everybody meets one node anew: the writer and its five peers.
        cluster.terminate(0);
        cluster.start_nodes(&[0]);
        attached(&database);
    }
    let shown = run(&["cert", "show", &dirs[0]], "").well();
    assert_eq!(shown.output.len(), 2, "{shown:?}");
    assert!(shown.output[0].contains("issued by"), "{shown:?}");
    for index in 1..6 {
        cluster.terminate(index);
        cluster.start_nodes(&[index]);
        attached(&database);
    }
    let outcomes = load.stop();
    outcomes.assert_none_failed();
    block_on(async {
        outcomes.check(&database.snapshot()).await;
        database.close().await;
    });
}

#[test]
fn an_upgrade_zone_by_zone_under_load_fails_no_commit_and_can_be_taken_back() {
    let mut cluster = RealCluster::lay_out();
    // Of the build before no volume has a token.
    std::fs::remove_file(cluster.path().join("tls/volume.token")).unwrap();
    for index in 0..6 {
        cluster.start_node_of_wire(index, WIRE_VERSION - 1);
    }
    let database = block_on(Database::create(cluster.options())).unwrap();
    let load = Load::start(&database, "upgrade", 4);
    load.until_answered(50);
    for wire in [WIRE_VERSION, WIRE_VERSION - 1, WIRE_VERSION] {
        for zone in [[0, 1], [2, 3], [4, 5]] {
            for index in zone {
                cluster.terminate(index);
                cluster.start_node_of_wire(index, wire);
                attached(&database);
            }
            load.until_answered(20);
        }
    }
    let outcomes = load.stop();
    outcomes.assert_none_failed();
    block_on(async {
        outcomes.check(&database.snapshot()).await;
        database.close().await;
    });
}
