//! `sixfold inspect` on directories of a real cluster.

use std::process::Command;

fn inspect(arguments: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_sixfold"))
        .arg("inspect")
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn a_directory_that_is_no_nodes_gives_one_line() {
    let scratch = tempfile::tempdir().unwrap();
    let output = inspect(&[scratch.path().to_str().unwrap()]);
    assert!(!output.status.success());
    let line = String::from_utf8(output.stderr).unwrap();
    assert!(
        line.starts_with("sixfold: cannot read ") && line.lines().count() == 1,
        "{line}"
    );
}

#[test]
fn a_bad_segment_is_named() {
    let output = inspect(&["/nowhere", "--page", "1", "--segment", "xyz"]);
    assert!(!output.status.success());
    let line = String::from_utf8(output.stderr).unwrap();
    assert!(
        line.contains("\"xyz\" is not 32 hexadecimal digits"),
        "{line}"
    );
}
