//! A writer in memory: it mints records, keeps every version of every page, and can be reopened.

use std::collections::BTreeMap;

use sixfold_log_format::manifest::NodeHint;
use sixfold_log_format::wire::{
    Ack, Append, Attach, Attached, Census, Claim, CreateSegment, Heartbeat, Install, Message,
    PageAnswer, PageRequest, ReadPages, Refill, Refusal,
};
use sixfold_log_format::{
    Batch, BatchBuilder, History, Lsn, Manifest, ManifestVersion, Member, MemberKind,
    MembershipEpoch, Op, Page, PageId, PageKind, PgEntry, PgId, QuorumModel, Record, SegmentId,
    SegmentSet, VolumeEpoch, VolumeId, VolumeParameters, WriterId, apply,
};
use sixfold_recovery::truncate::extend;
use sixfold_storage_node_core::StreamKey;

use crate::shell::{Shell, node_id};

pub const LAL: u64 = 1_000;
pub const PAGE_BYTES: usize = 512;

pub fn volume() -> VolumeId {
    VolumeId::from_bytes([7; 16])
}

pub fn segment_id(number: u8) -> SegmentId {
    SegmentId::from_bytes([100 + number; 16])
}

pub fn lsn(number: u64) -> Lsn {
    Lsn::new(number)
}

pub fn manifest(volume_epoch: u64) -> Manifest {
    let members = (0..6)
        .map(|number| Member {
            segment: segment_id(number),
            node: node_id(number),
            kind: MemberKind::Full,
            joining: false,
        })
        .collect();
    let hints = (0..6)
        .map(|number| NodeHint {
            node: node_id(number),
            az: format!("az{}", number / 2 + 1),
            address: format!("127.0.0.1:{}", 9000 + u16::from(number)),
        })
        .collect();
    Manifest {
        version: ManifestVersion {
            volume_epoch: VolumeEpoch::new(volume_epoch),
            membership_epoch: MembershipEpoch::new(1),
        },
        volume: volume(),
        parameters: VolumeParameters {
            page_bytes: PAGE_BYTES as u32,
            lal: LAL,
            pages_per_pg: 1 << 20,
            retention_ms: 0,
            retention_bytes: 0,
            token: None,
        },
        pgs: vec![PgEntry {
            pg: PgId::ROOT,
            sets: vec![SegmentSet {
                model: QuorumModel::FourOfSix,
                members,
            }],
            removed: Vec::new(),
        }],
        hints,
    }
}

/// A node with its segment created.
pub fn node(number: u8) -> Shell {
    let mut shell = Shell::new(number);
    create(&mut shell, number);
    shell
}

pub fn create(shell: &mut Shell, number: u8) {
    let create = CreateSegment {
        segment: segment_id(number),
        pg: PgId::ROOT,
        manifest: manifest(1),
    };
    assert_eq!(
        shell.ask(Message::CreateSegment(Box::new(create))),
        Message::Done
    );
}

#[derive(Debug, Clone)]
pub struct Writer {
    pub epoch: VolumeEpoch,
    pub id: WriterId,
    /// The group that it writes to.
    pub pg: PgId,
    pub history: History,
    pub manifest: Manifest,
    pub next: Lsn,
    pub prev: Lsn,
    pub vdl: Lsn,
    pub batches: Vec<Batch>,
    /// Every version of every page, oldest first.
    pub pages: BTreeMap<PageId, Vec<Page>>,
    pub sequence: u64,
    /// What it says is the lowest read point in use.
    pub pgmrpl: Lsn,
    /// Stamp of its batches.
    pub unix_ms: u64,
}

impl Writer {
    /// The first writer of a fresh volume: epoch 2.
    pub fn first() -> Writer {
        Writer::over(&History::creation(), Lsn::NONE, Lsn::NONE, 2)
    }

    fn over(found: &History, vdl: Lsn, prev: Lsn, epoch: u64) -> Writer {
        let epoch = VolumeEpoch::new(epoch);
        let history = extend(found, vdl, LAL, epoch);
        let end = history.highest_end();
        let mut id = [0; 16];
        id[..8].copy_from_slice(&epoch.get().to_le_bytes());
        Writer {
            epoch,
            id: WriterId::from_bytes(id),
            pg: PgId::ROOT,
            history,
            manifest: manifest(epoch.get()),
            next: end.next(),
            prev,
            vdl: end,
            batches: Vec::new(),
            pages: BTreeMap::new(),
            sequence: 0,
            pgmrpl: Lsn::NONE,
            unix_ms: 1_000,
        }
    }

    /// The writer after this one, which found `vdl` and claims `epoch`.
    pub fn reopen(&self, vdl: Lsn, epoch: u64) -> Writer {
        let mut pages = self.pages.clone();
        for versions in pages.values_mut() {
            versions.retain(|page| page.lsn() <= vdl);
        }
        pages.retain(|_, versions| !versions.is_empty());
        let newest = pages
            .values()
            .filter_map(|versions| versions.last())
            .map(Page::lsn);
        let prev = newest.max().unwrap_or(Lsn::NONE);
        let mut writer = Writer::over(&self.history, vdl, prev, epoch);
        writer.pages = pages;
        writer
    }

    /// Seals a batch of one MTR that changes these pages in turn.
    pub fn batch(&mut self, pages: &[u64]) -> Batch {
        self.mtrs(&[pages])
    }

    /// Seals a batch of several MTRs.
    pub fn mtrs(&mut self, mtrs: &[&[u64]]) -> Batch {
        let mut builder = BatchBuilder::new(volume(), self.pg, self.epoch, self.prev);
        for mtr in mtrs {
            let cpl = self.next.plus(mtr.len() as u64 - 1);
            for page in *mtr {
                self.push(&mut builder, PageId::new(*page), cpl);
            }
        }
        let batch = builder.seal(self.vdl, self.unix_ms);
        self.prev = batch.header().last;
        self.batches.push(batch.clone());
        batch
    }

