use super::*;

use sixfold_log_format::NodeId;

use crate::directory::HotLogFiles;

fn scratch() -> tempfile::TempDir {
    // The build directory: the system's temporary directory may be a tmpfs without direct I/O.
    let program = std::env::current_exe().unwrap();
    tempfile::tempdir_in(program.parent().unwrap()).unwrap()
}

fn preparation(hot_log: &Path, number: u64, bytes: u64) -> Preparation {
    Preparation {
        hot_log: hot_log.to_owned(),
        number: FileNumber(number),
        bytes,
        paced: false,
        filled_bytes: Arc::default(),
        stopping: Arc::default(),
        told: Told::default(),
        _lock: Arc::new(File::open("/dev/null").unwrap()),
    }
}

#[test]
fn a_prepared_file_is_all_zeros_and_takes_no_further_space() {
    let directory = scratch();
    let bytes = (2 << 20) + 4096;
    preparation(directory.path(), 1, bytes).run().unwrap();
    let path = file_path(directory.path(), FileNumber(1));
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!(metadata.len(), bytes);
    assert!(metadata.blocks() * 512 >= bytes, "not allocated");
    assert!(fs::read(&path).unwrap().iter().all(|byte| *byte == 0));
    let found = list_hot_log(directory.path(), bytes).unwrap();
    assert_eq!(
        found,
        HotLogFiles {
            files: vec![(FileNumber(1), bytes)],
            leftovers: Vec::new()
        }
    );
}

#[test]
fn an_append_syncs_the_data_and_not_the_times() {
    let directory = scratch();
    let file = preparation(directory.path(), 1, 4096).run().unwrap();
    let flags = rustix::fs::fcntl_getfl(&file).unwrap();
    assert!(flags.contains(OFlags::DIRECT));
    // `O_SYNC` is `O_DSYNC` and a bit of its own.
    assert_eq!(flags.bits() & OFlags::SYNC.bits(), O_DSYNC, "{flags:?}");
}

#[test]
fn a_preparation_never_replaces_a_file() {
    let directory = scratch();
    let path = file_path(directory.path(), FileNumber(1));
    fs::write(&path, b"acknowledged").unwrap();
    let result = preparation(directory.path(), 1, 4096).run();
    assert_eq!(result.unwrap_err(), DiskError::Failed);
    assert_eq!(fs::read(&path).unwrap(), b"acknowledged");
    assert!(!temporary_path(directory.path(), FileNumber(1)).exists());
}

#[test]
fn a_preparation_that_cannot_begin_has_failed() {
    let directory = scratch();
    let missing = directory.path().join("missing");
    assert_eq!(
        preparation(&missing, 1, 4096).run().unwrap_err(),
        DiskError::Failed
    );
}

#[test]
fn a_stopping_node_gives_a_preparation_up() {
    let directory = scratch();
    let preparation = preparation(directory.path(), 1, 8 << 20);
    preparation.stopping.store(true, Ordering::Relaxed);
    assert_eq!(preparation.run().unwrap_err(), DiskError::Failed);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_paced_preparation_is_done_when_half_of_the_file_in_use_is_full() {
    let file_bytes = 64 << 20;
    assert!(allowed_bytes(file_bytes / 2, Duration::ZERO) >= file_bytes);
    assert_eq!(allowed_bytes(1 << 20, Duration::ZERO), 2 << 20);
    assert!(
        allowed_bytes(0, Duration::from_secs(60)) >= file_bytes,
        "it gets there without a single append"
    );
}

#[test]
fn the_block_unit_is_one_that_buffers_are_aligned_to_and_the_device_can_address() {
    let directory = scratch();
    let unit = block_unit(directory.path()).unwrap();
    let sizes = block_sizes(directory.path()).unwrap();
    assert!(unit.is_power_of_two() && unit as usize <= IoBuf::ALIGN_BYTES);
    assert!(unit >= sizes.logical);
    assert!(unit >= sizes.physical.min(4096));
}

#[test]
fn a_partition_has_the_block_sizes_of_its_disk() {
    let root = scratch();
    let disk = root.path().join("disk");
    let partition = disk.join("partition");
    fs::create_dir_all(disk.join("queue")).unwrap();
    fs::create_dir_all(&partition).unwrap();
    fs::write(disk.join("queue/physical_block_size"), "4096\n").unwrap();
    assert_eq!(queue_value(&partition, "physical_block_size"), Some(4096));
    assert_eq!(queue_value(&disk, "physical_block_size"), Some(4096));
    assert_eq!(queue_value(&disk, "logical_block_size"), None);
    fs::write(disk.join("queue/logical_block_size"), "0\n").unwrap();
    assert_eq!(queue_value(&disk, "logical_block_size"), None);
}

fn device(hot_log: &Path, files: &[(u64, File)]) -> Device {
    let directory = Directory::open(hot_log, NodeId::from_bytes([1; 16])).unwrap();
    Device {
        block_bytes: 4096,
        directory,
        file_bytes: 4096,
        files: files
            .iter()
            .map(|(number, file)| (FileNumber(*number), Rc::new(file.try_clone().unwrap())))
            .collect(),
        filled_bytes: Arc::default(),
        stopping: Arc::default(),
        told: Told::default(),
    }
}

fn wait_for_locks(device: &Device, patience: Duration) -> Result<(), NodeError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(device.lock(patience))
}

