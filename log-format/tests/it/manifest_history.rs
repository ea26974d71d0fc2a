//! Manifests and histories: what a decoder lets pass.

use sixfold_log_format::{AnnulledRange, History, Lsn, Manifest, PgId, QuorumModel, VolumeEpoch};

use crate::samples::{history, manifest, manifest_with_token, set};

#[test]
fn they_come_back_as_they_were() {
    assert_eq!(Manifest::decode(&manifest().encode()).unwrap(), manifest());
    assert_eq!(History::decode(&history().encode()).unwrap(), history());
    assert_eq!(history().encode().len(), history().encoded_bytes());
    let creation = History::creation();
    assert_eq!(History::decode(&creation.encode()).unwrap(), creation);
}

#[test]
fn every_truncation_and_a_byte_too_many_is_refused() {
    let bytes = manifest().encode();
    for length in 0..bytes.len() {
        assert!(
            Manifest::decode(&bytes[..length]).is_err(),
            "{length} bytes"
        );
    }
    assert!(Manifest::decode(&[&bytes[..], &[0]].concat()).is_err());
    let bytes = history().encode();
    for length in 0..bytes.len() {
        assert!(History::decode(&bytes[..length]).is_err(), "{length} bytes");
    }
    assert!(History::decode(&[&bytes[..], &[0]].concat()).is_err());
}

fn passes(change: impl FnOnce(&mut Manifest)) -> bool {
    let mut manifest = manifest();
    change(&mut manifest);
    Manifest::decode(&manifest.encode()).is_ok()
}

#[test]
fn a_manifest_that_breaks_a_rule_is_refused() {
    assert!(passes(|_| {}));
    assert!(!passes(|manifest| manifest.parameters.page_bytes = 256));
    assert!(!passes(|manifest| manifest.parameters.page_bytes = 16_384));
    assert!(!passes(|manifest| manifest.parameters.page_bytes = 4_095));
    assert!(!passes(|manifest| manifest.parameters.lal = 0));
    assert!(!passes(|manifest| manifest.parameters.lal = 10_000_001));
    assert!(!passes(|manifest| manifest.parameters.pages_per_pg = 0));
    assert!(!passes(|manifest| manifest.pgs.clear()));
    assert!(!passes(|manifest| manifest.pgs[1].pg = PgId::new(2)));
    assert!(!passes(|manifest| manifest.pgs.swap(0, 1)));
    assert!(!passes(|manifest| manifest.pgs[0].sets.clear()));
    let many = || vec![set(QuorumModel::FourOfSix, 0); 5];
    assert!(!passes(|manifest| manifest.pgs[0].sets = many()));
    assert!(passes(
        |manifest| manifest.pgs[0].sets = many()[1..].to_vec()
    ));
    assert!(!passes(|manifest| manifest.pgs[0].sets[0]
        .members
        .truncate(5)));
    assert!(!passes(
        |manifest| manifest.pgs[0].sets[0].model = QuorumModel::ThreeOfFour
    ));
    assert!(!passes(
        |manifest| manifest.pgs[0].sets[0].model = QuorumModel::FullTail
    ));
    let twice = |manifest: &mut Manifest| {
        let members = &mut manifest.pgs[0].sets[0].members;
        members[5].segment = members[0].segment;
    };
    assert!(!passes(twice));
}

fn history_passes(floor: u64, volume_epoch: u64, ranges: &[(u64, u64, u64)]) -> bool {
    let ranges = ranges
        .iter()
        .map(|(after, through, volume_epoch)| AnnulledRange {
            after: Lsn::new(*after),
            through: Lsn::new(*through),
            volume_epoch: VolumeEpoch::new(*volume_epoch),
        });
    let history = History {
        volume_epoch: VolumeEpoch::new(volume_epoch),
        floor: Lsn::new(floor),
        ranges: ranges.collect(),
    };
    History::decode(&history.encode()).is_ok()
}

#[test]
fn a_history_that_breaks_an_invariant_is_refused() {
    assert!(history_passes(0, 5, &[(0, 10, 2), (10, 12, 5)]));
    assert!(history_passes(10, 5, &[(10, 12, 5)]));
    assert!(!history_passes(0, 5, &[(0, 10, 2), (9, 12, 5)]), "overlap");
    assert!(!history_passes(0, 5, &[(20, 30, 2), (0, 10, 3)]), "order");
    assert!(!history_passes(0, 5, &[(10, 10, 2)]), "empty");
    assert!(!history_passes(0, 5, &[(10, 9, 2)]), "reversed");
    assert!(!history_passes(11, 5, &[(10, 12, 5)]), "below the floor");
    assert!(
        !history_passes(0, 5, &[(0, 10, 6)]),
        "epoch above the history's"
    );
    let many: Vec<_> = (0..4_097)
        .map(|index| (2 * index, 2 * index + 1, 2))
        .collect();
    assert!(history_passes(0, 5, &many[1..]));
    assert!(!history_passes(0, 5, &many), "too many");
}

#[test]
fn a_manifest_without_a_token_is_of_the_version_that_older_builds_read() {
    let (plain, with_token) = (manifest(), manifest_with_token());
    let (old, new) = (plain.encode(), with_token.encode());
    assert_eq!((old[0], new[0]), (1, 2));
    assert_eq!(new.len(), old.len() + 32);
    assert_eq!(Manifest::decode(&new).unwrap(), with_token);
    // A digest that is cut off, or one where none belongs, is no manifest.
    let mut without_digest = old;
    without_digest[0] = 2;
    assert!(Manifest::decode(&without_digest).is_err());
    let mut with_digest = new;
    with_digest[0] = 1;
    assert!(Manifest::decode(&with_digest).is_err());
}

#[test]
fn histories_agree_up_to_the_first_range_that_one_of_them_lacks() {
    let range = |after, through, epoch| AnnulledRange {
        after: Lsn::new(after),
        through: Lsn::new(through),
        volume_epoch: VolumeEpoch::new(epoch),
    };
    let history = |ranges: &[AnnulledRange]| History {
        volume_epoch: VolumeEpoch::new(9),
        floor: Lsn::NONE,
        ranges: ranges.to_vec(),
    };
    let (first, loser, winner) = (range(10, 20, 2), range(30, 40, 3), range(35, 50, 4));
    let before = history(&[first]);
    assert_eq!(before.agrees_through(&before), Lsn::MAX);
    // One more range, and a loser's that the next history does not know.
    for (one, other, through) in [
        (&[first][..], &[first, winner][..], 35),
        (&[first, loser], &[first, winner], 30),
        (&[first, loser], &[first], 30),
        (&[], &[first], 10),
    ] {
        let (one, other) = (history(one), history(other));
        assert_eq!(one.agrees_through(&other), Lsn::new(through));
        assert_eq!(other.agrees_through(&one), Lsn::new(through));
    }
}
