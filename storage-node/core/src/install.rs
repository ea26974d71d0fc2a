//! Taking claims, histories and manifests: accepted at once, answered when durable (R2, R3, R4).

use std::time::Duration;

use sixfold_log_format::hot_log::Entry;
use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::wire::{
    Census, Claim, Install, Installed, Message, Probe, ProbeAnswer, Refill, Refusal, SegmentProbe,
    Survey,
};
use sixfold_log_format::{History, Manifest, SegmentId, VolumeEpoch, WriterId};

use crate::action::{Action, Severity};
use crate::event::StreamKey;
use crate::hot_log::Ticket;
use crate::node::NodeCore;
use crate::segment::{Segment, control_bytes};
use crate::waiters::Waiter;

/// What an attach and an install bring.
#[derive(Debug)]
pub(crate) struct Installation {
    pub(crate) volume_epoch: VolumeEpoch,
    pub(crate) writer: WriterId,
    pub(crate) history: History,
    pub(crate) manifest: Manifest,
}

impl Installation {
    /// Whether it is of one piece, and of this segment's volume. History and manifest are both versioned with the sender's
    /// epoch (R21).
    fn check(&self, segment: &Segment) -> Result<(), Refusal> {
        if self.manifest.volume != segment.volume {
            return Err(Refusal::WrongVolume {
                volume: segment.volume,
            });
        }
        let manifest_epoch = self.manifest.version.volume_epoch;
        if self.history.volume_epoch != self.volume_epoch || manifest_epoch != self.volume_epoch {
            let reason = format!(
                "history of epoch {} and manifest of epoch {manifest_epoch} from a sender of epoch {}",
                self.history.volume_epoch, self.volume_epoch
            );
            return Err(Refusal::Malformed { reason });
        }
        Ok(())
    }
}

impl NodeCore {
    /// Takes history and manifest; the ticket says when what is held of them is durable.
    pub(crate) fn install(&mut self, id: SegmentId, new: Installation) -> Result<Ticket, Refusal> {
        let segment = self.segments.get(&id).ok_or_else(|| {
            // What is being created is not unknown.
            let comes = self.creating.contains_key(&id);
            if comes {
                Refusal::Overloaded
            } else {
                self.why_not(id)
            }
        })?;
        new.check(segment)?;
        let mut guard = segment.guard;
        let stale = |stale: sixfold_recovery::epoch::Stale| Refusal::StaleEpoch {
            volume_epoch: stale.claim,
        };
        guard.install(new.volume_epoch, new.writer).map_err(stale)?;
        if new.manifest.version < segment.manifest.version {
            let manifest = Box::new(segment.manifest.clone());
            return Err(Refusal::StaleMembership { manifest });
        }
        if new.manifest.version == segment.manifest.version && new.manifest != segment.manifest {
            let reason = format!(
                "another manifest has the version {} here (R21)",
                segment.manifest.version
            );
            self.log_line(Severity::Error, format!("segment {id}: {reason}"));
            return Err(Refusal::Malformed { reason });
        }
        if guard == segment.guard && new.manifest.version == segment.manifest.version {
            return Ok(segment.control);
        }
        let bytes = control_bytes(&new.history, &new.manifest);
        self.check_room_for_state(Some(segment), bytes)?;
        let ticket = self.append(Entry::Install {
            segment: id,
            volume_epoch: guard.claim,
            writer: guard.writer,
            history: new.history,
            manifest: new.manifest,
        })?;
        self.accept_guard(id, guard, ticket);
        let segment = self.segments.get_mut(&id).expect("looked at above");
        segment.control_bytes = bytes;
        Ok(ticket)
    }

    /// A changed guard counts at once; what was claimed lower ends (R2).
    pub(crate) fn accept_guard(
        &mut self,
        id: SegmentId,
        guard: sixfold_recovery::epoch::EpochGuard,
        ticket: Ticket,
    ) {
        let segment = self.segments.get_mut(&id).expect("the caller found it");
        segment.control = ticket;
        if guard != segment.guard {
            segment.guard = guard;
            // Whoever was heard is fenced now: it does not keep the volume in use (T11).
            segment.writer_heard = None;
            segment.retention.fenced();
            if !planted(Mutant::AckAfterClaim) {
                self.end_stale_streams(id);
            }
        }
    }

    pub(crate) fn on_install(&mut self, now: Duration, stream: StreamKey, install: Install) {
        let Install {
            segment,
            volume_epoch,
            writer,
            history,
            manifest,
        } = install;
        match self.install(
            segment,
            Installation {
                volume_epoch,
                writer,
                history,
                manifest,
            },
        ) {
            Ok(_) if planted(Mutant::InstallBeforeDurable) => {
                let scl = self.segments[&segment].scl();
                let installed = Installed {
                    segment,
                    scl,
                    history_epoch: volume_epoch,
                };
                self.answer(stream, Message::Installed(installed));
            }
            Ok(ticket) => {
                self.wait(
                    now,
                    ticket,
                    Waiter::Install {
                        stream,
                        segment,
                        volume_epoch,
                        writer,
                    },
                );
            }
            Err(refusal) => self.refuse(stream, refusal),
        }
    }

