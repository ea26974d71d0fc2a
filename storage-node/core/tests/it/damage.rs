//! What cannot be read: layers and batches that are gone or fail, work that comes upon them, and copies and jobs that end in the
//! middle of a write.

use std::time::Duration;

use sixfold_log_format::Lsn;
use sixfold_log_format::wire::{DropSegment, Message, Role};
use sixfold_storage_node_core::{DiskError, Event, FileName, StreamKey};

use crate::catch_up::{Cluster, check_node};
use crate::file_heads::other;
use crate::layers::{PAGES, check_all, load, node_with, small};
use crate::shell::{LayerOp, Shell};
use crate::writer::{Writer, segment_id, volume};

fn errors_of(shell: &Shell) -> Vec<String> {
    let errors = shell.errors();
    errors.iter().map(|line| line.to_string()).collect()
}

#[test]
fn a_layer_that_cannot_be_read_is_found_and_copied_from_a_peer() {
    let mut cluster = Cluster::new(6);
    cluster.load(300, &[]);
    let shell = &mut cluster.nodes[2];
    let key = *shell.layers.keys().next().unwrap();
    shell.layers.remove(&key);
    cluster.rounds_until("found", &mut |cluster| {
        cluster.nodes[2].status().upkeep.damage_found > 0
    });
    cluster.rounds_until("healed", &mut |cluster| {
        let status = cluster.nodes[2].status();
        !status.segments[0].damaged && status.upkeep.damage_healed > 0
    });
    assert_eq!(cluster.nodes[2].status().upkeep.damage_found, 1);
    let errors = errors_of(&cluster.nodes[2]);
    assert!(errors[0].contains("layer"), "{errors:?}");
    let writer = cluster.writer.clone();
    check_node(&mut cluster.nodes[2], &writer, 2);
}

#[test]
fn a_segment_without_peers_stays_damaged_while_its_layer_cannot_be_read() {
    let mut shell = node_with(small());
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    load(&mut shell, &mut writer, stream, 300);
    let key = *shell.layers.keys().next().unwrap();
    let file = shell.layers.remove(&key).unwrap();
    let rounds = |shell: &mut Shell, done: &mut dyn FnMut(&mut Shell) -> bool| {
        for _ in 0..2_000 {
            shell.pass(Duration::from_millis(100));
            if done(shell) {
                return;
            }
        }
        panic!("{:?} {:?}", shell.status(), shell.logged);
    };
    rounds(&mut shell, &mut |shell| {
        shell.status().upkeep.damage_found > 0
    });
    // Whole rounds of the scrub over what is left do not heal it.
    let before = shell.status().upkeep.scrub_rounds;
    rounds(&mut shell, &mut |shell| {
        assert!(shell.status().segments[0].damaged);
        shell.status().upkeep.scrub_rounds > before + 2
    });
    shell.layers.insert(key, file);
}

#[test]
fn the_scrub_gets_through_a_layer_whose_index_no_cache_keeps() {
    let mut found = small();
    found.bounds.layer_cache_bytes_max = 0;
    let mut shell = node_with(found);
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    load(&mut shell, &mut writer, stream, 200);
    assert!(shell.status().segments[0].layer_count > 0);
    shell.pass(Duration::from_secs(60));
    assert!(
        shell.status().upkeep.scrub_rounds > 1,
        "{:?}",
        shell.status()
    );
    check_all(&mut shell, &writer, writer.batches[150].header().last);
}

#[test]
fn what_was_misread_is_read_again_before_the_scrub_gets_there() {
    let mut found = small();
    found.bounds.layer_cache_bytes_max = 0;
    found.bounds.page_cache_bytes_max = 0;
    let mut shell = node_with(found);
    for number in 11..=20 {
        let create = Message::CreateSegment(Box::new(other(number)));
        assert_eq!(shell.ask(create), Message::Done);
    }
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    load(&mut shell, &mut writer, stream, 300);
    let flip = |shell: &mut Shell| {
        for file in shell.layers.values_mut() {
            file.bytes.iter_mut().skip(128).for_each(|byte| *byte ^= 1);
        }
    };
    let is_damaged = |shell: &mut Shell| {
        let status = shell.status();
        let mut segments = status.segments.iter();
        segments.any(|segment| segment.damaged)
    };
    // Wherever the scrub is, among ten other segments.
    for turn in 0..20 {
        flip(&mut shell);
        let at = writer.batches[200].header().last;
        let read = writer.read(0, &PAGES[..1], at, writer.prev);
        let answer = shell.open_stream();
        shell.say(answer, read);
        shell.work();
        flip(&mut shell);
        assert!(is_damaged(&mut shell), "turn {turn}: {:?}", shell.logged);
        shell.pass(Duration::from_secs(1));
        assert!(!is_damaged(&mut shell), "turn {turn}");
    }
    assert_eq!(shell.status().upkeep.damage_found, 0);
}

