//! Several segments in one hot log, files that roll, state at the head of each.

use sixfold_log_format::hot_log::{Entry, FileHeader, Found, decode_group};
use sixfold_log_format::wire::{CreateSegment, Message};
use sixfold_log_format::{PgId, SegmentId, VolumeId};

use crate::shell::BLOCK;
use crate::writer::{Writer, manifest, node};

fn other_volume(number: u8) -> CreateSegment {
    let mut manifest = manifest(1);
    let segment = SegmentId::from_bytes([200 + number; 16]);
    manifest.volume = VolumeId::from_bytes([200 + number; 16]);
    manifest.pgs[0].sets[0].members[0].segment = segment;
    CreateSegment {
        segment,
        pg: PgId::ROOT,
        manifest,
    }
}

#[test]
fn every_file_begins_with_the_state_of_every_segment() {
    let mut shell = node(0);
    for number in 0..5 {
        let create = other_volume(number);
        assert_eq!(
            shell.ask(Message::CreateSegment(Box::new(create))),
            Message::Done
        );
    }
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    let pages: Vec<u64> = (0..100).map(|page| 2 + page % 5).collect();
    for _ in 0..120 {
        let batch = writer.batch(&pages);
        writer.ship(&mut shell, stream, &batch);
    }
    let mut begun = 0;
    for bytes in shell.files.values().skip(1) {
        let Ok(header) = FileHeader::decode(&bytes[..BLOCK]) else {
            continue;
        };
        let group = bytes::Bytes::copy_from_slice(&bytes[BLOCK..]);
        let Found::Group { entries, .. } = decode_group(&group, &header) else {
            panic!()
        };
        let states = entries
            .iter()
            .filter(|(_, entry)| matches!(entry, Entry::State { .. }))
            .count();
        assert_eq!(states, 6);
        begun += 1;
    }
    assert!(begun >= 2, "{begun}");
    let mut shell = shell.crash(&|_| false);
    let status = shell.status();
    assert_eq!(status.segments.len(), 6);
    assert_eq!(
        status
            .segments
            .iter()
            .filter(|segment| segment.damaged)
            .count(),
        0
    );
    assert_eq!(status.segments[0].scl, writer.prev);
}

#[test]
fn a_second_segment_of_the_same_group_is_refused() {
    let mut shell = node(0);
    let mut create = other_volume(0);
    create.manifest.volume = crate::writer::volume();
    let answer = shell.ask(Message::CreateSegment(Box::new(create)));
    assert_eq!(
        crate::writer::refusal(answer),
        sixfold_log_format::wire::Refusal::Exists
    );
}

#[test]
fn segments_of_many_volumes_share_a_group_write() {
    let mut shell = node(0);
    let before = shell.writes_done;
    let streams: Vec<_> = (0..20)
        .map(|number| {
            let stream = shell.open_stream();
            shell.say(
                stream,
                Message::CreateSegment(Box::new(other_volume(number))),
            );
            stream
        })
        .collect();
    shell.settle();
    assert!(
        shell.writes_done - before <= 3,
        "{}",
        shell.writes_done - before
    );
    for stream in streams {
        assert_eq!(shell.take(stream), [Message::Done]);
    }
}
