//! The pictures, SVG. Axes of rates and latencies are logarithmic: they begin nowhere near zero and say so.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::combinators::IntoLogRange;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use serde_json::Value;

use crate::runs::{Runs, number, word};
use crate::tables::figure;

const SIZE: (u32, u32) = (760, 420);
const FONT: (&str, u32) = ("sans-serif", 14);
const COLORS: [RGBColor; 9] = [
    RGBColor(0x1f, 0x5f, 0xa8),
    RGBColor(0xd9, 0x6c, 0x06),
    RGBColor(0x2a, 0x85, 0x4f),
    RGBColor(0xa8, 0x32, 0x32),
    RGBColor(0x6d, 0x4a, 0x9c),
    RGBColor(0x7a, 0x7a, 0x7a),
    RGBColor(0x0b, 0x8a, 0x93),
    RGBColor(0xc0, 0x4f, 0x9b),
    RGBColor(0x8c, 0x6d, 0x1f),
];

/// A line with its name.
type Line = (String, Vec<(f64, f64)>);

struct Chart<'a> {
    title: &'a str,
    x: &'a str,
    y: &'a str,
}

/// What the share of a distribution is drawn against: as far from 1 as from the next nine.
const SHARE: &str = "1 / (1 - share of the commits)";

/// Draws what there are figures for. Returns title, run and file of each picture.
pub(crate) fn draw_all(
    runs: &Runs,
    out: &Path,
) -> Result<Vec<(&'static str, &'static str, &'static str)>> {
    let latency = "latency, us";
    let closed = distributions(runs.rows("commit"));
    let open = distributions(runs.rows("rate"));
    let broken = outage_distributions(runs);
    let all_curves = [
        (
            "Throughput against clients",
            ["clients", "commits a second"],
            throughput(runs),
            "commit, versus",
            "throughput.svg",
        ),
        (
            "Latency distribution, closed loop",
            [SHARE, latency],
            closed,
            "commit",
            "latency.svg",
        ),
        (
            "Latency distribution at fixed rates, from when a commit was due",
            [SHARE, latency],
            open,
            "rate",
            "latency-rate.svg",
        ),
        (
            "Latency distribution, healthy and in outages",
            [SHARE, latency],
            broken,
            "outage",
            "latency-outage.svg",
        ),
        (
            "Reopening against redo outside of layers",
            ["MiB", "ms to the first commit"],
            reopenings(runs),
            "reopen",
            "reopen.svg",
        ),
    ];
    let all_bars = [
        (
            "Commit p99 before, during and after an outage, us",
            outages(runs),
            "outage",
            "outage.svg",
        ),
        (
            "Bytes: on the wire and on a node's disk a redo byte, redo a user byte",
            bytes(runs),
            "wire, disk",
            "bytes.svg",
        ),
        (
            "Durable commits a second, 64 clients",
            versus(runs),
            "versus-64",
            "versus.svg",
        ),
    ];
    let mut drawn = Vec::new();
    for (title, [x, y], lines, run, file) in all_curves {
        if curves(&out.join(file), &Chart { title, x, y }, &lines)? {
            drawn.push((title, run, file));
        }
    }
    for (title, all, run, file) in all_bars {
        if bars(&out.join(file), title, &all)? {
            drawn.push((title, run, file));
        }
    }
    Ok(drawn)
}

fn throughput(runs: &Runs) -> Vec<Line> {
    let points = |field: &str| -> Vec<(f64, f64)> {
        let rows = runs
            .rows("commit")
            .iter()
            .filter(|row| row.get("rate").is_none());
        rows.filter_map(|row| Some((number(row, "clients")?, number(row, field)?)))
            .collect()
    };
    let mut lines = vec![
        ("sixfold".to_owned(), points("commits_per_second")),
        (
            "bare quorum append".to_owned(),
            points("bare_commits_per_second"),
        ),
    ];
    let mut peers: Vec<Line> = Vec::new();
    for (_, run) in runs.named("versus-") {
        let rows = run.result["rows"].as_array().map_or(&[][..], Vec::as_slice);
        for row in rows.iter().filter(|row| word(row, "system") != "sixfold") {
            let system = word(row, "system");
            let point = number(row, "clients").zip(number(row, "commits_per_second"));
            match peers.iter_mut().find(|(name, _)| name == system) {
                Some((_, points)) => points.extend(point),
                None => peers.push((system.to_owned(), point.into_iter().collect())),
            }
        }
    }
    lines.append(&mut peers);
    for (_, points) in &mut lines {
        points.sort_by(|left, right| left.0.total_cmp(&right.0));
    }
    lines
}