    fn push(&mut self, builder: &mut BatchBuilder, id: PageId, cpl: Lsn) {
        let versions = self.pages.entry(id).or_default();
        let mut page = versions
            .last()
            .cloned()
            .unwrap_or_else(|| Page::new(id, PAGE_BYTES));
        let body = self.next.get().to_le_bytes();
        let op = if versions.is_empty() {
            Op::Init {
                kind: PageKind::Overflow,
                level: 0,
            }
        } else {
            Op::WriteBytes {
                offset: (self.next.get() % 50) as u16 * 8,
                bytes: body[..].into(),
            }
        };
        let page_prev = if op.starts_chain() {
            Lsn::NONE
        } else {
            page.lsn()
        };
        let record = Record {
            lsn: self.next,
            page: id,
            page_prev,
            cpl,
            user_visible: false,
            op,
        };
        apply(&mut page, &record).unwrap();
        assert!(builder.push(&record));
        versions.push(page);
        self.next = self.next.next();
    }

    /// The page that must be served at `at`.
    pub fn page_at(&self, page: u64, at: Lsn) -> Page {
        let id = PageId::new(page);
        let versions = self.pages.get(&id).map(Vec::as_slice).unwrap_or_default();
        let found = versions.iter().rev().find(|page| page.lsn() <= at);
        found.cloned().unwrap_or_else(|| Page::new(id, PAGE_BYTES))
    }

    pub fn claim(&self, number: u8) -> Message {
        Message::Claim(Claim {
            segment: segment_id(number),
            volume_epoch: self.epoch,
            writer: self.id,
        })
    }

    pub fn install(&self, number: u8) -> Message {
        Message::Install(Box::new(Install {
            segment: segment_id(number),
            volume_epoch: self.epoch,
            writer: self.id,
            history: self.history.clone(),
            manifest: self.manifest.clone(),
        }))
    }

    pub fn attach_message(&self, number: u8) -> Message {
        Message::Attach(Box::new(Attach {
            segment: segment_id(number),
            volume_epoch: self.epoch,
            writer: self.id,
            history: self.history.clone(),
            manifest: self.manifest.clone(),
        }))
    }

    pub fn append(&mut self, batch: &Batch) -> Message {
        self.sequence += 1;
        Message::Append(Append {
            sequence: self.sequence,
            membership_epoch: self.manifest.version.membership_epoch,
            pgmrpl: self.pgmrpl,
            pgmrpl_lease_ms: 1_000,
            batch: batch.bytes().clone(),
        })
    }

    pub fn heartbeat(&mut self) -> Message {
        self.sequence += 1;
        Message::Heartbeat(Heartbeat {
            sequence: self.sequence,
            membership_epoch: self.manifest.version.membership_epoch,
            pg_last: self.prev,
            vdl: self.vdl,
            pgmrpl: self.pgmrpl,
            pgmrpl_lease_ms: 1_000,
        })
    }

    pub fn refill(&self, number: u8, batches: &[Batch]) -> Message {
        Message::Refill(Refill {
            segment: segment_id(number),
            volume_epoch: self.epoch,
            writer: self.id,
            batches: batches.iter().map(|batch| batch.bytes().clone()).collect(),
        })
    }

    pub fn read(&self, number: u8, pages: &[u64], at: Lsn, pg_last: Lsn) -> Message {
        Message::ReadPages(ReadPages {
            segment: segment_id(number),
            history_epoch: self.epoch,
            pages: pages
                .iter()
                .map(|page| PageRequest {
                    page: PageId::new(*page),
                    lsn: at,
                    pg_last,
                })
                .collect(),
        })
    }

    /// Attaches and returns the open stream.
    pub fn attach(&self, shell: &mut Shell, number: u8) -> StreamKey {
        let (stream, _) = self.attached(shell, number);
        stream
    }

    pub fn attached(&self, shell: &mut Shell, number: u8) -> (StreamKey, Attached) {
        let stream = shell.open_stream();
        shell.say(stream, self.attach_message(number));
        shell.settle();
        match shell.take(stream).as_slice() {
            [Message::Attached(attached)] => (stream, *attached),
            other => panic!("{other:?}"),
        }
    }

    /// Appends a batch and makes it durable.
    pub fn ship(&mut self, shell: &mut Shell, stream: StreamKey, batch: &Batch) -> Ack {
        shell.say(stream, self.append(batch));
        shell.settle();
        last_ack(shell, stream)
    }

    /// Reads pages at `at` and compares them with the model.
    pub fn check_pages(&self, shell: &mut Shell, number: u8, pages: &[u64], at: Lsn) {
        let answer = shell.ask(self.read(number, pages, at, self.prev));
        let Message::Pages(answer) = answer else {
            panic!("{answer:?}")
        };
        for (page, answer) in pages.iter().zip(answer.pages) {
            let PageAnswer::Page(bytes) = answer else {
                panic!("{answer:?}")
            };
            let found = Page::decode(&bytes, PageId::new(*page), PAGE_BYTES).unwrap();
            assert_eq!(found, self.page_at(*page, at), "page {page} at {at}");
        }
    }
}

pub fn last_ack(shell: &mut Shell, stream: StreamKey) -> Ack {
    match shell.take(stream).pop() {
        Some(Message::Ack(ack)) => ack,
        other => panic!("{other:?}"),
    }
}

pub fn census(message: Message) -> Census {
    match message {
        Message::Census(census) => *census,
        other => panic!("{other:?}"),
    }
}

pub fn refusal(message: Message) -> Refusal {
    match message {
        Message::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    }
}
