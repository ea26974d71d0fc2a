//! Catalogs and layers, cut at every byte and with every byte damaged: the old, the new, or a refusal; never a wrong page.

use sixfold_log_format::hot_log::FileNumber;
use sixfold_log_format::wire::{Message, PageAnswer, Refusal};
use sixfold_log_format::{Lsn, Page, PageId, SegmentId};
use sixfold_storage_node_core::StreamKey;

use crate::layers::{PAGES, check_at, load, node_with, small};
use crate::shell::{Layers, Shell};
use crate::writer::{PAGE_BYTES, Writer};

/// Reads every page at `at`. A page that comes is right; returns how many were refused.
fn never_wrong(shell: &mut Shell, writer: &Writer, at: Lsn) -> usize {
    let message = writer.read(0, &PAGES, at, writer.prev);
    let stream = shell.open_stream();
    shell.say(stream, message);
    let mut answers = shell.take(stream);
    for _ in 0..10_000 {
        if !answers.is_empty() || !(shell.turn() || shell.complete_write()) {
            break;
        }
        answers = shell.take(stream);
    }
    match answers.pop() {
        Some(Message::Pages(answer)) => {
            let mut refused = 0;
            for (page, answer) in PAGES.iter().zip(answer.pages) {
                match answer {
                    PageAnswer::Page(bytes) => {
                        let found = Page::decode(&bytes, PageId::new(*page), PAGE_BYTES).unwrap();
                        assert_eq!(found, writer.page_at(*page, at), "page {page} at {at}");
                    }
                    PageAnswer::Refused(_) => refused += 1,
                }
            }
            refused
        }
        Some(Message::Refused(Refusal::Corrupt { .. } | Refusal::Behind { .. })) => PAGES.len(),
        other => panic!("{other:?}: {:?}", shell.logged),
    }
}

/// A node at the moment when a catalog is on its way to the disk.
struct Publishing {
    /// What is on the disk but for that write.
    files: std::collections::BTreeMap<FileNumber, Vec<u8>>,
    layers: Layers,
    /// The write: where, and what.
    file: FileNumber,
    offset: usize,
    bytes: Vec<u8>,
    writer: Writer,
    folded_before: Lsn,
    folded_after: Lsn,
    /// What was durable before it.
    scl: Lsn,
    shell: Shell,
    stream: StreamKey,
}

/// The `number`th catalog of a node at work that is written by itself.
fn publishing(number: usize) -> Publishing {
    let mut shell = node_with(small());
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    load(&mut shell, &mut writer, stream, 60);
    let mut seen = 0;
    for round in 0..10_000_u64 {
        if shell.writes.is_empty() && !shell.turn() && !shell.complete_layer_op() {
            let batch = writer.batch(&[2 + round % 8, 3]);
            let append = writer.append(&batch);
            shell.say(stream, append);
            shell.settle();
            writer.vdl = writer.prev;
            let heartbeat = writer.heartbeat();
            shell.say(stream, heartbeat);
            // Time passes, up to when something is due.
            let later = shell.now + std::time::Duration::from_millis(3);
            let due = shell.core.poll_timeout().unwrap_or(later);
            shell.now = due.clamp(shell.now, later);
        }
        let Some(write) = shell.writes.front() else {
            continue;
        };
        let (file, offset, bytes) = (write.file, write.offset as usize, write.bytes.clone());
        let (files, layers) = (shell.files.clone(), shell.layers.clone());
        let before = shell.status().segments[0].clone();
        assert!(shell.complete_write());
        let after = shell.status().segments[0].clone();
        if before.folded_through == after.folded_through || offset == 0 {
            continue;
        }
        seen += 1;
        if seen > number {
            return Publishing {
                files,
                layers,
                file,
                offset,
                bytes,
                writer,
                folded_before: before.folded_through,
                folded_after: after.folded_through,
                scl: before.scl,
                shell,
                stream,
            };
        }
    }
    panic!("no catalog is written");
}

fn restart(
    files: std::collections::BTreeMap<FileNumber, Vec<u8>>,
    layers: &Layers,
    at: &Publishing,
) -> Shell {
    Shell::start(small(), files, layers.clone(), at.shell.now)
}

