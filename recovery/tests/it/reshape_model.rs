//! Taking a change of a group's quorum model back on the word of the old set alone, against everybody who may hold another manifest:
//! every schedule of a writer that dies while others join, confirm or finish, of its successor, and of whoever comes then.
//!
//! ```text
//! begin in force --> confirm said to some (in force?) --> finish said to some (in force?) --> the writer dies
//!   --> a candidate fences, takes back or goes on, answers a record --> a reader, or another candidate, meets it or does not
//! ```
//!
//! Steps hold who accepted them; who accepted a later one forgot the earlier. Nobody but the sets that must hold the record does.

use sixfold_log_format::mutant::{Mutant, plant};
use sixfold_log_format::{Manifest, PgEntry, PgId, QuorumModel, SegmentId};
use sixfold_recovery::membership::{
    Change, abandon_all, begin_reshape, confirm_reshape, deciding, finish_reshape,
};
use sixfold_recovery::quorum::{
    is_fence_quorum_of_all, is_read_quorum_of_all, is_write_quorum_of_all,
};

use crate::common::{entry, has, lsn, manifest_of, segment, set, with_fleet};

const PG: PgId = PgId::ROOT;

/// The segments of a mask, of so many.
fn masks(count: u8) -> std::ops::Range<u32> {
    0..1 << count
}

/// Those of which no part will do.
fn smallest(count: u8, of: impl Fn(&dyn Fn(SegmentId) -> bool) -> bool) -> Vec<u32> {
    let parts = |mask: u32| (0..count).map(move |bit| mask & !(1 << bit));
    let will_do = |mask: u32| of(&has(mask));
    let is_smallest =
        |&mask: &u32| will_do(mask) && !parts(mask).any(|part| part != mask && will_do(part));
    masks(count).filter(is_smallest).collect()
}

fn entry_of(manifest: &Manifest) -> &PgEntry {
    manifest.pg(PG).unwrap()
}

/// Whether a step is in force when these accepted it.
fn comes_into_force(from: &Manifest, to: &Manifest, acceptors: u32, count: u8) -> bool {
    let mut change = Change::new(from.clone(), to.clone());
    let accepts = |number: &u8| acceptors & (1 << number) != 0;
    for number in (0..count).filter(accepts) {
        change.accepted(segment(number), lsn(1));
    }
    change.is_in_force()
}

struct World {
    count: u8,
    /// Base, begun, confirmed, finished: what the first writer says, in order.
    versions: Vec<Manifest>,
}

impl World {
    fn new(model: QuorumModel, base: &[u8], target: (QuorumModel, &[u8])) -> World {
        let start = with_fleet(manifest_of(vec![entry(0, vec![set(model, base)])]));
        let begun = begin_reshape(&start, PG, set(target.0, target.1)).unwrap();
        let mut versions = vec![start, begun.clone()];
        match finish_reshape(&begun, PG) {
            // The planted bug: nothing is confirmed.
            Ok(finished) => versions.push(finished),
            Err(_) => {
                let confirmed = confirm_reshape(&begun, PG).unwrap();
                let finished = finish_reshape(&confirmed, PG).unwrap();
                versions.extend([confirmed, finished]);
            }
        }
        World {
            count: u8::try_from(target.1.len()).unwrap(),
            versions,
        }
    }

    /// What each segment may hold when the writer dies: each step follows only one that came into force.
    fn deaths(&self) -> Vec<Vec<usize>> {
        let mut deaths = Vec::new();
        let mut reached = vec![vec![0; usize::from(self.count)]];
        for version in 1..self.versions.len() {
            let mut next = Vec::new();
            for held in &reached {
                for acceptors in masks(self.count) {
                    let mut held = held.clone();
                    for number in (0..self.count).filter(|bit| acceptors & (1 << bit) != 0) {
                        held[usize::from(number)] = version;
                    }
                    let (from, to) = (&self.versions[version - 1], &self.versions[version]);
                    if comes_into_force(from, to, acceptors, self.count) {
                        next.push(held.clone());
                    }
                    deaths.push(held);
                }
            }
            next.sort();
            next.dedup();
            // Holding more changes nothing for the worse: one of those that hold least stands for those that hold more.
            let least = |held: &&Vec<usize>| {
                !next.iter().any(|other| {
                    other != *held && other.iter().zip(held.iter()).all(|(one, two)| one <= two)
                })
            };
            reached = next.iter().filter(least).cloned().collect();
        }
        deaths.sort();
        deaths.dedup();
        deaths
    }