/// Ships batches until the first write of a layer waits.
fn until_a_layer_is_begun(shell: &mut Shell, writer: &mut Writer, stream: StreamKey) {
    for _ in 0..4_000 {
        let batch = writer.batch(&[2, 3, 4]);
        let append = writer.append(&batch);
        shell.say(stream, append);
        shell.settle();
        writer.vdl = writer.prev;
        let heartbeat = writer.heartbeat();
        shell.say(stream, heartbeat);
        while shell.layer_ops.is_empty() && (shell.complete_write() || shell.turn()) {}
        if matches!(shell.layer_ops.front(), Some(LayerOp::Write(_, _, 0, _))) {
            return;
        }
    }
    panic!("nothing is frozen");
}

#[test]
fn a_waiting_write_of_a_layer_that_was_deleted_fails_and_the_node_goes_on() {
    let mut shell = node_with(small());
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    until_a_layer_is_begun(&mut shell, &mut writer, stream);
    let Some(LayerOp::Write(token, key, 0, _)) = shell.layer_ops.pop_front() else {
        unreachable!("looked at just now");
    };
    let drop = DropSegment {
        segment: segment_id(0),
        volume: volume(),
    };
    shell.ask_as(Role::Operator, Message::DropSegment(drop));
    let file = FileName::Layer(key.0, key.1);
    assert!(shell.deleted.contains(&file));
    let result = Err(DiskError::Failed);
    shell.event(Event::Written { token, result });
    assert_eq!(shell.stopped, None);
}

#[test]
fn a_write_of_a_layer_that_fails_for_a_living_job_stops_the_node() {
    let mut shell = node_with(small());
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    until_a_layer_is_begun(&mut shell, &mut writer, stream);
    let Some(LayerOp::Write(token, ..)) = shell.layer_ops.pop_front() else {
        unreachable!("looked at just now");
    };
    let result = Err(DiskError::Failed);
    shell.event(Event::Written { token, result });
    assert!(shell.stopped.is_some());
}

/// Rounds of gossip by hand until node 5 copies and `is_done` says so after one of its events. Its layer writes wait.
fn copy_until(cluster: &mut Cluster, is_done: &mut dyn FnMut(&mut Shell) -> bool) {
    for _ in 0..400 {
        for node in 0..cluster.nodes.len() {
            cluster.nodes[node].now += Duration::from_millis(200);
            cluster.nodes[node].event(Event::Timeout);
            cluster.nodes[node].settle();
            if node != 5 {
                cluster.nodes[node].work();
            }
        }
        while let Some(ask) = cluster.nodes[5].asks.pop_front() {
            let to = (0..5).find(|to| ask.node == crate::shell::node_id(*to as u8));
            let peer = &mut cluster.nodes[to.unwrap()];
            let stream = peer.open_stream();
            peer.say_as(Role::Node, stream, ask.message.clone());
            peer.work();
            let answer = peer.take(stream).pop();
            let token = ask.token;
            cluster.nodes[5].event(Event::PeerAnswer { token, answer });
            cluster.nodes[5].settle();
            if is_done(&mut cluster.nodes[5]) {
                return;
            }
        }
    }
    panic!("{:?}", cluster.nodes[5].logged);
}

