//! Writers that open the volume again in place (R8): what they are told, what they may do with it, and how it ends.

use sixfold_compute_core::WriterEvent;
use sixfold_log_format::wire::Message;
use sixfold_recovery::machine::{Caller, Opened, Recovery, RecoveryError};

use super::World;
use super::writer::Start;
use crate::reached::Reached;

impl World {
    /// A writer left with a bare write quorum opens the volume again, in place (R8).
    pub(super) fn refence(&mut self, writer: usize) {
        self.tell(|| format!("W{writer} opens the volume again in place"));
        let state = &self.writers[writer];
        let caller = Caller::Owner {
            volume_epoch: state.epoch,
            attempts: state.attempts.clone(),
        };
        let start = Start {
            take_over: true,
            in_use: None,
            caller,
        };
        let options = self.recovery_options(start);
        let now = self.local_now(writer);
        let state = &mut self.writers[writer];
        state.recoveries += 1;
        state.successor = None;
        state.refencing = Some(Box::new(Recovery::new(options, now)));
        self.trap_refence(writer);
    }

    /// A writer that opens again in place hears of histories.
    pub(super) fn refencing_hears(&mut self, writer: usize, message: &Message) {
        let Message::ProbeAnswer(answer) = message else {
            return;
        };
        let state = &mut self.writers[writer];
        let Some(machine) = state.refencing.as_ref().filter(|_| state.is_open()) else {
            return;
        };
        let own = |epoch| state.attempts.contains(&epoch) || machine.attempts().contains(&epoch);
        let histories = answer.segments.iter().map(|probe| probe.history_epoch);
        let above = histories.filter(|epoch| *epoch > state.epoch && !own(*epoch));
        state.successor = above.max().max(state.successor);
    }

    /// It does not end a successor that it has heard of (R8).
    pub(super) fn check_successor(&mut self, writer: usize, message: &Message) {
        let state = &self.writers[writer];
        if let (Message::Claim(claim), Some(successor)) = (message, state.successor)
            && state.is_open()
        {
            self.fail(format!(
                "W{writer} opens again in place and claims epoch {}, although it has heard of a history of epoch {successor} (R8)",
                claim.volume_epoch
            ));
        }
    }

    pub(super) fn refenced(&mut self, writer: usize, result: Result<Opened, RecoveryError>) {
        let state = &mut self.writers[writer];
        if let Some(machine) = state.refencing.take() {
            state.attempts.extend(machine.attempts());
        }
        match &result {
            Ok(opened) => {
                self.tell(|| {
                    format!(
                        "W{writer} OPENS IN PLACE at epoch {}, cut {}",
                        opened.volume_epoch, opened.cut
                    )
                });
                self.note(24, opened.cut.get());
                self.oracle.reached.hit(Reached::RefencedInPlace);
                let verdict = self.oracle.opened(opened);
                self.check(verdict);
                self.know_places(&opened.manifest);
            }
            Err(error) => {
                if let (RecoveryError::Fenced { .. }, Some(_)) =
                    (error, self.writers[writer].successor)
                {
                    self.oracle.reached.hit(Reached::GaveWayToSuccessor);
                }
                self.tell(|| format!("W{writer} cannot open again: {error}"));
            }
        }
        let opened = result.as_ref().ok().cloned();
        let result = result.map(Box::new);
        self.writer_event(writer, WriterEvent::Refenced { result });
        // Where somebody else wrote meanwhile it does not go on.
        if let Some(opened) = opened.filter(|opened| self.writers[writer].vdl_now() == opened.vdl) {
            self.hear_reopened(writer, &opened);
        }
    }
}