    pub(crate) fn on_claim(&mut self, now: Duration, stream: StreamKey, claim: Claim) {
        let Claim {
            segment: id,
            volume_epoch,
            writer,
        } = claim;
        let segment = match self.serving(id) {
            Ok(segment) => segment,
            Err(refusal) => return self.refuse(stream, refusal),
        };
        let mut guard = segment.guard;
        if let Err(stale) = guard.claim(volume_epoch, writer) {
            return self.refuse(
                stream,
                Refusal::StaleEpoch {
                    volume_epoch: stale.claim,
                },
            );
        }
        let mut ticket = segment.control;
        if guard != segment.guard {
            ticket = match self.append(Entry::Claim {
                segment: id,
                volume_epoch,
                writer,
            }) {
                Ok(ticket) => ticket,
                Err(refusal) => return self.refuse(stream, refusal),
            };
            self.accept_guard(id, guard, ticket);
            if planted(Mutant::CensusBeforeDurable) {
                return self.answer_claim(now, stream, id, volume_epoch, writer);
            }
        }
        self.wait(
            now,
            ticket,
            Waiter::Claim {
                stream,
                segment: id,
                volume_epoch,
                writer,
            },
        );
    }

    /// A claim is durable: everything ever acknowledged lies before it in the log, so it is in this census (R2, R6).
    pub(crate) fn answer_claim(
        &mut self,
        now: Duration,
        stream: StreamKey,
        id: SegmentId,
        volume_epoch: VolumeEpoch,
        writer: WriterId,
    ) {
        let segment = match self.serving(id) {
            Ok(segment) => segment,
            Err(refusal) => return self.refuse(stream, refusal),
        };
        if segment.guard.claim != volume_epoch || segment.guard.writer != writer {
            let claim = segment.guard.claim;
            return self.refuse(
                stream,
                Refusal::StaleEpoch {
                    volume_epoch: claim,
                },
            );
        }
        self.send_census(now, stream, id);
    }

    /// Answers with a census and claims nothing (R23). Whatever was acknowledged is durable, so it is in it.
    pub(crate) fn on_survey(&mut self, now: Duration, stream: StreamKey, survey: Survey) {
        let id = survey.segment;
        let segment = match self.serving(id) {
            Ok(segment) => segment,
            Err(refusal) => return self.refuse(stream, refusal),
        };
        if planted(Mutant::SurveyClaims) {
            let claim = Claim {
                segment: id,
                volume_epoch: segment.guard.claim.next(),
                writer: WriterId::from_bytes(*id.as_bytes()),
            };
            return self.on_claim(now, stream, claim);
        }
        self.send_census(now, stream, id);
    }

    /// What a segment holds, in pieces, under the claim that it holds.
    fn send_census(&mut self, now: Duration, stream: StreamKey, id: SegmentId) {
        let segment = &self.segments[&id];
        let census = Census {
            segment: id,
            volume_epoch: segment.guard.claim,
            history: segment.history.clone(),
            manifest: segment.manifest.clone(),
            scl: segment.scl(),
            vdl_seen: segment.vdl_seen,
            last_valid: segment.chain.last_valid(segment.vdl_seen, &segment.history),
            lease_left_ms: if planted(Mutant::LeaseLeftUnsaid) {
                0
            } else {
                whole_ms(segment.lease.left(now))
            },
            runs: Vec::new(),
            more: false,
        };
        let mut pieces = segment
            .unsettled
            .pieces(segment.vdl_seen)
            .into_iter()
            .peekable();
        while let Some(runs) = pieces.next() {
            let more = pieces.peek().is_some();
            let message = Message::Census(Box::new(Census {
                runs,
                more,
                ..census.clone()
            }));
            self.actions.push_back(Action::Send {
                stream,
                message,
                end: !more,
            });
        }
    }

    /// Old batches from a candidate. They keep the epoch that sealed them; the sender's epoch is what counts (R7).
    pub(crate) fn on_refill(&mut self, now: Duration, stream: StreamKey, refill: Refill) {
        let Refill {
            segment: id,
            volume_epoch,
            writer,
            batches,
        } = refill;
        let segment = match self.serving(id) {
            Ok(segment) => segment,
            Err(refusal) => return self.refuse(stream, refusal),
        };
        if !segment.admits(volume_epoch, writer) {
            let held = segment.guard;
            let rival = held.claim == volume_epoch && held.writer != writer;
            let refusal = if held.claim > volume_epoch || rival {
                Refusal::StaleEpoch {
                    volume_epoch: held.claim,
                }
            } else {
                Refusal::OtherHistory {
                    history_epoch: segment.history_epoch(),
                }
            };
            return self.refuse(stream, refusal);
        }
        for batch in batches {
            if let Err(refusal) = self.take_batch(id, batch, volume_epoch) {
                return self.refuse(stream, refusal);
            }
        }
        let waiter = Waiter::Install {
            stream,
            segment: id,
            volume_epoch,
            writer,
        };
        self.wait(now, self.log.last_ticket(), waiter);
    }

    /// Answers without writing anything (R8).
    pub(crate) fn on_probe(&mut self, now: Duration, stream: StreamKey, probe: Probe) {
        let of_volume = || {
            self.segments
                .values()
                .filter(|segment| segment.volume == probe.volume)
        };
        let newest = self
            .manifests_of(probe.volume)
            .max_by_key(|manifest| manifest.version);
        let answer = ProbeAnswer {
            manifest: newest.cloned().map(Box::new),
            segments: of_volume()
                .map(|segment| SegmentProbe {
                    segment: segment.id,
                    pg: segment.pg,
                    claim: segment.guard.claim,
                    history_epoch: segment.history_epoch(),
                    scl: segment.scl(),
                    vdl_seen: segment.vdl_seen,
                    writer_heard_ms_ago: segment
                        .writer_heard
                        .map(|heard| whole_ms(now.saturating_sub(heard))),
                })
                .collect(),
        };
        self.answer(stream, Message::ProbeAnswer(answer));
    }
}

/// Milliseconds, rounded up.
fn whole_ms(time: Duration) -> u32 {
    u32::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX)
}