#[test]
fn a_copy_that_is_given_up_during_its_first_write_does_not_stop_the_node() {
    let mut cluster = Cluster::new(6);
    cluster.load(20, &[]);
    cluster.load(600, &[5]);
    cluster.nodes[5].work();
    copy_until(&mut cluster, &mut |shell| {
        matches!(shell.layer_ops.front(), Some(LayerOp::Write(_, _, 0, _)))
    });
    let shell = &mut cluster.nodes[5];
    let Some(LayerOp::Write(token, ..)) = shell.layer_ops.pop_front() else {
        unreachable!("looked at just now");
    };
    let drop = DropSegment {
        segment: segment_id(5),
        volume: volume(),
    };
    shell.ask_as(Role::Operator, Message::DropSegment(drop));
    let result = Err(DiskError::Failed);
    shell.event(Event::Written { token, result });
    assert_eq!(shell.stopped, None);
}

#[test]
fn work_that_comes_upon_damage_is_not_begun_again_at_once() {
    let mut shell = node_with(small());
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    load(&mut shell, &mut writer, stream, 100);
    for file in shell.layers.values_mut() {
        file.bytes.iter_mut().skip(128).for_each(|byte| *byte ^= 1);
    }
    for number in 0..100 {
        let batch = writer.batch(&[2 + number % 8]);
        let append = writer.append(&batch);
        shell.say(stream, append);
        writer.vdl = writer.prev;
        let heartbeat = writer.heartbeat();
        shell.say(stream, heartbeat);
        // Everything that is due at this moment: no time passes.
        let mut turns = 0;
        while shell.complete_write() || shell.complete_layer_op() || shell.turn() {
            turns += 1;
            assert!(turns < 3_000, "batch {number}: {} reads", shell.reads_done);
        }
    }
    assert_eq!(shell.stopped, None);
}

#[test]
fn a_page_that_outgrows_a_layer_goes_on_in_the_next_one_and_is_read_at_every_lsn() {
    let mut found = small();
    found.file_bytes = 256 << 10;
    found.bounds.log_bytes_max = 4 << 20;
    found.bounds.log_window_bytes = 1 << 20;
    found.bounds.layer_bytes_max = 1 << 10;
    let mut shell = node_with(found);
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    for number in 0..600_u64 {
        let hot = [5];
        let mixed = [4, 5, 6];
        let pages: &[u64] = if number % 50 == 0 { &mixed } else { &hot };
        let batch = writer.batch(pages);
        let append = writer.append(&batch);
        shell.say(stream, append);
        shell.settle();
        writer.vdl = writer.prev;
        crate::layers::say_heartbeat(&mut shell, &mut writer, stream);
    }
    let status = shell.status();
    let segment = &status.segments[0];
    assert!(
        status.upkeep.merges > 0 && segment.folded_through > Lsn::NONE,
        "{status:?}"
    );
    // At most three pages stand in a run: more layers than that go on with one.
    assert!(
        segment.layer_count > 3 * segment.run_count,
        "{} layers, {} runs",
        segment.layer_count,
        segment.run_count
    );
    check_all(&mut shell, &writer, Lsn::NONE);
    let mut shell = shell.crash(&|_| false);
    shell.work();
    check_all(&mut shell, &writer, Lsn::NONE);
    assert!(shell.errors().is_empty(), "{:?}", shell.errors());
}

#[test]
fn redo_of_a_dropped_segment_leaves_the_account_of_memory() {
    let mut shell = node_with(small());
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    load(&mut shell, &mut writer, stream, 60);
    assert!(shell.status().upkeep.memory.redo_bytes > 0);
    let drop = DropSegment {
        segment: segment_id(0),
        volume: volume(),
    };
    shell.ask_as(Role::Operator, Message::DropSegment(drop));
    assert_eq!(shell.status().upkeep.memory.redo_bytes, 0);
}

#[test]
fn a_damaged_batch_that_no_peers_log_has_any_more_is_healed_by_their_layers() {
    let mut cluster = Cluster::new(6);
    cluster.load(60, &[]);
    // Nothing of it is frozen here while its layers find no space; then it cannot be read any more.
    cluster.nodes[1].layers_full = true;
    cluster.load(20, &[]);
    let bytes = cluster.writer.batches[75].bytes().clone();
    cluster.load(20, &[]);
    let shell = &mut cluster.nodes[1];
    for file in shell.files.values_mut() {
        if let Some(at) = file
            .windows(bytes.len())
            .position(|window| *window == bytes[..])
        {
            file[at + 5] ^= 1;
        }
    }
    let last = cluster.writer.batches[75].header().last;
    assert!(cluster.nodes[1].status().segments[0].folded_through < last);
    cluster.load(600, &[1]);
    cluster.nodes[1].layers_full = false;
    let start = cluster.nodes[0].status().segments[0].log_start;
    assert!(start > last, "peers have it in their logs");
    let tip = cluster.writer.prev;
    cluster.rounds_until("healed", &mut |cluster| {
        cluster.scl(1) == tip && !cluster.nodes[1].status().segments[0].damaged
    });
    let writer = cluster.writer.clone();
    check_node(&mut cluster.nodes[1], &writer, 1);
}

