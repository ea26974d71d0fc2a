//! Restarts: clean, torn, corrupt, at every block and for flipped bits.

use std::collections::BTreeMap;
use std::time::Duration;

use sixfold_log_format::Lsn;
use sixfold_log_format::hot_log::FileNumber;

use crate::shell::{BLOCK, Layers, Shell, found};
use crate::writer::{Writer, node};

type Files = BTreeMap<FileNumber, Vec<u8>>;

/// A node with one group per batch, and where each group ended: (file, offset) -> SCL.
struct Story {
    shell: Shell,
    writer: Writer,
    /// File and offset behind each batch's group, with its last LSN.
    ends: Vec<(FileNumber, usize, Lsn)>,
}

fn end_of(files: &Files) -> (FileNumber, usize) {
    for (file, bytes) in files.iter().rev() {
        if let Some(last) = bytes.iter().rposition(|byte| *byte != 0) {
            return (*file, (last / BLOCK + 1) * BLOCK);
        }
    }
    panic!("nothing was written");
}

fn story(batches: usize) -> Story {
    let mut shell = node(0);
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    let (file, end) = end_of(&shell.files);
    let mut ends = vec![(file, end, Lsn::NONE)];
    for number in 0..batches {
        let pages: Vec<u64> = (0..(number % 40) as u64 + 1)
            .map(|page| 2 + page % 5)
            .collect();
        let batch = writer.batch(&pages);
        writer.ship(&mut shell, stream, &batch);
        let (file, end) = end_of(&shell.files);
        ends.push((file, end, batch.header().last));
    }
    Story {
        shell,
        writer,
        ends,
    }
}

fn restart(files: &Files) -> Shell {
    let mut shell = Shell::start(
        found(0),
        files.clone(),
        Layers::new(),
        Duration::from_secs(9),
    );
    shell.settle();
    shell
}

/// The node goes on from where it is: the writer ships what is missing, and another restart finds all of it.
fn goes_on(mut shell: Shell, writer: &Writer) {
    let scl = shell.status().segments[0].scl;
    let mut writer = writer.clone();
    let stream = writer.attach(&mut shell, 0);
    for batch in writer.batches.clone() {
        if batch.header().last > scl {
            writer.ship(&mut shell, stream, &batch);
        }
    }
    let mut shell = restart(&shell.files);
    assert!(shell.stopped.is_none(), "{:?}", shell.stopped);
    assert_eq!(shell.status().segments[0].scl, writer.prev);
    writer.check_pages(&mut shell, 0, &[2, 3, 4, 5, 6, 7], writer.prev);
}

#[test]
fn a_clean_restart_finds_everything() {
    let story = story(150);
    let before = story.shell.status_of();
    assert!(
        before.0 > FileNumber(1),
        "the story crosses files: {before:?}"
    );
    let mut shell = story.shell.crash(&|_| false);
    assert!(
        shell.core.is_ready() && shell.logged.is_empty(),
        "{:?}",
        shell.logged
    );
    assert_eq!(shell.status().segments[0].scl, story.writer.prev);
    for at in [1, 50, 149] {
        let at = story.writer.batches[at].header().last;
        story
            .writer
            .check_pages(&mut shell, 0, &[2, 3, 4, 5, 6, 7], at);
    }
    goes_on(shell, &story.writer);
}

impl Shell {
    /// The file that is being written.
    fn status_of(&self) -> (FileNumber, usize) {
        end_of(&self.files)
    }
}

#[test]
fn a_log_that_ends_at_any_block_gives_the_whole_groups_before_it() {
    let story = story(150);
    let (last_file, last_end) = end_of(&story.shell.files);
    let mut checked = 0;
    for file in story
        .shell
        .files
        .keys()
        .copied()
        .filter(|file| *file <= last_file)
    {
        let length = story.shell.files[&file].len();
        for cut in (0..=length).step_by(BLOCK) {
            if file == last_file && cut > last_end
                || (file, cut) < (story.ends[0].0, story.ends[0].1)
            {
                continue;
            }
            let mut files = story.shell.files.clone();
            files.get_mut(&file).unwrap()[cut..].fill(0);
            files
                .iter_mut()
                .filter(|(later, _)| **later > file)
                .for_each(|(_, bytes)| bytes.fill(0));
            let mut shell = restart(&files);
            assert!(shell.stopped.is_none(), "{:?}", shell.stopped);
            let whole = story
                .ends
                .iter()
                .filter(|(in_file, end, _)| (*in_file, *end) <= (file, cut));
            let expected = whole.map(|(_, _, scl)| *scl).max().unwrap();
            assert_eq!(
                shell.status().segments[0].scl,
                expected,
                "cut at {file:?} {cut}"
            );
            checked += 1;
            if checked % 16 == 0 {
                goes_on(shell, &story.writer);
            }
        }
    }
    assert!(checked > 100, "{checked}");
}

