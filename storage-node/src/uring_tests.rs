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
