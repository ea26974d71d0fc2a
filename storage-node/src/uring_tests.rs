use super::*;

fn operation(kind: Kind, bytes: usize) -> Operation {
    Operation {
        token: DiskToken(1),
        kind,
        file: Rc::new(File::open("/dev/null").unwrap()),
        offset: 0,
        buf: IoBuf::zeroed(bytes),
        done: 0,
        tries: 0,
        told: None,
    }
}

#[test]
fn a_short_transfer_is_continued_until_it_is_whole() {
    for kind in [Kind::Read, Kind::Write] {
        let mut operation = operation(kind, 8192);
        assert_eq!(operation.advance(4096), None);
        assert_eq!(operation.done, 4096);
        assert_eq!(operation.advance(512), None);
        assert_eq!(operation.advance(3584), Some(Ok(())));
    }
}

#[test]
fn a_write_that_moves_nothing_has_failed_and_a_read_has_met_the_end() {
    assert_eq!(
        operation(Kind::Write, 4096).advance(0),
        Some(Err(Errno::IO))
    );
    assert_eq!(
        operation(Kind::Write, 4096).advance(100),
        Some(Err(Errno::IO))
    );
    assert_eq!(operation(Kind::Read, 4096).advance(0), Some(Ok(())));
    let mut read = operation(Kind::Read, 4096);
    assert_eq!(read.advance(100), Some(Ok(())));
    let Completion::Read {
        result: Ok(bytes), ..
    } = read.complete(Ok(()))
    else {
        panic!()
    };
    assert_eq!(bytes.len(), 100);
}

#[test]
fn an_interrupted_operation_is_tried_again_a_bounded_number_of_times() {
    let mut operation = operation(Kind::Write, 4096);
    let interrupted = -Errno::INTR.raw_os_error();
    for _ in 1..TRIES_MAX {
        assert_eq!(operation.advance(interrupted), None);
    }
    assert_eq!(operation.advance(interrupted), Some(Err(Errno::INTR)));
}

#[test]
#[should_panic(expected = "moved more than was asked for")]
fn a_kernel_that_moves_more_than_was_asked_for_is_not_believed() {
    let _ = operation(Kind::Read, 512).advance(513);
}

#[test]
fn only_a_full_disk_is_not_a_failure() {
    assert_eq!(disk_error(Errno::NOSPC), DiskError::Full);
    assert_eq!(disk_error(Errno::DQUOT), DiskError::Full);
    assert_eq!(disk_error(Errno::IO), DiskError::Failed);
    assert_eq!(disk_error(Errno::ROFS), DiskError::Failed);
}

/// What a start relies on that waits for the writes of a killed process (`Device::lock`).
#[test]
fn an_operation_in_flight_keeps_the_lock_of_a_file_that_everybody_has_closed() {
    use rustix::fs::{CWD, FileType, FlockOperation, Mode, flock, mknodat};

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pipe");
    // A pipe keeps a read in flight until somebody writes.
    mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let open = || File::options().read(true).write(true).open(&path).unwrap();
    let old = open();
    flock(&old, FlockOperation::NonBlockingLockExclusive).unwrap();
    let mut ring = IoUring::new(1).unwrap();
    let mut byte = Box::new([0_u8]);
    let read = opcode::Read::new(types::Fd(old.as_raw_fd()), byte.as_mut_ptr(), 1).build();
    // SAFETY: the byte lives until the read was awaited below.
    unsafe { ring.submission().push(&read) }.unwrap();
    ring.submit().unwrap();
    drop(old);

    let new = open();
    let lock = || flock(&new, FlockOperation::NonBlockingLockExclusive);
    assert_eq!(lock(), Err(Errno::WOULDBLOCK));
    rustix::io::write(&new, b"x").unwrap();
    ring.submit_and_wait(1).unwrap();
    assert_eq!(ring.completion().next().unwrap().result(), 1);
    let begun = std::time::Instant::now();
    while lock().is_err() {
        assert!(begun.elapsed() < std::time::Duration::from_secs(30));
        std::thread::yield_now();
    }
    assert_eq!(*byte, *b"x");
}

#[test]
fn a_kernel_that_refuses_a_setup_gets_the_next_one() {
    // The last one is what every kernel has.
    let ring = Ring::first_of(&[Setup::Deferred, Setup::Cooperative, Setup::Plain]).unwrap();
    assert_eq!(ring.pending(), 0);
    assert!(Ring::first_of(&[Setup::Plain]).is_ok());
}
