//! Batches of which a history annuls a part, and a higher one brings it back.

use std::time::Duration;

use sixfold_log_format::Lsn;
use sixfold_log_format::hot_log::FileNumber;
use sixfold_log_format::wire::{Message, ReadLayer, Role};

use crate::layers::{node_with, say_heartbeat, small};
use crate::shell::Shell;
use crate::writer::{Writer, segment_id};

/// A segment with one batch of two MTRs, the end of the first one and of the batch. The VDL seen is the first end.
fn two_mtrs() -> (Shell, Writer, Lsn, Lsn) {
    let mut shell = node_with(small());
    let mut old = Writer::first();
    let stream = old.attach(&mut shell, 0);
    let batch = old.mtrs(&[&[2, 3, 4], &[5, 6]]);
    old.ship(&mut shell, stream, &batch);
    let cpl = batch.header().first.plus(2);
    old.vdl = cpl;
    say_heartbeat(&mut shell, &mut old, stream);
    (shell, old, cpl, batch.header().last)
}

fn take_over(shell: &mut Shell, writer: &Writer) {
    assert!(matches!(shell.ask(writer.claim(0)), Message::Census(_)));
    let installed = shell.ask(writer.install(0));
    assert!(matches!(installed, Message::Installed(_)), "{installed:?}");
}

fn freeze(shell: &mut Shell) {
    let ask = Message::ReadLayer(ReadLayer {
        segment: segment_id(0),
        layer: 0,
        offset: 0,
        bytes_max: 4_096,
    });
    shell.ask_as(Role::Node, ask);
    shell.pass(Duration::from_secs(1));
}

#[test]
fn a_tail_that_a_loser_annulled_counts_again_under_a_higher_history() {
    let (mut shell, old, cpl, last) = two_mtrs();
    take_over(&mut shell, &old.reopen(cpl, 3));
    assert_eq!(shell.status().segments[0].scl, cpl);
    take_over(&mut shell, &old.reopen(last, 4));
    assert_eq!(shell.status().segments[0].scl, last);
}

#[test]
fn layers_do_not_end_in_a_batch_whose_tail_may_come_back() {
    let (mut shell, old, cpl, last) = two_mtrs();
    take_over(&mut shell, &old.reopen(cpl, 3));
    freeze(&mut shell);
    assert_eq!(shell.status().segments[0].folded_through, Lsn::NONE);
    let mut winner = old.reopen(last, 4);
    take_over(&mut shell, &winner);
    let mut shell = shell.crash(&|_| false);
    shell.work();
    assert_eq!(shell.status().segments[0].scl, last);
    // What follows links to it, and is frozen with it.
    let stream = winner.attach(&mut shell, 0);
    let batch = winner.batch(&[2, 5, 6]);
    let ack = winner.ship(&mut shell, stream, &batch);
    assert_eq!(ack.scl, batch.header().last);
    winner.check_pages(&mut shell, 0, &[2, 3, 4, 5, 6], last);
    winner.vdl = winner.prev;
    say_heartbeat(&mut shell, &mut winner, stream);
    freeze(&mut shell);
    let segment = shell.status().segments[0].clone();
    assert_eq!(segment.folded_through, batch.header().last);
    winner.check_pages(&mut shell, 0, &[2, 3, 4, 5, 6], winner.prev);
}

#[test]
fn a_tail_that_is_annulled_for_good_is_folded_away() {
    let (mut shell, old, cpl, _) = two_mtrs();
    let mut next = old.reopen(cpl, 3);
    take_over(&mut shell, &next);
    let stream = next.attach(&mut shell, 0);
    // It opened: its VDL lies above the tail.
    let batch = next.batch(&[2, 5]);
    next.ship(&mut shell, stream, &batch);
    next.vdl = next.prev;
    say_heartbeat(&mut shell, &mut next, stream);
    freeze(&mut shell);
    let segment = shell.status().segments[0].clone();
    assert_eq!(segment.folded_through, batch.header().last);
    next.check_pages(&mut shell, 0, &[2, 3, 4, 5, 6], next.prev);
}

#[test]
fn a_half_annulled_batch_is_written_again_when_its_file_must_go() {
    let (mut shell, old, cpl, last) = two_mtrs();
    freeze(&mut shell);
    for epoch in 3..400 {
        take_over(&mut shell, &old.reopen(cpl, epoch));
        shell.pass(Duration::from_millis(20));
    }
    shell.pass(Duration::from_secs(2));
    let status = shell.status();
    assert!(status.upkeep.files_freed > 2, "{status:?}");
    assert!(!shell.files.contains_key(&FileNumber(1)));
    assert!(shell.files.len() < 8, "{} files", shell.files.len());
    take_over(&mut shell, &old.reopen(last, 400));
    let mut shell = shell.crash(&|_| false);
    shell.work();
    assert_eq!(shell.status().segments[0].scl, last);
}
