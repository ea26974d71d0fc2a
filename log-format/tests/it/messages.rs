//! One of every message and refusal, always the same.

use bytes::Bytes;
use sixfold_log_format::wire::{
    Ack, Append, AskHints, AskWish, Attach, Attached, Census, CensusRun, Claim, CreateSegment,
    DropSegment, Gossip, GossipAnswer, Heartbeat, Hello, Hints, Install, Installed, LayerPiece,
    LeaveHint, LogPiece, Message, NodeMemory, NodeStatus, NodeUpkeep, PageAnswer, PageRequest,
    Pages, Probe, ProbeAnswer, ReadLayer, ReadLog, ReadPages, Refill, Refusal, RetireVolume, Role,
    SegmentProbe, SegmentStatus, Survey, Welcome, Wish, WishReport, WishState, WishVerb,
};
use sixfold_log_format::{Lsn, MembershipEpoch, Page, PageId, PgId};

use crate::samples::{
    NODE, PAGE_BYTES, VOLUME, VOLUME_EPOCH, WRITER, history, leaf, manifest, segment, small_batch,
};

fn wish() -> Wish {
    Wish {
        id: [1; 16],
        volume: VOLUME,
        verb: WishVerb::Replace,
        subject: *segment(1).as_bytes(),
        object: *NODE.as_bytes(),
    }
}

pub fn refusals() -> Vec<Refusal> {
    vec![
        Refusal::Wire { min: 1, max: 2 },
        Refusal::NotAllowed,
        Refusal::Malformed {
            reason: "unexpected ack".into(),
        },
        Refusal::UnknownSegment,
        Refusal::WrongVolume { volume: VOLUME },
        Refusal::StaleEpoch {
            volume_epoch: VOLUME_EPOCH,
        },
        Refusal::StaleMembership {
            manifest: Box::new(manifest()),
        },
        Refusal::OtherHistory {
            history_epoch: VOLUME_EPOCH,
        },
        Refusal::Behind { scl: Lsn::new(12) },
        Refusal::Forgotten {
            horizon: Lsn::new(13),
        },
        Refusal::Corrupt {
            reason: "other bytes at lsn 14".into(),
        },
        Refusal::DiskFull,
        Refusal::Overloaded,
        Refusal::Exists,
        Refusal::UnknownWish,
        Refusal::Token,
    ]
}

/// Every message, with a name for its golden file.
pub fn messages() -> Vec<(&'static str, Message)> {
    let mut messages = opening_messages();
    messages.extend(fence_messages());
    messages.extend(node_messages());
    messages.extend(wish_messages());
    messages
}

fn wish_messages() -> Vec<(&'static str, Message)> {
    let hint = manifest().hints[0].clone();
    vec![
        (
            "survey",
            Message::Survey(Survey {
                segment: segment(1),
            }),
        ),
        (
            "wish_report",
            Message::WishReport(Box::new(WishReport {
                volume: VOLUME,
                volume_epoch: VOLUME_EPOCH,
                writer: WRITER,
                id: [1; 16],
                state: WishState::Working,
                done: 3,
                of: 12,
                text: "segment 3 of 12 moves".into(),
            })),
        ),
        (
            "ask_wish",
            Message::AskWish(AskWish {
                volume: VOLUME,
                id: [1; 16],
            }),
        ),
        (
            "leave_hint",
            Message::LeaveHint(Box::new(LeaveHint {
                volume: VOLUME,
                hint: hint.clone(),
            })),
        ),
        ("ask_hints", Message::AskHints(AskHints { volume: VOLUME })),
        ("hints", Message::Hints(Hints { hints: vec![hint] })),
        (
            "retire_volume",
            Message::RetireVolume(RetireVolume { volume: VOLUME }),
        ),
    ]
}