#[test]
fn catalogs_that_crowd_the_head_of_a_file_are_merged_into_fewer_layers_and_the_node_goes_on() {
    let mut found = small();
    // A segment may have 28 layers with such files; each run has some.
    found.bounds.layer_bytes_max = 512;
    found.bounds.runs_max = 40;
    let mut shell = node_with(found);
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    let mut most = 0;
    for _ in 0..40 {
        load(&mut shell, &mut writer, stream, 20);
        most = most.max(shell.status().segments[0].layer_count);
    }
    let status = shell.status();
    let segment = &status.segments[0];
    assert_eq!(segment.scl, writer.prev, "batches are refused");
    assert!(most > 21, "never crowded: {most}");
    assert!(
        most <= 57,
        "more layers than the head of a file has room for: {most}"
    );
    assert!(segment.folded_through > writer.batches[600].header().last);
    assert!(shell.stopped.is_none() && shell.errors().is_empty());
    check_all(&mut shell, &writer, writer.batches[700].header().last);
    let mut shell = shell.crash(&|_| false);
    shell.work();
    check_all(&mut shell, &writer, writer.batches[750].header().last);
}

#[test]
fn a_copy_goes_on_with_newer_layers_when_those_that_it_reads_are_merged_away() {
    let mut cluster = Cluster::new(6);
    cluster.load(20, &[]);
    cluster.load(600, &[5]);
    cluster.nodes[5].work();
    let merges = |cluster: &mut Cluster| {
        let nodes = cluster.nodes.iter_mut().take(5);
        nodes
            .map(|node| node.status().upkeep.merges)
            .collect::<Vec<_>>()
    };
    let (mut forgotten, mut pieces) = (0, 0);
    let before = merges(&mut cluster);
    for _ in 0..600 {
        for node in 0..cluster.nodes.len() {
            cluster.nodes[node].now += Duration::from_millis(200);
            cluster.nodes[node].event(Event::Timeout);
            cluster.nodes[node].work();
        }
        let asked = pieces;
        while let Some(ask) = cluster.nodes[5].asks.pop_front() {
            let to = (0..5).find(|to| ask.node == crate::shell::node_id(*to as u8));
            let peer = &mut cluster.nodes[to.unwrap()];
            let stream = peer.open_stream();
            peer.say_as(Role::Node, stream, ask.message.clone());
            peer.work();
            let answer = peer.take(stream).pop();
            if let Message::ReadLayer(_) = ask.message {
                pieces += 1;
                let gone = matches!(
                    answer,
                    Some(Message::Refused(
                        sixfold_log_format::wire::Refusal::Forgotten { .. }
                    ))
                );
                forgotten += usize::from(gone);
            }
            let token = ask.token;
            cluster.nodes[5].event(Event::PeerAnswer { token, answer });
            cluster.nodes[5].work();
            if pieces > asked + 1 && pieces < 60 {
                break;
            }
        }
        // The peers go on: what is copied is merged away under the copy.
        if pieces > asked && pieces < 60 {
            cluster.load(40, &[5]);
        }
        if cluster.scl(5) == cluster.writer.prev {
            break;
        }
    }
    let after = merges(&mut cluster);
    assert!(
        before
            .iter()
            .zip(&after)
            .all(|(before, after)| after > before)
    );
    assert!(pieces > 10, "{pieces}");
    assert!(forgotten > 0, "no layer went away while it was read");
    cluster.rounds_until("caught up", &mut |cluster| {
        cluster.scl(5) == cluster.writer.prev
    });
    let writer = cluster.writer.clone();
    check_node(&mut cluster.nodes[5], &writer, 5);
    assert!(cluster.nodes[5].errors().is_empty());
}
