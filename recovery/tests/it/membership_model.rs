//! Every schedule of one record and of the acceptances of a few steps of membership, over the crate's own edits, quorums and
//! `Change`: what was answered meets every fence and every read that a reader with any manifest that it may believe can use, and no
//! candidate can fence while the writer still finds a write quorum (R20). Each rule can be switched off, to see that it is needed.
//!
//! A state is: who holds the record, which version of the manifest each segment holds, and where the writer is. Two things
//! keep the number of states small and change nothing: segments that play the same part are interchangeable, and nothing is
//! delivered or accepted that no condition waits for, nor before it is needed (holding and knowing more only helps).

use std::collections::BTreeSet;

use sixfold_log_format::{Manifest, MemberKind, PgEntry, PgId, QuorumModel, SegmentId};
use sixfold_recovery::membership::{
    Change, abandon_reshape, append_pg, begin_replace, begin_reshape, confirm_reshape, deciding,
    declare_lost, finish_replace, finish_reshape, is_complete, roll_back,
};
use sixfold_recovery::quorum::{
    is_fence_quorum_of_all, is_read_quorum, is_read_quorum_of_all, is_write_quorum_of_all,
};

use crate::common::{
    entry, full_tail, has, lsn, manifest_of, member, segment, set, six, with_fleet,
};

/// What can be switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// The next step waits until a write quorum of every remaining set has reached the floor.
    Completeness,
    /// The floor is the highest SCL of the acceptances; off: the lowest.
    HighestScl,
    /// A replacement is finished only when the segment that joins is whole.
    Whole,
    /// A joining segment counts in no read quorum.
    JoiningNotCounted,
    /// A reader asks a read quorum of every set in force; off: of any one.
    EverySet,
    /// A step is in force when the sets left accepted too; off: the sets entered alone.
    SetsLeftToo,
    /// R22: from the proposal on a write satisfies both sides, whichever of them it was given under; off: the sets left, until
    /// the step is in force.
    Joint,
}

/// One group's way through a few manifests. The root is elsewhere, so that its acceptance is not what holds a step back; a
/// step that the root does not hold either is the harder case.
struct Script {
    name: &'static str,
    versions: Vec<Manifest>,
    /// Segments that must be whole before the step to `versions[index]` is proposed.
    whole_before: Vec<Vec<u8>>,
}

const PG: PgId = PgId::new(1);
const SEGMENTS: usize = 9;
const MASKS: u32 = 1 << SEGMENTS;

fn base(first: PgEntry) -> Manifest {
    let root = set(QuorumModel::FourOfSix, &[20, 21, 22, 23, 24, 25]);
    let mut root = entry(0, vec![root]);
    let mut other = first;
    (root.pg, other.pg) = (PgId::ROOT, PG);
    with_fleet(manifest_of(vec![root, other]))
}

impl Script {
    fn new(name: &'static str, first: PgEntry) -> Script {
        Script {
            name,
            versions: vec![base(first)],
            whole_before: vec![Vec::new()],
        }
    }

    fn last(&self) -> &Manifest {
        self.versions.last().unwrap()
    }

    fn then(mut self, next: Manifest, whole: &[u8]) -> Script {
        self.versions.push(next);
        self.whole_before.push(whole.to_vec());
        self
    }

    fn begin(self, out: u8, into: u8) -> Script {
        let kinds = self.last().pg(PG).unwrap().members();
        let leaving = kinds.iter().find(|m| m.segment == segment(out)).unwrap();
        let mut joins = member(into);
        joins.kind = leaving.kind;
        let next = begin_replace(self.last(), PG, segment(out), joins).unwrap();
        self.then(next, &[])
    }

    fn finish(self, out: u8, into: u8) -> Script {
        let next = finish_replace(self.last(), PG, segment(out), segment(into)).unwrap();
        self.then(next, &[into])
    }

    fn back(self, out: u8, into: u8) -> Script {
        let next = roll_back(self.last(), PG, segment(out), segment(into)).unwrap();
        self.then(next, &[])
    }

