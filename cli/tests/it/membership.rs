//! Who holds the segments of a volume changes under load, by operators' verbs and by itself. No commit may fail of it, and nothing that was
//! answered may be lost.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use sixfold::{Database, Error, Options, Subject};

use crate::load::{Load, Outcomes, block_on};
use crate::process::{LIMIT, Running, eventually, run};
use crate::real_cluster::RealCluster;

const CLIENTS: usize = 4;

/// No deadline ends anything.
pub fn patient(cluster: &RealCluster) -> Options {
    let options = cluster.options();
    options
        .commit_deadline(LIMIT)
        .read_deadline(LIMIT)
        .open_deadline(LIMIT)
}

/// Runs a verb with `--dir` and `--json`, and gives its object.
pub fn verb(cluster: &RealCluster, args: &[&str]) -> Value {
    let mut all = args.to_vec();
    all.extend(["--dir", cluster.path().to_str().unwrap(), "--json"]);
    let finished = run(&all, "").well();
    serde_json::from_str(finished.output.last().unwrap()).unwrap()
}

/// The same of one that does not do what it was told.
pub fn failing_verb(cluster: &RealCluster, args: &[&str]) -> (Value, String) {
    let mut all = args.to_vec();
    all.extend(["--dir", cluster.path().to_str().unwrap(), "--json"]);
    let finished = run(&all, "");
    let object = serde_json::from_str(finished.output.last().unwrap()).unwrap();
    (object, finished.one_line())
}

pub fn status(cluster: &RealCluster) -> Value {
    verb(cluster, &["volume", "status"])
}

/// Nodes that hold a segment of this protection group, by index.
pub fn hosts(cluster: &RealCluster, status: &Value, pg: usize) -> Vec<usize> {
    let segments = status["pgs"][pg]["segments"].as_array().unwrap();
    let index_of = |segment: &Value| {
        let node = segment["node"].as_str().unwrap();
        let mut nodes = cluster.cluster.nodes.iter();
        nodes
            .position(|known| known.node.to_string() == node)
            .unwrap()
    };
    let mut hosts: Vec<usize> = segments.iter().map(index_of).collect();
    hosts.sort_unstable();
    hosts
}

/// Nodes that hold nothing.
fn spares(cluster: &RealCluster, status: &Value) -> Vec<usize> {
    let hosts = hosts(cluster, status, 0);
    let all = 0..cluster.cluster.nodes.len();
    all.filter(|index| !hosts.contains(index)).collect()
}

/// A host in the zone of a spare, and the spare.
fn pair(cluster: &RealCluster, status: &Value) -> (usize, usize) {
    let spare = spares(cluster, status)[0];
    let az = |index: usize| &cluster.cluster.nodes[index].az;
    let hosts = hosts(cluster, status, 0);
    let out = hosts.into_iter().find(|&host| az(host) == az(spare));
    (out.unwrap(), spare)
}

/// The first node holds nothing any more of the root, and the second one does.
fn assert_moved(cluster: &RealCluster, status: &Value, (out, into): (usize, usize)) {
    let hosts = hosts(cluster, status, 0);
    assert!(!hosts.contains(&out) && hosts.contains(&into), "{status}");
}

pub fn id(cluster: &RealCluster, index: usize) -> String {
    cluster.cluster.nodes[index].node.to_string()
}

/// Six whole segments of one set each, in three zones by two, all of which answer.
pub fn assert_whole(status: &Value) {
    for pg in status["pgs"].as_array().unwrap() {
        assert_eq!(pg["sets"], 1, "{status}");
        let segments = pg["segments"].as_array().unwrap();
        assert_eq!(segments.len(), 6, "{status}");
        let mut zones: Vec<&str> = Vec::new();
        for segment in segments {
            assert_eq!(segment["joining"], false, "{status}");
            assert_eq!(segment["answers"], true, "{status}");
            zones.push(segment["az"].as_str().unwrap());
        }
        zones.sort_unstable();
        assert_eq!(zones, ["az1", "az1", "az2", "az2", "az3", "az3"]);
    }
    assert_eq!(status["replacements"], Value::Array(Vec::new()), "{status}");
}

