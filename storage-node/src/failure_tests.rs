use super::*;
use tokio::task::LocalSet;

fn bounded(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async {
        let limit = std::time::Duration::from_secs(30);
        tokio::time::timeout(limit, test)
            .await
            .expect("the failure was not told");
    });
}

#[test]
fn a_panicked_task_is_a_failure_before_any_other_task_runs() {
    bounded(async {
        let failure = Rc::new(Failure::default());
        let seen = Rc::new(Cell::new(None));
        failure.spawn(async { panic!("planted") });
        let (later, noted) = (Rc::clone(&failure), Rc::clone(&seen));
        failure.spawn(async move { noted.set(Some(later.is_set())) });
        assert!(matches!(failure.wait().await, NodeError::Panicked));
        while seen.get().is_none() {
            tokio::task::yield_now().await;
        }
        assert_eq!(seen.get(), Some(true));
    });
}

#[test]
fn a_task_that_ends_is_no_failure() {
    bounded(async {
        let failure = Rc::new(Failure::default());
        let ended = Rc::new(Notify::new());
        let tell = Rc::clone(&ended);
        failure.spawn(async move { tell.notify_one() });
        ended.notified().await;
        tokio::task::yield_now().await;
        assert!(!failure.is_set());
    });
}

#[test]
fn the_first_failure_is_the_one_that_is_reported() {
    bounded(async {
        let failure = Failure::default();
        failure.set(NodeError::Stopped {
            reason: "first".to_owned(),
        });
        failure.set(NodeError::Panicked);
        assert_eq!(failure.wait().await.to_string(), "node stopped: first");
    });
}

#[test]
fn a_host_without_io_uring_gets_a_line_that_says_so() {
    for error in [rustix::io::Errno::PERM, rustix::io::Errno::NOSYS] {
        let line = NodeError::from_ring(error.into()).to_string();
        assert!(
            line.starts_with("io_uring is not available on this host"),
            "{line}"
        );
    }
    let line = NodeError::from_ring(rustix::io::Errno::MFILE.into()).to_string();
    assert!(line.starts_with("io_uring: Too many open files"), "{line}");
}
