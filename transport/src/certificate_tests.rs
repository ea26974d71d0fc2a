use super::*;
use crate::tls::ClusterCa;

fn seconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap().as_secs()
}

#[test]
fn dates_are_written_in_one_form() {
    for (seconds, expected) in [
        (0, "1970-01-01T00:00:00Z"),
        (951_825_600, "2000-02-29T12:00:00Z"),
        (4_107_542_400, "2100-03-01T00:00:00Z"),
        (253_402_300_799, "9999-12-31T23:59:59Z"),
        (253_402_300_800, "1970-01-01T00:00:00Z"),
    ] {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(rfc3339(at), expected);
    }
    let before = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
    assert_eq!(rfc3339(before), "1970-01-01T00:00:00Z");
}

#[test]
fn a_certificate_says_whose_it_is_and_until_when() {
    let dir = tempfile::tempdir().unwrap();
    let ca = ClusterCa::generate().unwrap();
    let before = SystemTime::now();
    let node = NodeId::from_bytes([7; 16]);
    let validity = Duration::from_secs(86_400);
    ca.issue_for(Role::Node, Some(node), validity)
        .unwrap()
        .save(dir.path(), "node")
        .unwrap();
    let ca_file = dir.path().join("ca.pem");
    let facts = of_party(&dir.path().join("node.pem"), &ca_file).unwrap();
    assert_eq!(facts.party, Some((Role::Node, Some(node))));
    let left = seconds(facts.not_after) - seconds(before);
    assert!((86_399..86_460).contains(&left), "{left}");
    assert!(facts.not_before < before);
    let authorities = of_authorities(&ca_file).unwrap();
    assert_eq!(authorities.len(), 1);
    assert_eq!(facts.issuer.as_ref(), Some(&authorities[0].fingerprint));
    assert_eq!(authorities[0].party, None);
    assert!(authorities[0].not_after > facts.not_after);
}

#[test]
fn hostile_bytes_are_no_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let ca = ClusterCa::generate().unwrap();
    ca.save(dir.path()).unwrap();
    let (_, good) = blocks(&dir.path().join("ca.pem")).unwrap().remove(0);
    assert!(validity(&good).is_some());
    for length in 0..good.len().min(120) {
        assert_eq!(validity(&good[..length]), None);
    }
    for index in 0..good.len().min(200) {
        for value in [0, 0x80, 0x83, 0x84, 0xFF] {
            let mut bad = good.to_vec();
            bad[index] = value;
            // Whatever it says: it ends.
            let _ = validity(&bad);
        }
    }
}

#[test]
fn an_authority_leaves_only_when_nothing_needs_it() {
    let (dir, new_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (old, new) = (
        ClusterCa::generate().unwrap(),
        ClusterCa::generate().unwrap(),
    );
    old.issue(Role::Writer, None)
        .unwrap()
        .save(dir.path(), "writer")
        .unwrap();
    let old_file = dir.path().join("old-ca.pem");
    std::fs::copy(dir.path().join("ca.pem"), &old_file).unwrap();
    new.save(new_dir.path()).unwrap();
    let new_file = new_dir.path().join("ca.pem");
    assert!(distrust(dir.path(), &old_file, &["writer"]).is_err());
    assert_eq!(trust(dir.path(), &new_file).unwrap(), 1);
    assert_eq!(trust(dir.path(), &new_file).unwrap(), 0);
    assert!(trusts(dir.path(), &new_file).unwrap() && trusts(dir.path(), &old_file).unwrap());
    let error = distrust(dir.path(), &old_file, &["writer"]).unwrap_err();
    assert!(error.to_string().contains("issue it anew"), "{error}");
    new.issue(Role::Writer, None)
        .unwrap()
        .save_own(dir.path(), "writer")
        .unwrap();
    assert_eq!(distrust(dir.path(), &old_file, &["writer"]).unwrap(), 1);
    assert_eq!(of_authorities(&dir.path().join("ca.pem")).unwrap().len(), 1);
    crate::Identity::load(dir.path(), "writer").unwrap();
}
