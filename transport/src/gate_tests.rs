use std::net::Ipv4Addr;

use super::*;

fn address(number: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, number).into()
}

#[test]
fn strangers_prove_their_address_as_soon_as_there_are_several() {
    let gate = Gate::default();
    let places: Vec<_> = (0..UNPROVED_MAX)
        .map(|_| gate.judge(address(1), false).1.unwrap())
        .collect();
    for _ in 0..1_000 {
        assert_eq!(gate.judge(address(1), false).0, Verdict::Retry);
        assert_eq!(gate.judge(address(2), false).0, Verdict::Retry);
    }
    // Who has proved it is let in meanwhile.
    let (verdict, honest) = gate.judge(address(2), true);
    assert_eq!(verdict, Verdict::Enter);
    honest.unwrap().succeeded();
    drop(places);
    let stats = gate.stats();
    assert_eq!((stats.entered, stats.retried, stats.failed), (9, 2_000, 8));
    assert_eq!(gate.judge(address(1), false).0, Verdict::Enter);
}

#[test]
fn one_address_does_not_take_all_places_and_no_more_are_given_than_there_are() {
    let gate = Gate::default();
    let mut places: Vec<_> = (0..PER_ADDRESS_MAX)
        .map(|_| gate.judge(address(1), true).1.unwrap())
        .collect();
    assert_eq!(gate.judge(address(1), true).0, Verdict::Refuse);
    assert_eq!(gate.judge(address(1), false).0, Verdict::Ignore);
    for number in 2.. {
        let (verdict, place) = gate.judge(address(number), true);
        if verdict != Verdict::Enter {
            assert_eq!((verdict, places.len()), (Verdict::Refuse, HANDSHAKES_MAX));
            break;
        }
        places.extend(place);
    }
    assert_eq!(gate.judge(address(99), false).0, Verdict::Ignore);
    assert_eq!(gate.stats().refused, 4);
    drop(places);
    let places = gate.places();
    assert_eq!((places.all, places.unproved), (0, 0));
    assert!(places.by_address.is_empty());
}
