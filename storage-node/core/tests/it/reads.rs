//! Page reads at an LSN, log reads, and redo that is no longer in memory.

use sixfold_log_format::wire::{Message, PageAnswer, ReadLog, Refusal};
use sixfold_log_format::{Batch, Lsn, VolumeEpoch};

use crate::shell::{Shell, found};
use crate::writer::{Writer, create, lsn, node, refusal, segment_id, volume};

const PAGES: [u64; 6] = [2, 3, 4, 5, 6, 99];

fn load(shell: &mut Shell, batches: u64) -> Writer {
    let mut writer = Writer::first();
    let stream = writer.attach(shell, 0);
    for number in 0..batches {
        let pages: Vec<u64> = (0..number % 7 + 1)
            .map(|page| 2 + (page + number) % 5)
            .collect();
        let batch = writer.batch(&pages);
        writer.ship(shell, stream, &batch);
    }
    writer
}

/// A node that keeps hardly anything in memory.
fn forgetful_node() -> Shell {
    let mut found = found(0);
    found.bounds.resident_redo_bytes_max = 600;
    found.bounds.page_cache_bytes_max = 0;
    let mut shell = Shell::with(found);
    create(&mut shell, 0);
    shell
}

fn read_log(writer: &Writer, after: Lsn, through: Lsn, bytes_max: u32) -> Message {
    Message::ReadLog(ReadLog {
        segment: segment_id(0),
        history_epoch: writer.epoch,
        after,
        through,
        bytes_max,
    })
}

fn batches_of(answers: Vec<Message>) -> (Vec<Batch>, bool) {
    let mut batches = Vec::new();
    let mut more = true;
    for answer in answers {
        let Message::LogPiece(piece) = answer else {
            panic!("{answer:?}")
        };
        assert!(more, "a piece after the last");
        more = piece.more;
        batches.extend(
            piece
                .batches
                .into_iter()
                .map(|bytes| Batch::decode(bytes, volume()).unwrap()),
        );
    }
    (batches, more)
}

#[test]
fn a_page_at_any_lsn_is_the_fold_of_its_records() {
    let mut shell = node(0);
    let writer = load(&mut shell, 40);
    let base = writer.history.highest_end().get();
    // Down and up again, so that newer images do not serve older points.
    for at in (base - 3..=writer.prev.get())
        .rev()
        .chain(base..=writer.prev.get())
    {
        writer.check_pages(&mut shell, 0, &PAGES, lsn(at));
    }
}

#[test]
fn redo_that_left_memory_is_read_back_from_disk_and_verified() {
    let mut shell = forgetful_node();
    let writer = load(&mut shell, 60);
    let reads = shell.reads_done;
    for batch in [10, 59, 30] {
        let at = writer.batches[batch].header().last;
        writer.check_pages(&mut shell, 0, &PAGES, at);
    }
    assert!(shell.reads_done > reads);
    // The same for the log.
    let answers = shell.request_as(
        sixfold_log_format::wire::Role::Node,
        read_log(&writer, Lsn::NONE, Lsn::MAX, u32::MAX),
    );
    assert_eq!(batches_of(answers), (writer.batches.clone(), false));
}

#[test]
fn damage_on_disk_is_never_served() {
    let mut shell = forgetful_node();
    let writer = load(&mut shell, 60);
    let at = writer.batches[59].header().last;
    let bytes = writer.batches[7].bytes().clone();
    for file in shell.files.values_mut() {
        if let Some(found) = file
            .windows(bytes.len())
            .position(|window| *window == bytes[..])
        {
            file[found + bytes.len() / 2] ^= 4;
        }
    }
    let page = 2 + 7 % 5;
    let answer = shell.ask(writer.read(0, &[page], at, writer.prev));
    assert!(matches!(refusal(answer), Refusal::Corrupt { .. }));
    assert_eq!(shell.errors().len(), 1);
    assert!(shell.status().segments[0].damaged);
}