/// Fifty rows of a thousand bytes a commit.
async fn put_rows(database: &Database, commits: usize) {
    for commit in 0..commits {
        let transaction = database.begin().await.unwrap();
        for row in 0..50 {
            let key = format!("row/{commit:04}/{row:04}");
            transaction.put(key, vec![7; 1_000]).unwrap();
        }
        transaction.commit().await.unwrap();
    }
}

/// Opens the volume anew and compares it with what was answered.
fn check_in_a_new_writer(cluster: &RealCluster, outcomes: &Outcomes) {
    block_on(async {
        let database = Database::take_over(patient(cluster)).await.unwrap();
        outcomes.check(&database.snapshot()).await;
        database.close().await;
    });
}

#[test]
fn a_node_is_replaced_under_load_and_no_commit_fails() {
    let cluster = RealCluster::start_fleet(7);
    let database = block_on(Database::create(patient(&cluster))).unwrap();
    let load = Load::start(&database, "replaced", CLIENTS);
    load.until_answered(100);
    let before = status(&cluster);
    assert_whole(&before);
    let (out, spare) = pair(&cluster, &before);

    // A dry run says where it would go, and changes nothing.
    let (out_id, spare_id) = (id(&cluster, out), id(&cluster, spare));
    let planned = verb(
        &cluster,
        &["node", "replace", "--node", &out_id, "--dry-run"],
    );
    assert_eq!(planned["state"], "planned", "{planned}");
    assert_eq!(planned["moves"][0]["to"].as_str(), Some(&*spare_id));
    assert_eq!(planned["moves"].as_array().unwrap().len(), 1, "{planned}");
    assert_eq!(
        status(&cluster)["membership_epoch"],
        before["membership_epoch"]
    );

    let done = verb(&cluster, &["node", "replace", "--node", &out_id]);
    assert_eq!(done["state"], "done", "{done}");
    assert_eq!(done["by"], "writer", "{done}");
    assert_eq!(done["moves"], planned["moves"], "{done}");
    let after = status(&cluster);
    assert_whole(&after);
    assert_moved(&cluster, &after, (out, spare));
    load.until_answered(100);

    // And back, onto a node that is named.
    let segment = done["moves"][0]["segment"].as_str().unwrap();
    // A segment that is gone already is no reason to complain, and nothing is moved for it.
    let again = verb(&cluster, &["node", "replace", "--segment", segment]);
    assert_eq!(again["state"], "done", "{again}");
    assert_eq!(again["moves"], Value::Array(Vec::new()), "{again}");
    let back = verb(
        &cluster,
        &["node", "replace", "--node", &spare_id, "--onto", &out_id],
    );
    assert_eq!(back["moves"][0]["to"].as_str(), Some(&*out_id), "{back}");
    load.until_answered(100);
    let outcomes = load.stop();
    outcomes.assert_none_failed();
    block_on(database.close());
    check_in_a_new_writer(&cluster, &outcomes);
}

