use super::*;

/// A data directory with one file of its hot log, and graves.
fn directory() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let graves = dir.path().join("graves");
    fs::create_dir_all(data.join("hot-log")).unwrap();
    fs::create_dir(&graves).unwrap();
    (dir, data, graves)
}

fn file(data: &Path, bytes: &[u8]) -> (PathBuf, File) {
    let path = data.join("hot-log").join("1");
    fs::write(&path, bytes).unwrap();
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    (path, file)
}

const SECTORS: usize = 16;
const BYTES: usize = SECTORS * SECTOR_BYTES;

#[test]
fn a_cut_takes_sectors_of_what_was_not_synced_and_of_nothing_else() {
    let (mut torn, mut kept_whole) = (0, 0);
    for seed in 0..40 {
        let (_dir, data, graves) = directory();
        let (path, file) = file(&data, &[0; 2 * BYTES]);
        let disk = Disk::with_cache(&graves);
        let first = disk.write_begins(&file, 0, BYTES, true);
        file.write_all_at(&[1; BYTES], 0).unwrap();
        assert!(disk.write_ended(first));
        let second = disk.write_begins(&file, BYTES as u64, BYTES, true);
        file.write_all_at(&[2; BYTES], BYTES as u64).unwrap();
        disk.cut();
        assert!(!disk.write_ended(second));
        let lost = disk.lose(&data, End::PowerCut, seed).unwrap();
        let found = fs::read(&path).unwrap();
        assert!(found[..BYTES].iter().all(|byte| *byte == 1));
        for sector in found[BYTES..].chunks(SECTOR_BYTES) {
            assert!(sector.iter().all(|byte| *byte == sector[0]) && [0, 2].contains(&sector[0]));
        }
        torn += lost.torn;
        kept_whole += usize::from(lost.sectors == 0);
    }
    assert!(torn > 0 && kept_whole > 0);
}

#[test]
fn a_cut_takes_back_changes_of_a_directory_that_was_not_synced() {
    let (mut back, mut gone) = (0, 0);
    for seed in 0..40 {
        let (_dir, data, graves) = directory();
        let (path, _) = file(&data, b"old");
        let disk = Disk::with_cache(&graves);
        disk.changes(Change::Delete(&path)).unwrap();
        fs::remove_file(&path).unwrap();
        disk.cut();
        disk.lose(&data, End::PowerCut, seed).unwrap();
        if path.exists() {
            assert_eq!(fs::read(&path).unwrap(), b"old");
            back += 1;
        } else {
            gone += 1;
        }
        assert_eq!(fs::read_dir(&graves).unwrap().count(), 0);
    }
    assert!(back > 0 && gone > 0);
    let (_dir, data, graves) = directory();
    let (path, _) = file(&data, b"old");
    let disk = Disk::with_cache(&graves);
    disk.changes(Change::Delete(&path)).unwrap();
    fs::remove_file(&path).unwrap();
    disk.directory_synced(path.parent().unwrap()).unwrap();
    disk.cut();
    disk.lose(&data, End::PowerCut, 1).unwrap();
    assert!(!path.exists());
}

#[test]
fn a_full_disk_takes_no_file_and_a_failing_one_no_write() {
    let (_dir, data, _) = directory();
    let (path, file) = file(&data, &[0; BYTES]);
    let disk = Disk::new();
    disk.set_full(true);
    let refused = disk.changes(Change::Make(&path)).unwrap_err();
    assert_eq!(Errno::from_io_error(&refused), Some(Errno::NOSPC));
    disk.changes(Change::Delete(&path)).unwrap();
    let write = disk.write_begins(&file, 0, BYTES, true);
    assert!(disk.write_ended(write));
    disk.set_full(false);
    disk.changes(Change::Make(&path)).unwrap();
    disk.fail();
    let write = disk.write_begins(&file, 0, BYTES, true);
    assert!(!disk.write_ended(write));
}
