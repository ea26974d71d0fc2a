//! What wakes the driver beside messages: completions of the ring, its timeout, and once a second how much room there is.

use std::path::PathBuf;
use std::rc::Rc;

use rustix::fs::statvfs;
use sixfold_storage_node_core::Event;

use super::{Driver, SPACE_INTERVAL, now};
use crate::error::NodeError;
use crate::uring::Watch;

/// Wakes when the ring has completions.
pub(super) async fn watch_ring(driver: Rc<Driver>, watch: Watch) {
    loop {
        if let Err(source) = watch.signaled().await {
            return driver.failure.set(NodeError::Ring { source });
        }
        driver.run(None);
    }
}

/// Tells the core how much room there is.
pub(super) async fn watch_space(driver: Rc<Driver>, data_dir: PathBuf) {
    loop {
        let path = data_dir.clone();
        // A helper asks: a file system may take its time.
        let found = tokio::task::spawn_blocking(move || statvfs(&path)).await;
        if let Ok(Ok(found)) = found {
            let free_bytes = found.f_bavail.saturating_mul(found.f_frsize);
            driver.handle(Event::Space { free_bytes });
        }
        tokio::time::sleep(SPACE_INTERVAL).await;
    }
}

/// Tells the core when its timeout has come.
pub(super) async fn watch_clock(driver: Rc<Driver>) {
    loop {
        let due = {
            let mut state = driver.state.borrow_mut();
            state.armed = state.core.poll_timeout();
            state.armed
        };
        let changed = driver.timer_changed.notified();
        match due {
            None => changed.await,
            Some(due) => {
                let wait = due.saturating_sub(now());
                if wait.is_zero() {
                    // A timer would round up to its next millisecond.
                    driver.handle(Event::Timeout);
                } else {
                    tokio::select! {
                        () = changed => {}
                        () = tokio::time::sleep(wait) => driver.handle(Event::Timeout),
                    }
                }
                // A core whose timeout stays in the past must not starve everybody else: whoever yields goes on when sockets and
                // the ring were looked at.
                tokio::task::yield_now().await;
            }
        }
    }
}
