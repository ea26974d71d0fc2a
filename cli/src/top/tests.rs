//! What the terminal shows of pictures, cell by cell text.

use super::draw::{Look, Order};
use super::*;
use crate::observe::picture::{LatencyView, NodeView, SegmentView, WriterView};

fn picture() -> Picture {
    let node = |index: usize| NodeView {
        node: format!("{index:08x}{:024x}", 0),
        az: format!("az{}", index / 2 + 1),
        is_up: index != 3,
        trouble: (index == 3).then(|| "connection \u{1b}[2J lost".to_owned()),
        redo_bytes_per_second: 2_048.0,
        segments: (index != 3)
            .then(|| SegmentView {
                segment: format!("{index:032x}"),
                scl: 1_000 - if index == 5 { 40 } else { 0 },
                highest: 1_000,
                is_damaged: index == 4,
                lag_ms: Some(if index == 5 { 2_500 } else { 0 }),
                ack_us: Some(700),
                ..SegmentView::default()
            })
            .into_iter()
            .collect(),
        ..NodeView::default()
    };
    let mut picture = Picture {
        seen_by: "operator".to_owned(),
        writer: Some(WriterView {
            state: "open".to_owned(),
            vdl: 998,
            last: 1_000,
            commits_per_second: 1_234.0,
            latencies: vec![LatencyView {
                stage: "commit".to_owned(),
                p50_us: Some(600),
                p99_us: Some(1_500),
            }],
            ..WriterView::default()
        }),
        nodes: (0..6).map(node).collect(),
        ..Picture::default()
    };
    picture.settle(&[]);
    picture
}

#[test]
fn one_text_shows_nodes_by_zone_and_what_is_wrong() {
    let text = text_of(&picture()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("sixfold"), "{text}");
    assert!(lines[0].contains("nodes 5 of 6"), "{text}");
    assert!(text.contains("1234 commits/s"), "{text}");
    assert!(text.contains("commit 600 us/1.5 ms"), "{text}");
    let row = |node: &str| {
        let found = lines.iter().find(|line| line.contains(node));
        (*found.unwrap_or_else(|| panic!("no {node} in\n{text}"))).to_owned()
    };
    assert!(row("00000000").contains("well"), "{text}");
    assert!(row("00000003").contains("silent"), "{text}");
    assert!(!row("00000003").contains("0/0"), "{text}");
    assert!(row("00000004").contains("DAMAGED"), "{text}");
    assert!(
        row("00000005").contains("behind") && row("00000005").contains("40"),
        "{text}"
    );
    assert!(text.contains("!! segment"), "{text}");
    // What a node said does not reach the terminal as a command.
    assert!(!text.contains('\u{1b}'), "{text}");
    assert!(
        text.contains("az1") && text.contains("az2") && text.contains("az3"),
        "{text}"
    );
}

#[test]
fn every_size_of_terminal_is_drawn() {
    let picture = picture();
    for (width, height) in [(1, 1), (20, 5), (80, 24), (200, 60)] {
        for order in [Order::Zone, Order::Lag, Order::Ack, Order::Redo] {
            let look = Look {
                order,
                has_color: true,
                is_live: true,
                is_paused: true,
                scroll: 100,
            };
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            terminal
                .draw(|frame| draw::draw(frame, Some(&picture), &look))
                .unwrap();
            terminal
                .draw(|frame| draw::draw(frame, None, &look))
                .unwrap();
        }
    }
}

#[test]
fn the_one_furthest_behind_comes_first_when_sorted_by_lag() {
    let picture = picture();
    let look = Look {
        order: Order::Zone.next(),
        ..Look::default()
    };
    let mut terminal = Terminal::new(TestBackend::new(120, 30)).unwrap();
    terminal
        .draw(|frame| draw::draw(frame, Some(&picture), &look))
        .unwrap();
    let buffer = terminal.backend().buffer();
    let text: Vec<String> = (0..30)
        .map(|y| (0..120).map(|x| buffer[(x, y)].symbol()).collect())
        .collect();
    let place = |node: &str| text.iter().position(|line| line.contains(node)).unwrap();
    // The silent one may lack anything.
    assert!(place("00000003") < place("00000005"));
    assert!(place("00000005") < place("00000000"));
}
