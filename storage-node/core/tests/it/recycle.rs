//! Files of the hot log that become others: the crash at every step, and old bytes behind the tail.

use sixfold_log_format::Lsn;
use sixfold_log_format::hot_log::FileNumber;
use sixfold_storage_node_core::{Event, FileName, StreamKey};

use crate::layers::{check_all, check_at, load, node_with, small};
use crate::shell::{BLOCK, Shell};
use crate::writer::Writer;

struct Seed(u64);

impl Seed {
    fn draw(&mut self, below: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % below
    }
}

/// A node that has recycled files.
fn worn() -> (Shell, Writer, StreamKey) {
    let mut shell = node_with(small());
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    load(&mut shell, &mut writer, stream, 300);
    assert!(shell.recycled > 3);
    (shell, writer, stream)
}

/// Where the log ends.
fn tail_of(shell: &Shell) -> (FileNumber, usize) {
    let (file, offset, bytes) = *shell.log_writes.last().unwrap();
    (file, offset + bytes)
}

fn is_sound(shell: &Shell) {
    assert!(shell.stopped.is_none(), "{:?}", shell.stopped);
    assert!(shell.errors().is_empty(), "{:?}", shell.logged);
}

fn says_torn(shell: &Shell) -> bool {
    shell
        .logged
        .iter()
        .any(|(_, line)| line.contains("a write was torn"))
}

/// Everything that was acknowledged is there, and the node goes on.
fn goes_on(shell: &mut Shell, writer: &Writer) {
    let mut writer = writer.clone();
    let stream = writer.attach(shell, 0);
    let scl = shell.status().segments[0].scl;
    for batch in writer.batches.clone() {
        if batch.header().last > scl {
            writer.ship(shell, stream, &batch);
        }
    }
    load(shell, &mut writer, stream, 30);
    check_at(shell, &writer, writer.prev).unwrap();
    is_sound(shell);
}

#[test]
fn files_are_made_anew_only_until_the_first_ones_come_back() {
    let (mut shell, mut writer, stream) = worn();
    let (made, recycled) = (shell.made, shell.recycled);
    let most = shell.files.len() + 1;
    for _ in 0..10 {
        load(&mut shell, &mut writer, stream, 60);
        assert!(shell.files.len() <= most, "{}", shell.files.len());
    }
    assert!(shell.recycled > recycled + 10);
    assert_eq!(shell.made, made, "nothing is zeroed any more");
    check_all(&mut shell, &writer, Lsn::NONE);
}

#[test]
fn a_crash_at_any_step_of_a_recycling_leaves_a_state_that_the_next_start_understands() {
    // Nothing done, the head of the old file zeroed or torn, the file renamed and nobody told, all of it.
    for step in 0..5 {
        for seed in 0..12_u64 {
            let (mut shell, mut writer, stream) = worn();
            load(&mut shell, &mut writer, stream, seed * 5);
            shell.hold_recycles = true;
            for _ in 0..400 {
                if !shell.recycles.is_empty() {
                    break;
                }
                load(&mut shell, &mut writer, stream, 1);
            }
            // The node writes on meanwhile.
            load(&mut shell, &mut writer, stream, seed % 5 * 3);
            let (file, from) = shell.recycles[0];
            match step {
                0 => {}
                1 => shell.behead(from),
                2 => shell.files.get_mut(&from).unwrap()[BLOCK / 2..BLOCK].fill(0),
                3 => {
                    shell.behead(from);
                    let bytes = shell.files.remove(&from).unwrap();
                    shell.files.insert(file, bytes);
                }
                _ => assert!(shell.complete_recycle()),
            }
            let scl = shell.status().segments[0].scl;
            let mut shell = shell.crash(&|block| seed >> (block % 4) & 1 == 0);
            shell.work();
            is_sound(&shell);
            assert!(shell.status().segments[0].scl >= scl, "step {step}");
            check_at(&mut shell, &writer, writer.prev).unwrap();
            goes_on(&mut shell, &writer);
        }
    }
}

/// What may stand behind the tail: nothing, anything, old groups where they were or elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Old {
    Zeros,
    Anything,
    Groups,
}

/// Puts old bytes behind the tail and into every file that was not begun.
fn cover(shell: &mut Shell, old: Old, seed: &mut Seed) {
    let (last, end) = tail_of(shell);
    let earlier: Vec<Vec<u8>> = shell
        .files
        .range(..last)
        .map(|(_, bytes)| bytes[BLOCK..].to_vec())
        .collect();
    for (_, bytes) in shell.files.range_mut(last..) {
        // The first block of a file that was not begun is zeros, always.
        let start = bytes.iter().any(|byte| *byte != 0);
        let start = if start && bytes[..BLOCK].iter().any(|byte| *byte != 0) {
            end
        } else {
            BLOCK
        };
        for at in (start..bytes.len()).step_by(BLOCK) {
            bytes[at..at + BLOCK].fill(0);
        }
        let source = &earlier[seed.draw(earlier.len())];
        let shift = seed.draw(4) * BLOCK;
        for (index, byte) in bytes[start..].iter_mut().enumerate() {
            *byte = match old {
                Old::Zeros => 0,
                Old::Anything => seed.draw(256) as u8,
                Old::Groups => source[(index + shift) % source.len()],
            };
        }
    }
}

