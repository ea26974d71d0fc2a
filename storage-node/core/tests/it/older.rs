//! A start passes over hot-log files whose redo is in layers, and reads them when it is ready.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sixfold_log_format::hot_log::{FileHeader, FileNumber};
use sixfold_log_format::wire::{Message, NodeStatus, ReadLog, Refusal};
use sixfold_log_format::{Batch, Lsn};
use sixfold_storage_node_core::{Event, FoundDirectory};

use crate::layers::{check_all, load, node_with, small};
use crate::shell::{BLOCK, Shell};
use crate::writer::{Writer, segment_id, volume};

type Files = BTreeMap<FileNumber, Vec<u8>>;

/// A node that freezes early and keeps its log.
fn keeping() -> FoundDirectory {
    let mut found = small();
    found.bounds.log_window_bytes = 4 << 20;
    found.bounds.log_window = Duration::from_secs(3_600);
    found.bounds.log_bytes_max = 16 << 20;
    found
}

fn loaded(batches: u64) -> (Shell, Writer) {
    let mut shell = node_with(keeping());
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    load(&mut shell, &mut writer, stream, batches);
    shell.work();
    (shell, writer)
}

fn start(shell: &Shell, files: &Files) -> Shell {
    let now = shell.now + Duration::from_secs(1);
    Shell::start(
        shell.found.clone(),
        files.clone(),
        shell.layers.clone(),
        now,
    )
}

/// The same files, of which none says that a start may pass over any.
fn with_nothing_to_pass_over(files: &Files) -> Files {
    let mut files = files.clone();
    for bytes in files.values_mut() {
        if let Ok(mut header) = FileHeader::decode(bytes) {
            header.folded = FileNumber(0);
            bytes[..BLOCK].copy_from_slice(&header.encode());
        }
    }
    files
}

fn begun(files: &Files) -> Vec<FileNumber> {
    let begun = files.iter();
    let begun = begun.filter(|(_, bytes)| FileHeader::decode(bytes).is_ok());
    begun.map(|(file, _)| *file).collect()
}

fn last_end(files: &Files) -> (FileNumber, usize) {
    let file = *begun(files).last().unwrap();
    let last = files[&file].iter().rposition(|byte| *byte != 0).unwrap();
    (file, (last / BLOCK + 1) * BLOCK)
}

fn read_log(shell: &mut Shell, writer: &Writer, after: Lsn) -> Message {
    shell.ask(Message::ReadLog(ReadLog {
        segment: segment_id(0),
        history_epoch: writer.epoch,
        after,
        through: writer.prev,
        bytes_max: 1 << 20,
    }))
}

/// The log from `after` on is what the writer wrote.
fn check_log(shell: &mut Shell, writer: &Writer, after: Lsn) {
    let mut after = after;
    while after < writer.prev {
        let Message::LogPiece(piece) = read_log(shell, writer, after) else {
            panic!("nothing at {after}");
        };
        for bytes in piece.batches {
            let batch = Batch::decode(bytes, volume()).unwrap();
            let written = writer.batches.iter();
            let next = written
                .into_iter()
                .find(|written| written.header().last > after);
            assert_eq!(Some(&batch), next);
            after = batch.header().last;
        }
    }
}

/// Whether a line says that a start reads all of the log after all.
fn is_second_scan(line: &str) -> bool {
    line.contains("the hot log is read again")
}

fn read_files(shell: &Shell) -> BTreeSet<FileNumber> {
    shell.log_reads.iter().copied().collect()
}

/// What a node says of itself, but for what it counted since its start.
fn state(shell: &mut Shell) -> NodeStatus {
    let mut status = shell.status();
    status.upkeep = Box::default();
    status.redo_bytes = 0;
    status.group_writes = 0;
    status
}

#[test]
fn a_start_reads_the_files_that_hold_what_no_layer_has() {
    let (shell, writer) = loaded(1_500);
    let files = begun(&shell.files);
    assert!(files.len() > 12, "{files:?}");
    let mut shell = shell.crash(&|_| false);
    assert!(shell.core.is_ready() && shell.errors().is_empty());
    let read = read_files(&shell);
    assert!(read.len() < files.len() / 2, "{read:?} of {files:?}");
    assert!(read.contains(files.last().unwrap()));
    assert_eq!(shell.status().segments[0].scl, writer.prev);
    // And the others when it is ready: until then whoever wants them comes again.
    let again = Message::Refused(Refusal::Overloaded);
    assert_eq!(read_log(&mut shell, &writer, Lsn::NONE), again);
    shell.work();
    assert!(files.iter().all(|file| read_files(&shell).contains(file)));
    check_log(&mut shell, &writer, Lsn::NONE);
    check_all(&mut shell, &writer, Lsn::NONE);
    assert!(shell.errors().is_empty());
}

