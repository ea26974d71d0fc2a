//! Messages in a few words, for stories, and as a number, for the hash.

use sixfold_log_format::batch::BATCH_HEADER_BYTES;
use sixfold_log_format::wire::{Message, PageAnswer};
use sixfold_log_format::{Lsn, VolumeEpoch};

use crate::rng::mix;

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..at + 8)
        .and_then(|word| word.try_into().ok())
        .map_or(0, u64::from_le_bytes)
}

/// Epoch, first and last LSN of an encoded batch.
pub(super) fn batch_span(bytes: &[u8]) -> (VolumeEpoch, Lsn, Lsn) {
    assert!(bytes.len() >= BATCH_HEADER_BYTES, "a batch has a header");
    (
        VolumeEpoch::new(u64_at(bytes, 24)),
        Lsn::new(u64_at(bytes, 32)),
        Lsn::new(u64_at(bytes, 40)),
    )
}

/// The back-link of an encoded batch.
pub(super) fn batch_prev(bytes: &[u8]) -> Lsn {
    Lsn::new(u64_at(bytes, 48))
}

fn span(bytes: &[u8]) -> String {
    let (epoch, first, last) = batch_span(bytes);
    format!("{first}..={last} of epoch {epoch}")
}

/// A message in a few words.
pub(super) fn brief(message: &Message) -> String {
    match message {
        Message::Attach(attach) => format!("attach at epoch {}", attach.volume_epoch),
        Message::Attached(attached) => format!("attached, SCL {}", attached.scl),
        Message::Append(append) => format!("append {}", span(&append.batch)),
        Message::Heartbeat(beat) => format!("heartbeat, VDL {}", beat.vdl),
        Message::Ack(ack) => format!("ack {} under history {}", ack.scl, ack.history_epoch),
        Message::Claim(claim) => format!("claim {}", claim.volume_epoch),
        Message::Census(census) => {
            let runs: Vec<String> = census
                .runs
                .iter()
                .map(|run| format!("{}..={}({})", run.first, run.last, run.volume_epoch))
                .collect();
            format!(
                "census for {}: history {}, SCL {}, VDL seen {}, above it {}",
                census.volume_epoch,
                census.history.volume_epoch,
                census.scl,
                census.vdl_seen,
                runs.join(" ")
            )
        }
        Message::Install(install) => {
            let ranges: Vec<String> = install
                .history
                .ranges
                .iter()
                .map(|range| format!("({},{}]", range.after, range.through))
                .collect();
            format!("install {}: {}", install.volume_epoch, ranges.join(" "))
        }
        Message::Installed(installed) => format!(
            "installed {}, SCL {}",
            installed.history_epoch, installed.scl
        ),
        Message::Refill(refill) => format!(
            "refill {}",
            refill
                .batches
                .iter()
                .map(|bytes| span(bytes))
                .collect::<Vec<_>>()
                .join(", ")
        ),
        Message::LogPiece(piece) => format!(
            "log {}",
            piece
                .batches
                .iter()
                .map(|bytes| span(bytes))
                .collect::<Vec<_>>()
                .join(", ")
        ),
        Message::ReadPages(read) => format!(
            "read {}",
            read.pages
                .iter()
                .map(|page| format!("{}@{} (T {})", page.page, page.lsn, page.pg_last))
                .collect::<Vec<_>>()
                .join(" ")
        ),
        Message::Pages(pages) => match &pages.pages[..] {
            [PageAnswer::Refused(refusal)] => format!("page refused: {refusal:?}"),
            pages => format!("{} pages", pages.len()),
        },
        Message::Gossip(gossip) => format!(
            "gossip: history {}, SCL {}",
            gossip.history_epoch, gossip.scl
        ),
        Message::GossipAnswer(answer) => format!(
            "gossip answer: history {}, SCL {}{}",
            answer.history_epoch,
            answer.scl,
            if answer.newer.is_some() {
                ", take mine"
            } else {
                ""
            }
        ),
        Message::ReadLog(read) => format!("read log ({}, {}]", read.after, read.through),
        Message::Refused(refusal) => format!("refused: {refusal:?}"),
        Message::Probe(_) => "probe".to_owned(),
        Message::ProbeAnswer(_) => "probe answer".to_owned(),
        Message::CreateSegment(_) => "create segment".to_owned(),
        Message::NodeStatus(_) => "status".to_owned(),
        other => format!("{other:?}").chars().take(60).collect(),
    }
}

/// A number for a message.
pub(super) fn tag_of(message: &Message) -> u64 {
    match message {
        Message::Append(append) => mix(1 ^ (u64_at(&append.batch, 0) << 3)),
        Message::Ack(ack) => mix(2 ^ (ack.scl.get() << 8) ^ ack.echo),
        Message::Heartbeat(beat) => mix(3 ^ (beat.vdl.get() << 8) ^ beat.sequence),
        Message::Pages(pages) => mix(4 ^ ((pages.pages.len() as u64) << 8)),
        Message::Census(census) => mix(5 ^ (census.scl.get() << 8)),
        Message::Installed(installed) => mix(6 ^ (installed.scl.get() << 8)),
        Message::Attached(attached) => mix(7 ^ (attached.scl.get() << 8)),
        Message::Claim(claim) => mix(8 ^ (claim.volume_epoch.get() << 8)),
        Message::Gossip(gossip) => mix(9 ^ (gossip.scl.get() << 8)),
        Message::LogPiece(piece) => mix(10 ^ ((piece.batches.len() as u64) << 8)),
        Message::Refused(_) => 11,
        Message::ReadPages(read) => mix(12 ^ (read.pages[0].lsn.get() << 8)),
        _ => 13,
    }
}
