//! An exhaustive explorer of reopenings and changes of membership: the crate's own machine, guard, cut, quorums, points and
//! `Change`, against small segments.
//!
//! A run is a list of choices and nothing else: who reaches whom, at which message an actor dies, which message is late and when it
//! comes after all. Every list within the bounds of a scenario is run. Where no choice is made, messages arrive in the order
//! in which they were sent; the bounds say how many of them may be late, and how many actors may die. A failing run prints its
//! list, which [`Chooser::replay`] runs again. `SIXFOLD_EXPLORE_LONG=1` widens the bounds, to minutes.
//!
//! ```text
//! Plan of each actor:  reopen (Recovery) --> write, replace, grow (Writer) --> idle, or dead at some message
//! one after the other, or two at once;  at the end late messages arrive, and a judge reopens and looks at everything
//! ```

mod judge;
mod scenarios;
mod world;
mod writer;

pub use world::{Bounds, World};
pub use writer::Task;

use sixfold_log_format::mutant::{Mutant, plant};

/// What can be weakened beside the planted bugs of the product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weak {
    /// R20: the next step does not wait for completeness, nor for a whole newcomer.
    Completeness,
    /// R20: a step is in force when the first segment accepted it.
    InForceAtOnce,
    /// R10: a group takes records before the root holds its entry.
    GrowthUnforced,
}

/// The list of choices of one run.
#[derive(Debug, Clone, Default)]
pub struct Chooser {
    given: Vec<usize>,
    taken: Vec<(usize, usize)>,
}

impl Chooser {
    pub fn replay(given: &[usize]) -> Chooser {
        Chooser {
            given: given.to_vec(),
            taken: Vec::new(),
        }
    }

    /// One of so many alternatives; the first unless the list says otherwise.
    pub fn choose(&mut self, of: usize) -> usize {
        if of <= 1 {
            return 0;
        }
        let chosen = self.given.get(self.taken.len()).copied().unwrap_or(0);
        assert!(chosen < of, "the run took another way than the list");
        self.taken.push((chosen, of));
        chosen
    }

    /// The list after this one, depth first; `None` when all were run.
    fn next(mut self) -> Option<Chooser> {
        while let Some((chosen, of)) = self.taken.pop() {
            if chosen + 1 < of {
                let mut given: Vec<usize> = self.taken.iter().map(|&(chosen, _)| chosen).collect();
                given.push(chosen + 1);
                return Some(Chooser::replay(&given));
            }
        }
        None
    }

    fn list(&self) -> Vec<usize> {
        let mut list: Vec<usize> = self.taken.iter().map(|&(chosen, _)| chosen).collect();
        while list.last() == Some(&0) {
            list.pop();
        }
        list
    }
}

/// A scenario: what a run does with its choices. What goes wrong is an error, or a panic of the product's own asserts.
pub struct Scenario {
    pub name: &'static str,
    pub bounds: Bounds,
    pub run: fn(&mut World) -> Result<(), String>,
}

/// What all runs of a scenario did.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tally {
    pub runs: usize,
    pub answered: usize,
    pub opened: usize,
    pub died: usize,
    pub late: usize,
    pub steps_in_force: usize,
}

impl Tally {
    pub fn add(&mut self, other: Tally) {
        self.runs += other.runs;
        self.answered += other.answered;
        self.opened += other.opened;
        self.died += other.died;
        self.late += other.late;
        self.steps_in_force += other.steps_in_force;
    }
}

/// Runs every list within the bounds; the first one that goes wrong ends it.
pub fn explore(scenario: &Scenario, weak: Option<Weak>) -> Result<Tally, String> {
    let mut tally = Tally::default();
    let mut next = Some(Chooser::default());
    while let Some(chooser) = next {
        let mut world = World::new(scenario.bounds, chooser, weak);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            (scenario.run)(&mut world).and_then(|()| world.judge())
        }));
        let result = result.unwrap_or_else(|_| Err("an assert of the product failed".to_owned()));
        if let Err(wrong) = result {
            let list = world.chooser.list();
            return Err(format!("{}, {list:?}: {wrong}", scenario.name));
        }
        tally.runs += 1;
        tally.answered += world.oracle.answered.len();
        tally.opened += world.oracle.opened.len();
        tally.died += world.died;
        tally.late += world.came_late;
        tally.steps_in_force += world.oracle.steps_in_force;
        next = world.chooser.next();
    }
    Ok(tally)
}

/// Whether the bug is found in any of these scenarios.
pub fn finds(mutant: Mutant, scenarios: &[Scenario]) -> Option<String> {
    plant(Some(mutant));
    let found = scenarios
        .iter()
        .find_map(|scenario| explore(scenario, None).err());
    plant(None);
    found
}
