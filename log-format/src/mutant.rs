//! Bugs that the simulator plants, to show that it finds them.
//!
//! Product code asks [`planted`] at the few places where a bug can be planted. Without the feature `mutants`, which no
//! product build has, the answer is a constant `false` and nothing of it is left in the binary. With it, a thread may plant
//! one bug at a time.

/// A bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// A batch counts, and is acknowledged, before it is on disk.
    AckBeforeSync,
    /// The SCL ignores back-links.
    SclPastAHole,
    /// Streams of lower epochs stay when a higher claim is accepted (R2).
    AckAfterClaim,
    /// A claim is answered before it, and what lies before it, is durable (R2).
    CensusBeforeDurable,
    /// An install is answered before it is durable (R3).
    InstallBeforeDurable,
    /// Claims and senders of the epoch held are accepted whoever they are (R8).
    StaleEpochAccepted,
    /// A segment serves a reader of another history (R3).
    ReadWithoutHistoryCheck,
    /// Truncation histories are merged, not replaced as a whole (R1).
    HistoryMerged,
    /// Annulled records are folded into pages (R5).
    AnnulledFolded,
    /// A census does not say how long a lease still runs (T1).
    LeaseLeftUnsaid,
    /// A range that a candidate merely installed counts as VDL seen (R9).
    VdlSeenFromInstall,
    /// A segment serves reads above its SCL (R26).
    ReadAboveScl,
    /// A segment wants its SCL at the read point itself (R26).
    IdlePgUnreadable,
    /// A batch's checksum is not verified.
    RotServed,
    /// Nobody pulls what peers are ahead.
    GossipMute,
    /// A restart reads batches and histories back, but no claims (R12).
    RestartForgetsClaims,
    /// Three segments make a write quorum.
    WriteQuorumOfThree,
    /// A reopening annuls one LSN only, so that LSNs are used again (R1).
    LsnReuse,
    /// The end of an annulled range is no consistency point (R1).
    RangeEndNoCpl,
    /// The cut takes the lowest history in any answer.
    LowestHistory,
    /// The cut does not stop at a gap.
    CutPastAGap,
    /// The cut ends at VCL, inside a transaction.
    CutInsideAnMtr,
    /// A volume opens when the history is installed, without a refill (R9).
    OpenBeforeRefill,
    /// One whole segment with the new history is enough to open.
    InstallOnOne,
    /// A new writer does not wait for the old lease (T1).
    LeaseNotAwaited,
    /// A cached version serves every later read point (R27).
    CachedWithoutInterval,
    /// A page that arrives is taken as the newest, whatever was minted meanwhile (R27).
    ArrivalOpenEnded,
    /// Pages above VDL may be evicted (R30).
    EvictionAboveVdl,
    /// A batch is let go as soon as it was sent (R15).
    BatchDroppedEarly,
    /// Read points count as current without a lease (T1).
    LeaseIgnored,
    /// A commit is answered when it is sealed.
    AnswerBeforeVdl,
    /// Validation ignores commits that are not durable yet (T2).
    DurableConflictsOnly,
    /// Validation ignores ranges: phantoms.
    RangesNotValidated,
    /// In-flight commits are refused as fenced, not unknown (T2).
    FencedSaidUnwritten,
    /// T of a page read is not moved with VDL (R26).
    StalePgLast,
    /// A split stamps the cells that it moves anew.
    SplitStampsAnew,
    /// Admission ignores VDL + LAL.
    LalIgnored,
    /// A segment whose SCL fell below one that it acknowledged is counted (R12).
    FallenSclCounted,
    /// The scan cuts the hot log at an unreadable place, whatever stands behind it (R12).
    DamageCutAsTorn,
    /// The scan takes a group of any sequence number for the next one.
    ScanTakesAnyGroup,
    /// A new writer's stamps begin with its wall clock, whatever the volume's clock says (T5).
    ClockNotRaised,
    /// A token is looked up at VDL, not at the tip (T3).
    TokenAtVdl,
    /// A token that is found in flight is answered at once (T3).
    TokenInFlightAnswered,
    /// A commit does not check again the deadlines that its reads relied on (T5).
    DeadlineNotRechecked,
    /// Validation ignores cleared ranges.
    ClearsNotValidated,
    /// The writer expires by its own clock, not by the clock record (T5).
    ExpiryByWritersClock,
    /// The sweeper removes a key whatever deadline it has by now (T5).
    SweeperTakesAnyDeadline,
    /// A past read point is not rounded down to a consistency point (R29).
    SnapshotNotRounded,
    /// A watch is given what is sealed, before VDL has reached it (T7).
    WatchAboveVdl,
    /// A watch is given annulled changes (T7).
    WatchAnnulled,
    /// A watch that goes over from the log to the ring skips a seal (T7).
    WatchHandoverGap,
    /// Records above the highest VDL seen go into layers (R11).
    LayerAboveVdl,
    /// A layer is named in the catalog before it is synced.
    CatalogBeforeSync,
    /// Versions above the horizon are collected.
    CollectedEarly,
    /// The lowest read point in use holds nothing back (R17).
    PgmrplIgnored,
    /// Hot-log files go although no layer holds their records yet.
    TrimUnfolded,
    /// A block of a layer is taken whatever its checksum says.
    StaleBlockAccepted,
    /// A tombstone does not remember the manifest that removed its segment (R20).
    TombstoneForgotten,
    /// A segment that a manifest does not name any more goes on as if nothing had happened (R20).
    RemovedSegmentServes,
    /// A survey claims the next epoch (R23).
    SurveyClaims,
    /// While a step is under way writes count for the sets that it enters alone (R20).
    StepCountsNewSetsOnly,
    /// A segment leaves although the one in its place is not whole (R20).
    FinishWithoutCompleteness,
    /// A group takes records before the root's step that appends it is in force (R10).
    RecordBeforeRootEntry,
    /// Acknowledgements of a removed segment count (R20).
    RemovedAckCounts,
    /// A survey settles on the answers that its point was found in, which are of different moments (R23).
    SurveyOneRound,
    /// The manifest that leaves lost segments out is installed before the survivors hold everything (R19).
    LossManifestBeforeRefill,
    /// A standby believes what a segment said of a silence, however long ago that was.
    StandbyStaleWord,
    /// A standby calls the writer gone when half of its patience is over.
    StandbyImpatient,
    /// A standby waits for its patience five times over.
    StandbyDrowsy,
    /// A writer that opens again in place does not look for a successor (R8).
    RefenceIgnoresSuccessor,
    /// Nobody asks for a volume's token.
    TokenUnchecked,
    /// A change of a group's quorum model is taken back on the old set's word alone, though the new set counts by now (R20).
    ConfirmedReshapeTakenBack,
    /// A change of a group's quorum model is finished without the step that lets the new set count (R20).
    ReshapeUnconfirmed,
    /// A catalog is not judged by the room at the head of a hot-log file.
    HeadsOvergrown,
}

