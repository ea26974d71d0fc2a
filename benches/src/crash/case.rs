//! The matrix: who suffers what, and when. Combinations that make no sense are not in it.
//!
//! | who | what makes no sense | why |
//! |---|---|---|
//! | `writer`, `standby` | everything about a disk | they have none |
//! | `standby` | any time but `recovery` | it does nothing before it takes over, and is a writer afterwards |
//! | nodes | `disk-full`, `slow-disk`, `io-error` at `idle` | nothing is written, so that nothing is slow or fails |

use std::fmt;

use crate::history::plan::Draw;

macro_rules! names {
    ($(#[$doc:meta])* $name:ident { $($(#[$of:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $($(#[$of])* $variant),+ }

        impl $name {
            /// All of them.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            /// The part of a case's name.
            pub fn name(self) -> &'static str {
                match self { $($name::$variant => $text),+ }
            }
        }
    };
}

names! {
    /// Who suffers.
    Who {
        /// The writer's process; another one takes over.
        Writer = "writer",
        /// One storage node.
        Node = "node",
        /// The nodes of an availability zone.
        Az = "az",
        /// Those and one more: no write quorum.
        AzPlusOne = "az+1",
        /// All nodes.
        All = "all",
        /// A standby in the middle of its takeover; another writer takes over.
        Standby = "standby",
    }
}

names! {
    /// What happens to it.
    How {
        /// The process is killed.
        Sigkill = "sigkill",
        /// It is stopped, and goes on later as if nothing had happened.
        Sigstop = "sigstop",
        /// Its packets are lost, in one direction or both.
        Partition = "partition",
        /// No file can be made any more.
        DiskFull = "disk-full",
        /// The device takes 50 ms for each write.
        SlowDisk = "slow-disk",
        /// A write fails.
        IoError = "io-error",
        /// It is killed, and what it was about to write is there in part.
        TornTail = "torn-tail",
        /// The power goes: whatever was not synced may be gone, sector by sector.
        PowerCut = "power-cut",
    }
}

names! {
    /// When.
    When {
        /// Nobody commits.
        Idle = "idle",
        /// Clients commit.
        Load = "load",
        /// While a writer opens the volume after another one was killed.
        Recovery = "recovery",
        /// While a segment is being replaced.
        Membership = "membership",
        /// While a node puts redo into layers.
        Coalescing = "coalescing",
    }
}

impl How {
    /// Whether it happens to a disk.
    pub fn is_of_disks(self) -> bool {
        !matches!(self, How::Sigkill | How::Sigstop | How::Partition)
    }

    /// Whether a node must run before a witness of its writes.
    pub fn needs_witness(self) -> bool {
        matches!(
            self,
            How::DiskFull | How::IoError | How::TornTail | How::PowerCut
        )
    }

    /// Whether processes end of it, and have to be started again.
    pub fn ends_processes(self) -> bool {
        matches!(
            self,
            How::Sigkill | How::IoError | How::TornTail | How::PowerCut
        )
    }
}

impl Who {
    /// Whether it is a process that uses the volume, and no storage node.
    pub fn is_client(self) -> bool {
        matches!(self, Who::Writer | Who::Standby)
    }
}

/// One case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Case {
    /// Who suffers.
    pub who: Who,
    /// What.
    pub how: How,
    /// When.
    pub when: When,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (who, how, when) = (self.who.name(), self.how.name(), self.when.name());
        write!(f, "{who}/{how}/{when}")
    }
}

impl Case {
    /// Whether it makes sense.
    fn is_sensible(self) -> bool {
        match (self.who, self.how, self.when) {
            (Who::Standby, how, when) => !how.is_of_disks() && when == When::Recovery,
            (Who::Writer, how, _) => !how.is_of_disks(),
            (_, How::DiskFull | How::SlowDisk | How::IoError, When::Idle) => false,
            _ => true,
        }
    }

    /// Whether each part of the pattern, split at `/`, is a part of the name: `az+1`, `power-cut/load`, `writer/sigkill/idle`.
    pub fn matches(self, pattern: &str) -> bool {
        let names = [self.who.name(), self.how.name(), self.when.name()];
        pattern.split('/').all(|part| names.contains(&part))
    }
}

/// Every sensible case.
pub fn matrix() -> Vec<Case> {
    let mut cases = Vec::new();
    for &who in Who::ALL {
        for &how in How::ALL {
            for &when in When::ALL {
                cases.extend(Some(Case { who, how, when }).filter(|case| case.is_sensible()));
            }
        }
    }
    cases
}

/// The cases in another order, the same for the same seed. A turn through them all begins anew with another order.
pub fn in_turn(cases: &[Case], seed: u64, turn: u64) -> Vec<Case> {
    let mut draw = Draw::new(seed ^ turn.wrapping_mul(0x9e37_79b9) ^ 0xc4a5);
    let mut cases = cases.to_vec();
    for last in (1..cases.len()).rev() {
        let other = usize::try_from(draw.below(last as u64 + 1)).expect("an index");
        cases.swap(last, other);
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_has_a_name_of_its_own_that_finds_it() {
        let all = matrix();
        for case in &all {
            let named: Vec<_> = all
                .iter()
                .filter(|other| other.matches(&case.to_string()))
                .collect();
            assert_eq!(named, [case]);
        }
        assert_eq!(all.len(), 166);
    }

    #[test]
    fn what_has_no_disk_suffers_nothing_of_one() {
        for case in matrix() {
            assert!(!case.who.is_client() || !case.how.is_of_disks(), "{case}");
            assert!(case.who != Who::Standby || case.when == When::Recovery);
        }
    }

    #[test]
    fn a_turn_visits_every_case_once_in_an_order_of_its_own() {
        let all = matrix();
        let (first, second) = (in_turn(&all, 7, 0), in_turn(&all, 7, 1));
        assert_ne!(first, second);
        assert_eq!(first, in_turn(&all, 7, 0));
        for mut turn in [first, second] {
            turn.sort_unstable();
            assert_eq!(turn, all);
        }
    }
}
