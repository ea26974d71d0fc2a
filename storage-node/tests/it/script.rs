//! A load that is the same every time, and what each page must be at each LSN: what crash tests compare with.

use sixfold_log_format::wire::{Message, PageAnswer, PageRequest, ReadPages, Refusal};
use sixfold_log_format::{
    Batch, BatchBuilder, Lsn, Op, Page, PageId, PageKind, PgId, Record, apply,
};

use crate::client::{Client, LAL, VOLUME_EPOCH, segment, volume};

pub const PAGE_BYTES: usize = 8192;
/// Batches under way.
const WINDOW: usize = 16;

/// Batches behind an empty segment.
pub struct Script {
    pub batches: Vec<Batch>,
    pub page_count: u64,
}

/// Numbers that look random and are the same every time.
pub struct Draw(pub u64);

impl Draw {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

impl Script {
    /// `batch_count` batches of 40 records each on `page_count` pages. Each batch says that the one before is durable at a quorum.
    pub fn new(seed: u64, page_count: u64, batch_count: usize) -> Script {
        let mut draw = Draw(seed);
        let mut page_lsns = vec![Lsn::NONE; page_count as usize];
        let (mut last, mut batches) = (Lsn::NONE, Vec::new());
        for _ in 0..batch_count {
            let mut builder = BatchBuilder::new(volume(), PgId::ROOT, VOLUME_EPOCH, last);
            let vdl = last.max(Lsn::new(LAL));
            for _ in 0..40 {
                let index = draw.below(page_count);
                let page_prev = page_lsns[index as usize];
                let lsn = last.max(Lsn::new(LAL)).next();
                let fill = draw.below(256) as u8;
                let op = if page_prev.is_none() {
                    Op::Init {
                        kind: PageKind::Overflow,
                        level: 0,
                    }
                } else {
                    Op::WriteBytes {
                        offset: draw.below(7_000) as u16,
                        bytes: vec![fill; 1 + draw.below(600) as usize].into(),
                    }
                };
                let page = PageId::new(index + 1);
                assert!(builder.push(&Record {
                    lsn,
                    page,
                    page_prev,
                    cpl: lsn,
                    user_visible: false,
                    op
                }));
                page_lsns[index as usize] = lsn;
                last = lsn;
            }
            batches.push(builder.seal(vdl, 1_700_000_000_000));
        }
        Script {
            batches,
            page_count,
        }
    }

    /// The batches that a segment with this SCL lacks.
    pub fn after(&self, scl: Lsn) -> &[Batch] {
        let held = self
            .batches
            .partition_point(|batch| batch.header().last <= scl);
        &self.batches[held..]
    }

    /// Appends what is missing until `until` is acknowledged, a few batches under way all the time and some still then. What a busy node
    /// refuses is sent again. Returns the SCL acknowledged.
    pub async fn append_until(&self, client: &Client, until: Lsn) -> Lsn {
        'attach: loop {
            let mut stream = client.attach().await;
            let mut scl = stream.scl;
            let batches = self.after(scl);
            let mut sent = 0;
            while scl < until {
                let acked = batches.partition_point(|batch| batch.header().last <= scl);
                while sent < batches.len().min(acked + WINDOW) {
                    if !stream.try_append(&batches[sent]).await {
                        continue 'attach;
                    }
                    sent += 1;
                }
                match stream.receiver.recv().await.unwrap() {
                    Some(Message::Ack(ack)) => scl = scl.max(ack.scl),
                    Some(Message::Refused(Refusal::Overloaded | Refusal::DiskFull)) | None => {
                        continue 'attach;
                    }
                    other => panic!("{other:?}"),
                }
            }
            return scl;
        }
    }

    /// Appends until the node takes nothing more, because its disk is full or because what it holds cannot be folded for want of space.
    /// Returns the SCL then.
    pub async fn append_until_full(&self, client: &Client) -> Lsn {
        let (mut last, mut refused) = (Lsn::NONE, 0);
        while refused < 200 {
            let mut stream = client.attach().await;
            if stream.scl > last {
                (last, refused) = (stream.scl, 0);
            }
            let batch = self.after(last).first();
            let batch = batch.expect("a script longer than the disk");
            if !stream.try_append(batch).await {
                continue;
            }
            match stream.receiver.recv().await.unwrap() {
                Some(Message::Refused(Refusal::DiskFull | Refusal::Overloaded)) => refused += 1,
                Some(Message::Ack(_)) | None => {}
                other => panic!("{other:?}"),
            }
        }
        last
    }

    /// A page at an LSN; one that was never written is fresh.
    pub fn page(&self, id: PageId, lsn: Lsn) -> Page {
        let mut page = Page::new(id, PAGE_BYTES);
        for batch in &self.batches {
            for placed in batch.records() {
                if placed.record.page == id && placed.record.lsn <= lsn {
                    apply(&mut page, &placed.record).unwrap();
                }
            }
        }
        page
    }

    /// Reads every page at `lsn` and compares it byte for byte. Returns the refusals; a wrong byte panics.
    pub async fn check_pages(&self, client: &Client, lsn: Lsn) -> Vec<Refusal> {
        let mut refusals = Vec::new();
        let pages: Vec<PageId> = (1..=self.page_count).map(PageId::new).collect();
        for some in pages.chunks(16) {
            let request = |page: &PageId| PageRequest {
                page: *page,
                lsn,
                pg_last: lsn,
            };
            let answer = client
                .call(Message::ReadPages(ReadPages {
                    segment: segment(1),
                    history_epoch: VOLUME_EPOCH,
                    pages: some.iter().map(request).collect(),
                }))
                .await;
            let answer = match answer {
                Message::Pages(answer) => answer,
                Message::Refused(refusal) => {
                    refusals.push(refusal);
                    continue;
                }
                other => panic!("{other:?}"),
            };
            assert_eq!(answer.pages.len(), some.len());
            for (id, answer) in some.iter().zip(answer.pages) {
                match answer {
                    PageAnswer::Page(bytes) => {
                        let found = Page::decode(&bytes, *id, PAGE_BYTES).unwrap();
                        let expected = self.page(*id, lsn);
                        assert!(
                            found == expected,
                            "page {id} at {lsn}: LSN {}, expected {}",
                            found.lsn(),
                            expected.lsn()
                        );
                    }
                    PageAnswer::Refused(refusal) => refusals.push(refusal),
                }
            }
        }
        refusals
    }
}