fn distributions(rows: &[Value]) -> Vec<Line> {
    let line = |row: &Value| {
        let name = match row.get("rate").and_then(Value::as_u64) {
            Some(rate) => format!("{} clients, {rate}/s due", row["clients"]),
            None => format!("{} clients", row["clients"]),
        };
        (name, distribution(&row["distribution_us"]))
    };
    rows.iter().map(line).collect()
}

fn distribution(points: &Value) -> Vec<(f64, f64)> {
    let points = points.as_array().into_iter().flatten();
    let points = points.filter_map(|point| {
        let share = point.get(0)?.as_f64()?;
        Some((1.0 / (1.0 - share), point.get(1)?.as_f64()?))
    });
    points.collect()
}

/// Healthy once, as before the first outage; then each outage in which commits are answered.
fn outage_distributions(runs: &Runs) -> Vec<Line> {
    let rows = runs.rows("outage");
    let healthy = rows.first().map(|row| &row["distribution_before_us"]);
    let healthy = healthy.map(|points| ("healthy".to_owned(), distribution(points)));
    let drawn = ["slow-node", "stopped-node", "node-killed", "az-gone"];
    let during = rows.iter().filter(|row| drawn.contains(&word(row, "case")));
    let during = during.map(|row| {
        let points = distribution(&row["distribution_during_us"]);
        (word(row, "case").to_owned(), points)
    });
    healthy.into_iter().chain(during).collect()
}

fn reopenings(runs: &Runs) -> Vec<Line> {
    const MIB: f64 = 1_048_576.0;
    let points = |size: &str, time: &str| -> Vec<(f64, f64)> {
        let rows = runs.rows("reopen").iter();
        rows.filter_map(|row| Some((number(row, size)? / MIB, number(row, time)?)))
            .collect()
    };
    vec![
        (
            "sixfold".to_owned(),
            points("unfolded_bytes", "first_commit_ms"),
        ),
        (
            "PostgreSQL, crash recovery".to_owned(),
            points("postgresql_wal_bytes", "postgresql_first_commit_ms"),
        ),
    ]
}

fn outages(runs: &Runs) -> Vec<(String, f64)> {
    let mut bars = Vec::new();
    for row in runs.rows("outage") {
        for phase in ["before", "during", "after"] {
            let p99 = number(row, &format!("p99_{phase}_us")).unwrap_or_default();
            bars.push((format!("{}, {phase}", word(row, "case")), p99));
        }
    }
    bars
}

fn bytes(runs: &Runs) -> Vec<(String, f64)> {
    let mut bars = Vec::new();
    for (_, run) in runs.named("wire-") {
        let load = word(&run.result, "load");
        for (field, words) in [
            ("wire_bytes_per_redo_byte", "wire/redo"),
            ("redo_bytes_per_user_byte", "redo/user"),
        ] {
            bars.extend(
                number(&run.result, field).map(|bytes| (format!("{load}: {words}"), bytes)),
            );
        }
    }
    let disk = runs.get("disk");
    let disk = disk.and_then(|disk| number(disk, "disk_bytes_per_redo_byte_per_node"));
    bars.extend(disk.map(|bytes| ("one node: disk/redo".to_owned(), bytes)));
    bars
}

fn versus(runs: &Runs) -> Vec<(String, f64)> {
    let rows = runs.rows("versus-64").iter();
    rows.filter_map(|row| {
        let copies = number(row, "copies")?;
        let name = format!("{}, copies: {copies}", word(row, "system"));
        Some((name, number(row, "commits_per_second")?))
    })
    .collect()
}

/// The lowest and the highest, a little apart, and above zero: for a logarithmic axis.
fn span(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let positive = values.filter(|value| *value > 0.0);
    let low = positive.clone().reduce(f64::min).unwrap_or(1.0);
    let high = positive.reduce(f64::max).unwrap_or(10.0);
    (low * 0.8, (high * 1.25).max(low * 2.0))
}