#[test]
fn a_drained_node_holds_nothing_and_can_be_forgotten() {
    let cluster = RealCluster::start_fleet(7);
    let options = patient(&cluster).pages_per_pg(4_096);
    let database = block_on(Database::create(options)).unwrap();
    let load = Load::start(&database, "drained", CLIENTS);
    load.until_answered(50);
    let grown = verb(&cluster, &["volume", "grow"]);
    assert_eq!(grown["state"], "done", "{grown}");
    let (out, spare) = pair(&cluster, &status(&cluster));
    let out_id = id(&cluster, out);

    let (refused, line) = failing_verb(
        &cluster,
        &["node", "forget", "--node", &out_id, "--timeout", "20"],
    );
    assert_eq!(refused["state"], "refused", "{refused}");
    assert!(line.contains(&out_id), "{line}");

    let drained = verb(&cluster, &["node", "drain", "--node", &out_id]);
    assert_eq!(drained["state"], "done", "{drained}");
    let after = status(&cluster);
    assert_whole(&after);
    for pg in 0..2 {
        assert!(!hosts(&cluster, &after, pg).contains(&out), "{after}");
    }
    assert!(hosts(&cluster, &after, 0).contains(&spare), "{after}");
    // Its own segments are dropped as soon as it heard.
    let listed = [
        "node",
        "list",
        "--node",
        &out_id,
        "--dir",
        cluster.path().to_str().unwrap(),
    ];
    eventually("the drained node holds nothing", || {
        run(&listed, "").well().output.is_empty()
    });
    let forgotten = verb(&cluster, &["node", "forget", "--node", &out_id]);
    assert_eq!(forgotten["state"], "done", "{forgotten}");
    let text = std::fs::read_to_string(cluster.path().join("cluster.toml")).unwrap();
    assert!(!text.contains(&out_id), "{text}");
    load.until_answered(50);
    let outcomes = load.stop();
    outcomes.assert_none_failed();
    block_on(database.close());
    check_in_a_new_writer(&cluster, &outcomes);
}

#[test]
fn a_node_that_is_gone_for_good_is_repaired_on_a_spare_by_itself() {
    let mut cluster = RealCluster::start_fleet(7);
    let options = patient(&cluster).repair_after(Some(Duration::from_secs(1)));
    let database = block_on(Database::create(options)).unwrap();
    let load = Load::start(&database, "repaired", CLIENTS);
    load.until_answered(100);
    let (out, spare) = pair(&cluster, &status(&cluster));
    cluster.kill(&[out]);
    eventually("the spare holds the lost segment", || {
        let status = status(&cluster);
        let hosts = hosts(&cluster, &status, 0);
        hosts.contains(&spare) && !hosts.contains(&out)
    });
    load.until_answered(100);
    // The dead one comes back with what nobody wants any more.
    cluster.start_nodes(&[out]);
    assert_whole(&status(&cluster));
    load.until_answered(100);
    let outcomes = load.stop();
    outcomes.assert_none_failed();
    block_on(database.close());
    check_in_a_new_writer(&cluster, &outcomes);
}

#[test]
fn a_volume_grows_under_load_and_the_new_group_is_used() {
    let cluster = RealCluster::start();
    let options = patient(&cluster).pages_per_pg(1_024);
    let database = block_on(Database::create(options)).unwrap();
    let load = Load::start(&database, "grown", CLIENTS);
    load.until_answered(50);
    let planned = verb(&cluster, &["volume", "grow", "--dry-run"]);
    assert_eq!(planned["moves"].as_array().unwrap().len(), 6, "{planned}");
    assert_eq!(status(&cluster)["pgs"].as_array().unwrap().len(), 1);
    for groups in 2..=3 {
        let grown = verb(&cluster, &["volume", "grow"]);
        assert_eq!(grown["state"], "done", "{grown}");
        let status = status(&cluster);
        assert_eq!(status["pgs"].as_array().unwrap().len(), groups, "{status}");
        assert_whole(&status);
    }
    // More than the first group's pages hold: the others take records now.
    block_on(put_rows(&database, 200));
    let outcomes = load.stop();
    outcomes.assert_none_failed();
    let scl = |pg: usize| {
        status(&cluster)["pgs"][pg]["segments"][0]["scl"]
            .as_u64()
            .unwrap()
    };
    eventually("the second group holds records", || scl(1) > 0);
    block_on(database.close());
    check_in_a_new_writer(&cluster, &outcomes);
}

