//! Golden files: today's bytes of every format, kept. A difference means that what older builds wrote would be misread.
//!
//! `SIXFOLD_WRITE_GOLDEN=1` writes the files that are missing or different; only for a format that never shipped.

#![allow(clippy::disallowed_methods, reason = "reads its own files")]

use std::fs;
use std::path::PathBuf;

use crate::messages::{messages, refusals};
use crate::samples;

fn compare(name: &str, bytes: &[u8]) {
    let path: PathBuf = [
        env!("CARGO_MANIFEST_DIR"),
        "tests",
        "golden",
        &format!("{name}.bin"),
    ]
    .iter()
    .collect();
    if std::env::var_os("SIXFOLD_WRITE_GOLDEN").is_some() {
        fs::write(&path, bytes).unwrap();
    }
    let golden = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let same = golden
        .iter()
        .zip(bytes)
        .take_while(|(old, new)| old == new)
        .count();
    assert!(
        golden == bytes,
        "{name}: byte {same} differs, {} bytes of {}",
        bytes.len(),
        golden.len()
    );
}

#[test]
fn batches_are_written_as_ever() {
    compare("batch", samples::batch().bytes());
}

#[test]
fn pages_are_written_as_ever() {
    compare("page", &samples::leaf().encode());
    compare("page_image", &samples::leaf().image());
}

#[test]
fn hot_log_zones_are_written_as_ever() {
    compare("superblock", &samples::superblock().encode());
    compare("file_header", &samples::file_header().encode());
    compare("group", &samples::group());
    compare("group_removed", &samples::removed_group());
}

#[test]
fn layers_and_catalogs_are_written_as_ever() {
    compare("layer", &samples::layer().0);
    compare("layer_catalog", &samples::catalog().encode());
    compare("page_packed", &samples::leaf().pack());
}

#[test]
fn manifests_and_histories_are_written_as_ever() {
    compare("manifest", &samples::manifest().encode());
    compare("manifest_token", &samples::manifest_with_token().encode());
    compare("history", &samples::history().encode());
}

#[test]
fn messages_are_written_as_ever() {
    for (name, message) in messages() {
        compare(&format!("message_{name}"), &message.encode().to_bytes());
    }
    for refusal in refusals() {
        let number = sixfold_log_format::wire::Message::Refused(refusal)
            .encode()
            .to_bytes();
        compare(&format!("refusal_{:02}", number[5]), &number);
    }
}