    fn reshape(self, model: QuorumModel, numbers: &[u8]) -> Script {
        let begun = begin_reshape(self.last(), PG, set(model, numbers)).unwrap();
        let joining: Vec<u8> = begun
            .pg(PG)
            .unwrap()
            .members()
            .iter()
            .filter(|m| m.joining)
            .map(|m| m.segment.as_bytes()[0] - 1)
            .collect();
        if joining.is_empty() {
            let done = finish_reshape(&begun, PG).unwrap();
            return self.then(begun, &[]).then(done, &[]);
        }
        let whole = confirm_reshape(&begun, PG).unwrap();
        let done = finish_reshape(&whole, PG).unwrap();
        self.then(begun, &[]).then(whole, &joining).then(done, &[])
    }
}

impl Script {
    fn abandoned(self, model: QuorumModel, numbers: &[u8]) -> Script {
        let begun = begin_reshape(self.last(), PG, set(model, numbers)).unwrap();
        let back = abandon_reshape(&begun, PG).unwrap();
        self.then(begun, &[]).then(back, &[])
    }
}

/// Every schedule of a group of six, and of the other models.
fn scripts() -> Vec<Script> {
    let of_six = |name| Script::new(name, entry(1, vec![six()]));
    let of_full_tail = |name| Script::new(name, entry(1, vec![full_tail()]));
    vec![
        of_six("replace").begin(5, 6).finish(5, 6),
        of_six("roll back").begin(5, 6).back(5, 6),
        of_six("to three of four").reshape(QuorumModel::ThreeOfFour, &[0, 1, 2, 3]),
        Script::new(
            "back to six",
            entry(1, vec![set(QuorumModel::ThreeOfFour, &[0, 1, 2, 3])]),
        )
        .reshape(QuorumModel::FourOfSix, &[0, 1, 2, 3, 4, 5]),
        Script::new(
            "survivors to six",
            entry(1, vec![set(QuorumModel::TwoOfThree, &[0, 1, 2])]),
        )
        .reshape(QuorumModel::FourOfSix, &[0, 1, 2, 3, 4, 5]),
        Script::new(
            "survivors to six by way of four",
            entry(1, vec![set(QuorumModel::TwoOfThree, &[0, 1, 2])]),
        )
        .reshape(QuorumModel::ThreeOfFour, &[0, 1, 2, 3])
        .reshape(QuorumModel::FourOfSix, &[0, 1, 2, 3, 4, 5]),
        Script::new(
            "survivors, taken back",
            entry(1, vec![set(QuorumModel::TwoOfThree, &[0, 1, 2])]),
        )
        .abandoned(QuorumModel::ThreeOfFour, &[0, 1, 2, 3]),
        Script::new(
            "four, taken back",
            entry(1, vec![set(QuorumModel::ThreeOfFour, &[0, 1, 2, 3])]),
        )
        .abandoned(QuorumModel::FourOfSix, &[0, 1, 2, 3, 4, 5]),
        of_full_tail("a full one replaced").begin(0, 6).finish(0, 6),
        of_full_tail("a tail replaced").begin(1, 6).finish(1, 6),
        of_full_tail("a full one rolled back")
            .begin(0, 6)
            .back(0, 6),
        of_six("replace, roll back the next")
            .begin(5, 6)
            .finish(5, 6)
            .begin(4, 7)
            .back(4, 7),
        of_six("two at once")
            .begin(5, 6)
            .begin(4, 7)
            .finish(5, 6)
            .finish(4, 7),
        of_six("two at once, the other way")
            .begin(5, 6)
            .begin(4, 7)
            .finish(4, 7)
            .back(5, 6),
        of_six("two rolled back")
            .begin(5, 6)
            .begin(4, 7)
            .back(5, 6)
            .back(4, 7),
    ]
}

