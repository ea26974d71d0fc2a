use super::super::work::Said;
use super::*;

fn record(outcomes: &[Outcome]) -> Record {
    let mut record = Record::default();
    for (number, outcome) in (0..).zip(outcomes) {
        let said = Said {
            client: 1,
            number,
            outcome: *outcome,
        };
        record.note(3, said).unwrap();
    }
    record
}

fn seen(rows: &[(u64, [Option<u64>; 2])], last: Option<u64>) -> Seen {
    let of = |lsns: &[Option<u64>; 2]| lsns.map(|lsn| lsn.map(Lsn::new));
    Seen {
        rows: rows
            .iter()
            .map(|(number, lsns)| ((1, *number), of(lsns)))
            .collect(),
        last: last.map(|number| (1, number)).into_iter().collect(),
    }
}

fn compared(seen: &Seen, outcomes: &[Outcome]) -> Findings {
    let mut findings = Findings::default();
    compare(seen, &record(outcomes), 3, &mut findings);
    findings
}

const ANSWERED: Outcome = Outcome::Answered(Lsn::new(40));

#[test]
fn what_was_answered_and_is_there_is_right() {
    let whole = seen(&[(0, [Some(40); 2])], Some(0));
    let found = compared(&whole, &[ANSWERED]);
    assert!(found.is_clean() && found.answered == 1, "{found:?}");
}

#[test]
fn what_was_answered_and_is_not_there_is_lost() {
    let found = compared(&seen(&[], None), &[ANSWERED]);
    assert_eq!((found.lost, found.torn), (1, 0));
}

#[test]
fn half_a_commit_is_torn_whatever_was_said_of_it() {
    let half = seen(&[(0, [Some(40), None])], Some(0));
    for outcomes in [vec![ANSWERED], vec![Outcome::Unknown], vec![]] {
        let found = compared(&half, &outcomes);
        assert_eq!((found.lost, found.torn), (0, 1), "{outcomes:?}");
    }
}

#[test]
fn what_was_refused_must_not_be_there() {
    let there = seen(&[(0, [Some(40); 2])], Some(0));
    assert_eq!(compared(&there, &[Outcome::Refused]).torn, 1);
    assert!(compared(&seen(&[], None), &[Outcome::Refused]).is_clean());
}

#[test]
fn an_answer_names_the_commit_lsn() {
    let elsewhere = seen(&[(0, [Some(41); 2])], Some(0));
    assert_eq!(compared(&elsewhere, &[ANSWERED]).torn, 1);
}

#[test]
fn a_kill_hides_one_outcome_and_no_more() {
    let one = seen(&[(0, [Some(40); 2]), (1, [Some(44); 2])], Some(1));
    assert!(compared(&one, &[ANSWERED]).is_clean());
    let two = seen(&[(0, [Some(40); 2]), (2, [Some(44); 2])], Some(2));
    assert_eq!(compared(&two, &[ANSWERED]).torn, 1);
}

#[test]
fn a_client_s_number_is_that_of_its_last_row() {
    let behind = seen(&[(0, [Some(40); 2]), (1, [Some(44); 2])], Some(0));
    assert_eq!(compared(&behind, &[ANSWERED, Outcome::Unknown]).torn, 1);
}