/// Whether this bug is planted.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn planted(_: Mutant) -> bool {
    false
}

#[cfg(feature = "mutants")]
pub use planting::{ALL, OF_TWINS, plant, planted};

#[cfg(feature = "mutants")]
mod planting {
    use std::cell::Cell;

    use super::Mutant;

    thread_local! {
        static PLANTED: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// Every bug, with its name on the command line.
    pub const ALL: &[(Mutant, &str)] = &[
        (Mutant::AckBeforeSync, "ack-before-sync"),
        (Mutant::SclPastAHole, "scl-past-a-hole"),
        (Mutant::AckAfterClaim, "ack-after-claim"),
        (Mutant::CensusBeforeDurable, "census-before-durable"),
        (Mutant::InstallBeforeDurable, "install-before-durable"),
        (Mutant::StaleEpochAccepted, "stale-epoch-accepted"),
        (
            Mutant::ReadWithoutHistoryCheck,
            "read-without-history-check",
        ),
        (Mutant::HistoryMerged, "history-merged"),
        (Mutant::AnnulledFolded, "annulled-folded"),
        (Mutant::LeaseLeftUnsaid, "lease-left-unsaid"),
        (Mutant::VdlSeenFromInstall, "vdl-seen-from-install"),
        (Mutant::ReadAboveScl, "read-above-scl"),
        (Mutant::IdlePgUnreadable, "idle-pg-unreadable"),
        (Mutant::RotServed, "rot-served"),
        (Mutant::GossipMute, "gossip-mute"),
        (Mutant::RestartForgetsClaims, "restart-forgets-claims"),
        (Mutant::WriteQuorumOfThree, "write-quorum-of-three"),
        (Mutant::LsnReuse, "lsn-reuse"),
        (Mutant::RangeEndNoCpl, "range-end-no-cpl"),
        (Mutant::LowestHistory, "lowest-history"),
        (Mutant::CutPastAGap, "cut-past-a-gap"),
        (Mutant::CutInsideAnMtr, "cut-inside-an-mtr"),
        (Mutant::OpenBeforeRefill, "open-before-refill"),
        (Mutant::InstallOnOne, "install-on-one"),
        (Mutant::LeaseNotAwaited, "lease-not-awaited"),
        (Mutant::CachedWithoutInterval, "cached-without-interval"),
        (Mutant::ArrivalOpenEnded, "arrival-open-ended"),
        (Mutant::EvictionAboveVdl, "eviction-above-vdl"),
        (Mutant::BatchDroppedEarly, "batch-dropped-early"),
        (Mutant::LeaseIgnored, "lease-ignored"),
        (Mutant::AnswerBeforeVdl, "answer-before-vdl"),
        (Mutant::DurableConflictsOnly, "durable-conflicts-only"),
        (Mutant::RangesNotValidated, "ranges-not-validated"),
        (Mutant::FencedSaidUnwritten, "fenced-said-unwritten"),
        (Mutant::StalePgLast, "stale-pg-last"),
        (Mutant::SplitStampsAnew, "split-stamps-anew"),
        (Mutant::LalIgnored, "lal-ignored"),
        (Mutant::FallenSclCounted, "fallen-scl-counted"),
        (Mutant::DamageCutAsTorn, "damage-cut-as-torn"),
        (Mutant::ScanTakesAnyGroup, "scan-takes-any-group"),
        (Mutant::ClockNotRaised, "clock-not-raised"),
        (Mutant::TokenAtVdl, "token-at-vdl"),
        (Mutant::TokenInFlightAnswered, "token-in-flight-answered"),
        (Mutant::DeadlineNotRechecked, "deadline-not-rechecked"),
        (Mutant::ClearsNotValidated, "clears-not-validated"),
        (Mutant::ExpiryByWritersClock, "expiry-by-writers-clock"),
        (
            Mutant::SweeperTakesAnyDeadline,
            "sweeper-takes-any-deadline",
        ),
        (Mutant::SnapshotNotRounded, "snapshot-not-rounded"),
        (Mutant::WatchAboveVdl, "watch-above-vdl"),
        (Mutant::WatchAnnulled, "watch-annulled"),
        (Mutant::WatchHandoverGap, "watch-handover-gap"),
        (Mutant::LayerAboveVdl, "layer-above-vdl"),
        (Mutant::CatalogBeforeSync, "catalog-before-sync"),
        (Mutant::CollectedEarly, "collected-early"),
        (Mutant::PgmrplIgnored, "pgmrpl-ignored"),
        (Mutant::TrimUnfolded, "trim-unfolded"),
        (Mutant::StaleBlockAccepted, "stale-block-accepted"),
        (Mutant::TombstoneForgotten, "tombstone-forgotten"),
        (Mutant::RemovedSegmentServes, "removed-segment-serves"),
        (Mutant::SurveyClaims, "survey-claims"),
        (Mutant::StepCountsNewSetsOnly, "step-counts-new-sets-only"),
        (
            Mutant::FinishWithoutCompleteness,
            "finish-without-completeness",
        ),
        (Mutant::RecordBeforeRootEntry, "record-before-root-entry"),
        (Mutant::RemovedAckCounts, "removed-ack-counts"),
        (Mutant::SurveyOneRound, "survey-one-round"),
        (
            Mutant::LossManifestBeforeRefill,
            "loss-manifest-before-refill",
        ),
        (Mutant::StandbyStaleWord, "standby-stale-word"),
        (Mutant::StandbyImpatient, "standby-impatient"),
        (Mutant::StandbyDrowsy, "standby-drowsy"),
        (Mutant::RefenceIgnoresSuccessor, "refence-ignores-successor"),
        (Mutant::TokenUnchecked, "token-unchecked"),
    ];

    /// Bugs that take more chance than a run of the simulator has: the brute-force twins of the recovery crate find them, and
    /// a story of the storage node's core the one of its layers.
    pub const OF_TWINS: &[(Mutant, &str)] = &[
        (
            Mutant::ConfirmedReshapeTakenBack,
            "confirmed-reshape-taken-back",
        ),
        (Mutant::ReshapeUnconfirmed, "reshape-unconfirmed"),
        (Mutant::HeadsOvergrown, "heads-overgrown"),
    ];

    /// Plants a bug in this thread, in place of any other.
    pub fn plant(mutant: Option<Mutant>) {
        PLANTED.set(mutant);
    }

    /// Whether this bug is planted in this thread.
    pub fn planted(mutant: Mutant) -> bool {
        PLANTED.get() == Some(mutant)
    }

    impl Mutant {
        /// Its name on the command line.
        ///
        /// # Panics
        /// When the list lacks it.
        pub fn name(self) -> &'static str {
            let mut entries = ALL.iter().chain(OF_TWINS);
            let entry = entries.find(|(mutant, _)| *mutant == self);
            entry.expect("every mutant has a name").1
        }
    }
}