#[test]
fn without_a_writer_the_verb_opens_the_volume_itself() {
    let cluster = RealCluster::start_fleet(7);
    block_on(async {
        let database = Database::create(patient(&cluster)).await.unwrap();
        database.close().await;
    });
    let before = status(&cluster);
    let (out, spare) = pair(&cluster, &before);
    let done = verb(&cluster, &["node", "replace", "--node", &id(&cluster, out)]);
    assert_eq!(done["state"], "done", "{done}");
    assert_eq!(done["by"], "this process", "{done}");
    let after = status(&cluster);
    assert_whole(&after);
    assert_moved(&cluster, &after, (out, spare));
    // It is not left open: the next one need not take it over.
    eventually("the volume is free", || {
        block_on(async {
            match Database::open(patient(&cluster)).await {
                Ok(database) => {
                    database.close().await;
                    true
                }
                Err(Error::InUse { .. }) => false,
                Err(error) => panic!("{error}"),
            }
        })
    });
}

/// Begins to replace a node by a spare, which is stopped (SIGSTOP) as soon as it joins: the replacement stays in the middle. There must be
/// so much data that a new segment is not whole at once; should one be all the same, it is tried again with the next.
fn stopped_in_the_middle(cluster: &RealCluster) -> (usize, usize, Running) {
    for _ in 0..10 {
        let (out, spare) = pair(cluster, &status(cluster));
        let (out_id, spare_id) = (id(cluster, out), id(cluster, spare));
        let dir = cluster.path().to_str().unwrap();
        let replacing = Running::start(&["node", "replace", "--node", &out_id, "--dir", dir]);
        let mut joins = false;
        eventually("the replacement has begun", || {
            let now = status(cluster);
            joins = now["replacements"][0]["into_node"].as_str() == Some(&*spare_id);
            if joins {
                cluster.signal(&[spare], Signal::STOP);
            }
            joins || !hosts(cluster, &now, 0).contains(&out)
        });
        if !joins {
            replacing.wait().well();
            continue;
        }
        // It may have become whole in the last moment.
        let now = status(cluster);
        if now["replacements"][0]["into_node"].as_str() == Some(&*spare_id) {
            return (out, spare, replacing);
        }
        cluster.signal(&[spare], Signal::CONT);
        replacing.wait().well();
    }
    panic!("every replacement was over at once");
}

