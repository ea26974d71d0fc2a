//! Names of layer files.

use sixfold_log_format::SegmentId;
use sixfold_log_format::layer::LayerNumber;

use super::{keep_reserve, key_in, path_of};

#[test]
fn a_name_is_read_as_it_was_written_and_in_no_other_form() {
    let key = (SegmentId::from_bytes([0xab; 16]), LayerNumber(0x1f));
    let path = path_of(std::path::Path::new("/d"), key);
    let name = path.file_name().unwrap().to_str().unwrap().to_owned();
    assert_eq!(name, format!("{}-000000000000001f.layer", "ab".repeat(16)));
    assert_eq!(key_in(&name), Some(key));
    for other in [
        name.replace("1f", "1F"),
        name.replace("000000000000001f", "1f"),
        name.replace("1f", "00"),
        name.replace("ab", "AB"),
        name.replace(".layer", ".layer.tmp"),
        name.replace('-', ""),
    ] {
        assert_eq!(key_in(&other), None, "{other}");
    }
}

#[test]
fn a_layer_is_not_begun_when_the_reserve_is_not_free() {
    let directory = tempfile::tempdir().unwrap();
    keep_reserve(directory.path(), 0).unwrap();
    let error = keep_reserve(directory.path(), u64::MAX).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
}
