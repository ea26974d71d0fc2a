//! What a writer says to the node that is measured, and what it reads.

use std::collections::VecDeque;

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use sixfold_log_format::wire::{
    Append, Attach, CreateSegment, Message, PageAnswer, PageRequest, Probe, ReadPages,
};
use sixfold_log_format::{
    AnnulledRange, BatchBuilder, History, Lsn, Manifest, ManifestVersion, Member, MemberKind,
    MembershipEpoch, NodeId, Op, PageId, PageKind, PgEntry, PgId, QuorumModel, Record, SegmentId,
    SegmentSet, VolumeEpoch, VolumeId, VolumeParameters, WriterId,
};
use sixfold_storage_node_core::StreamKey;

use super::shell::{LocalNode, NODE};

const LAL: u64 = 1_000_000;
const VOLUME: VolumeId = VolumeId::from_bytes([9; 16]);
const SEGMENT: SegmentId = SegmentId::from_bytes([2; 16]);
const WRITER: WriterId = WriterId::from_bytes([3; 16]);
const VOLUME_EPOCH: VolumeEpoch = VolumeEpoch::new(2);
/// Bytes of a large record.
const LARGE_BYTES: usize = 8_000;
/// Bytes that a record of a chain writes.
const CHAIN_BYTES: usize = 48;
/// Bytes that a record of a mixed load writes: a small row and its key.
const ROW_BYTES: usize = 120;
/// Room that group, entry and batch take around the records, bytes.
const FRAME_BYTES: usize = 1_024;

fn manifest(volume_epoch: VolumeEpoch) -> Manifest {
    let member = |number: u8| Member {
        segment: if number == 1 {
            SEGMENT
        } else {
            SegmentId::from_bytes([100 + number; 16])
        },
        node: if number == 1 {
            NODE
        } else {
            NodeId::from_bytes([number; 16])
        },
        kind: MemberKind::Full,
        joining: false,
    };
    Manifest {
        version: ManifestVersion {
            volume_epoch,
            membership_epoch: MembershipEpoch::new(1),
        },
        volume: VOLUME,
        parameters: VolumeParameters {
            page_bytes: 8192,
            lal: LAL,
            pages_per_pg: 1 << 30,
            retention_ms: 0,
            retention_bytes: 0,
            token: None,
        },
        pgs: vec![PgEntry {
            pg: PgId::ROOT,
            sets: vec![SegmentSet {
                model: QuorumModel::FourOfSix,
                members: (1..=6).map(member).collect(),
            }],
            removed: Vec::new(),
        }],
        hints: Vec::new(),
    }
}

/// A log stream of the writer's.
async fn attach(node: &mut LocalNode) -> Result<StreamKey> {
    let attach = Attach {
        segment: SEGMENT,
        volume_epoch: VOLUME_EPOCH,
        writer: WRITER,
        history: History {
            volume_epoch: VOLUME_EPOCH,
            floor: Lsn::NONE,
            ranges: vec![AnnulledRange {
                after: Lsn::NONE,
                through: Lsn::new(LAL),
                volume_epoch: VOLUME_EPOCH,
            }],
        },
        manifest: manifest(VOLUME_EPOCH),
    };
    let stream = node.open_stream();
    node.tell(stream, Message::Attach(Box::new(attach)))?;
    let answer = node.answer(stream).await?;
    ensure!(matches!(answer, Message::Attached(_)), "{answer:?}");
    Ok(stream)
}

/// Numbers that look random and are the same in every run.
pub(super) struct Drawn(pub(super) u64);

impl Drawn {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// A writer's position in the log.
pub(super) struct Load {
    stream: StreamKey,
    sequence: u64,
    last: Lsn,
    next_page: u64,
    /// What a page's records were so far, for chains: the last LSN of each page from 1 on.
    chain: Vec<Lsn>,
}

impl Load {
    /// Creates the segment and attaches to it.
    pub(super) async fn create(node: &mut LocalNode) -> Result<Load> {
        let create = CreateSegment {
            segment: SEGMENT,
            pg: PgId::ROOT,
            manifest: manifest(VolumeEpoch::CREATION),
        };
        let answer = node.call(Message::CreateSegment(Box::new(create))).await?;
        ensure!(answer == Message::Done, "{answer:?}");
        let stream = attach(node).await?;
        Ok(Load {
            stream,
            sequence: 0,
            last: Lsn::NONE,
            next_page: 1 << 20,
            chain: Vec::new(),
        })
    }