#[test]
fn a_catalog_that_is_cut_at_any_byte_leaves_the_old_or_the_new() {
    let at = publishing(3);
    let (mut old, mut new) = (0, 0);
    for cut in 0..=at.bytes.len() {
        // Behind the cut: what was there before, or anything.
        for garbage in [false, true] {
            if garbage && cut % 17 != 0 {
                continue;
            }
            let mut files = at.files.clone();
            let end = at.offset + at.bytes.len();
            let target = &mut files.get_mut(&at.file).unwrap()[at.offset..end];
            if garbage {
                target.fill(0xa5);
            }
            target[..cut].copy_from_slice(&at.bytes[..cut]);
            let mut shell = restart(files, &at.layers, &at);
            shell.settle();
            assert!(shell.stopped.is_none(), "cut at {cut}: {:?}", shell.stopped);
            assert_eq!(shell.errors(), Vec::<&str>::new(), "cut at {cut}");
            let status = shell.status();
            let folded = status.segments[0].folded_through;
            assert!(status.segments[0].scl >= at.scl, "cut at {cut}");
            if folded == at.folded_before {
                old += 1;
            } else {
                assert_eq!(folded, at.folded_after, "cut at {cut}");
                new += 1;
            }
            if cut % 8 == 0 {
                check_at(&mut shell, &at.writer, at.scl).unwrap();
                check_at(&mut shell, &at.writer, at.folded_before).unwrap();
            }
        }
    }
    assert!(old > 100 && new > 0, "{old} {new}");
}

#[test]
fn a_damaged_byte_of_a_catalog_is_the_old_one_or_damage_that_is_told_and_never_a_wrong_page() {
    for is_last in [true, false] {
        let mut at = publishing(4);
        if !is_last {
            // Something sound stands behind it.
            let (mut shell, mut writer) = (at.shell, at.writer);
            let stream = at.stream;
            for _ in 0..3 {
                let batch = writer.batch(&[2, 3]);
                writer.ship(&mut shell, stream, &batch);
            }
            at.files = shell.files.clone();
            at.layers = shell.layers.clone();
            (at.shell, at.writer) = (shell, writer);
        }
        let (mut told, mut quiet) = (0, 0);
        for index in 0..at.bytes.len() {
            let mut files = at.files.clone();
            let end = at.offset + at.bytes.len();
            let target = &mut files.get_mut(&at.file).unwrap()[at.offset..end];
            target.copy_from_slice(&at.bytes);
            target[index] ^= 1 << (index % 8);
            let mut shell = restart(files, &at.layers, &at);
            shell.settle();
            assert!(shell.stopped.is_none(), "{index}: {:?}", shell.stopped);
            if shell.errors().is_empty() {
                quiet += 1;
            } else {
                assert!(shell.status().segments[0].damaged, "{index}");
                told += 1;
            }
            if index % 8 == 0 {
                never_wrong(&mut shell, &at.writer, at.scl);
                never_wrong(&mut shell, &at.writer, at.folded_before);
            }
        }
        // Padding is covered by no checksum: nobody will ever read it.
        if is_last {
            assert_eq!(told, 0, "the last group looks torn: {quiet}");
        } else {
            assert!(told > 100, "{told} told, {quiet} not");
        }
    }
}

/// A node with layers, and the key of its shortest one.
fn with_layers() -> (
    Shell,
    Writer,
    (SegmentId, sixfold_log_format::layer::LayerNumber),
) {
    let mut shell = node_with(small());
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    load(&mut shell, &mut writer, stream, 150);
    let shortest = shell.layers.iter().min_by_key(|(_, file)| file.bytes.len());
    let key = *shortest.unwrap().0;
    (shell, writer, key)
}

#[test]
fn a_layer_that_is_cut_at_any_byte_is_told_at_the_start_and_never_gives_a_wrong_page() {
    let (shell, writer, key) = with_layers();
    let length = shell.layers[&key].bytes.len();
    let lsns = [writer.prev, writer.batches[20].header().last];
    let mut refused = 0;
    for cut in 0..length {
        let mut layers = shell.layers.clone();
        layers.get_mut(&key).unwrap().bytes.truncate(cut);
        let mut shell = Shell::start(small(), shell.files.clone(), layers, shell.now);
        shell.settle();
        assert!(shell.status().segments[0].damaged, "cut at {cut}");
        let line = shell.errors().join(" ");
        assert!(line.contains("missing or too short"), "{line}");
        if cut % 32 == 0 {
            refused += never_wrong(&mut shell, &writer, lsns[cut / 32 % 2]);
        }
    }
    assert!(length > 500 && refused > 0, "{length} {refused}");
}

#[test]
fn a_damaged_byte_anywhere_in_a_layer_never_gives_a_wrong_page() {
    let (shell, writer, key) = with_layers();
    let sound = shell.layers[&key].bytes.clone();
    let lsns = [writer.prev, writer.batches[20].header().last];
    let mut refused = 0;
    for index in 0..sound.len() {
        let mut layers = shell.layers.clone();
        layers.get_mut(&key).unwrap().bytes[index] ^= 1 << (index % 8);
        let mut shell = Shell::start(small(), shell.files.clone(), layers, shell.now);
        shell.settle();
        for at in lsns {
            refused += usize::from(never_wrong(&mut shell, &writer, at) > 0);
        }
    }
    assert!(refused > sound.len() / 4, "{refused} of {}", sound.len());
}
