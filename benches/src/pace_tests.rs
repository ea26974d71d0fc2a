//! Both loops, with requests that wait in virtual or in no time.

use super::*;

fn on_a_local_set<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, future)
}

#[test]
fn requests_are_due_at_even_distances() {
    assert_eq!(due_count(1_000, Duration::from_millis(1_500)), 1_500);
    assert_eq!(due_at(1_000, 1_500), Duration::from_millis(1_500));
    assert_eq!(due_at(3, 1), Duration::from_nanos(333_333_333));
}

#[test]
fn an_open_loop_makes_each_request_that_is_due_once() {
    let asked = Rc::new(RefCell::new(Vec::new()));
    let seen = Rc::clone(&asked);
    let pace = Pace {
        clients: 8,
        time: Duration::from_millis(100),
        rate: Some(5_000),
    };
    let paced = on_a_local_set(run(pace, move |_, number| {
        asked.borrow_mut().push(number);
        async { Ok(()) }
    }))
    .unwrap();
    let mut seen = seen.borrow().clone();
    seen.sort_unstable();
    // A machine that stands still for the whole run may leave some; none is made twice.
    assert!(
        seen.iter()
            .enumerate()
            .all(|(at, number)| at as u64 == *number)
    );
    assert_eq!(seen.len() as u64 + paced.never_begun, 500);
    assert_eq!(paced.latencies.count(), seen.len() as u64);
}

#[test]
fn a_stall_counts_for_every_request_that_was_due_meanwhile() {
    const STALL: Duration = Duration::from_millis(200);
    let pace = Pace {
        clients: 1,
        time: Duration::from_millis(400),
        rate: Some(1_000),
    };
    let paced = on_a_local_set(run(pace, |_, number| async move {
        if number == 0 {
            tokio::time::sleep(STALL).await;
        }
        Ok(())
    }))
    .unwrap();
    // A closed loop would have seen one slow answer. The requests due in the first half of the stall waited for at least the other
    // half of it: a quarter of all.
    assert!(
        paced.latencies.quantile_us(0.76) >= 100_000,
        "{} us",
        paced.latencies.quantile_us(0.76)
    );
}

#[test]
fn an_error_of_a_request_ends_the_run() {
    let pace = Pace {
        clients: 2,
        time: Duration::from_secs(60),
        rate: None,
    };
    let ended = on_a_local_set(run(pace, |_, number| async move {
        ensure!(number < 10, "the eleventh");
        tokio::task::yield_now().await;
        Ok(())
    }));
    assert_eq!(ended.unwrap_err().to_string(), "the eleventh");
}
