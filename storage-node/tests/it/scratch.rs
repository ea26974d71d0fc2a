//! Directories on a real file system, and pictures of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// An empty directory below the build directory: the system's temporary directory may be a tmpfs.
pub fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Every file below a directory with its contents; directories have none.
pub fn picture(directory: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut picture = BTreeMap::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path.clone());
                picture.insert(path, None);
            } else {
                picture.insert(path.clone(), Some(fs::read(path).unwrap()));
            }
        }
    }
    picture
}
