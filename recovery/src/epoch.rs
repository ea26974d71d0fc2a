//! The rule by which a segment accepts or refuses a sender (R2, R3, R4, R8).
//!
//! Every message of a writer, a candidate or a peer passes here before a segment acts on it. The guard is a value: the
//! segment makes a changed guard durable before it answers.

use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::{VolumeEpoch, WriterId};

/// What a segment holds of claims and histories. Invariant: `history_epoch <= claim`; both only rise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochGuard {
    /// The highest claim accepted.
    pub claim: VolumeEpoch,
    /// Who made it. [`WriterId::NOBODY`] at creation, and where a peer brought the history of that epoch and the writer
    /// itself was not heard yet.
    pub writer: WriterId,
    /// The epoch of the history held.
    pub history_epoch: VolumeEpoch,
}

/// Refused: the epoch that was claimed by somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stale {
    /// The claim held.
    pub claim: VolumeEpoch,
}

impl EpochGuard {
    /// The guard of a segment that was just created: epoch 1 is nobody's.
    pub const fn creation() -> EpochGuard {
        EpochGuard {
            claim: VolumeEpoch::CREATION,
            writer: WriterId::NOBODY,
            history_epoch: VolumeEpoch::CREATION,
        }
    }

    /// Accepts a claim: a higher epoch, or the same by the same writer (a repeat).
    ///
    /// # Errors
    /// [`Stale`] when a claim at least as high is held by another writer.
    pub fn claim(&mut self, volume_epoch: VolumeEpoch, writer: WriterId) -> Result<(), Stale> {
        self.check();
        let repeated = volume_epoch == self.claim
            && (writer == self.writer || planted(Mutant::StaleEpochAccepted));
        if writer == WriterId::NOBODY || (volume_epoch <= self.claim && !repeated) {
            return Err(self.stale());
        }
        self.claim = volume_epoch;
        self.writer = writer;
        Ok(())
    }

    /// Takes a history that `writer` of `volume_epoch` installs or attaches with. A history of `e` overrides a rival's
    /// claim to `e`, since only a completed fence has one (R8); a lower one than the claim is refused (R4).
    /// Returns whether it is news (false: held already).
    ///
    /// # Errors
    /// [`Stale`] when the claim held is higher, or when the history of that epoch is held from another writer.
    pub fn install(&mut self, volume_epoch: VolumeEpoch, writer: WriterId) -> Result<bool, Stale> {
        self.check();
        if writer == WriterId::NOBODY
            || volume_epoch < self.claim
            || volume_epoch <= VolumeEpoch::CREATION
        {
            return Err(self.stale());
        }
        if self.history_epoch == volume_epoch {
            // A peer brought this history; its writer is whoever says so first, since no rival can have it.
            if self.writer != writer
                && self.writer != WriterId::NOBODY
                && !planted(Mutant::StaleEpochAccepted)
            {
                return Err(self.stale());
            }
            self.writer = writer;
            return Ok(false);
        }
        *self = EpochGuard {
            claim: volume_epoch,
            writer,
            history_epoch: volume_epoch,
        };
        Ok(true)
    }

    /// Takes a history from a peer: only one at or above the claim, and above the one held (R4). Returns whether to take it.
    ///
    /// Holding history `e` implies claim `e` (R3). Who claimed it is not known from a peer: a rival of the one who did may
    /// have claimed `e` here, so whoever held the claim is forgotten and the writer shows itself by attaching.
    pub fn take_from_peer(&mut self, history_epoch: VolumeEpoch) -> bool {
        self.check();
        if history_epoch < self.claim || history_epoch <= self.history_epoch {
            return false;
        }
        *self = EpochGuard {
            claim: history_epoch,
            writer: WriterId::NOBODY,
            history_epoch,
        };
        true
    }

    /// Whether a sender may append and be acknowledged: its claim is the one held and its history too (R2, R3).
    ///
    /// # Errors
    /// [`Stale`]. With a claim below the sender's epoch it means that the sender has to attach or install first.
    pub fn admit(&self, volume_epoch: VolumeEpoch, writer: WriterId) -> Result<(), Stale> {
        self.check();
        let held = self.claim == volume_epoch
            && self.history_epoch == volume_epoch
            && (self.writer == writer || planted(Mutant::StaleEpochAccepted));
        if held && writer != WriterId::NOBODY {
            Ok(())
        } else {
            Err(self.stale())
        }
    }

    fn stale(&self) -> Stale {
        Stale { claim: self.claim }
    }

    fn check(&self) {
        assert!(
            self.history_epoch <= self.claim,
            "history {} above claim {}",
            self.history_epoch,
            self.claim
        );
    }
}