/// What quorums say of every set of segments, computed once.
struct Tables {
    versions: usize,
    /// By step, then mask: whether the writer may answer while the step is under way.
    joint: Vec<Vec<bool>>,
    /// By version, then mask.
    write: Vec<Vec<bool>>,
    read: Vec<Vec<bool>>,
    fence: Vec<Vec<bool>>,
    complete: Vec<Vec<bool>>,
    /// By version: the smallest fences.
    fences: Vec<Vec<u32>>,
    /// By step: the smallest sets of acceptances that put it in force.
    acceptors: Vec<Vec<u16>>,
    /// By version: who is sent the record while it is in force or the step from it is under way.
    reach: Vec<u32>,
    /// Groups of interchangeable segments.
    alike: Vec<Vec<usize>>,
    whole_before: Vec<u32>,
}

fn table(of: impl Fn(&dyn Fn(SegmentId) -> bool) -> bool) -> Vec<bool> {
    (0..MASKS).map(|mask| of(&has(mask))).collect()
}

/// Those of which no part will do.
fn smallest(table: &[bool]) -> Vec<u32> {
    let parts = |mask: u32| {
        (0..SEGMENTS)
            .map(move |number| mask & !(1 << number))
            .filter(move |&part| part != mask)
    };
    (0..MASKS)
        .filter(|&mask| table[mask as usize] && !parts(mask).any(|part| table[part as usize]))
        .collect()
}

fn mask_of(entry: &PgEntry) -> u32 {
    let number = |id: SegmentId| u32::from(id.as_bytes()[0]) - 1;
    entry.members().iter().map(|m| 1 << number(m.segment)).sum()
}

impl Tables {
    fn new(script: &Script, off: &[Rule]) -> Tables {
        let entries: Vec<PgEntry> = script
            .versions
            .iter()
            .map(|m| m.pg(PG).unwrap().clone())
            .collect();
        let counted: Vec<PgEntry> = entries
            .iter()
            .cloned()
            .map(|mut entry| {
                if off.contains(&Rule::JoiningNotCounted) {
                    let members = entry.sets.iter_mut().flat_map(|set| &mut set.members);
                    members.for_each(|member| member.joining = false);
                }
                entry
            })
            .collect();
        let changes: Vec<Change> = script
            .versions
            .windows(2)
            .map(|pair| Change::new(pair[0].clone(), pair[1].clone()))
            .collect();
        let joints: Vec<PgEntry> = changes
            .iter()
            .map(|change| change.joint_entry(PG).unwrap())
            .collect();
        let in_force = |(step, change): (usize, &Change)| {
            table(|accepted| {
                if off.contains(&Rule::SetsLeftToo) {
                    return is_write_quorum_of_all(&entries[step + 1], accepted);
                }
                let mut change = change.clone();
                let root: Vec<SegmentId> = (20..24).map(segment).collect();
                let mine = (0..SEGMENTS as u8).map(segment).filter(|&id| accepted(id));
                mine.chain(root).for_each(|id| change.accepted(id, lsn(1)));
                change.is_in_force()
            })
        };
        let fence: Vec<Vec<bool>> = entries
            .iter()
            .map(|entry| table(|held| is_fence_quorum_of_all(&deciding(entry), held)))
            .collect();
        let reach = |version: usize| {
            let around = version.saturating_sub(1)..=version;
            around
                .filter_map(|step| joints.get(step))
                .map(mask_of)
                .fold(0, |all, mask| all | mask)
        };
        Tables {
            versions: entries.len(),
            joint: joints
                .iter()
                .enumerate()
                .map(|(step, joint)| match off.contains(&Rule::Joint) {
                    true => table(|held| is_write_quorum_of_all(&entries[step], held)),
                    false => table(|held| is_write_quorum_of_all(joint, held)),
                })
                .collect(),
            write: entries
                .iter()
                .map(|entry| table(|held| is_write_quorum_of_all(entry, held)))
                .collect(),
            read: counted
                .iter()
                .map(|entry| {
                    table(|held| match off.contains(&Rule::EverySet) {
                        true => entry.sets.iter().any(|set| is_read_quorum(set, held)),
                        false => is_read_quorum_of_all(entry, held),
                    })
                })
                .collect(),
            complete: entries
                .iter()
                .map(|entry| {
                    table(|held| {
                        let scl_of = |id| if held(id) { lsn(1) } else { lsn(0) };
                        off.contains(&Rule::Completeness) || is_complete(entry, lsn(1), &scl_of)
                    })
                })
                .collect(),
            fences: fence.iter().map(|table| smallest(table)).collect(),
            fence,
            acceptors: changes
                .iter()
                .enumerate()
                .map(|step| {
                    smallest(&in_force(step))
                        .into_iter()
                        .map(|mask| mask as u16)
                        .collect()
                })
                .collect(),
            reach: (0..entries.len()).map(reach).collect(),
            alike: alike(&entries),
            whole_before: script
                .whole_before
                .iter()
                .map(|whole| match off.contains(&Rule::Whole) {
                    true => 0,
                    false => whole.iter().map(|&number| 1 << number).sum(),
                })
                .collect(),
        }
    }
}

