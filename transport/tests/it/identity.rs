//! Certificates on disk.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use sixfold_log_format::wire::Role;
use sixfold_transport::{ClusterCa, Identity, TlsError};

use crate::common::NODE;

fn mode(path: &std::path::Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn what_is_saved_is_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let ca = ClusterCa::generate().unwrap();
    ca.issue(Role::Node, Some(NODE))
        .unwrap()
        .save(dir.path(), "node-1")
        .unwrap();
    ca.issue(Role::Writer, None)
        .unwrap()
        .save(dir.path(), "writer")
        .unwrap();
    let node = Identity::load(dir.path(), "node-1").unwrap();
    assert_eq!((node.role(), node.node()), (Role::Node, Some(NODE)));
    let writer = Identity::load(dir.path(), "writer").unwrap();
    assert_eq!((writer.role(), writer.node()), (Role::Writer, None));
    assert_eq!(mode(&dir.path().join("node-1-key.pem")), 0o600);
    assert_eq!(mode(&dir.path().join("writer-key.pem")), 0o600);
}

#[test]
fn a_loaded_authority_issues_for_the_same_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let ca = ClusterCa::generate().unwrap();
    ca.save(dir.path()).unwrap();
    ca.save(dir.path()).unwrap();
    assert_eq!(mode(&dir.path().join("ca-key.pem")), 0o600);
    let again = ClusterCa::load(dir.path()).unwrap();
    again
        .issue(Role::Reader, None)
        .unwrap()
        .save(dir.path(), "reader")
        .unwrap();
    // The authority's certificate is the one of the first: the reader's must fit it.
    ca.save(dir.path()).unwrap();
    assert_eq!(
        Identity::load(dir.path(), "reader").unwrap().role(),
        Role::Reader
    );
}

#[test]
fn a_certificate_of_a_foreign_authority_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let foreign = ClusterCa::generate().unwrap();
    foreign
        .issue(Role::Writer, None)
        .unwrap()
        .save(dir.path(), "writer")
        .unwrap();
    ClusterCa::generate().unwrap().save(dir.path()).unwrap();
    let error = Identity::load(dir.path(), "writer")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("writer.pem") && error.contains("not issued by"),
        "{error}"
    );
    fs::write(dir.path().join("ca-key.pem"), ca_key(&foreign)).unwrap();
    let error = ClusterCa::load(dir.path()).unwrap_err().to_string();
    assert!(
        error.contains("ca.pem") && error.contains("does not belong"),
        "{error}"
    );
}

fn ca_key(ca: &ClusterCa) -> String {
    let dir = tempfile::tempdir().unwrap();
    ca.save(dir.path()).unwrap();
    fs::read_to_string(dir.path().join("ca-key.pem")).unwrap()
}

#[test]
fn a_key_of_another_certificate_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let ca = ClusterCa::generate().unwrap();
    ca.issue(Role::Writer, None)
        .unwrap()
        .save(dir.path(), "writer")
        .unwrap();
    ca.issue(Role::Reader, None)
        .unwrap()
        .save(dir.path(), "reader")
        .unwrap();
    fs::copy(
        dir.path().join("reader-key.pem"),
        dir.path().join("writer-key.pem"),
    )
    .unwrap();
    let error = Identity::load(dir.path(), "writer").unwrap_err();
    assert!(
        matches!(&error, TlsError::Invalid { what, .. } if what.contains("key of")),
        "{error}"
    );
}

#[test]
fn missing_and_damaged_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let ca = ClusterCa::generate().unwrap();
    ca.issue(Role::Writer, None)
        .unwrap()
        .save(dir.path(), "writer")
        .unwrap();
    for name in ["ca.pem", "writer.pem", "writer-key.pem"] {
        let path = dir.path().join(name);
        let good = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let error = Identity::load(dir.path(), "writer").unwrap_err();
        assert!(
            matches!(&error, TlsError::File { path, .. } if path.ends_with(name)),
            "{error}"
        );
        for damaged in [&b""[..], b"no pem", &good[..good.len() / 2]] {
            fs::write(&path, damaged).unwrap();
            let error = Identity::load(dir.path(), "writer")
                .unwrap_err()
                .to_string();
            assert!(
                error.contains("ca.pem") || error.contains("writer"),
                "{error}"
            );
        }
        fs::write(&path, good).unwrap();
    }
    Identity::load(dir.path(), "writer").unwrap();
}

#[test]
fn a_node_has_an_id_and_no_other_role_has() {
    let ca = ClusterCa::generate().unwrap();
    assert!(ca.issue(Role::Node, None).is_err());
    assert!(ca.issue(Role::Writer, Some(NODE)).is_err());
}

#[test]
fn keys_are_not_printed() {
    let ca = ClusterCa::generate().unwrap();
    let identity = ca.issue(Role::Writer, None).unwrap();
    let printed = format!("{ca:?} {identity:?}");
    assert!(
        !printed.contains("PRIVATE") && printed.len() < 200,
        "{printed}"
    );
}
