//! Situations that a simulator must reach to prove anything; counted where the world sees them happen.

/// A situation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
#[allow(missing_docs, reason = "the names below say it")]
pub enum Reached {
    HoleFilledByGossip,
    HistoryByGossip,
    TornTailCut,
    FenceLostARace,
    RecoveryOfARecovery,
    HolderLost,
    Refilled,
    BatchHalfAnnulled,
    AnnulledRecordOffered,
    ReturningNodeAnnuls,
    LeaseWaitedFor,
    LeaseAskedFor,
    InUseRefused,
    OldWriterFenced,
    OldWriterReadUnderLease,
    PausedWriterResumedBehindNewOne,
    AnsweredAfterTheFence,
    UnknownWasCommitted,
    UnknownWasAnnulled,
    ReadBehindRefused,
    ReadOtherHistoryRefused,
    HedgedReadWon,
    PageMissFetched,
    FetchedAtAnOldPoint,
    OverflowRead,
    Split,
    Conflict,
    Phantom,
    TooOld,
    CommitUnavailable,
    BackPressure,
    LaggardLeftToGossip,
    BatchReadFromDisk,
    DamageReadAndRefused,
    DiskFull,
    WriteErrorEndedNode,
    StartedDamaged,
    ForgottenNoticed,
    PowerCut,
    ZoneDown,
    ConnectionTimedOut,
    LateRequest,
    AttachRefusedStale,
    SclFell,
    WallClockBehind,
    Frozen,
    MergedAndCollected,
    Trimmed,
    ForgottenReadRefused,
    CaughtUpByLayers,
    LayerHealed,
    CrashBeforeCatalog,
    LayerNotWritten,
    ReadInThePast,
    TokenFoundInFlight,
    TokenFoundAfterFailover,
    ClearDroppedSubtree,
    ReclaimResumed,
    ExpiredUnderAReader,
    Swept,
    WatchFellBack,
    WatchResumed,
    PastPointRounded,
    DamageFoundByAudit,
    SegmentDropped,
    StartedAfterADrop,
    WatchTooOld,
    SnapshotHeldForLong,
    OpeningFoundAStep,
    OpeningMissedAStep,
    FourSets,
    ReplacementBegun,
    ReplacementFinished,
    ReplacementTakenBack,
    VolumeGrew,
    FleetChanged,
    WishDone,
    WishRefused,
    RemovedRefused,
    StepSplit,
    ReadOnlyBesideAWriter,
    ReadOnlyAlone,
    ReadOnlyUnsettled,
    GroupWrittenOver,
    GrowthHeldBack,
    LeaverUnaware,
    RefencedInPlace,
    GaveWayToSuccessor,
    OpenedAfterALoss,
    ReadAfterALoss,
    StandbyTookOver,
    StandbyStoodBack,
    SilenceRolled,
    SurveyOfTwoMoments,
    SixAfterALoss,
    ReshapeConfirmed,
    ReshapeGivenUp,
    WriterDiedWhileJoining,
    TakenOverInTime,
    StrangerRefused,
}

