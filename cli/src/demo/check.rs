//! The check: every answered commit against the volume, whole transactions, the sum of all accounts at several read points,
//! and that the old writer's epoch is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use anyhow::{Context, Result, bail, ensure};
use sixfold::{Cluster, Database, Snapshot};
use sixfold_log_format::wire::{Attach, Message, Probe, Refusal};
use sixfold_log_format::{History, Lsn, VolumeEpoch, WriterId};

use super::record::{Kind, Line, Outcome, Phase};
use super::work;
use crate::status::Operator;

/// What the check found.
#[derive(Debug, Clone, Default)]
pub(crate) struct Findings {
    /// Answered commits in the record.
    pub(crate) answered: u64,
    /// Of those, missing from the volume.
    pub(crate) lost: u64,
    /// Transactions that are there in part, values that nobody wrote, sums that are wrong.
    pub(crate) torn: u64,
    /// Commits that ended as unknown and are there.
    pub(crate) unknown_found: u64,
    /// Read points at which the sum of all accounts was taken.
    pub(crate) read_points: u64,
    /// What was found wrong first, in words.
    pub(crate) first: Option<String>,
}

impl Findings {
    fn lost(&mut self, what: impl FnOnce() -> String) {
        self.lost += 1;
        self.first.get_or_insert_with(what);
    }

    fn torn(&mut self, what: impl FnOnce() -> String) {
        self.torn += 1;
        self.first.get_or_insert_with(what);
    }
}

/// Checks the record against the volume.
pub(crate) async fn check(database: &Database, lines: &[Line]) -> Result<Findings> {
    let snapshot = database.snapshot();
    let mut findings = Findings::default();
    let mut balances =
        vec![work::ACCOUNT_START; usize::try_from(work::ACCOUNT_COUNT).expect("few accounts")];
    let marks = read_marks(&snapshot, &mut balances, &mut findings).await?;
    let answered = check_answered(&snapshot, lines, &marks, &mut findings).await?;
    findings.unknown_found = lines
        .iter()
        .filter(|line| {
            line.outcome == Outcome::Unknown && marks.contains(&work::mark_key(line.work))
        })
        .count() as u64;
    check_refused(lines, &marks, &mut findings);
    check_balances(&snapshot, &balances, &mut findings).await?;
    for lsn in read_points(&answered) {
        let snapshot = database.snapshot_at(lsn).await?;
        let sum: i64 = accounts(&snapshot).await?.iter().sum();
        findings.read_points += 1;
        let expected =
            work::ACCOUNT_START * i64::try_from(work::ACCOUNT_COUNT).expect("few accounts");
        if sum != expected {
            findings.torn(|| format!("at {lsn} the accounts sum up to {sum}, not {expected}"));
        }
    }
    Ok(findings)
}

/// All ledger entries and puts that are there; transfers are replayed on `balances`.
async fn read_marks(
    snapshot: &Snapshot,
    balances: &mut [i64],
    findings: &mut Findings,
) -> Result<BTreeSet<Vec<u8>>> {
    let mut marks = BTreeSet::new();
    for prefix in ["ledger/", "put/"] {
        let mut range = snapshot.range(prefix_bounds(prefix));
        while let Some((key, value)) = range.next().await? {
            let Some(work) = work::parse_mark_key(&key) else {
                bail!("a key that nobody wrote: {key:?}")
            };
            if value[..] != work::mark_value(work)[..] {
                findings.torn(|| format!("{key:?} holds a value that nobody wrote"));
            }
            if work.kind == Kind::Transfer {
                let transfer = work::transfer(work);
                balances[usize::try_from(transfer.from)?] -= transfer.amount;
                balances[usize::try_from(transfer.to)?] += transfer.amount;
            }
            marks.insert(key.to_vec());
        }
    }
    Ok(marks)
}

/// Every answered commit; returns their LSNs by phase.
async fn check_answered(
    snapshot: &Snapshot,
    lines: &[Line],
    marks: &BTreeSet<Vec<u8>>,
    findings: &mut Findings,
) -> Result<BTreeMap<Phase, Vec<Lsn>>> {
    let mut rows = BTreeMap::new();
    let mut range = snapshot.range(prefix_bounds("row/"));
    while let Some((key, value)) = range.next().await? {
        rows.insert(key.to_vec(), value);
    }
    let mut answered: BTreeMap<Phase, Vec<Lsn>> = BTreeMap::new();
    for line in lines {
        let Outcome::Answered { lsn, .. } = line.outcome else {
            continue;
        };
        findings.answered += 1;
        answered.entry(line.phase).or_default().push(lsn);
        match line.work.kind {
            Kind::Accounts => {}
            Kind::Transfer | Kind::Put => {
                if !marks.contains(&work::mark_key(line.work)) {
                    findings.lost(|| format!("{:?}, answered at {lsn}, is not there", line.work));
                }
            }
            Kind::Rows => {
                let chunk = line.work.number;
                let right = (0..work::ROWS_PER_CHUNK)
                    .filter(|&row| {
                        rows.get(&work::row_key(chunk, row))
                            .is_some_and(|value| value[..] == work::row_value(chunk, row)[..])
                    })
                    .count() as u64;
                match right {
                    work::ROWS_PER_CHUNK => {}
                    0 => {
                        findings.lost(|| format!("chunk {chunk}, answered at {lsn}, is not there"))
                    }
                    right => findings.torn(|| {
                        format!("chunk {chunk} has {right} of {} rows", work::ROWS_PER_CHUNK)
                    }),
                }
            }
        }
    }
    Ok(answered)
}

