//! How the driver wakes watchers: when VDL has moved, when the volume was lost, and now and then, so that one with nothing to
//! deliver learns how far the volume is. Costs nothing while nobody watches.

use std::cell::Cell;
use std::time::Duration;

use sixfold_log_format::Lsn;
use tokio::sync::watch::{Receiver, Sender};

/// Watchers are woken so often at least.
const INTERVAL: Duration = Duration::from_secs(1);

/// The driver's side.
#[derive(Debug, Default)]
pub(crate) struct WatchNews {
    sender: Sender<()>,
    told: Cell<(Lsn, Duration)>,
}

/// A watcher's side. It ends with the driver.
pub(crate) type WatchWaker = Receiver<()>;

impl WatchNews {
    /// For the user's side; watchers take clones.
    pub(crate) fn waker(&self) -> WatchWaker {
        self.sender.subscribe()
    }

    /// Published VDL is `vdl`.
    pub(crate) fn tell(&self, now: Duration, vdl: Lsn) {
        let (told, told_at) = self.told.get();
        if vdl == told && now < told_at + INTERVAL {
            return;
        }
        self.told.set((vdl, now));
        self.wake();
    }

    /// Wakes all watchers: there is something to be said that is no commit.
    pub(crate) fn wake(&self) {
        // One waker is the database's own.
        if self.sender.receiver_count() > 1 {
            self.sender.send_replace(());
        }
    }
}
