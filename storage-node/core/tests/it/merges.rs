//! Merges: what they leave as it is, and which ones begin where the disk has little room.

use std::time::Duration;

use sixfold_log_format::wire::{CreateSegment, Message};
use sixfold_log_format::{Lsn, PgId};
use sixfold_storage_node_core::Event;

use crate::joining::three_groups;
use crate::layers::{check_all, load, node_with, say_heartbeat, small};
use crate::shell::Shell;
use crate::writer::{Writer, segment_id};

#[test]
fn a_merge_begins_only_where_the_disk_has_room_for_what_it_takes_in_between() {
    let mut shell = node_with(small());
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    // Two hot-log files stay free, whatever a merge wants.
    let reserve = 2 * (32 << 10);
    let space = |free_bytes: u64| Event::Space { free_bytes };
    shell.event(space(reserve + 100));
    load(&mut shell, &mut writer, stream, 250);
    let status = shell.status();
    assert!(status.upkeep.freezes > 3, "{status:?}");
    assert_eq!(status.upkeep.merges, 0, "{status:?}");
    let said = |shell: &Shell| {
        let lines = shell.logged.iter();
        lines
            .filter(|(_, text)| text.contains("waits for room"))
            .count()
    };
    assert_eq!(said(&shell), 1);
    // There is room for some of the runs, the newest ones.
    let runs = status.segments[0].run_count;
    shell.event(space(reserve + status.segments[0].layer_bytes * 2 / 3));
    shell.pass(Duration::from_millis(300));
    let status = shell.status();
    assert!(status.upkeep.merges > 0, "{status:?}");
    assert!(status.segments[0].run_count < runs);
    shell.event(space(1 << 40));
    load(&mut shell, &mut writer, stream, 250);
    // Once each time that room came and went again.
    assert!(said(&shell) <= 2, "{:?}", shell.logged);
    check_all(&mut shell, &writer, Lsn::NONE);
}

#[test]
fn a_merge_leaves_layers_whose_pages_were_not_written_to_as_they_are() {
    // Whatever the cache has of the layers that stay, of their indexes above all.
    for cache_bytes in [1 << 10, 8 << 10, 32 << 10, 1 << 20] {
        merges_beside_cold_pages(cache_bytes);
    }
}

fn merges_beside_cold_pages(cache_bytes: usize) {
    let mut found = small();
    found.bounds.layer_cache_bytes_max = cache_bytes;
    let mut shell = node_with(found);
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    let ship = |shell: &mut Shell, writer: &mut Writer, pages: &[u64]| {
        let batch = writer.batch(pages);
        let append = writer.append(&batch);
        shell.say(stream, append);
        shell.settle();
        writer.vdl = writer.prev;
        // Nobody reads the past.
        writer.pgmrpl = writer.prev;
        say_heartbeat(shell, writer, stream);
    };
    let all: Vec<u64> = (2..=530).collect();
    for pages in all.chunks(4) {
        for _ in 0..3 {
            ship(&mut shell, &mut writer, pages);
        }
    }
    let (mut merges, mut kept) = (0, 0);
    for round in 0..60_u64 {
        let before: Vec<_> = shell.layers.keys().copied().collect();
        let was = shell.status().upkeep.merges;
        // On both sides of what stays, and in the middle of it, now here and now there.
        let middle = 100 + round * 97 % 300;
        let hot = [2, middle, middle + 1, 530];
        for number in 0..12 {
            ship(&mut shell, &mut writer, &hot[..1 + number % 4]);
        }
        shell.pass(Duration::from_millis(3));
        assert!(shell.errors().is_empty(), "{:?}", shell.logged);
        let status = shell.status();
        merges += status.upkeep.merges - was;
        // Only one run is left: what is older than the merge was left as it was.
        if status.upkeep.merges > was && status.segments[0].run_count == 1 {
            let stayed = before
                .iter()
                .filter(|layer| shell.layers.contains_key(layer));
            kept = kept.max(stayed.count());
        }
    }
    assert!(
        merges > 3 && kept > 2,
        "{merges} merges, {kept} layers kept"
    );
    for pages in all.chunks(8) {
        writer.check_pages(&mut shell, 0, pages, writer.prev);
    }
    let mut shell = shell.crash(&|_| false);
    shell.work();
    for pages in all.chunks(8) {
        writer.check_pages(&mut shell, 0, pages, writer.prev);
    }
    assert!(shell.errors().is_empty(), "{:?}", shell.logged);
}

#[test]
fn a_segment_whose_merge_lacks_room_does_not_keep_another_one_from_merging() {
    let mut shell = Shell::with(small());
    let manifest = three_groups();
    for group in [0_u8, 1] {
        let create = CreateSegment {
            segment: segment_id(group * 10),
            pg: PgId::new(group.into()),
            manifest: manifest.clone(),
        };
        let answer = shell.ask(Message::CreateSegment(Box::new(create)));
        assert_eq!(answer, Message::Done);
    }
    let reserve = 2 * (32 << 10);
    let space = |free_bytes: u64| Event::Space { free_bytes };
    shell.event(space(reserve));
    // Few pages that are written to all the time take many images, many pages take none.
    let mut writers = [Writer::first(), Writer::first()];
    for number in [0_u8, 1] {
        let writer = &mut writers[usize::from(number)];
        writer.manifest = manifest.clone();
        writer.pg = PgId::new(number.into());
        let stream = writer.attach(&mut shell, number * 10);
        for round in 0..160_u64 {
            let pages: Vec<u64> = match number {
                0 => vec![2; 6],
                _ => (0..4).map(|at| 2 + round * 4 + at).collect(),
            };
            let batch = writer.batch(&pages);
            let append = writer.append(&batch);
            shell.say(stream, append);
            shell.settle();
            writer.vdl = writer.prev;
            say_heartbeat(&mut shell, writer, stream);
        }
    }
    let status = shell.status();
    assert_eq!(status.upkeep.merges, 0);
    let [first, second] = [0, 1].map(|at| {
        let segment = &status.segments[at];
        (
            segment.run_count,
            segment.layer_bytes / u64::from(segment.run_count),
        )
    });
    assert!(first.0 > second.0 && second.0 >= 4, "{first:?} {second:?}");
    assert!(first.1 * 2 > second.1 * 3, "{first:?} {second:?}");
    // Room for the runs of the second segment, and not for two of the first.
    shell.event(space(reserve + second.1 * 5 / 2));
    shell.pass(Duration::from_millis(300));
    let status = shell.status();
    assert_eq!(status.segments[0].run_count, first.0);
    assert!(status.segments[1].run_count < second.0, "{status:?}");
}
