//! `sixfold inspect`: what stands in a node's data directory, offline. Never writes.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};
use sixfold_log_format::{Lsn, PageId, SegmentId};
use sixfold_storage_node::inspect::{
    HistoryKind, HotLogFile, Inspection, Layer, PageHistory, Segment, Verdict,
};

/// Flags of `inspect`.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// The data directory of a node that is not running
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Tell one page's history
    #[arg(long, value_name = "PAGE")]
    page: Option<u64>,
    /// The page as of this LSN
    #[arg(long, requires = "page")]
    lsn: Option<u64>,
    /// Which segment, 32 hexadecimal digits; needed when there are several
    #[arg(long, requires = "page")]
    segment: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Reads everything and prints it. Damage is an error, so that scripts notice.
pub(crate) fn run(args: &InspectArgs) -> Result<()> {
    let segment = match &args.segment {
        None => None,
        Some(text) => Some(
            SegmentId::from_hex(text)
                .with_context(|| format!("--segment {text:?} is not 32 hexadecimal digits"))?,
        ),
    };
    let found = Inspection::of(&args.dir)?;
    let page = match args.page {
        None => None,
        Some(page) => {
            let lsn = args.lsn.map_or(Lsn::MAX, Lsn::new);
            Some(found.page_history(segment, PageId::new(page), lsn)?)
        }
    };
    let mut flaw_count = found.flaws.len();
    flaw_count += usize::from(page.as_ref().is_some_and(|page| page.flaw.is_some()));
    if args.json {
        let mut object = describe(&found);
        if let Some(page) = &page {
            object["page"] = describe_page(page);
        }
        say!("{object}");
    } else {
        print(&found)?;
        if let Some(page) = &page {
            print_page(page)?;
        }
    }
    if flaw_count > 0 {
        bail!("{flaw_count} flaws in {}", args.dir.display());
    }
    Ok(())
}

fn print(found: &Inspection) -> Result<()> {
    let superblock = &found.superblock;
    say!(
        "node {} block {} bytes, hot-log files of {} bytes",
        superblock.node,
        superblock.block_bytes,
        superblock.file_bytes
    );
    say!("hot log {}", verdict(&found.verdict));
    for file in &found.files {
        match file.first_sequence {
            Some(first) => say!(
                "  file {} from group {first}: {} groups, {} bytes",
                file.number.0,
                file.group_count,
                file.used_bytes
            ),
            None => say!("  file {} never written", file.number.0),
        }
    }
    for (id, segment) in &found.segments {
        say!(
            "segment {id} pg {} volume {} claim {} history {} scl {} highest {} vdl seen {}{}",
            segment.pg,
            segment.manifest.volume,
            segment.claim,
            segment.history.volume_epoch,
            segment.scl(),
            segment.highest(),
            segment.vdl,
            if segment.dropped { " dropped" } else { "" }
        );
        say!(
            "  hot log: {} batches, {} bytes; layers: {}, {} bytes, folded through {}, horizon {}",
            segment.batches.len(),
            redo_bytes(segment),
            segment.catalog.layers.len(),
            segment.catalog.file_bytes(),
            segment.catalog.folded_through,
            segment.catalog.horizon
        );
    }
    for layer in &found.layers {
        let state = match (layer.listed, layer.sound) {
            (true, true) => "sound",
            (true, false) => "DAMAGED",
            (false, _) => "in no catalog: removed at the next start",
        };
        match &layer.summary {
            Some(summary) => say!(
                "layer {}-{:016x} ({}, {}] pages {} to {}: {} records, {} images of {} pages, {} blocks, {} bytes, {state}",
                layer.segment,
                layer.number.0,
                summary.lsn_after,
                summary.lsn_through,
                summary.page_first,
                summary.page_last,
                summary.record_count,
                summary.image_count,
                summary.page_count,
                summary.block_count,
                summary.file_bytes
            ),
            None => say!("layer {}-{:016x} {state}", layer.segment, layer.number.0),
        }
    }
    for flaw in &found.flaws {
        say!("FLAW {flaw}");
    }
    Ok(())
}