#[test]
fn a_start_waits_for_whoever_still_refers_to_the_open_file_of_an_earlier_life() {
    let directory = scratch();
    let files = scratch();
    let path = file_path(files.path(), FileNumber(1));
    // A prepared file is locked from the start.
    let old = preparation(files.path(), 1, 4096).run().unwrap();
    // As the kernel refers to it while a write is on its way.
    let in_flight = old.try_clone().unwrap();
    drop(old);
    let new = device(directory.path(), &[(1, open_synced(&path).unwrap())]);
    let error = wait_for_locks(&new, Duration::from_millis(30)).unwrap_err();
    assert!(
        matches!(error, NodeError::StillWritten { waited_ms, .. } if waited_ms >= 30),
        "{error}"
    );
    let line = error.to_string();
    assert!(
        line.contains("0000000000000001.log is still being written"),
        "{line}"
    );
    assert!(!line.contains('\n'), "{line}");

    let writer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        drop(in_flight);
    });
    wait_for_locks(&new, Duration::from_secs(60)).unwrap();
    writer.join().unwrap();
    // From now on the new life has it.
    assert!(!try_lock(&open_synced(&path).unwrap()).unwrap());
    drop(new);
    assert!(try_lock(&open_synced(&path).unwrap()).unwrap());
}

#[test]
fn a_recycled_file_is_what_it_was_but_for_its_first_block_and_one_of_the_two_is_always_there() {
    let directory = scratch();
    let bytes = 4 * 4096;
    let old = preparation(directory.path(), 3, bytes).run().unwrap();
    let mut content = IoBuf::zeroed(4 * 4096);
    content.as_mut().fill(7);
    old.write_all_at(content.as_ref(), 0).unwrap();
    let recycling = |number: u64, from: u64, file: &File| Recycling {
        hot_log: directory.path().to_owned(),
        number: FileNumber(number),
        from: FileNumber(from),
        block_bytes: 4096,
        file: file.try_clone().unwrap(),
        told: Told::default(),
    };
    let listed = || list_hot_log(directory.path(), bytes).unwrap().files;
    // Step by step, as a crash may leave it.
    let steps = recycling(9, 3, &old);
    steps.behead().unwrap();
    assert_eq!(listed(), [(FileNumber(3), bytes)]);
    steps.rename().unwrap();
    assert_eq!(listed(), [(FileNumber(9), bytes)]);
    let read = fs::read(file_path(directory.path(), FileNumber(9))).unwrap();
    assert!(read[..4096].iter().all(|byte| *byte == 0));
    assert!(read[4096..].iter().all(|byte| *byte == 7));
    // As a whole; and never over a file that is there.
    let same = recycling(10, 9, &old).run().unwrap();
    assert_eq!(listed(), [(FileNumber(10), bytes)]);
    preparation(directory.path(), 11, bytes).run().unwrap();
    recycling(11, 10, &same).run().unwrap_err();
    assert_eq!(listed().len(), 2);
    // The lock was never let go.
    drop(old);
    let other = open_synced(&file_path(directory.path(), FileNumber(10))).unwrap();
    assert!(!try_lock(&other).unwrap());
}