/// Segments that are of one kind and in the same sets of every version.
fn alike(entries: &[PgEntry]) -> Vec<Vec<usize>> {
    let part = |number: usize| -> Vec<Option<MemberKind>> {
        let id = segment(number as u8);
        let in_set = |set: &sixfold_log_format::SegmentSet| {
            set.members.iter().find(|m| m.segment == id).map(|m| m.kind)
        };
        entries
            .iter()
            .flat_map(|entry| &entry.sets)
            .map(in_set)
            .collect()
    };
    let mut groups: Vec<(Vec<Option<MemberKind>>, Vec<usize>)> = Vec::new();
    for number in 0..SEGMENTS {
        let part = part(number);
        match groups.iter_mut().find(|(known, _)| *known == part) {
            Some((_, numbers)) => numbers.push(number),
            None => groups.push((part, vec![number])),
        }
    }
    groups.into_iter().map(|(_, numbers)| numbers).collect()
}

/// Where everything stands. Versions are indices into the script.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    holds: u16,
    /// Who held the record when the step under way was proposed. Whoever has it since may have accepted before.
    held_then: u16,
    /// The newest version each segment has accepted.
    heard: [u8; SEGMENTS],
    /// The version that is in force, or left.
    version: u8,
    /// A step to `version + 1` is proposed.
    proposed: bool,
    /// Whether the floor of the step that led to `version` has the record, and whether it was sealed by then.
    floor: bool,
    sealed_then: bool,
    answered: bool,
}

impl State {
    fn start() -> State {
        State {
            holds: 0,
            held_then: 0,
            heard: [0; SEGMENTS],
            version: 0,
            proposed: false,
            floor: false,
            sealed_then: false,
            answered: false,
        }
    }

    /// Interchangeable segments are put in order.
    fn canonical(mut self, tables: &Tables) -> State {
        for group in tables.alike.iter().filter(|group| group.len() > 1) {
            let mut parts = [(0, 0, 0); SEGMENTS];
            let parts = &mut parts[..group.len()];
            for (part, &number) in parts.iter_mut().zip(group) {
                let held = (self.holds >> number & 1, self.held_then >> number & 1);
                *part = (self.heard[number], held.0, held.1);
            }
            parts.sort_unstable();
            for (&number, &mut (heard, holds, then)) in group.iter().zip(parts) {
                self.heard[number] = heard;
                self.holds = self.holds & !(1 << number) | holds << number;
                self.held_then = self.held_then & !(1 << number) | then << number;
            }
        }
        self
    }

    /// All of it in one number, to be remembered by.
    fn key(&self) -> u64 {
        let heard = self
            .heard
            .iter()
            .fold(0, |all, &version| all << 3 | u64::from(version));
        let flags = [self.proposed, self.floor, self.sealed_then, self.answered];
        let flags = flags
            .iter()
            .fold(0, |all, &flag| all << 1 | u64::from(flag));
        let held = u64::from(self.holds) << SEGMENTS | u64::from(self.held_then);
        ((heard << (2 * SEGMENTS) | held) << 3 | u64::from(self.version)) << 4 | flags
    }

