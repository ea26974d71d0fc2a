//! Page reads at an LSN, log reads, and redo that is no longer in memory.

use sixfold_log_format::wire::{Message, PageAnswer, ReadLog, Refusal};
use sixfold_log_format::{Batch, Lsn, Page, PageId, VolumeEpoch};
use sixfold_storage_node_core::{Action, Event, StreamKey};

use crate::shell::{Shell, found};
use crate::writer::{PAGE_BYTES, Writer, create, lsn, node, refusal, segment_id, volume};

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
    // One connection takes three quarters of the room; there is always some for another.
    for stream in &streams[3..] {
        let answer = shell.take(*stream).pop().unwrap();
        assert_eq!(refusal(answer), Refusal::Overloaded);
    }
    let other = shell.open_stream();
    shell.say_from(9, other, writer.read(0, &PAGES, at, writer.prev));
    assert!(shell.take(other).is_empty());
    shell.event(Event::StreamClosed { stream: streams[2] });
    shell.hold_reads = false;
    while !shell.reads.is_empty() {
        shell.complete_reads();
    }
    for stream in streams[..2].iter().chain([&other]) {
        assert!(matches!(shell.take(*stream).pop(), Some(Message::Pages(_))));
    }
    assert!(shell.take(streams[2]).is_empty());
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
fn pages_that_were_folded_stay_in_memory_when_the_volume_is_taken_over() {
    let mut found = found(0);
    found.bounds.resident_redo_bytes_max = 600;
    let mut shell = Shell::with(found);
    create(&mut shell, 0);
    let mut writer = load(&mut shell, 300);
    let settled = writer.prev;
    // The next header says what is durable.
    writer.vdl = settled;
    let last = writer.batch(&[99]);
    let stream = writer.attach(&mut shell, 0);
    writer.ship(&mut shell, stream, &last);
    writer.check_pages(&mut shell, 0, &PAGES, settled);
    let next = writer.reopen(settled, 3);
    shell.ask(next.install(0));
    shell.hold_reads = true;
    let stream = shell.open_stream();
    shell.say(stream, next.read(0, &PAGES[..5], settled, settled));
    let disk_reads = shell.reads.len();
    assert_eq!(disk_reads, 0, "none of their redo is read again");
    assert!(matches!(shell.take(stream).pop(), Some(Message::Pages(_))));
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

#[test]
fn a_log_read_ends_although_redo_leaves_memory_while_the_disk_is_read() {
    let mut found = found(0);
    found.bounds.resident_redo_bytes_max = 3_000;
    found.bounds.page_cache_bytes_max = 0;
    let mut shell = Shell::with(found);
    create(&mut shell, 0);
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    let mut ship = |shell: &mut Shell| {
        let batch = writer.batch(&[2, 3, 4]);
        writer.ship(shell, stream, &batch);
        writer.clone()
    };
    let mut written = ship(&mut shell);
    for _ in 1..40 {
        written = ship(&mut shell);
    }
    shell.hold_reads = true;
    let request = shell.open_stream();
    let through = written.prev;
    shell.say(request, read_log(&written, Lsn::NONE, through, 1 << 20));
    assert!(shell.take(request).is_empty(), "it waits for the disk");
    // The writer goes on, and what was in memory leaves it.
    for _ in 0..3 {
        ship(&mut shell);
    }
    let mut rounds = 0;
    let answers = loop {
        shell.complete_reads();
        let answers = shell.take(request);
        if !answers.is_empty() {
            break answers;
        }
        rounds += 1;
        assert!(rounds < 10, "never answered");
    };
    assert_eq!(batches_of(answers), (written.batches, false));
}

/// A node of large files, and a writer whose every batch of 1,000 records changes `page_count` pages, from page 2 on, in turn.
fn long_chain(
    resident_bytes_max: usize,
    batches: usize,
    page_count: u64,
) -> (Shell, Writer, StreamKey) {
    let mut found = found(0);
    found.file_bytes = 8 << 20;
    found.bounds.group_bytes_max = 1 << 20;
    found.bounds.queued_bytes_max = 64 << 20;
    found.bounds.resident_redo_bytes_max = resident_bytes_max;
    // No freeze is to cut it.
    found.bounds.memory_chain_records_max = usize::MAX;
    let mut shell = Shell::with(found);
    create(&mut shell, 0);
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    let pages: Vec<u64> = (0..1_000).map(|at| 2 + at % page_count).collect();
    for _ in 0..batches {
        let batch = writer.batch(&pages);
        writer.ship(&mut shell, stream, &batch);
        // Only the newest versions are looked at.
        for versions in writer.pages.values_mut() {
            let old = versions.len().saturating_sub(2);
            versions.drain(..old);
        }
        writer.vdl = writer.prev;
    }
    let heartbeat = writer.heartbeat();
    shell.say(stream, heartbeat);
    shell.take(stream);
    (shell, writer, stream)
}

fn check_page(writer: &Writer, answers: &[Message]) {
    let [Message::Pages(pages)] = answers else {
        panic!("{answers:?}")
    };
    let PageAnswer::Page(bytes) = &pages.pages[0] else {
        panic!("{pages:?}")
    };
    let page = Page::decode(bytes, PageId::new(2), PAGE_BYTES).unwrap();
    assert_eq!(page, writer.page_at(2, writer.prev));
}

#[test]
fn readers_that_lose_patience_bring_a_long_page_forward_all_the_same() {
    // More redo than one job holds at once, three times over; none of it in memory.
    let (mut shell, writer, _) = long_chain(0, 800, 500);
    let held: usize = writer.batches.iter().map(|batch| batch.bytes().len()).sum();
    assert!(held > 12 << 20, "{held}");
    shell.hold_reads = true;
    let mut attempts = 0;
    let answers = loop {
        attempts += 1;
        assert!(attempts < 20, "no reader ever got the page");
        let stream = shell.open_stream();
        shell.say(stream, writer.read(0, &[2], writer.prev, writer.prev));
        // Patience for one portion of a job, and never for all of them.
        for _ in 0..2 {
            shell.complete_reads();
            shell.turn();
        }
        let answers = shell.take(stream);
        if !answers.is_empty() {
            break answers;
        }
        shell.event(Event::StreamClosed { stream });
        while !shell.reads.is_empty() {
            shell.complete_reads();
        }
    };
    assert!(attempts > 1, "one reader's patience was enough");
    check_page(&writer, &answers);
}

#[test]
fn an_ack_leaves_between_the_steps_of_a_long_fold() {
    let (mut shell, mut writer, stream) = long_chain(256 << 20, 150, 8);
    let request = shell.open_stream();
    let reader = writer.clone();
    shell.say(request, reader.read(0, &[2], reader.prev, reader.prev));
    assert!(shell.take(request).is_empty(), "18,750 records in one go");
    assert_eq!(shell.core.poll_timeout(), Some(shell.now), "it goes on");
    let batch = writer.batch(&[2]);
    let ack = writer.ship(&mut shell, stream, &batch);
    assert_eq!(ack.scl, writer.prev);
    let mut turns = 0;
    let answers = loop {
        assert!(shell.turn(), "nothing goes on");
        turns += 1;
        let answers = shell.take(request);
        if !answers.is_empty() {
            break answers;
        }
    };
    assert_eq!(turns, 2);
    check_page(&reader, &answers);

    // Whoever hangs up leaves nothing behind.
    let hasty = shell.open_stream();
    shell.say(hasty, reader.read(0, &[3], reader.prev, reader.prev));
    assert_eq!(shell.core.poll_timeout(), Some(shell.now));
    shell.event(Event::StreamClosed { stream: hasty });
    assert_ne!(shell.core.poll_timeout(), Some(shell.now));
    assert!(shell.take(hasty).is_empty());
}

/// The write in flight ends; nothing is taken from the node yet.
fn write_ends(shell: &mut Shell) {
    let write = shell.writes.pop_front().unwrap();
    let start = write.offset as usize;
    let file = shell.files.get_mut(&write.file).unwrap();
    file[start..start + write.bytes.len()].copy_from_slice(&write.bytes);
    let (token, result) = (write.token, Ok(()));
    shell
        .core
        .handle(shell.now, Event::Written { token, result });
}

#[test]
fn an_ack_leaves_before_the_page_index_takes_its_batch_and_no_event_is_needed_for_that() {
    let mut shell = node(0);
    let mut writer = load(&mut shell, 3);
    assert!(!shell.core.is_behind());
    let stream = writer.attach(&mut shell, 0);
    let batch = writer.batch(&[2, 3]);
    let append = writer.append(&batch);
    shell.say(stream, append);
    write_ends(&mut shell);
    let mut acked = false;
    while shell.core.has_action() {
        let action = shell.core.poll_action().unwrap();
        acked |= matches!(
            action,
            Action::Send {
                message: Message::Ack(_),
                ..
            }
        );
    }
    assert!(acked);
    assert!(shell.core.is_behind());
    assert!(shell.core.poll_action().is_none());
    assert!(!shell.core.is_behind());
    writer.check_pages(&mut shell, 0, &PAGES, writer.prev);
}

#[test]
fn a_page_read_right_behind_the_ack_sees_the_record() {
    let mut shell = node(0);
    let mut writer = load(&mut shell, 3);
    let stream = writer.attach(&mut shell, 0);
    let batch = writer.batch(&[2, 3]);
    let append = writer.append(&batch);
    shell.say(stream, append);
    write_ends(&mut shell);
    assert!(shell.core.is_behind());
    let request = shell.open_stream();
    shell.say(request, writer.read(0, &[2], writer.prev, writer.prev));
    let answers = shell.take(request);
    check_page(&writer, &answers);
}