#[test]
fn a_replacement_that_its_writer_did_not_live_to_see_is_finished_by_the_next() {
    let cluster = RealCluster::start_fleet(7);
    let mut first = Running::start(&[
        "bench",
        "reopen-writer",
        "--cluster",
        cluster.path().join("cluster.toml").to_str().unwrap(),
        "--number=1",
        "--fill-bytes=25165824",
    ]);
    first.wait_for("filled ");
    let (out, spare, replacing) = stopped_in_the_middle(&cluster);
    first.kill();
    drop(replacing);
    cluster.signal(&[spare], Signal::CONT);
    block_on(async {
        let database = Database::take_over(patient(&cluster)).await.unwrap();
        let until = std::time::Instant::now() + LIMIT;
        while !database
            .admin()
            .membership()
            .await
            .unwrap()
            .replacements
            .is_empty()
        {
            assert!(std::time::Instant::now() < until, "it is not finished");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        database.close().await;
    });
    let after = status(&cluster);
    assert_whole(&after);
    assert_moved(&cluster, &after, (out, spare));
}

#[test]
fn a_replacement_in_the_middle_is_taken_back_and_no_commit_fails() {
    let cluster = RealCluster::start_fleet(7);
    let database = block_on(Database::create(patient(&cluster))).unwrap();
    block_on(put_rows(&database, 500));
    let load = Load::start(&database, "taken back", CLIENTS);
    load.until_answered(50);
    let (out, spare, replacing) = stopped_in_the_middle(&cluster);
    let out_id = id(&cluster, out);
    // Waiting has an end; the replacement has not.
    let (late, line) = failing_verb(
        &cluster,
        &["node", "drain", "--node", &out_id, "--timeout", "1"],
    );
    assert_eq!(late["state"], "timeout", "{late}");
    assert!(line.contains("not done within 1 s, it goes on"), "{line}");
    load.until_answered(50);
    let restored = verb(&cluster, &["node", "restore", "--node", &out_id]);
    assert_eq!(restored["state"], "done", "{restored}");
    cluster.signal(&[spare], Signal::CONT);
    let line = replacing.wait().one_line();
    assert!(!line.is_empty());
    let after = status(&cluster);
    assert_whole(&after);
    assert_moved(&cluster, &after, (spare, out));
    load.until_answered(50);
    let outcomes = load.stop();
    outcomes.assert_none_failed();
    block_on(database.close());
    check_in_a_new_writer(&cluster, &outcomes);
}

#[test]
fn a_program_moves_segments_of_its_own_volume() {
    let cluster = RealCluster::start_fleet(7);
    block_on(async {
        let database = Database::create(patient(&cluster)).await.unwrap();
        let before = status(&cluster);
        let (out, spare) = pair(&cluster, &before);
        let nodes = &cluster.cluster.nodes;
        let admin = database.admin();
        let mut progress = admin
            .replace(Subject::Node(nodes[out].node), Some(nodes[spare].node))
            .await
            .unwrap();
        let mut last = None;
        while let Some(state) = progress.next().await.unwrap() {
            last = Some(state);
        }
        let last = last.unwrap();
        assert!(last.is_done && last.done == last.of, "{last:?}");
        let refused = admin
            .restore(Subject::Node(nodes[spare].node))
            .await
            .unwrap()
            .finished()
            .await
            .unwrap();
        assert!(
            refused.is_refused && !refused.text.is_empty(),
            "{refused:?}"
        );
        database.close().await;
        assert!(admin.grow().await.is_err(), "it is closed");
    });
}

#[test]
fn three_destroyed_nodes_are_declared_lost_by_word_and_the_volume_lives_on() {
    let mut cluster = RealCluster::start();
    let mut outcomes = Outcomes::default();
    let database = block_on(Database::create(patient(&cluster))).unwrap();
    let load = Load::start(&database, "before", CLIENTS);
    load.until_answered(100);
    outcomes.add(load.stop());
    block_on(database.close());
    let lost: Vec<String> = [0, 2, 4].iter().map(|&index| id(&cluster, index)).collect();
    let lost = lost.join(",");
    let declare = ["node", "replace", "--declare-lost", "--node", &lost];
    let (_, line) = failing_verb(&cluster, &declare);
    assert!(line.contains("it is not lost"), "{line}");
    cluster.kill(&[0, 2, 4]);
    let before = status(&cluster);
    let planned = verb(&cluster, &[&declare[..], &["--dry-run"]].concat());
    assert_eq!(planned["state"], "planned", "{planned}");
    let text = planned["text"].as_str().unwrap();
    assert!(
        text.contains("UNSAFE") && text.contains("protection group 0 goes on with 3 of 6 copies"),
        "{text}"
    );
    let (_, line) = failing_verb(&cluster, &declare);
    assert!(
        line.contains("without a terminal give --yes-i-know"),
        "{line}"
    );
    assert_eq!(status(&cluster)["volume_epoch"], before["volume_epoch"]);
    let done = verb(&cluster, &[&declare[..], &["--yes-i-know"]].concat());
    assert_eq!(done["state"], "done", "{done}");
    assert!(
        done["text"]
            .as_str()
            .unwrap()
            .contains("protection group 0 has 3 copies"),
        "{done}"
    );
    // What was answered is there, and commits are taken.
    block_on(async {
        let database = Database::take_over(patient(&cluster)).await.unwrap();
        outcomes.check(&database.snapshot()).await;
        crate::load::commit(&database, "after").await.unwrap();
        database.close().await;
    });
    // The dead come back, and nobody listens to them.
    cluster.start_nodes(&[0, 2, 4]);
    let hosts = hosts(&cluster, &status(&cluster), 0);
    assert_eq!(hosts, [1, 3, 5]);
    block_on(async {
        let database = Database::take_over(patient(&cluster)).await.unwrap();
        crate::load::commit(&database, "with the dead around")
            .await
            .unwrap();
        outcomes.check(&database.snapshot()).await;
        database.close().await;
    });
}

#[test]
fn three_destroyed_nodes_are_made_good_where_there_are_spares() {
    let mut cluster = RealCluster::start_fleet(9);
    let database = block_on(Database::create(patient(&cluster))).unwrap();
    let load = Load::start(&database, "before", CLIENTS);
    load.until_answered(100);
    // One node of each zone that holds a segment.
    let hosts_before = hosts(&cluster, &status(&cluster), 0);
    let nodes = cluster.cluster.nodes.clone();
    let az = |index: usize| nodes[index].az.clone();
    let mut lost: Vec<usize> = Vec::new();
    for &host in &hosts_before {
        if !lost.iter().any(|&other| az(other) == az(host)) {
            lost.push(host);
        }
    }
    assert_eq!(lost.len(), 3);
    let mut outcomes = load.stop();
    outcomes.assert_none_failed();
    block_on(database.close());
    cluster.kill(&lost);
    let ids: Vec<String> = lost.iter().map(|&index| id(&cluster, index)).collect();
    let done = verb(
        &cluster,
        &[
            "node",
            "replace",
            "--declare-lost",
            "--yes-i-know",
            "--node",
            &ids.join(","),
        ],
    );
    assert_eq!(done["state"], "done", "{done}");
    assert!(!done["text"].as_str().unwrap().contains("copies"), "{done}");
    let after = status(&cluster);
    assert_whole(&after);
    let hosts_after = hosts(&cluster, &after, 0);
    assert!(!hosts_after.iter().any(|host| lost.contains(host)));
    // A zone may go again, and another node.
    let zone: Vec<usize> = hosts_after
        .iter()
        .copied()
        .filter(|&host| az(host) == "az1")
        .collect();
    let database = block_on(Database::take_over(patient(&cluster))).unwrap();
    cluster.kill(&zone);
    let load = Load::start(&database, "after", CLIENTS);
    load.until_answered(100);
    let later = load.stop();
    later.assert_none_failed();
    outcomes.add(later);
    block_on(async {
        outcomes.check(&database.snapshot()).await;
        database.close().await;
    });
}

#[test]
fn nodes_that_were_all_moved_are_found_by_the_description_and_find_each_other_again() {
    use sixfold_log_format::wire::{Message, Probe};
    let mut cluster = RealCluster::start();
    block_on(async {
        let database = Database::create(patient(&cluster)).await.unwrap();
        crate::load::commit(&database, "before").await.unwrap();
        database.close().await;
    });
    let all: Vec<usize> = (0..6).collect();
    cluster.kill(&all);
    cluster.move_all();
    cluster.start_nodes(&all);
    let addresses = |cluster: &RealCluster| {
        let volume = cluster.cluster.volume;
        let probe = Message::Probe(Probe { volume });
        match block_on(cluster.ask(0, "writer", &probe)) {
            Message::ProbeAnswer(answer) => {
                let hints = answer.manifest.unwrap().hints;
                let mut said: Vec<String> = hints.into_iter().map(|hint| hint.address).collect();
                said.sort();
                said
            }
            other => panic!("{other:?}"),
        }
    };
    let mut now: Vec<String> = cluster
        .cluster
        .nodes
        .iter()
        .map(|node| node.address.to_string())
        .collect();
    now.sort();
    assert_ne!(addresses(&cluster), now);
    let database = block_on(Database::take_over(patient(&cluster))).unwrap();
    eventually("the manifest says where they are", || {
        addresses(&cluster) == now
    });
    // What one of them missed it gets from the others.
    cluster.kill(&[3]);
    for number in 0..50 {
        block_on(crate::load::commit(&database, &format!("later {number}"))).unwrap();
    }
    block_on(database.close());
    cluster.start_nodes(&[3]);
    cluster.wait_until_equal();
}