/// Lines on logarithmic axes; none of a picture without points.
fn curves(path: &Path, chart: &Chart<'_>, lines: &[Line]) -> Result<bool> {
    let lines: Vec<&Line> = lines
        .iter()
        .filter(|(_, points)| !points.is_empty())
        .collect();
    if lines.is_empty() {
        return Ok(false);
    }
    let all = lines.iter().flat_map(|(_, points)| points);
    let (x_low, x_high) = span(all.clone().map(|point| point.0));
    let (y_low, y_high) = span(all.map(|point| point.1));
    let failed = |error: &dyn std::fmt::Display| anyhow!("{}: {error}", path.display());
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE).map_err(|error| failed(&error))?;
    let mut picture = ChartBuilder::on(&root)
        .caption(chart.title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(72)
        .build_cartesian_2d((x_low..x_high).log_scale(), (y_low..y_high).log_scale())
        .map_err(|error| failed(&error))?;
    picture
        .configure_mesh()
        .x_desc(chart.x)
        .y_desc(chart.y)
        .label_style(FONT)
        .axis_desc_style(FONT)
        .light_line_style(WHITE)
        .x_label_formatter(&|x| figure(*x))
        .y_label_formatter(&|y| figure(*y))
        .draw()
        .map_err(|error| failed(&error))?;
    for (index, (name, points)) in lines.iter().enumerate() {
        let color = COLORS[index % COLORS.len()];
        let points = points
            .iter()
            .copied()
            .filter(|point| point.0 > 0.0 && point.1 > 0.0);
        picture
            .draw_series(LineSeries::new(points.clone(), color.stroke_width(2)))
            .map_err(|error| failed(&error))?
            .label(name.as_str())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
        picture
            .draw_series(points.map(|point| Circle::new(point, 3, color.filled())))
            .map_err(|error| failed(&error))?;
    }
    picture
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.85))
        .label_font(FONT)
        .draw()
        .map_err(|error| failed(&error))?;
    root.present().map_err(|error| failed(&error))?;
    Ok(true)
}

/// Bars from zero, each with its name and its number; drawn by hand, since names need room.
fn bars(path: &Path, title: &str, bars: &[(String, f64)]) -> Result<bool> {
    const LEFT: i32 = 240;
    const ROW: i32 = 24;
    let highest = bars.iter().map(|bar| bar.1).fold(0.0, f64::max);
    if highest <= 0.0 {
        return Ok(false);
    }
    let failed = |error: &dyn std::fmt::Display| anyhow!("{}: {error}", path.display());
    let rows = u32::try_from(bars.len())?;
    let size = (SIZE.0, rows * ROW.unsigned_abs() + 56);
    let room = f64::from(SIZE.0) - f64::from(LEFT) - 90.0;
    let root = SVGBackend::new(path, size).into_drawing_area();
    root.fill(&WHITE).map_err(|error| failed(&error))?;
    let text = |size| ("sans-serif", size).into_font().color(&BLACK);
    root.draw(&Text::new(title, (12, 12), text(18)))
        .map_err(|error| failed(&error))?;
    let right = text(14).pos(Pos::new(HPos::Right, VPos::Center));
    let left = text(14).pos(Pos::new(HPos::Left, VPos::Center));
    for (index, (name, value)) in bars.iter().enumerate() {
        let top = 44 + ROW * i32::try_from(index)?;
        #[allow(clippy::cast_possible_truncation)] // Within the picture.
        let end = LEFT + (value / highest * room) as i32;
        let color = COLORS[usize::from(!name.starts_with("sixfold")) % COLORS.len()];
        root.draw(&Rectangle::new(
            [(LEFT, top), (end, top + ROW - 6)],
            color.filled(),
        ))
        .map_err(|error| failed(&error))?;
        let middle = top + (ROW - 6) / 2;
        root.draw(&Text::new(name.as_str(), (LEFT - 8, middle), right.clone()))
            .map_err(|error| failed(&error))?;
        root.draw(&Text::new(figure(*value), (end + 8, middle), left.clone()))
            .map_err(|error| failed(&error))?;
    }
    root.present().map_err(|error| failed(&error))?;
    Ok(true)
}
