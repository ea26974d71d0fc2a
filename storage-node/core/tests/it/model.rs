//! Random lives of one segment against a naive twin: which records are valid, how far the chain goes, what a page holds.

use proptest::prelude::*;
use sixfold_log_format::wire::{Message, Role};
use sixfold_log_format::{Batch, History, Lsn};
use sixfold_storage_node_core::{Event, StreamKey};

use crate::shell::{Shell, found};
use crate::writer::{Writer, create, lsn};

const PAGES: [u64; 4] = [2, 3, 4, 5];

/// The highest LSN of a batch that `history` leaves.
fn last_valid(batch: &Batch, history: &History) -> Option<Lsn> {
    let lsns = batch.records().map(|placed| placed.record.lsn);
    lsns.filter(|lsn| !history.annuls(*lsn)).max()
}

/// Follows back-links from nothing, the slow way.
fn naive_scl(held: &[Batch], history: &History) -> Lsn {
    let mut tip = Lsn::NONE;
    loop {
        let next = held
            .iter()
            .filter(|batch| batch.header().prev == tip)
            .filter_map(|batch| last_valid(batch, history))
            .find(|last| *last > tip);
        match next {
            Some(last) => tip = last,
            None => return tip,
        }
    }
}

struct Life {
    shell: Shell,
    writer: Writer,
    stream: StreamKey,
    /// Every batch of every writer, and those that the segment must hold.
    minted: Vec<Batch>,
    held: Vec<Batch>,
}

impl Life {
    fn new(resident_bytes: usize) -> Life {
        let mut found = found(0);
        found.bounds.resident_redo_bytes_max = resident_bytes;
        found.bounds.page_cache_bytes_max = 4 << 10;
        let mut shell = Shell::with(found);
        create(&mut shell, 0);
        let writer = Writer::first();
        let stream = writer.attach(&mut shell, 0);
        Life {
            shell,
            writer,
            stream,
            minted: Vec::new(),
            held: Vec::new(),
        }
    }

    fn hold(&mut self, batch: &Batch) {
        let annulled = last_valid(batch, &self.writer.history).is_none();
        if !annulled && !self.held.contains(batch) {
            self.held.push(batch.clone());
        }
    }

    fn mint(&mut self, shape: usize) {
        let pages: Vec<u64> = (0..shape % 5 + 1)
            .map(|at| PAGES[(shape + at) % PAGES.len()])
            .collect();
        let (one, other) = pages.split_at(pages.len() / 2);
        let batch = if one.is_empty() {
            self.writer.batch(other)
        } else {
            self.writer.mtrs(&[one, other])
        };
        self.minted.push(batch);
    }

    fn ship(&mut self, pick: usize) {
        let own: Vec<Batch> = self.writer.batches.clone();
        if own.is_empty() {
            return;
        }
        let batch = own[pick % own.len()].clone();
        let ack = self.writer.ship(&mut self.shell, self.stream, &batch);
        self.hold(&batch);
        assert_eq!(ack.scl, naive_scl(&self.held, &self.writer.history));
    }

    fn refill(&mut self, pick: usize) {
        if self.minted.is_empty() {
            return;
        }
        let batch = self.minted[pick % self.minted.len()].clone();
        let answer = self
            .shell
            .ask(self.writer.refill(0, std::slice::from_ref(&batch)));
        assert!(matches!(answer, Message::Installed(_)), "{answer:?}");
        self.hold(&batch);
    }

    /// The next writer cuts somewhere above the VDL; whether this segment holds the records does not matter.
    fn reopen(&mut self, pick: usize) {
        let base = self.writer.history.highest_end();
        let lsns = self
            .writer
            .batches
            .iter()
            .flat_map(|batch| batch.records().map(|placed| placed.record.lsn));
        let cuts: Vec<Lsn> = std::iter::once(base).chain(lsns).collect();
        let cut = cuts[pick % cuts.len()];
        self.writer = self.writer.reopen(cut, self.writer.epoch.get() + 1);
        if pick.is_multiple_of(3) {
            self.shell.ask(self.writer.claim(0));
        }
        self.stream = self.writer.attach(&mut self.shell, 0);
    }

    /// Batches that are on their way when the node dies are gone.
    fn crash(mut self, pick: usize) -> Life {
        for batch in self.writer.batches.clone().into_iter().take(pick % 3) {
            if !self.held.contains(&batch) {
                let append = self.writer.append(&batch);
                self.shell.say(self.stream, append);
            }
        }
        self.shell = self.shell.crash(&|_| false);
        self.shell.settle();
        self.stream = self.writer.attach(&mut self.shell, 0);
        self
    }

    fn check(&mut self, pick: usize) {
        let scl = naive_scl(&self.held, &self.writer.history);
        assert_eq!(self.shell.status().segments[0].scl, scl);
        let at = lsn(pick as u64 * 7_919 % (scl.get() + 1));
        let answer = self.shell.ask(self.writer.read(0, &PAGES, at, scl));
        let Message::Pages(pages) = answer else {
            panic!("{answer:?}")
        };
        assert_eq!(pages.pages.len(), PAGES.len());
        let behind = self.writer.prev > scl;
        if !behind {
            self.writer.check_pages(&mut self.shell, 0, &PAGES, at);
        }
        self.shell.event(Event::Timeout);
        assert!(self.shell.errors().is_empty(), "{:?}", self.shell.errors());
        let held = self.shell.request_as(Role::Operator, Message::AskStatus);
        assert_eq!(held.len(), 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_segments_scl_and_pages_are_those_of_a_naive_twin(
        steps in prop::collection::vec((0_usize..16, 0_usize..1_000), 1..60),
        resident_bytes in prop_oneof![Just(300_usize), Just(1 << 20)],
    ) {
        let mut life = Life::new(resident_bytes);
        for (step, pick) in steps {
            match step {
                0..=4 => life.mint(pick),
                5..=9 => life.ship(pick),
                10 | 11 => life.refill(pick),
                12 => life.reopen(pick),
                13 => life = life.crash(pick),
                _ => life.check(pick),
            }
        }
        life.check(3);
    }
}
