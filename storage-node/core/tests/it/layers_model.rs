//! Random lives of one segment with layers: at every LSN between horizon and SCL a page is what the model says, whatever was
//! frozen, merged, collected, cut or annulled meanwhile.

use proptest::prelude::*;
use sixfold_log_format::Lsn;
use sixfold_storage_node_core::StreamKey;

use crate::layers::{PAGES, check_at, node_with, say_heartbeat, small};
use crate::shell::Shell;
use crate::writer::{Writer, lsn};

struct Life {
    shell: Shell,
    writer: Writer,
    stream: StreamKey,
    /// The highest lowest read point that was ever said.
    pgmrpl: Lsn,
    /// Reads were served down to here.
    horizon: Lsn,
}

impl Life {
    fn new() -> Life {
        let mut shell = node_with(small());
        let writer = Writer::first();
        let stream = writer.attach(&mut shell, 0);
        Life {
            shell,
            writer,
            stream,
            pgmrpl: Lsn::NONE,
            horizon: Lsn::NONE,
        }
    }

    fn load(&mut self, pick: u64) {
        for number in 0..pick % 30 {
            let pages: Vec<u64> = (0..1 + (pick + number) % 9)
                .map(|at| PAGES[((pick * number + at) % 8) as usize])
                .collect();
            let batch = self.writer.batch(&pages);
            let append = self.writer.append(&batch);
            self.shell.say(self.stream, append);
            self.shell.settle();
        }
        self.shell.take(self.stream);
        if self.scl() < self.writer.prev {
            // It was refused for a while: the writer comes again.
            self.shell.work();
            self.attach();
        }
    }

    fn scl(&mut self) -> Lsn {
        self.shell.status().segments[0].scl
    }

    fn attach(&mut self) {
        for _ in 0..200 {
            self.stream = self.writer.attach(&mut self.shell, 0);
            let scl = self.scl();
            self.writer.vdl = self.writer.vdl.max(scl);
            say_heartbeat(&mut self.shell, &mut self.writer, self.stream);
            let missing = self.writer.batches.clone();
            let mut missing = missing.iter().filter(|batch| batch.header().last > scl);
            let Some(batch) = missing.next() else {
                break;
            };
            let append = self.writer.append(batch);
            self.shell.say(self.stream, append);
            self.shell.pass(std::time::Duration::from_millis(3));
        }
        let status = self.shell.status();
        assert!(
            self.scl() >= self.writer.prev,
            "{status:?} {:?} {:?}",
            self.shell.logged,
            self.shell.files.keys()
        );
    }

    fn settle(&mut self, pick: u64) {
        if !self.writer.prev.is_none() {
            self.writer.vdl = self.writer.vdl.max(self.writer.prev);
        }
        if pick.is_multiple_of(3) {
            let back = lsn(self.writer.prev.get().saturating_sub(pick % 200));
            self.writer.pgmrpl = self.writer.pgmrpl.max(back);
            self.pgmrpl = self.pgmrpl.max(self.writer.pgmrpl);
        }
        let heartbeat = self.writer.heartbeat();
        self.shell.say(self.stream, heartbeat);
        self.shell.take(self.stream);
    }

    fn background(&mut self, pick: u64) {
        for _ in 0..pick % 40 {
            let _ =
                self.shell.turn() || self.shell.complete_layer_op() || self.shell.complete_write();
        }
    }

    fn reopen(&mut self, pick: u64) {
        let cuts: Vec<Lsn> = self
            .writer
            .batches
            .iter()
            .map(|batch| batch.header().last)
            .filter(|last| *last >= self.writer.vdl)
            .collect();
        let Some(cut) = cuts.get(pick as usize % cuts.len().max(1)).copied() else {
            return;
        };
        let pgmrpl = self.writer.pgmrpl;
        self.writer = self.writer.reopen(cut, self.writer.epoch.get() + 1);
        self.writer.pgmrpl = pgmrpl;
        self.shell.settle();
        self.stream = self.writer.attach(&mut self.shell, 0);
    }

    fn crash(mut self, pick: u64) -> Life {
        let scl = self.scl();
        let mut seed = pick + 1;
        self.shell = if pick.is_multiple_of(2) {
            self.shell.power_cut(&mut || {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(7);
                seed >> 62 & 1 == 0
            })
        } else {
            self.shell.crash(&|_| true)
        };
        while self.shell.complete_write() {}
        assert!(self.scl() >= scl);
        self.attach();
        self
    }

    fn check(&mut self, pick: u64) {
        let scl = self.scl();
        for step in 0..3 {
            let at = lsn((pick * 7_919 + step * 104_729) % (scl.get() + 1));
            match check_at(&mut self.shell, &self.writer, at) {
                Ok(()) => assert!(at >= self.horizon, "what was forgotten is back"),
                Err(horizon) => {
                    assert!(horizon <= self.pgmrpl, "{horizon} is above what is in use");
                    assert!(horizon >= self.horizon, "the horizon fell");
                    self.horizon = horizon;
                }
            }
        }
        check_at(&mut self.shell, &self.writer, scl).unwrap();
        let errors = self.shell.errors();
        assert!(errors.is_empty(), "{errors:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pages_are_right_at_every_lsn_whatever_happens_to_the_layers(
        steps in prop::collection::vec((0_u64..20, 0_u64..1_000), 1..80),
    ) {
        let mut life = Life::new();
        for (step, pick) in steps {
            match step {
                0..=5 => life.load(pick),
                6..=9 => life.settle(pick),
                10..=14 => life.background(pick),
                15 => life.reopen(pick),
                16 | 17 => life = life.crash(pick),
                _ => life.check(pick),
            }
        }
        life.check(3);
        life.shell.work();
        life.check(5);
    }
}