#[test]
fn the_verdict_does_not_depend_on_what_an_earlier_life_left_behind_the_tail() {
    let (mut torn, mut whole, mut misnamed) = (0, 0, 0);
    for number in 0..120_u64 {
        let old = [Old::Zeros, Old::Anything, Old::Groups][(number % 3) as usize];
        let mut seed = Seed(number);
        let (mut shell, mut writer, stream) = worn();
        load(&mut shell, &mut writer, stream, number % 40);
        let durable = shell.status().segments[0].scl;
        cover(&mut shell, old, &mut seed);
        let files = shell.files.clone();
        // Clean.
        let mut clean = Shell::start(small(), files.clone(), shell.layers.clone(), shell.now);
        clean.work();
        is_sound(&clean);
        assert_eq!(clean.status().segments[0].scl, durable);
        assert!(!says_torn(&clean) || old != Old::Zeros, "{number}");
        // Only where the file ends before an old group shows itself.
        misnamed += usize::from(says_torn(&clean) && old == Old::Groups);
        goes_on(&mut clean, &writer);
        // Torn: some blocks of a group arrived.
        let batch = writer.batch(&[2, 3, 4, 5].repeat(1 + seed.draw(8)));
        let append = writer.append(&batch);
        shell.say(stream, append);
        let write = shell.writes.front().unwrap();
        assert!(write.offset as usize >= BLOCK || files[&write.file][..BLOCK] == [0; BLOCK]);
        let blocks = write.bytes.len() / BLOCK;
        let mask = seed.draw(1 << blocks.min(16));
        let survives = move |index: usize| mask >> (index % 16) & 1 == 1;
        // Its file's header can be told from the group.
        let first = usize::from(write.offset == 0);
        let all = (first..blocks).all(survives);
        let head_only = survives(first) && !all;
        let mut shell = shell.crash(&survives);
        shell.work();
        is_sound(&shell);
        let expected = if all { writer.prev } else { durable };
        assert_eq!(shell.status().segments[0].scl, expected, "{number} {old:?}");
        assert!(!head_only || says_torn(&shell), "{number} {old:?}");
        goes_on(&mut shell, &writer);
        torn += usize::from(!all);
        whole += usize::from(all);
    }
    assert!(torn > 30 && whole > 3, "{torn} {whole}");
    assert!(misnamed < 8, "{misnamed}");
}

#[test]
fn damage_before_the_tail_is_damage_whatever_stands_behind_it() {
    for number in 0..60_u64 {
        let old = [Old::Zeros, Old::Anything, Old::Groups][(number % 3) as usize];
        let mut seed = Seed(number);
        let (mut shell, mut writer, stream) = worn();
        let (file, offset, bytes) = loop {
            load(&mut shell, &mut writer, stream, 2);
            let count = shell.log_writes.len();
            let before = shell.log_writes[count - 1 - seed.draw(3) - 1];
            if before.1 > 0 && before.0 == tail_of(&shell).0 {
                break before;
            }
        };
        cover(&mut shell, old, &mut seed);
        let block = seed.draw(bytes / BLOCK);
        let at = offset + block * BLOCK + seed.draw(8);
        shell.files.get_mut(&file).unwrap()[at] ^= 1 << seed.draw(8);
        let mut shell = shell.crash(&|_| false);
        shell.settle();
        assert!(shell.stopped.is_none());
        let place = format!("hot-log file {} is damaged at offset {offset}", file.0);
        assert!(
            shell.errors().iter().any(|line| line.starts_with(&place)),
            "{number} {old:?}: {:?}",
            shell.logged
        );
        assert!(shell.status().segments[0].damaged);
    }
}

#[test]
fn a_recycling_that_finds_no_space_deletes_the_file_and_makes_one_anew() {
    let (mut shell, mut writer, stream) = worn();
    shell.hold_recycles = true;
    for _ in 0..400 {
        if !shell.recycles.is_empty() {
            break;
        }
        load(&mut shell, &mut writer, stream, 1);
    }
    let (file, from) = shell.recycles.pop_front().unwrap();
    shell.hold_recycles = false;
    let result = Err(sixfold_storage_node_core::DiskError::Full);
    shell.event(Event::Prepared { file, result });
    assert!(shell.deleted.contains(&FileName::HotLog(from)));
    assert!(!shell.files.contains_key(&from));
    load(&mut shell, &mut writer, stream, 200);
    is_sound(&shell);
    check_at(&mut shell, &writer, writer.prev).unwrap();
}

#[test]
fn a_read_on_its_way_to_a_batch_that_was_moved_and_whose_file_was_recycled_finds_no_damage() {
    let mut found = small();
    found.bounds.resident_redo_bytes_max = 512;
    found.bounds.page_cache_bytes_max = 0;
    let mut shell = node_with(found);
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    // Above the highest VDL seen: it is written again before its file goes.
    let batch = writer.batch(&[2, 3]);
    writer.ship(&mut shell, stream, &batch);
    for _ in 0..40 {
        let batch = writer.batch(&[2, 3, 4]);
        writer.ship(&mut shell, stream, &batch);
    }
    shell.hold_reads = true;
    let reader = shell.open_stream();
    let message = writer.read(0, &[2], writer.prev, writer.prev);
    shell.say(reader, message);
    let asked = shell.reads.front().copied();
    let from = FileNumber(1);
    let held = std::mem::take(&mut shell.reads);
    shell.hold_reads = false;
    writer.vdl = writer.prev;
    load(&mut shell, &mut writer, stream, 300);
    assert!(!shell.files.contains_key(&from), "file 1 is another by now");
    for (token, _, _, bytes) in held {
        // Somebody else's bytes.
        let result = Ok(vec![0x5a; bytes as usize].into());
        shell.event(Event::Read { token, result });
    }
    shell.work();
    assert!(asked.is_some(), "the read went to the disk");
    is_sound(&shell);
    assert_eq!(shell.take(reader).len(), 1);
}