    fn may_propose(&self, tables: &Tables) -> bool {
        let next = usize::from(self.version) + 1;
        if self.proposed || next >= tables.versions {
            return false;
        }
        let held = usize::from(self.holds);
        let complete = !self.floor || tables.complete[usize::from(self.version)][held];
        let whole = tables.whole_before[next];
        let due = self.floor || self.sealed_then;
        complete && (!due || u32::from(self.holds) & whole == whole)
    }

    /// What the writer counts by: who has to hold the record before it is answered.
    fn counts<'t>(&self, tables: &'t Tables) -> &'t [bool] {
        let version = usize::from(self.version);
        match self.proposed {
            true => &tables.joint[version],
            false => &tables.write[version],
        }
    }

    fn next(&self, tables: &Tables, off: &[Rule]) -> Vec<State> {
        let mut next = Vec::new();
        let version = usize::from(self.version);
        if !self.answered && self.counts(tables)[usize::from(self.holds)] {
            let answered = true;
            next.push(State { answered, ..*self });
        }
        let may_propose = self.may_propose(tables);
        if may_propose {
            next.push(State {
                proposed: true,
                held_then: self.holds,
                ..*self
            });
        }
        // Deliveries that something waits for: the answer, the floor, a joining segment.
        let waited_for = !self.answered || (!self.proposed && !may_propose);
        for number in (0..SEGMENTS).filter(|_| waited_for) {
            let bit = 1 << number;
            if tables.reach[version] & u32::from(bit) != 0 && self.holds & bit == 0 {
                let holds = self.holds | bit;
                next.push(State { holds, ..*self });
            }
        }
        if self.proposed {
            let ways = tables.acceptors[version].iter();
            next.extend(ways.map(|&acceptors| self.in_force(acceptors, off)));
        }
        next
    }

    /// These accepted, and the step is in force. Whoever has the record since the proposal accepted before it came: that
    /// asks least of the writer.
    fn in_force(&self, acceptors: u16, off: &[Rule]) -> State {
        let mut next = *self;
        next.version += 1;
        for number in (0..SEGMENTS).filter(|number| acceptors & (1 << number) != 0) {
            next.heard[number] = next.version;
        }
        next.floor = match off.contains(&Rule::HighestScl) {
            true => acceptors & !self.held_then == 0,
            false => acceptors & self.held_then != 0,
        };
        next.sealed_then = self.holds != 0;
        (next.proposed, next.held_then) = (false, 0);
        next
    }

    /// A reader, a candidate or the pair of candidate and writer that goes wrong here.
    fn miss(&self, tables: &Tables) -> Option<String> {
        let known = usize::from(self.version) + usize::from(self.proposed);
        for version in 0..=known {
            // With this manifest it asks only those who would not tell it of a newer one.
            let believes =
                (0..SEGMENTS).filter(|&number| usize::from(self.heard[number]) <= version);
            let believes: u32 = believes.map(|number| 1 << number).sum();
            let blind = (believes & !u32::from(self.holds)) as usize;
            if self.answered && tables.read[version][blind] {
                return Some(format!(
                    "a reader with version {version} misses it: {blind:b}"
                ));
            }
            if self.answered && tables.fence[version][blind] {
                return Some(format!(
                    "a fence under version {version} misses it: {blind:b}"
                ));
            }
            let counts = self.counts(tables);
            let fences = tables.fences[version].iter();
            let mut fences = fences.filter(|&&fence| fence & !believes == 0);
            if let Some(fence) = fences.find(|&&fence| counts[((MASKS - 1) & !fence) as usize]) {
                return Some(format!(
                    "a fence under version {version} stops no writer: {fence:b}"
                ));
            }
        }
        None
    }
}

/// Goes through every state; the number of them, or the first miss.
fn explore(script: &Script, off: &[Rule]) -> Result<usize, String> {
    let tables = Tables::new(script, off);
    let mut seen: BTreeSet<u64> = BTreeSet::new();
    let start = State::start();
    let mut open = vec![start];
    seen.insert(start.key());
    let mut done = false;
    while let Some(state) = open.pop() {
        if let Some(miss) = state.miss(&tables) {
            return Err(format!("{}: {miss}: {state:?}", script.name));
        }
        done |= state.answered && usize::from(state.version) + 1 == tables.versions;
        for next in state.next(&tables, off) {
            let next = next.canonical(&tables);
            if seen.insert(next.key()) {
                open.push(next);
            }
        }
    }
    // The last step came in force with the record answered: the walk went all the way.
    assert!(done, "{}", script.name);
    Ok(seen.len())
}