#[test]
fn a_flipped_bit_is_either_the_torn_tail_or_damage_with_its_place_and_nothing_is_guessed() {
    let story = story(150);
    let (last_file, last_end) = end_of(&story.shell.files);
    let (before_file, before_end, before_scl) = story.ends[story.ends.len() - 2];
    assert_eq!(before_file, last_file);
    let (mut torn, mut corrupt, mut repaired) = (0, 0, 0);
    for (file, bytes) in story
        .shell
        .files
        .iter()
        .filter(|(file, _)| **file <= last_file)
    {
        for block in 0..bytes.len() / BLOCK {
            let at = block * BLOCK + (block * 37) % BLOCK;
            let last_group = (*file, at) >= (last_file, before_end);
            if bytes[block * BLOCK..][..BLOCK]
                .iter()
                .all(|byte| *byte == 0)
            {
                continue;
            }
            let mut files = story.shell.files.clone();
            files.get_mut(file).unwrap()[at] ^= 1 << (block % 8);
            let mut shell = restart(&files);
            if block == 0 {
                assert!(shell.stopped.is_none(), "{:?}", shell.stopped);
                assert_eq!(
                    shell.files[file], story.shell.files[file],
                    "the header was written again"
                );
                assert_eq!(shell.status().segments[0].scl, story.writer.prev);
                repaired += 1;
            } else if last_group {
                assert!(shell.stopped.is_none(), "{:?}", shell.stopped);
                assert_eq!(shell.status().segments[0].scl, before_scl);
                assert_eq!(shell.logged.len(), 1, "{:?}", shell.logged);
                goes_on(shell, &story.writer);
                torn += 1;
            } else {
                assert!(shell.stopped.is_none(), "{:?}", shell.stopped);
                let place = format!("hot-log file {} is damaged at offset ", file.0);
                assert!(shell.errors()[0].starts_with(&place), "{:?}", shell.logged);
                let status = shell.status();
                assert!(status.segments.iter().all(|segment| segment.damaged));
                if !status.segments.is_empty() {
                    goes_on(shell, &story.writer);
                }
                corrupt += 1;
            }
        }
    }
    assert!(last_end > before_end);
    assert!(
        torn > 0 && corrupt > 50 && repaired > 0,
        "{torn} {corrupt} {repaired}"
    );
}

#[test]
fn any_subset_of_a_torn_writes_blocks_is_cut_or_whole() {
    for subset in 0..256_usize {
        let mut story = story(3);
        let mut writer = story.writer;
        let stream = writer.attach(&mut story.shell, 0);
        let before = writer.prev;
        // A write of a few blocks, with bytes that repeat so that remains look alike.
        for _ in 0..2 {
            let batch = writer.batch(&[2, 3, 4, 5, 6].repeat(24));
            let append = writer.append(&batch);
            story.shell.say(stream, append);
        }
        assert!(story.shell.complete_write());
        let durable = writer.batches[writer.batches.len() - 2].header().last;
        assert!(durable > before);
        let blocks = story.shell.writes[0].bytes.len() / BLOCK;
        assert!((2..=8).contains(&blocks), "{blocks}");
        let mut shell = story.shell.crash(&|index| subset >> index & 1 == 1);
        shell.settle();
        let all = (0..blocks).all(|index| subset >> index & 1 == 1);
        let expected = if all { writer.prev } else { durable };
        assert!(shell.stopped.is_none(), "{:?}", shell.stopped);
        assert_eq!(
            shell.status().segments[0].scl,
            expected,
            "subset {subset:b}"
        );
        goes_on(shell, &writer);
    }
}

#[test]
fn a_torn_first_write_of_a_file_is_cut_whatever_survives() {
    for subset in 0..16_usize {
        let mut shell = node(0);
        let mut writer = Writer::first();
        let stream = writer.attach(&mut shell, 0);
        let pages: Vec<u64> = (0..60).map(|page| 2 + page % 5).collect();
        loop {
            let batch = writer.batch(&pages);
            let append = writer.append(&batch);
            shell.say(stream, append);
            if shell.writes[0].file == FileNumber(2) {
                break;
            }
            shell.settle();
        }
        assert_eq!(
            shell.writes[0].offset, 0,
            "header and first group in one write"
        );
        let blocks = shell.writes[0].bytes.len() / BLOCK;
        let durable = writer.batches[writer.batches.len() - 2].header().last;
        // The header, the group's first block, its middle, its last block.
        let survives = move |index: usize| match index {
            0 => subset & 1 != 0,
            1 => subset & 2 != 0,
            last if last + 1 == blocks => subset & 8 != 0,
            _ => subset & 4 != 0,
        };
        let mut shell = shell.crash(&survives);
        shell.settle();
        assert!(shell.stopped.is_none(), "{subset:b}: {:?}", shell.stopped);
        // The group is there as a whole or not at all; its file's header can be told from it.
        let expected = if subset & 14 == 14 {
            writer.prev
        } else {
            durable
        };
        assert_eq!(shell.status().segments[0].scl, expected, "{subset:b}");
        goes_on(shell, &writer);
    }
}