    fn builder(&self) -> BatchBuilder {
        BatchBuilder::new(VOLUME, PgId::ROOT, VOLUME_EPOCH, self.last)
    }

    fn next_lsn(&self) -> Lsn {
        self.last.max(Lsn::new(LAL)).next()
    }

    fn push(&mut self, builder: &mut BatchBuilder, page: PageId, prev: Lsn, op: Op<'_>) -> Lsn {
        let lsn = self.next_lsn();
        let record = Record {
            lsn,
            page,
            page_prev: prev,
            cpl: lsn,
            user_visible: false,
            op,
        };
        assert!(builder.push(&record), "batches stay below their limit");
        self.last = lsn;
        lsn
    }

    /// Everything before it is durable at a quorum: that is what a writer under load says of the last batch but a few.
    fn seal(&self, builder: &mut BatchBuilder, before: Lsn) -> Bytes {
        let vdl = before.max(Lsn::new(LAL));
        builder.seal(vdl, 1_700_000_000_000).bytes().clone()
    }

    fn format(&mut self, builder: &mut BatchBuilder, page: PageId) -> Lsn {
        let init = Op::Init {
            kind: PageKind::Overflow,
            level: 0,
        };
        self.push(builder, page, Lsn::NONE, init)
    }

    /// About `bytes` of redo in batches that make groups of `group_bytes`, new pages all of them.
    pub(super) fn large_batches(&mut self, bytes: u64, group_bytes: usize) -> Vec<Bytes> {
        let pages = ((group_bytes - FRAME_BYTES) / (LARGE_BYTES + 16)).max(1);
        let mut batches = Vec::new();
        let mut left = bytes;
        while left > 0 {
            let (mut builder, before) = (self.builder(), self.last);
            for _ in 0..pages {
                let page = PageId::new(self.next_page);
                self.next_page += 1;
                let prev = self.format(&mut builder, page);
                let fill = self.next_page.to_le_bytes()[0];
                let write = Op::WriteBytes {
                    offset: 0,
                    bytes: vec![fill; LARGE_BYTES].into(),
                };
                self.push(&mut builder, page, prev, write);
            }
            let batch = self.seal(&mut builder, before);
            left = left.saturating_sub(batch.len() as u64);
            batches.push(batch);
        }
        batches
    }

    /// Batches of one small record.
    pub(super) fn lone_batches(&mut self, count: usize) -> Vec<Bytes> {
        let mut batches = Vec::new();
        for _ in 0..count {
            let (mut builder, before) = (self.builder(), self.last);
            let page = PageId::new(self.next_page);
            self.next_page += 1;
            self.format(&mut builder, page);
            batches.push(self.seal(&mut builder, before));
        }
        batches
    }

    /// `records` records for each of `pages` pages, in rounds over all pages, so that a chain lies all over the log. Each item is some
    /// batches.
    pub(super) fn chains(&mut self, pages: u64, records: u64) -> Vec<Vec<Bytes>> {
        let mut rounds = Vec::new();
        let count = usize::try_from(pages).expect("pages of a benchmark");
        self.chain = vec![Lsn::NONE; count];
        for round in 0..records {
            let mut batches = Vec::new();
            let (mut builder, mut before) = (self.builder(), self.last);
            for index in 0..count {
                let page = PageId::new(index as u64 + 1);
                let prev = self.chain[index];
                self.chain[index] = if prev.is_none() {
                    self.format(&mut builder, page)
                } else {
                    let offset =
                        u16::try_from(round * CHAIN_BYTES as u64 % 8_000).expect("below 8,000");
                    let write = Op::WriteBytes {
                        offset,
                        bytes: vec![round.to_le_bytes()[0]; CHAIN_BYTES].into(),
                    };
                    self.push(&mut builder, page, prev, write)
                };
                if builder.len_bytes() > (60 << 10) {
                    batches.push(self.seal(&mut builder, before));
                    (builder, before) = (self.builder(), self.last);
                }
            }
            if !builder.is_empty() {
                batches.push(self.seal(&mut builder, before));
            }
            rounds.push(batches);
        }
        rounds
    }

