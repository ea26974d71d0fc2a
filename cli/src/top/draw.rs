//! Draws a picture into a terminal of any size. Everything that a color says is said by a word, too.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph, Row, Table};

use crate::observe::picture::{NodeView, Picture, SegmentView, WriterView, short};

/// In which order nodes stand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Order {
    /// By availability zone.
    #[default]
    Zone,
    /// Furthest behind first.
    Lag,
    /// Slowest acknowledgment first.
    Ack,
    /// Busiest first.
    Redo,
}

impl Order {
    fn word(self) -> &'static str {
        match self {
            Order::Zone => "zone",
            Order::Lag => "lag",
            Order::Ack => "ack",
            Order::Redo => "redo",
        }
    }
}

/// How it is looked at.
#[derive(Debug, Clone, Default)]
pub(super) struct Look {
    pub(super) order: Order,
    pub(super) has_color: bool,
    pub(super) is_paused: bool,
    /// Keys are read.
    pub(super) is_live: bool,
    /// Rows of the table that are passed over.
    pub(super) scroll: usize,
}

impl Look {
    fn ink(&self, color: Color) -> Style {
        if self.has_color {
            Style::new().fg(color)
        } else {
            Style::new()
        }
    }

    fn grave(&self) -> Style {
        self.ink(Color::Red).add_modifier(Modifier::BOLD)
    }
}

/// Lines of the head: title, writer, latencies.
const HEAD_LINES: u16 = 4;
/// Most lines of notes.
const NOTES_MAX: usize = 5;
/// Most lines of replacements.
const MOVES_MAX: usize = 6;

/// Lines that show all of a picture.
pub(super) fn lines_wanted(picture: &Picture) -> u16 {
    let rows = rows_of(picture, Order::Zone).len();
    let notes = picture.notes.len().min(NOTES_MAX);
    let moves = picture.moves.len().min(MOVES_MAX);
    let framed = |lines: usize| if lines > 0 { lines + 2 } else { 0 };
    let all = usize::from(HEAD_LINES) + rows + 3 + framed(notes) + framed(moves);
    u16::try_from(all).unwrap_or(u16::MAX)
}

/// Draws it.
pub(super) fn draw(frame: &mut Frame<'_>, picture: Option<&Picture>, look: &Look) {
    let Some(picture) = picture else {
        frame.render_widget(
            Paragraph::new("sixfold top: asking the nodes ..."),
            frame.area(),
        );
        return;
    };
    let framed = |lines: usize, max: usize| {
        let lines = lines.min(max);
        u16::try_from(if lines > 0 { lines + 2 } else { 0 }).unwrap_or(0)
    };
    let [head, table, moves, notes] = Layout::vertical([
        Constraint::Length(HEAD_LINES),
        Constraint::Min(3),
        Constraint::Length(framed(picture.moves.len(), MOVES_MAX)),
        Constraint::Length(framed(picture.notes.len(), NOTES_MAX)),
    ])
    .areas(frame.area());
    draw_head(frame, head, picture, look);
    draw_nodes(frame, table, picture, look);
    draw_moves(frame, moves, picture);
    draw_notes(frame, notes, picture, look);
}

fn draw_head(frame: &mut Frame<'_>, area: Rect, picture: &Picture, look: &Look) {
    let up = picture.nodes.iter().filter(|node| node.is_up).count();
    let mut title = vec![
        Span::styled("sixfold", Style::new().add_modifier(Modifier::BOLD)),
        Span::raw(format!(
            "  volume {}  nodes {up} of {}  groups {}  order {}",
            picture.volume.as_deref().map_or("-", short),
            picture.nodes.len(),
            picture.groups.len(),
            look.order.word()
        )),
    ];
    if look.is_paused {
        title.push(Span::styled("  PAUSED", look.ink(Color::Yellow)));
    }
    if look.is_live {
        title.push(Span::styled(
            "  q ends, space pauses, s sorts, arrows scroll",
            look.ink(Color::DarkGray),
        ));
    }
    let mut lines = vec![Line::from(title)];
    match &picture.writer {
        Some(writer) => lines.extend(writer_lines(writer, look)),
        None => {
            let group = picture.groups.first();
            lines.push(Line::raw(
                "writer  not seen from here: --writer HOST:PORT says where it serves its metrics",
            ));
            lines.push(Line::raw(group.map_or_else(String::new, |group| {
                let held = group.pgcl.map_or_else(String::new, |pgcl| {
                    let rule = group.rule.as_deref().unwrap_or("-");
                    format!("  {rule} have {pgcl}")
                });
                format!("group {}{held}  highest {}", group.pg, group.highest)
            })));
        }
    }
    frame.render_widget(Paragraph::new(lines), area);
}