#[test]
fn crashes_while_the_torn_area_is_zeroed_change_nothing() {
    let mut story = story(3);
    let mut writer = story.writer;
    let stream = writer.attach(&mut story.shell, 0);
    let durable = writer.prev;
    let batch = writer.batch(&[2, 3, 4, 5, 6].repeat(24));
    let append = writer.append(&batch);
    story.shell.say(stream, append);
    let mut shell = story.shell.crash(&|index| index != 1);
    for survivor in 0..3 {
        assert_eq!(shell.writes.len(), 1, "the torn area is zeroed first");
        assert!(shell.writes[0].bytes.iter().all(|byte| *byte == 0));
        shell = shell.crash(&|index| index == survivor);
        assert_eq!(shell.status().segments[0].scl, durable);
    }
    shell.settle();
    goes_on(shell, &writer);
}

#[test]
fn a_file_that_was_being_made_is_made_again() {
    let story = story(3);
    let mut files = story.shell.files.clone();
    let last = *files.keys().next_back().unwrap();
    assert_eq!(last, FileNumber(2));
    files.get_mut(&last).unwrap().truncate(BLOCK * 3);
    let shell = restart(&files);
    assert!(shell.stopped.is_none());
    assert_eq!(shell.files[&last].len(), 64 << 10);
    goes_on(shell, &story.writer);
}

#[test]
fn a_directory_of_another_node_is_not_touched_and_a_missing_file_is_damage() {
    let story = story(150);
    let shell = Shell::start(
        found(3),
        story.shell.files.clone(),
        Layers::new(),
        Duration::ZERO,
    );
    assert!(shell.stopped.unwrap().contains("belongs to node"));
    assert!(shell.writes.is_empty());
    let mut files = story.shell.files;
    files.remove(&FileNumber(1));
    let mut shell = Shell::start(found(0), files, Layers::new(), Duration::ZERO);
    let status = shell.status();
    assert!(status.segments[0].damaged);
    assert!(status.segments[0].scl < story.writer.prev);
    assert!(
        shell.errors()[0].contains("acknowledged"),
        "{:?}",
        shell.logged
    );
}

/// A node that scans and gets nothing from its disk yet.
fn scanning(story: &Story) -> Shell {
    let mut early = Shell::start(
        found(0),
        BTreeMap::new(),
        Layers::new(),
        Duration::from_secs(1),
    );
    early.hold_reads = true;
    early.files = story.shell.files.clone();
    let files = story
        .shell
        .files
        .iter()
        .map(|(file, bytes)| (*file, bytes.len() as u64))
        .collect();
    let found = sixfold_storage_node_core::FoundDirectory { files, ..found(0) };
    early.core = sixfold_storage_node_core::NodeCore::new(found, early.now);
    early.writes.clear();
    assert!(!early.core.is_ready());
    early
}

#[test]
fn messages_before_the_scan_ended_are_answered_after_it() {
    let story = story(5);
    let mut early = scanning(&story);
    let stream = early.open_stream();
    early.say(stream, story.writer.attach_message(0));
    assert!(early.take(stream).is_empty());
    let closed = early.open_stream();
    early.say(closed, story.writer.attach_message(0));
    early.event(sixfold_storage_node_core::Event::StreamClosed { stream: closed });
    early.hold_reads = false;
    early.complete_reads();
    while !early.reads.is_empty() {
        early.complete_reads();
    }
    assert!(early.core.is_ready());
    let answer = early.take(stream).pop();
    assert!(
        matches!(answer, Some(sixfold_log_format::wire::Message::Attached(attached)) if attached.scl == story.writer.prev)
    );
    assert!(early.take(closed).is_empty());
}

#[test]
fn what_waits_for_the_scan_is_bounded_in_bytes_and_holds_no_redo() {
    use sixfold_log_format::wire::{Message, Refusal, Role};

    let story = story(5);
    let mut early = scanning(&story);
    let mut writer = story.writer;
    let batch = writer.batch(&[2]);
    for bulk in [
        writer.append(&batch),
        writer.refill(0, std::slice::from_ref(&batch)),
        Message::Echo(vec![7; 1 << 20].into()),
    ] {
        let answers = early.request_as(Role::Writer, bulk);
        assert_eq!(answers, [Message::Refused(Refusal::Overloaded)]);
    }
    // Large manifests: some wait, far fewer than small messages might.
    let mut large = writer.clone();
    let hint = large.manifest.hints[0].clone();
    large.manifest.hints = vec![hint; 4_000];
    let bytes = large.attach_message(0).encode().len_bytes();
    let mut waiting = 0;
    while early
        .request_as(Role::Writer, large.attach_message(0))
        .is_empty()
    {
        waiting += 1;
        assert!(waiting * bytes <= 16 << 20, "{waiting} messages wait");
    }
    assert!(waiting > 0);
    assert!((waiting + 1) * bytes > 16 << 20, "{waiting} messages wait");
}