#[test]
fn reads_that_wait_for_the_disk_are_bounded() {
    let mut shell = forgetful_node();
    let writer = load(&mut shell, 60);
    shell.hold_reads = true;
    let at = writer.prev;
    let streams: Vec<_> = (0..7)
        .map(|_| {
            let stream = shell.open_stream();
            shell.say(stream, writer.read(0, &PAGES, at, writer.prev));
            stream
        })
        .collect();
    assert!(shell.reads.len() <= 4, "{}", shell.reads.len());
    for stream in &streams[4..] {
        let answer = shell.take(*stream).pop().unwrap();
        assert_eq!(refusal(answer), Refusal::Overloaded);
    }
    shell.event(sixfold_storage_node_core::Event::StreamClosed { stream: streams[3] });
    shell.hold_reads = false;
    while !shell.reads.is_empty() {
        shell.complete_reads();
    }
    for stream in &streams[..3] {
        assert!(matches!(shell.take(*stream).pop(), Some(Message::Pages(_))));
    }
    assert!(shell.take(streams[3]).is_empty());
}

#[test]
fn a_read_that_waits_while_the_history_changes_is_refused() {
    let mut shell = forgetful_node();
    let writer = load(&mut shell, 60);
    shell.hold_reads = true;
    let stream = shell.open_stream();
    shell.say(stream, writer.read(0, &PAGES, writer.prev, writer.prev));
    assert!(!shell.reads.is_empty());
    let next = writer.reopen(writer.batches[30].header().last, 3);
    shell.ask(next.install(0));
    shell.hold_reads = false;
    shell.complete_reads();
    let answer = shell.take(stream).pop().unwrap();
    assert_eq!(
        refusal(answer),
        Refusal::OtherHistory {
            history_epoch: VolumeEpoch::new(3)
        }
    );
}

#[test]
fn an_idle_protection_group_is_read_far_above_its_last_lsn() {
    let mut shell = node(0);
    let writer = load(&mut shell, 10);
    let far = writer.prev.plus(5_000);
    writer.check_pages(&mut shell, 0, &PAGES, far);
}

#[test]
fn a_segment_that_is_behind_says_so() {
    let mut shell = node(0);
    let mut writer = load(&mut shell, 10);
    let scl = writer.prev;
    writer.batch(&[2]);
    let answer = shell.ask(writer.read(0, &[2, 3], writer.prev, writer.prev));
    let Message::Pages(pages) = answer else {
        panic!("{answer:?}")
    };
    assert_eq!(
        pages.pages,
        vec![PageAnswer::Refused(Refusal::Behind { scl }); 2]
    );
    // An older point is covered.
    writer.check_pages(&mut shell, 0, &PAGES, scl);
}

#[test]
fn a_reader_of_another_history_is_refused() {
    let mut shell = node(0);
    let writer = load(&mut shell, 3);
    for epoch in [1, 3] {
        let mut reader = writer.clone();
        reader.epoch = VolumeEpoch::new(epoch);
        let answer = shell.ask(reader.read(0, &[2], writer.prev, writer.prev));
        assert_eq!(
            refusal(answer),
            Refusal::OtherHistory {
                history_epoch: writer.epoch
            }
        );
    }
}

#[test]
fn a_log_read_gives_the_batches_of_a_range_in_order_and_says_whether_there_are_more() {
    let mut shell = node(0);
    let writer = load(&mut shell, 30);
    let role = sixfold_log_format::wire::Role::Reader;
    let (from, to) = (writer.batches[5].header(), writer.batches[9].header());
    // The bounds cut through batches: both are sent whole.
    let message = read_log(&writer, from.first, to.first, u32::MAX);
    let answers = shell.request_as(role, message);
    assert_eq!(batches_of(answers), (writer.batches[5..=9].to_vec(), false));
    let bytes_max = (writer.batches[5].bytes().len() + writer.batches[6].bytes().len()) as u32;
    let message = read_log(&writer, writer.batches[4].header().last, to.last, bytes_max);
    let answers = shell.request_as(role, message);
    assert_eq!(batches_of(answers), (writer.batches[5..=6].to_vec(), true));
    let message = read_log(&writer, writer.prev, Lsn::MAX, 1);
    assert_eq!(
        batches_of(shell.request_as(role, message)),
        (Vec::new(), false)
    );
}

#[test]
fn a_log_read_leaves_out_what_is_annulled_as_a_whole() {
    let mut shell = node(0);
    let writer = load(&mut shell, 30);
    let half = writer.batches[20].header();
    assert!(half.record_count > 1);
    let next = writer.reopen(half.first, 3);
    shell.ask(next.install(0));
    let answers = shell.request_as(
        sixfold_log_format::wire::Role::Writer,
        read_log(&next, Lsn::NONE, Lsn::MAX, u32::MAX),
    );
    assert_eq!(batches_of(answers), (writer.batches[..=20].to_vec(), false));
}