fn writer_lines(writer: &WriterView, look: &Look) -> Vec<Line<'static>> {
    let state = match writer.state.as_str() {
        "open" => look.ink(Color::Green),
        _ => look.grave(),
    };
    let stage = |name: &str| {
        let found = writer.latencies.iter().find(|one| one.stage == name);
        let (p50, p99) = found.map_or((None, None), |one| (one.p50_us, one.p99_us));
        format!("{name} {}/{}", time(p50), time(p99))
    };
    vec![
        Line::from(vec![
            Span::raw("writer  "),
            Span::styled(writer.state.clone(), state),
            Span::raw(format!(
                "  epoch {}  VDL {}  VCL {}  last {}  {} read points, oldest {}",
                writer.volume_epoch,
                writer.vdl,
                writer.vcl,
                writer.last,
                writer.read_points,
                time(Some(writer.read_point_age_ms.saturating_mul(1_000)))
            )),
        ]),
        Line::raw(format!(
            "load    {:.0} commits/s  {:.0} conflicts/s  {}/s redo  {}/s sent  {} unacknowledged  {} waiting  {:.0} hedged/s",
            writer.commits_per_second,
            writer.conflicts_per_second,
            bytes(writer.redo_bytes_per_second),
            bytes(writer.sent_bytes_per_second),
            bytes_of(writer.unacknowledged_bytes),
            writer.waiting_commits,
            writer.hedged_per_second
        )),
        Line::raw(format!(
            "p50/p99 {}",
            ["commit", "seal", "ship", "quorum", "wake", "fetch"]
                .map(stage)
                .join("  ")
        )),
    ]
}

/// A line of the table: a node, and one of its segments if it has any.
type Entry<'a> = (&'a NodeView, Option<&'a SegmentView>);

fn rows_of(picture: &Picture, order: Order) -> Vec<Entry<'_>> {
    let mut rows: Vec<Entry<'_>> = Vec::new();
    for node in &picture.nodes {
        if node.segments.is_empty() {
            rows.push((node, None));
        }
        rows.extend(node.segments.iter().map(|segment| (node, Some(segment))));
    }
    let lag = |(_, segment): &Entry<'_>| segment.map_or(u64::MAX, |segment| segment.lag_lsns);
    let ack = |(_, segment): &Entry<'_>| segment.and_then(|segment| segment.ack_us);
    match order {
        Order::Zone => rows.sort_by(|(one, a), (other, b)| {
            let pg = |segment: &Option<&SegmentView>| segment.map(|segment| segment.pg);
            (&one.az, &one.node, pg(a)).cmp(&(&other.az, &other.node, pg(b)))
        }),
        Order::Lag => rows.sort_by_key(|row| std::cmp::Reverse(lag(row))),
        Order::Ack => rows.sort_by_key(|row| std::cmp::Reverse(ack(row))),
        Order::Redo => rows.sort_by(|(one, _), (other, _)| {
            other
                .redo_bytes_per_second
                .total_cmp(&one.redo_bytes_per_second)
        }),
    }
    rows
}

/// What is the matter with a node or its segment, and how bad that is.
fn state_of(node: &NodeView, segment: Option<&SegmentView>, look: &Look) -> (&'static str, Style) {
    match segment {
        _ if !node.is_up => ("silent", look.grave()),
        Some(segment) if segment.is_damaged => ("DAMAGED", look.grave()),
        _ if node.is_full => ("full", look.grave()),
        Some(segment) if segment.is_joining => ("joining", look.ink(Color::Magenta)),
        Some(segment) if segment.is_attached == Some(false) => {
            ("detached", look.ink(Color::Yellow))
        }
        _ if node.is_pressed => ("pressed", look.ink(Color::Yellow)),
        Some(segment) if segment.lag_ms.is_some_and(|ms| ms > 1_000) => {
            ("behind", look.ink(Color::Yellow))
        }
        None => ("empty", look.ink(Color::DarkGray)),
        _ => ("well", look.ink(Color::Green)),
    }
}

