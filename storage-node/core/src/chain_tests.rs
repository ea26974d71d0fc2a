//! Numbers of batches, and which of them are damaged.

use sixfold_log_format::{BatchBuilder, Op, PageId, PageKind, PgId, Record, VolumeId};

use super::*;

fn batch(lsn: u64) -> Batch {
    let volume = VolumeId::from_bytes([1; 16]);
    let prev = Lsn::new(lsn - 1);
    let mut builder = BatchBuilder::new(volume, PgId::ROOT, VolumeEpoch::new(1), prev);
    assert!(builder.push(&Record {
        lsn: Lsn::new(lsn),
        page: PageId::new(lsn),
        page_prev: Lsn::NONE,
        cpl: Lsn::new(lsn),
        user_visible: false,
        op: Op::Init {
            kind: PageKind::Overflow,
            level: 0,
        },
    }));
    builder.seal(Lsn::NONE, 0)
}

fn identity(lsn: u64) -> Identity {
    Held::of(&batch(lsn)).identity()
}

fn place(file: u64) -> Place {
    Place {
        file: FileNumber(file),
        offset: 0,
        bytes: 512,
    }
}

/// Batches `lsns`, each in a file of its number, all of them in layers.
fn folded(lsns: std::ops::RangeInclusive<u64>) -> Chain {
    let mut chain = Chain::default();
    let end = Lsn::new(*lsns.end());
    for lsn in lsns {
        let id = chain.insert(batch(lsn));
        chain.set_durable(id, place(lsn));
    }
    chain.raise_base(end, &History::creation());
    chain
}

#[test]
fn a_number_that_was_given_is_given_to_no_older_batch() {
    let history = History::creation();
    let mut chain = folded(5..=8);
    let first = chain.find(&identity(5)).unwrap();
    chain.set_bad(first);
    assert_eq!(chain.first_bad().map(|(id, _)| id), Some(first));
    // It is damaged and folded: forgotten, while somebody may hold on to its number yet.
    chain.forget(first, &history);
    assert!(chain.first_bad().is_none() && chain.find_held(first).is_none());
    for lsn in (1..=4).rev() {
        chain.insert_older(&batch(lsn), place(lsn));
        let id = chain.find(&identity(lsn)).unwrap();
        assert_ne!(id, first, "the number of batch 5 is given to batch {lsn}");
    }
    // A late word of the first one's copy changes nothing.
    chain.set_moved(first, place(9));
    for (_, id) in chain.durable_from((Lsn::NONE, VolumeEpoch::new(0), 0)) {
        assert!(chain.get(id).place.unwrap().file < FileNumber(9));
    }
    // When the oldest file goes, what was empty at the front goes with it.
    for lsn in 1..=4 {
        let id = chain.find(&identity(lsn)).unwrap();
        chain.forget(id, &history);
        chain.forget_front();
    }
    assert_eq!(chain.held.len(), 3);
    assert_eq!(Some(chain.front), chain.find(&identity(6)));
}

#[test]
fn the_first_damaged_batch_is_found_until_its_copy_counts() {
    let mut chain = folded(1..=6);
    let id = |chain: &Chain, lsn| chain.find(&identity(lsn)).unwrap();
    for lsn in [5, 2] {
        let bad = id(&chain, lsn);
        chain.set_bad(bad);
    }
    let first = |chain: &Chain| chain.first_bad().map(|(_, held)| held.first.get());
    assert_eq!(first(&chain), Some(2));
    let second = id(&chain, 2);
    chain.set_moved(second, place(7));
    assert_eq!(first(&chain), Some(5));
    let fifth = id(&chain, 5);
    chain.forget(fifth, &History::creation());
    assert_eq!(first(&chain), None);
}

#[test]
fn a_walk_over_what_is_durable_goes_on_where_it_was() {
    let mut chain = folded(1..=9);
    let mut from = (Lsn::NONE, VolumeEpoch::new(0), 0);
    let mut seen = Vec::new();
    loop {
        let next: Vec<Identity> = chain.durable_from(from).take(3).map(|(at, _)| at).collect();
        let count = if next.len() == 3 { 2 } else { next.len() };
        seen.extend(next[..count].iter().map(|(first, ..)| first.get()));
        let Some(at) = next.get(2) else { break };
        from = *at;
        // What it would begin with may go meanwhile.
        if from.0 == Lsn::new(5) {
            let gone = chain.find(&from).unwrap();
            chain.forget(gone, &History::creation());
        }
    }
    assert_eq!(seen, [1, 2, 3, 4, 6, 7, 8, 9]);
}