fn opening_messages() -> Vec<(&'static str, Message)> {
    vec![
        (
            "hello",
            Message::Hello(Hello {
                wire_min: 1,
                wire_max: 1,
                role: Role::Writer,
                node: NODE,
                volume: Some(VOLUME),
                token: b"token".to_vec(),
            }),
        ),
        (
            "welcome",
            Message::Welcome(Welcome {
                wire: 1,
                node: NODE,
                incarnation: 99,
            }),
        ),
        (
            "refused",
            Message::Refused(Refusal::StaleEpoch {
                volume_epoch: VOLUME_EPOCH,
            }),
        ),
        ("done", Message::Done),
        ("echo", Message::Echo(Bytes::from_static(b"there and back"))),
        (
            "attach",
            Message::Attach(Box::new(Attach {
                segment: segment(1),
                volume_epoch: VOLUME_EPOCH,
                writer: WRITER,
                history: history(),
                manifest: manifest(),
            })),
        ),
        (
            "attached",
            Message::Attached(Attached {
                scl: Lsn::new(99),
                history_epoch: VOLUME_EPOCH,
                vdl_seen: Lsn::new(99),
            }),
        ),
        (
            "append",
            Message::Append(Append {
                sequence: 5,
                membership_epoch: MembershipEpoch::new(3),
                pgmrpl: Lsn::new(70),
                pgmrpl_lease_ms: 1_000,
                batch: small_batch(101),
            }),
        ),
        (
            "heartbeat",
            Message::Heartbeat(Heartbeat {
                sequence: 6,
                membership_epoch: MembershipEpoch::new(3),
                pg_last: Lsn::new(101),
                vdl: Lsn::new(100),
                pgmrpl: Lsn::new(70),
                pgmrpl_lease_ms: 1_000,
            }),
        ),
        (
            "ack",
            Message::Ack(Ack {
                echo: 6,
                scl: Lsn::new(101),
                history_epoch: VOLUME_EPOCH,
                slow: true,
                full: false,
                wishes: vec![wish()],
            }),
        ),
    ]
}

fn fence_messages() -> Vec<(&'static str, Message)> {
    let run = CensusRun {
        first: Lsn::new(100),
        last: Lsn::new(110),
        volume_epoch: VOLUME_EPOCH,
        cpls: vec![Lsn::new(104), Lsn::new(110)],
    };
    let probed = SegmentProbe {
        segment: segment(1),
        pg: PgId::ROOT,
        claim: VOLUME_EPOCH,
        history_epoch: VOLUME_EPOCH,
        scl: Lsn::new(101),
        vdl_seen: Lsn::new(100),
        writer_heard_ms_ago: Some(20),
    };
    vec![
        ("probe", Message::Probe(Probe { volume: VOLUME })),
        (
            "probe_answer",
            Message::ProbeAnswer(ProbeAnswer {
                manifest: Some(Box::new(manifest())),
                segments: vec![probed],
            }),
        ),
        (
            "claim",
            Message::Claim(Claim {
                segment: segment(1),
                volume_epoch: VOLUME_EPOCH,
                writer: WRITER,
            }),
        ),
        (
            "census",
            Message::Census(Box::new(Census {
                segment: segment(1),
                volume_epoch: VOLUME_EPOCH,
                history: history(),
                manifest: manifest(),
                scl: Lsn::new(110),
                vdl_seen: Lsn::new(99),
                last_valid: Lsn::new(80),
                lease_left_ms: 17,
                runs: vec![run],
                more: true,
            })),
        ),
        (
            "install",
            Message::Install(Box::new(Install {
                segment: segment(1),
                volume_epoch: VOLUME_EPOCH,
                writer: WRITER,
                history: history(),
                manifest: manifest(),
            })),
        ),
        (
            "installed",
            Message::Installed(Installed {
                segment: segment(1),
                scl: Lsn::new(99),
                history_epoch: VOLUME_EPOCH,
            }),
        ),
        (
            "refill",
            Message::Refill(Refill {
                segment: segment(1),
                volume_epoch: VOLUME_EPOCH,
                writer: WRITER,
                batches: vec![small_batch(101), small_batch(102)],
            }),
        ),
    ]
}