#[test]
fn a_start_that_passes_over_files_ends_where_one_that_reads_all_of_them_does() {
    let (shell, writer) = loaded(700);
    let (last, end) = last_end(&shell.files);
    let mut passed = 0;
    for file in [FileNumber(last.0 - 1), last] {
        let end = if file == last { end } else { 32 << 10 };
        for cut in (0..=end).step_by(BLOCK) {
            let mut files = shell.files.clone();
            files.get_mut(&file).unwrap()[cut..].fill(0);
            for (_, bytes) in files.iter_mut().filter(|(later, _)| **later > file) {
                bytes.fill(0);
            }
            let mut quick = start(&shell, &files);
            passed += usize::from(read_files(&quick).len() + 2 < begun(&files).len());
            let mut whole = start(&shell, &with_nothing_to_pass_over(&files));
            assert!(read_files(&whole).len() >= begun(&files).len());
            for shell in [&mut quick, &mut whole] {
                shell.settle();
                shell.work();
                assert!(shell.stopped.is_none());
            }
            assert_eq!(
                state(&mut quick),
                state(&mut whole),
                "cut at {file:?}, {cut}"
            );
            quick.logged.retain(|(_, text)| !is_second_scan(text));
            assert_eq!(quick.logged, whole.logged);
        }
    }
    assert!(passed > 20, "{passed}");
    check_all(&mut start(&shell, &shell.files), &writer, Lsn::NONE);
}

#[test]
fn where_anything_behind_is_damaged_all_of_the_log_is_read() {
    let (shell, _) = loaded(700);
    let (last, end) = last_end(&shell.files);
    let mut again = 0;
    let sound = start(&shell, &shell.files);
    let first = read_files(&sound).first().unwrap().0;
    assert!(2 < first && first < last.0);
    for file in (first..=last.0).map(FileNumber) {
        let end = if file == last { end } else { 32 << 10 };
        for at in (5..end).step_by(1_111) {
            let mut files = shell.files.clone();
            files.get_mut(&file).unwrap()[at] ^= 4;
            let mut quick = start(&shell, &files);
            let mut whole = start(&shell, &with_nothing_to_pass_over(&files));
            let is_again = read_files(&quick).contains(&FileNumber(2));
            let said = quick.logged.iter();
            let said = said.filter(|(_, text)| is_second_scan(text)).count();
            assert_eq!(said, usize::from(is_again), "{:?}", quick.logged);
            again += said;
            assert_eq!(quick.stopped, whole.stopped);
            for shell in [&mut quick, &mut whole] {
                shell.settle();
                shell.work();
            }
            assert_eq!(
                state(&mut quick),
                state(&mut whole),
                "flip at {file:?}, {at}"
            );
            assert_eq!(quick.errors(), whole.errors());
        }
    }
    assert!(again > 10, "{again}");
}

#[test]
fn damage_in_a_file_that_was_passed_over_takes_the_window_and_nothing_else() {
    let (shell, writer) = loaded(1_500);
    let mut files = shell.files.clone();
    let damaged = begun(&files)[4];
    files.get_mut(&damaged).unwrap()[9_000] ^= 1;
    let mut shell = start(&shell, &files);
    assert!(shell.core.is_ready() && shell.errors().is_empty());
    shell.work();
    assert_eq!(shell.errors().len(), 1, "{:?}", shell.logged);
    let status = shell.status();
    assert_eq!(status.upkeep.damage_found, 1);
    let segment = &status.segments[0];
    assert!(!segment.damaged, "nothing is lost: {segment:?}");
    assert!(segment.log_start > Lsn::NONE);
    let forgotten = read_log(&mut shell, &writer, Lsn::NONE);
    assert!(
        matches!(forgotten, Message::Refused(Refusal::Forgotten { .. })),
        "{forgotten:?}"
    );
    check_log(&mut shell, &writer, segment.log_start);
    check_all(&mut shell, &writer, Lsn::NONE);
    assert!(shell.files.contains_key(&damaged), "it can be looked at");
}

#[test]
fn files_that_must_go_go_unread() {
    let (shell, mut writer) = loaded(1_500);
    let count = begun(&shell.files).len();
    let mut found = shell.found.clone();
    found.bounds.log_window_bytes = 128 << 10;
    let now = shell.now + Duration::from_secs(1);
    let mut shell = Shell::start(found, shell.files, shell.layers, now);
    assert!(shell.core.is_ready());
    shell.event(Event::Timeout);
    shell.work();
    assert!(shell.files.len() < count / 2);
    assert!(read_files(&shell).len() < count / 2);
    let stream = writer.attach(&mut shell, 0);
    load(&mut shell, &mut writer, stream, 200);
    let mut shell = shell.crash(&|_| false);
    assert!(shell.errors().is_empty(), "{:?}", shell.logged);
    check_all(&mut shell, &writer, Lsn::NONE);
}

#[test]
fn a_file_that_was_passed_over_and_ends_early_is_damage() {
    for left in [0, 100, BLOCK, BLOCK + 100] {
        let (shell, writer) = loaded(1_500);
        let mut shell = start(&shell, &shell.files);
        assert!(shell.core.is_ready());
        let read = read_files(&shell);
        let mut passed = begun(&shell.files).into_iter();
        let passed = passed.rfind(|file| !read.contains(file)).unwrap();
        shell.files.get_mut(&passed).unwrap().truncate(left);
        shell.work();
        assert!(shell.stopped.is_none());
        assert_eq!(shell.errors().len(), 1, "{left}: {:?}", shell.logged);
        assert_eq!(shell.status().upkeep.damage_found, 1);
        let log_start = shell.status().segments[0].log_start;
        assert!(log_start > Lsn::NONE);
        check_log(&mut shell, &writer, log_start);
        check_all(&mut shell, &writer, Lsn::NONE);
    }
}