/// What was refused before it got LSNs must not be there.
fn check_refused(lines: &[Line], marks: &BTreeSet<Vec<u8>>, findings: &mut Findings) {
    for line in lines.iter().filter(|line| line.outcome == Outcome::Refused) {
        if matches!(line.work.kind, Kind::Transfer | Kind::Put)
            && marks.contains(&work::mark_key(line.work))
        {
            findings.torn(|| format!("{:?} was refused and is there", line.work));
        }
    }
}

/// Each account must be what the ledger entries make of it: a transfer is there whole or not at all.
async fn check_balances(
    snapshot: &Snapshot,
    expected: &[i64],
    findings: &mut Findings,
) -> Result<()> {
    let found = accounts(snapshot).await?;
    findings.read_points += 1;
    if found.len() != expected.len() {
        findings.lost(|| format!("{} of {} accounts are there", found.len(), expected.len()));
    }
    for (account, (found, expected)) in found.iter().zip(expected).enumerate() {
        if found != expected {
            findings
                .torn(|| format!("account {account} holds {found}, its ledger says {expected}"));
        }
    }
    Ok(())
}

async fn accounts(snapshot: &Snapshot) -> Result<Vec<i64>> {
    let mut balances = Vec::new();
    let mut range = snapshot.range(prefix_bounds("account/"));
    while let Some((key, value)) = range.next().await? {
        balances.push(work::balance(&value).with_context(|| format!("{key:?} holds no balance"))?);
    }
    Ok(balances)
}

/// A few commits of each phase: the first after the set-up, one in the middle, the last.
fn read_points(answered: &BTreeMap<Phase, Vec<Lsn>>) -> Vec<Lsn> {
    let mut points = Vec::new();
    for (_, lsns) in answered.iter().filter(|(phase, _)| **phase != Phase::Setup) {
        let mut lsns = lsns.clone();
        lsns.sort_unstable();
        points.extend(
            [lsns.first(), lsns.get(lsns.len() / 2), lsns.last()]
                .into_iter()
                .flatten()
                .copied(),
        );
    }
    points.sort_unstable();
    points.dedup();
    points
}

fn prefix_bounds(prefix: &str) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
    let start = prefix.as_bytes().to_vec();
    let mut end = start.clone();
    // '/' is followed by '0'.
    *end.last_mut().expect("prefixes are not empty") += 1;
    (Bound::Included(start), Bound::Excluded(end))
}

/// Attaches to every segment as the old writer would: each must refuse with the newer epoch.
pub(crate) async fn old_epoch_is_refused(cluster: &Cluster, old: VolumeEpoch) -> Result<()> {
    let operator = Operator::new(cluster, "writer")?;
    for node in &cluster.nodes {
        let probe = operator
            .call(
                node,
                &Message::Probe(Probe {
                    volume: cluster.volume,
                }),
            )
            .await?;
        let Message::ProbeAnswer(answer) = probe else {
            bail!("node {} did not answer a probe", node.node)
        };
        let segment = answer
            .segments
            .first()
            .with_context(|| format!("node {} hosts no segment", node.node))?;
        let mut manifest = answer
            .manifest
            .with_context(|| format!("node {} holds no manifest", node.node))?;
        manifest.version.volume_epoch = old;
        let attach = Attach {
            segment: segment.segment,
            volume_epoch: old,
            writer: WriterId::from_bytes([0xee; 16]),
            history: History {
                volume_epoch: old,
                ..History::creation()
            },
            manifest: *manifest,
        };
        let answer = operator.attach(node, attach).await?;
        let Message::Refused(Refusal::StaleEpoch { volume_epoch }) = answer else {
            bail!("node {} did not refuse epoch {old}: {answer:?}", node.node);
        };
        ensure!(
            volume_epoch > old,
            "node {} refused epoch {old} for {volume_epoch}",
            node.node
        );
    }
    operator.close().await;
    Ok(())
}