    fn newest(&self, held: &[usize], mask: u32) -> usize {
        let held = held.iter().enumerate();
        let asked = held.filter(|(number, _)| mask & (1 << number) != 0);
        asked.map(|(_, &version)| version).max().unwrap_or(0)
    }

    /// What the candidate opens with that fenced just these, if they are a fence by the manifest that they hold.
    fn opens_with(&self, held: &[usize], fence: u32) -> Option<Manifest> {
        let found = &self.versions[self.newest(held, fence)];
        let decides = deciding(entry_of(found));
        is_fence_quorum_of_all(&decides, &has(fence)).then(|| {
            let is_given_up = |entry: &PgEntry| !is_write_quorum_of_all(entry, &has(fence));
            let without = abandon_all(found, &is_given_up).unwrap();
            without.unwrap_or_else(|| found.clone())
        })
    }

    /// How many ends there are; the first that goes wrong.
    fn explore(&self) -> Result<usize, String> {
        let mut ends = 0;
        for held in self.deaths() {
            let mut seen: Vec<Manifest> = Vec::new();
            for fence in masks(self.count) {
                let Some(opened) = self.opens_with(&held, fence) else {
                    continue;
                };
                // The dead writer may be a paused one: what it may have answered by is left no quorum.
                let told = self.newest(&held, masks(self.count).end - 1);
                for version in told.saturating_sub(1)..=told {
                    let counts = entry_of(&self.versions[version]);
                    if is_write_quorum_of_all(counts, &has(!fence)) {
                        return Err(format!("{held:?}: fence {fence:b} stops no writer"));
                    }
                }
                if seen.contains(&opened) {
                    continue;
                }
                ends += self.judge(&held, &opened)?;
                seen.push(opened);
            }
        }
        Ok(ends)
    }

    /// The successor's manifest on those that must hold it, its record on those that must hold that.
    fn judge(&self, held: &[usize], opened: &Manifest) -> Result<usize, String> {
        let entry = entry_of(opened);
        let decides = deciding(entry);
        let installed = smallest(self.count, |holds| is_write_quorum_of_all(&decides, holds));
        let written = smallest(self.count, |holds| is_write_quorum_of_all(entry, holds));
        let mut ends = 0;
        for &installed in &installed {
            for &written in &written {
                for mask in masks(self.count).filter(|mask| mask & written == 0) {
                    ends += 1;
                    let found = match mask & installed {
                        0 => entry_of(&self.versions[self.newest(held, mask)]),
                        _ => entry,
                    };
                    let reads = is_read_quorum_of_all(found, &has(mask));
                    let fences = is_fence_quorum_of_all(&deciding(found), &has(mask));
                    if reads || fences {
                        return Err(format!(
                            "{held:?}, then {installed:b} with {} sets: {mask:b} misses what {written:b} answered",
                            entry.sets.len()
                        ));
                    }
                }
            }
        }
        Ok(ends)
    }
}

fn worlds() -> [World; 2] {
    use QuorumModel::{FourOfSix, ThreeOfFour, TwoOfThree};
    [
        World::new(TwoOfThree, &[0, 1, 2], (ThreeOfFour, &[0, 1, 2, 3])),
        World::new(ThreeOfFour, &[0, 1, 2, 3], (FourOfSix, &[0, 1, 2, 3, 4, 5])),
    ]
}

fn explore_all() -> Result<usize, String> {
    let mut ends = 0;
    for world in worlds() {
        ends += world.explore()?;
    }
    Ok(ends)
}

#[test]
fn the_old_set_alone_takes_a_reshape_back_and_nobody_misses_an_answer() {
    let ends = explore_all().unwrap();
    println!("{ends} ends");
    assert!(ends > 10_000, "{ends}");
}

/// Without `confirm` a finish that reached a few lets a reader of those miss what is answered after the change was taken back; with it,
/// taking back what is confirmed does.
#[test]
fn planted_bugs_of_reshapes_are_found() {
    for mutant in [
        Mutant::ReshapeUnconfirmed,
        Mutant::ConfirmedReshapeTakenBack,
    ] {
        plant(Some(mutant));
        let found = explore_all();
        plant(None);
        println!("{}: {found:?}", mutant.name());
        assert!(found.is_err(), "{}", mutant.name());
    }
}