    /// A batch of `records` small records on pages that `drawn` picks, of `pages` that are written again and again.
    pub(super) fn rows(&mut self, records: usize, pages: usize, drawn: &mut Drawn) -> Bytes {
        let (mut builder, before) = (self.builder(), self.last);
        let pages = pages.max(1);
        if self.chain.len() < pages {
            self.chain.resize(pages, Lsn::NONE);
        }
        for _ in 0..records.max(1) {
            let number = drawn.next();
            let index = usize::try_from(number % pages as u64).expect("below the pages");
            let page = PageId::new(index as u64 + 1);
            let prev = self.chain[index];
            self.chain[index] = if prev.is_none() {
                self.format(&mut builder, page)
            } else {
                let offset = u16::try_from((number >> 32) % 8_000).expect("below 8,000");
                let write = Op::WriteBytes {
                    offset,
                    bytes: vec![number.to_le_bytes()[7]; ROW_BYTES].into(),
                };
                self.push(&mut builder, page, prev, write)
            };
        }
        self.seal(&mut builder, before)
    }

    /// The message that appends a batch, and the LSN whose ack ends it.
    pub(super) fn append_message(&mut self, batch: Bytes) -> (Message, Lsn) {
        let last = Lsn::new(u64::from_le_bytes(
            *batch[40..].first_chunk().expect("a batch has a header"),
        ));
        self.sequence += 1;
        let append = Append {
            sequence: self.sequence,
            membership_epoch: MembershipEpoch::new(1),
            pgmrpl: Lsn::NONE,
            pgmrpl_lease_ms: 0,
            batch,
        };
        (Message::Append(append), last)
    }

    /// The stream that batches are appended on.
    pub(super) fn stream(&self) -> StreamKey {
        self.stream
    }

    /// Attaches anew, to a node that was started again.
    pub(super) async fn attach_again(&mut self, node: &mut LocalNode) -> Result<()> {
        self.stream = attach(node).await?;
        self.sequence = 0;
        Ok(())
    }

    /// Appends batches, at most `in_flight` under way, and waits for the ack of the last.
    pub(super) async fn append(
        &mut self,
        node: &mut LocalNode,
        batches: Vec<Bytes>,
        in_flight: usize,
    ) -> Result<()> {
        let mut waiting: VecDeque<Lsn> = VecDeque::new();
        for batch in batches {
            let (message, last) = self.append_message(batch);
            node.tell(self.stream, message)?;
            waiting.push_back(last);
            while waiting.len() >= in_flight {
                self.ack(node, &mut waiting).await?;
            }
        }
        while !waiting.is_empty() {
            self.ack(node, &mut waiting).await?;
        }
        Ok(())
    }

    async fn ack(&self, node: &mut LocalNode, waiting: &mut VecDeque<Lsn>) -> Result<()> {
        match node.answer(self.stream).await? {
            Message::Ack(ack) => {
                while waiting.front().is_some_and(|last| *last <= ack.scl) {
                    waiting.pop_front();
                }
                Ok(())
            }
            other => bail!("{other:?}"),
        }
    }

    /// Whether the node has everything up to the last record.
    pub(super) async fn is_all_there(&self, node: &mut LocalNode) -> Result<bool> {
        match node.call(Message::Probe(Probe { volume: VOLUME })).await? {
            Message::ProbeAnswer(answer) => Ok(answer.segments[0].scl == self.last),
            other => bail!("{other:?}"),
        }
    }
}

/// Reads pages at random.
pub(super) struct Reader {
    last: Lsn,
    page_count: u64,
    drawn: Drawn,
}

impl Reader {
    pub(super) fn new(load: &Load, page_count: u64) -> Reader {
        Reader {
            last: load.last,
            page_count,
            drawn: Drawn(7),
        }
    }

    /// A number that looks random.
    pub(super) fn draw(&mut self) -> u64 {
        self.drawn.next()
    }

    /// Asks for a page as of when the reader was made.
    pub(super) fn request(&mut self) -> Message {
        let page = PageId::new(self.draw() % self.page_count + 1);
        Message::ReadPages(ReadPages {
            segment: SEGMENT,
            history_epoch: VOLUME_EPOCH,
            pages: vec![PageRequest {
                page,
                lsn: self.last,
                pg_last: self.last,
            }],
        })
    }

    /// Reads one page as of then.
    pub(super) async fn read(&mut self, node: &mut LocalNode) -> Result<()> {
        let request = self.request();
        is_page(&node.call(request).await?)
    }
}

/// Whether an answer is a page.
pub(super) fn is_page(answer: &Message) -> Result<()> {
    match answer {
        Message::Pages(pages) => match &pages.pages[..] {
            [PageAnswer::Page(_)] => Ok(()),
            other => bail!("{other:?}"),
        },
        other => bail!("{other:?}"),
    }
}