const NAMES: &[(Reached, &str)] = &[
    (Reached::HoleFilledByGossip, "hole filled by gossip"),
    (Reached::HistoryByGossip, "history taken from a peer"),
    (Reached::TornTailCut, "torn tail cut"),
    (Reached::FenceLostARace, "fence lost a race"),
    (Reached::RecoveryOfARecovery, "recovery of a recovery"),
    (Reached::HolderLost, "only holder of a record lost"),
    (Reached::Refilled, "batches refilled"),
    (Reached::BatchHalfAnnulled, "batch half annulled"),
    (
        Reached::AnnulledRecordOffered,
        "annulled record offered in a census",
    ),
    (
        Reached::ReturningNodeAnnuls,
        "returning node took a history that annuls what it held",
    ),
    (Reached::LeaseWaitedFor, "new writer waited for a lease"),
    (Reached::LeaseAskedFor, "reader waited for a lease"),
    (Reached::InUseRefused, "open refused: in use"),
    (Reached::OldWriterFenced, "old writer fenced"),
    (
        Reached::OldWriterReadUnderLease,
        "old writer read under its lease while another recovered",
    ),
    (
        Reached::PausedWriterResumedBehindNewOne,
        "paused writer resumed behind a new one",
    ),
    (
        Reached::AnsweredAfterTheFence,
        "commit inside the cut answered after the fence",
    ),
    (Reached::UnknownWasCommitted, "unknown commit survived"),
    (Reached::UnknownWasAnnulled, "unknown commit annulled"),
    (Reached::ReadBehindRefused, "read refused: behind"),
    (
        Reached::ReadOtherHistoryRefused,
        "read refused: other history",
    ),
    (Reached::HedgedReadWon, "hedged read won"),
    (Reached::PageMissFetched, "page miss fetched"),
    (Reached::FetchedAtAnOldPoint, "page fetched below VDL"),
    (Reached::OverflowRead, "overflow value read"),
    (Reached::Split, "page split"),
    (Reached::Conflict, "conflict"),
    (Reached::Phantom, "conflict on a range"),
    (Reached::TooOld, "read point too old"),
    (Reached::CommitUnavailable, "commit refused as unavailable"),
    (Reached::BackPressure, "back-pressure at VDL + LAL"),
    (Reached::LaggardLeftToGossip, "laggard's queue full"),
    (Reached::BatchReadFromDisk, "batch read back from disk"),
    (
        Reached::DamageReadAndRefused,
        "damage read back and refused",
    ),
    (Reached::DiskFull, "disk full"),
    (Reached::WriteErrorEndedNode, "write error ended a node"),
    (
        Reached::StartedDamaged,
        "damage in the middle of the log said at the start",
    ),
    (
        Reached::ForgottenNoticed,
        "peers noticed a forgetful segment",
    ),
    (Reached::PowerCut, "power cut at all nodes"),
    (Reached::ZoneDown, "commit answered with a zone down"),
    (Reached::ConnectionTimedOut, "connection timed out"),
    (Reached::LateRequest, "request arrived late and twice"),
    (
        Reached::AttachRefusedStale,
        "attach of an old writer refused",
    ),
    (
        Reached::SclFell,
        "segment that forgot came back to its writer",
    ),
    (
        Reached::WallClockBehind,
        "new writer's wall clock behind the volume's",
    ),
    (Reached::Frozen, "index frozen into layers"),
    (Reached::MergedAndCollected, "merge that collects"),
    (Reached::Trimmed, "hot-log file trimmed"),
    (Reached::ForgottenReadRefused, "read refused: forgotten"),
    (Reached::CaughtUpByLayers, "caught up by a peer's layers"),
    (Reached::LayerHealed, "damaged layer healed"),
    (
        Reached::CrashBeforeCatalog,
        "crash between a layer's sync and its catalog",
    ),
    (
        Reached::LayerNotWritten,
        "disk full while a layer was written",
    ),
    (Reached::ReadInThePast, "page read far below VDL"),
    (Reached::TokenFoundInFlight, "token found in flight"),
    (
        Reached::TokenFoundAfterFailover,
        "token found after a failover",
    ),
    (Reached::ClearDroppedSubtree, "clear dropped a subtree"),
    (Reached::ReclaimResumed, "reclaim resumed by another writer"),
    (
        Reached::ExpiredUnderAReader,
        "value expired under a transaction",
    ),
    (Reached::Swept, "expired key removed"),
    (Reached::WatchFellBack, "watch fell back to the log"),
    (Reached::WatchResumed, "watch resumed at another writer"),
    (Reached::PastPointRounded, "past LSN rounded down"),
    (
        Reached::DamageFoundByAudit,
        "damage found by the last audit, and healed",
    ),
    (Reached::SegmentDropped, "segment dropped"),
    (
        Reached::StartedAfterADrop,
        "node started behind a dropped segment",
    ),
    (Reached::WatchTooOld, "watch too old, begun anew"),
    (
        Reached::SnapshotHeldForLong,
        "page fetched at a point held for long",
    ),
    (
        Reached::OpeningFoundAStep,
        "opening found a step that was not in force",
    ),
    (
        Reached::OpeningMissedAStep,
        "opening did not find a step that was not in force",
    ),
    (
        Reached::ReadOnlyBesideAWriter,
        "opened for reading beside a writer",
    ),
    (
        Reached::ReadOnlyAlone,
        "opened for reading without a writer",
    ),
    (
        Reached::ReadOnlyUnsettled,
        "opened for reading at an unsettled point",
    ),
    (Reached::FourSets, "group with four sets"),
    (Reached::ReplacementBegun, "replacement begun"),
    (Reached::ReplacementFinished, "replacement finished"),
    (Reached::ReplacementTakenBack, "replacement taken back"),
    (Reached::VolumeGrew, "volume grown by a group"),
    (Reached::FleetChanged, "fleet changed"),
    (Reached::WishDone, "wish done"),
    (Reached::WishRefused, "wish refused"),
    (Reached::RemovedRefused, "removed segment refused somebody"),
    (
        Reached::StepSplit,
        "writer died when a step had reached some",
    ),
    (
        Reached::GroupWrittenOver,
        "group written over an earlier one",
    ),
    (
        Reached::GrowthHeldBack,
        "growth proposed, and the root heard of it late",
    ),
    (
        Reached::LeaverUnaware,
        "replacement in force, and the segment that left not told",
    ),
    (Reached::RefencedInPlace, "opened again in place"),
    (
        Reached::GaveWayToSuccessor,
        "opening again in place gave way to a successor",
    ),
    (
        Reached::OpenedAfterALoss,
        "opened with three copies declared lost",
    ),
    (
        Reached::ReadAfterALoss,
        "read with a zone and one more gone for good",
    ),
    (Reached::StandbyTookOver, "standby took over"),
    (Reached::StandbyStoodBack, "standby stood back"),
    (
        Reached::SilenceRolled,
        "three nodes silent one after the other beside a standby",
    ),
    (
        Reached::SurveyOfTwoMoments,
        "survey with answers of two moments",
    ),
    (Reached::SixAfterALoss, "six copies again after a loss"),
    (
        Reached::ReshapeConfirmed,
        "change of a group's model confirmed",
    ),
    (
        Reached::ReshapeGivenUp,
        "change of a group's model given up by an opening",
    ),
    (
        Reached::WriterDiedWhileJoining,
        "writer and a survivor died while others joined",
    ),
    (Reached::TakenOverInTime, "standby took over in time"),
    (
        Reached::StrangerRefused,
        "stranger without the token refused",
    ),
];

/// How often each situation was met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts(Vec<u64>);

impl Default for Counts {
    fn default() -> Counts {
        Counts(vec![0; NAMES.len()])
    }
}

impl Counts {
    /// It was met once more.
    pub(crate) fn hit(&mut self, reached: Reached) {
        self.0[reached as usize] += 1;
    }

    /// Adds another run's.
    pub fn add(&mut self, other: &Counts) {
        for (count, more) in self.0.iter_mut().zip(&other.0) {
            *count += more;
        }
    }

    /// Every situation with its name and count.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        NAMES
            .iter()
            .map(|(reached, name)| (*name, self.0[*reached as usize]))
    }

    /// Names of those that were never met.
    pub fn missing(&self) -> Vec<&'static str> {
        self.all()
            .filter(|(_, count)| *count == 0)
            .map(|(name, _)| name)
            .collect()
    }
}