/// All of them when the environment asks for it; else those that take no seconds.
fn scripts_in_reach() -> Vec<Script> {
    let long = std::env::var_os("SIXFOLD_EXPLORE_LONG").is_some();
    let mut all = scripts();
    let also = ["two at once", "survivors to six by way of four"];
    all.retain(|script| long || script.versions.len() <= 4 || also.contains(&script.name));
    all
}

#[test]
fn what_was_answered_is_met_by_everybody_at_every_moment_of_a_change() {
    let mut states = 0;
    for script in scripts_in_reach() {
        let found = explore(&script, &[]).unwrap();
        println!("{}: {found} states", script.name);
        states += found;
    }
    println!("{states} states");
    assert!(states > 400_000, "{states} states");
}

/// The first script in which a weakened rule shows.
fn first_miss(off: &[Rule]) -> Option<String> {
    scripts_in_reach()
        .iter()
        .find_map(|script| explore(script, off).err())
}

#[test]
fn each_rule_of_r20_is_needed() {
    for rule in [
        Rule::Completeness,
        Rule::HighestScl,
        Rule::EverySet,
        Rule::Joint,
    ] {
        let miss = first_miss(&[rule]);
        println!("without {rule:?}: {miss:?}");
        assert!(miss.is_some(), "{rule:?}");
    }
}

/// Completeness alone makes a replacement safe, and so does a whole newcomer; without both a reader misses what was answered.
/// That the newcomer is whole is for the next loss: until then fewer segments than six hold what is old.
#[test]
fn a_plain_replacement_needs_completeness_or_a_whole_newcomer() {
    let replace = &scripts()[0];
    assert!(explore(replace, &[Rule::Whole]).is_ok());
    assert!(explore(replace, &[Rule::Completeness]).is_ok());
    assert!(explore(replace, &[Rule::Completeness, Rule::Whole]).is_err());
}

/// A reader who asks every set in force is safe with either of these rules away: each step leaves sets or enters sets, never
/// both, so the acceptors of one side are met. For a reader of one set ("three of either", against which R20 was written) both
/// are needed: nobody who is blind to the step, and nobody who knows nothing, may make its three.
#[test]
fn readers_of_one_set_alone_need_the_sets_left_and_no_joining_segment() {
    for rule in [Rule::JoiningNotCounted, Rule::SetsLeftToo] {
        let weakened: Vec<bool> = scripts()[..2]
            .iter()
            .map(|replace| {
                assert!(explore(replace, &[rule]).is_ok());
                assert!(explore(replace, &[Rule::EverySet]).is_ok());
                explore(replace, &[Rule::EverySet, rule]).is_err()
            })
            .collect();
        assert!(weakened.contains(&true), "{rule:?}");
    }
}

/// R19 and R10 beside R20: a group that is appended has nothing behind it to be missed, and one that is re-formed from its
/// survivors is met by each later fence once two of them are whole.
#[test]
fn a_new_group_counts_at_once_and_a_reformed_one_when_two_are_whole() {
    let m = base(entry(1, vec![six()]));
    let grown = append_pg(&m, (30..36).map(member).collect()).unwrap();
    let fresh = grown.pg(PgId::new(2)).unwrap();
    assert!(fresh.members().iter().all(|member| !member.joining));
    let lost = [segment(3), segment(4), segment(5)];
    let reformed = declare_lost(&m, &lost).unwrap();
    let survivors = reformed.pg(PG).unwrap();
    for whole in (0..8_u32).filter(|mask| mask.count_ones() >= 2) {
        let fences = (0..8_u32).filter(|&mask| is_fence_quorum_of_all(survivors, &has(mask)));
        assert!(fences.into_iter().all(|fence| fence & whole != 0));
    }
}