fn node_messages() -> Vec<(&'static str, Message)> {
    let status = SegmentStatus {
        segment: segment(1),
        volume: VOLUME,
        pg: PgId::ROOT,
        claim: VOLUME_EPOCH,
        history_epoch: VOLUME_EPOCH,
        scl: Lsn::new(101),
        highest: Lsn::new(105),
        vdl_seen: Lsn::new(100),
        unfolded_bytes: 4_000,
        damaged: false,
        folded_through: Lsn::new(90),
        horizon: Lsn::new(80),
        log_start: Lsn::new(70),
        layer_count: 7,
        run_count: 3,
        layer_bytes: 5_000,
    };
    let request = PageRequest {
        page: PageId::new(9),
        lsn: Lsn::new(100),
        pg_last: Lsn::new(101),
    };
    vec![
        (
            "read_pages",
            Message::ReadPages(ReadPages {
                segment: segment(1),
                history_epoch: VOLUME_EPOCH,
                pages: vec![request],
            }),
        ),
        (
            "pages",
            Message::Pages(Pages {
                pages: vec![
                    PageAnswer::Page(leaf().encode().into()),
                    PageAnswer::Refused(Refusal::Behind { scl: Lsn::new(12) }),
                    PageAnswer::Page(Page::new(PageId::new(10), PAGE_BYTES).encode().into()),
                ],
            }),
        ),
        (
            "gossip",
            Message::Gossip(Gossip {
                segment: segment(1),
                from: segment(2),
                history_epoch: VOLUME_EPOCH,
                manifest_version: manifest().version,
                scl: Lsn::new(101),
                vdl_seen: Lsn::new(100),
            }),
        ),
        (
            "gossip_answer",
            Message::GossipAnswer(Box::new(GossipAnswer {
                segment: segment(1),
                history_epoch: VOLUME_EPOCH,
                scl: Lsn::new(101),
                vdl_seen: Lsn::new(100),
                asker_scl_max: Lsn::new(99),
                newer: Some((history(), manifest())),
            })),
        ),
        (
            "read_log",
            Message::ReadLog(ReadLog {
                segment: segment(1),
                history_epoch: VOLUME_EPOCH,
                after: Lsn::new(99),
                through: Lsn::new(120),
                bytes_max: 1 << 20,
            }),
        ),
        (
            "log_piece",
            Message::LogPiece(LogPiece {
                batches: vec![small_batch(101), small_batch(102)],
                more: true,
            }),
        ),
        (
            "read_layer",
            Message::ReadLayer(ReadLayer {
                segment: segment(1),
                layer: 4,
                offset: 1 << 20,
                bytes_max: 1 << 16,
            }),
        ),
        (
            "layer_piece",
            Message::LayerPiece(LayerPiece {
                layer_bytes: 1 << 30,
                bytes: Bytes::from_static(b"a part of a layer"),
            }),
        ),
        (
            "create_segment",
            Message::CreateSegment(Box::new(CreateSegment {
                segment: segment(1),
                pg: PgId::ROOT,
                manifest: manifest(),
            })),
        ),
        ("ask_status", Message::AskStatus),
        (
            "node_status",
            Message::NodeStatus(NodeStatus {
                node: NODE,
                az: "az1".into(),
                hot_log_bytes: 1 << 20,
                group_writes: 3,
                redo_bytes: 4,
                refused: 5,
                gossip_batches: 6,
                upkeep: Box::new(NodeUpkeep {
                    freezes: 7,
                    merges: 8,
                    files_freed: 9,
                    scrub_bytes: 10,
                    scrub_rounds: 11,
                    damage_found: 12,
                    damage_healed: 13,
                    full: false,
                    pressed: true,
                    memory: NodeMemory {
                        limit_bytes: 1 << 30,
                        index_bytes: 1,
                        redo_bytes: 2,
                        queued_bytes: 3,
                        page_bytes: 4,
                        block_bytes: 5,
                        layer_index_bytes: 6,
                        work_bytes: 7,
                    },
                }),
                segments: vec![status],
            }),
        ),
        (
            "drop_segment",
            Message::DropSegment(DropSegment {
                segment: segment(1),
                volume: VOLUME,
            }),
        ),
        ("wish", Message::Wish(wish())),
    ]
}