fn print_page(history: &PageHistory) -> Result<()> {
    say!("page {} of segment {}", history.page, history.segment);
    for entry in &history.entries {
        say!(
            "  {} commit {} {} ({})",
            entry.lsn,
            entry.cpl,
            kind(entry.kind),
            entry.place
        );
    }
    match &history.version {
        Some(page) => say!(
            "  as of {}: {:?} level {}, page LSN {}, {} cells, {} bytes free",
            point(history.lsn),
            page.kind(),
            page.level(),
            page.lsn(),
            page.cell_count(),
            if page.kind().has_cells() {
                page.free_bytes()
            } else {
                0
            }
        ),
        None => say!("  as of {}: nothing is known of it", point(history.lsn)),
    }
    if let Some(flaw) = &history.flaw {
        say!("FLAW {flaw}");
    }
    Ok(())
}

fn point(lsn: Lsn) -> String {
    if lsn == Lsn::MAX {
        "now".to_owned()
    } else {
        lsn.to_string()
    }
}

fn kind(kind: HistoryKind) -> &'static str {
    match kind {
        HistoryKind::Record(name) => name,
        HistoryKind::Image => "image",
    }
}

fn verdict(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Clean => "clean".to_owned(),
        Verdict::TornTail { file, offset } => {
            format!(
                "torn tail at file {} offset {offset}: expected after a crash",
                file.0
            )
        }
        Verdict::Corrupt {
            file,
            offset,
            reason,
        } => format!("CORRUPT at file {} offset {offset}: {reason}", file.0),
    }
}

fn redo_bytes(segment: &Segment) -> u64 {
    let bytes = segment
        .batches
        .iter()
        .map(|placed| placed.batch.len_bytes() as u64);
    bytes.sum()
}

fn describe(found: &Inspection) -> Value {
    let segments: Vec<Value> = found
        .segments
        .iter()
        .map(|(id, segment)| {
            json!({
                "segment": id.to_string(),
                "pg": segment.pg.get(),
                "volume": segment.manifest.volume.to_string(),
                "claim": segment.claim.get(),
                "history": segment.history.volume_epoch.get(),
                "scl": segment.scl().get(),
                "highest": segment.highest().get(),
                "vdl_seen": segment.vdl.get(),
                "dropped": segment.dropped,
                "batches": segment.batches.len(),
                "redo_bytes": redo_bytes(segment),
                "folded_through": segment.catalog.folded_through.get(),
                "horizon": segment.catalog.horizon.get(),
                "layer_bytes": segment.catalog.file_bytes(),
            })
        })
        .collect();
    json!({
        "node": found.superblock.node.to_string(),
        "block_bytes": found.superblock.block_bytes,
        "hot_log_file_bytes": found.superblock.file_bytes,
        "verdict": verdict(&found.verdict),
        "hot_log_bytes": found.hot_log_bytes(),
        "files": found.files.iter().map(describe_file).collect::<Vec<_>>(),
        "segments": segments,
        "layers": found.layers.iter().map(describe_layer).collect::<Vec<_>>(),
        "flaws": found.flaws,
    })
}

fn describe_file(file: &HotLogFile) -> Value {
    json!({
        "file": file.number.0,
        "first_group": file.first_sequence,
        "groups": file.group_count,
        "bytes": file.used_bytes,
    })
}

fn describe_layer(layer: &Layer) -> Value {
    let mut object = json!({
        "segment": layer.segment.to_string(),
        "layer": layer.number.0,
        "listed": layer.listed,
        "sound": layer.sound,
    });
    if let Some(summary) = &layer.summary {
        object["after"] = summary.lsn_after.get().into();
        object["through"] = summary.lsn_through.get().into();
        object["pages"] = summary.page_count.into();
        object["records"] = summary.record_count.into();
        object["images"] = summary.image_count.into();
        object["bytes"] = summary.file_bytes.into();
    }
    object
}

fn describe_page(history: &PageHistory) -> Value {
    let entries: Vec<Value> = history
        .entries
        .iter()
        .map(|entry| {
            json!({
                "lsn": entry.lsn.get(),
                "commit": entry.cpl.get(),
                "what": kind(entry.kind),
                "place": entry.place,
            })
        })
        .collect();
    json!({
        "page": history.page.get(),
        "entries": entries,
        "page_lsn": history.version.as_ref().map(|page| page.lsn().get()),
        "kind": history.version.as_ref().map(|page| format!("{:?}", page.kind())),
        "cells": history.version.as_ref().map(sixfold_log_format::Page::cell_count),
        "flaw": history.flaw,
    })
}