fn draw_nodes(frame: &mut Frame<'_>, area: Rect, picture: &Picture, look: &Look) {
    let all = rows_of(picture, look.order);
    let visible = usize::from(area.height.saturating_sub(3)).max(1);
    let skipped = look.scroll.min(all.len().saturating_sub(visible));
    let mut before = None;
    let rows = all.iter().skip(skipped).map(|&(node, segment)| {
        let (state, style) = state_of(node, segment, look);
        // A node's own numbers stand in its first line.
        let is_first = before != Some(&node.node);
        before = Some(&node.node);
        let once = |text: String| if is_first { text } else { String::new() };
        // Nobody knows a silent one's.
        let own = |text: String| once(if node.is_up { text } else { "-".to_owned() });
        let of = |value: &dyn Fn(&SegmentView) -> String| segment.map_or("-".to_owned(), value);
        Row::new([
            once(node.az.clone()),
            once(short(&node.node).to_owned()),
            state.to_owned(),
            of(&|segment| segment.pg.to_string()),
            of(&|segment| segment.scl.to_string()),
            of(&|segment| segment.lag_lsns.to_string()),
            of(&|segment| {
                segment
                    .lag_ms
                    .map_or("-".to_owned(), |ms| time(Some(ms * 1_000)))
            }),
            of(&|segment| time(segment.ack_us)),
            of(&|segment| bytes_of(segment.unfolded_bytes)),
            of(&|segment| format!("{}/{}", segment.layers, segment.runs)),
            own(bytes(node.redo_bytes_per_second) + "/s"),
            own(bytes_of(node.memory_bytes)),
            own(format!("{}/{}", node.damage_found, node.damage_healed)),
            own(node.gossip_batches.to_string()),
            own(node.refused.to_string()),
        ])
        .style(style)
    });
    let header = Row::new([
        "zone", "node", "state", "pg", "SCL", "lag", "lag time", "ack", "unfolded", "lay/run",
        "redo", "memory", "dmg/heal", "gossip", "refused",
    ])
    .style(Style::new().add_modifier(Modifier::BOLD));
    let widths = widths_in(area.width);
    let title = if skipped > 0 {
        format!(" nodes and segments, {skipped} lines above ")
    } else {
        " nodes and segments ".to_owned()
    };
    let table = Table::new(rows, widths).header(header).block(
        Block::new()
            .borders(Borders::TOP | Borders::BOTTOM)
            .title(title),
    );
    frame.render_widget(table, area);
}

/// Widths of the columns that a terminal has room for: the last ones go first, and never a part of a number.
fn widths_in(columns: u16) -> Vec<Constraint> {
    let mut left = columns.saturating_add(1);
    let fits = move |width: &u16| {
        let takes = width + 1;
        let fits = left >= takes;
        left = left.saturating_sub(takes);
        fits
    };
    let widths = [5, 8, 8, 3, 12, 7, 9, 9, 9, 7, 9, 8, 8, 7, 7].into_iter();
    widths.take_while(fits).map(Constraint::Length).collect()
}

fn draw_moves(frame: &mut Frame<'_>, area: Rect, picture: &Picture) {
    let lines = picture.moves.iter().take(MOVES_MAX).map(|step| {
        Line::raw(format!(
            "group {}  {} -> {} on node {}  {}  SCL {} of {}",
            step.pg,
            short(&step.out),
            short(&step.into),
            short(&step.node),
            step.phase,
            step.scl,
            step.needed
        ))
    });
    let lines: Vec<Line<'_>> = lines.collect();
    let block = Block::new()
        .borders(Borders::TOP)
        .title(" changes of membership ");
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

fn draw_notes(frame: &mut Frame<'_>, area: Rect, picture: &Picture, look: &Look) {
    let lines = picture.notes.iter().take(NOTES_MAX).map(|note| {
        let style = if note.is_grave {
            look.grave()
        } else {
            look.ink(Color::Yellow)
        };
        // Text of other processes: nothing in it moves a cursor.
        let text: String = note
            .text
            .chars()
            .filter(|char| !char.is_control())
            .collect();
        Line::styled(
            format!("{} {text}", if note.is_grave { "!!" } else { " !" }),
            style,
        )
    });
    let lines: Vec<Line<'_>> = lines.collect();
    let block = Block::new().borders(Borders::TOP).title(" look at ");
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

/// Microseconds for people.
fn time(us: Option<u64>) -> String {
    match us {
        None => "-".to_owned(),
        Some(us) if us < 1_000 => format!("{us} us"),
        Some(us) if us < 1_000_000 => format!("{}.{} ms", us / 1_000, us % 1_000 / 100),
        Some(us) => format!("{}.{} s", us / 1_000_000, us % 1_000_000 / 100_000),
    }
}

fn bytes_of(bytes_count: u64) -> String {
    #[allow(clippy::cast_precision_loss)] // Figures for people: 52 bits are enough.
    bytes(bytes_count as f64)
}

fn bytes(mut value: f64) -> String {
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1_024.0 || unit == "GiB" {
            return format!("{value:.0} {unit}");
        }
        value /= 1_024.0;
    }
    unreachable!("the last unit returns")
}
