//! How a task takes the process down: the first failure wins, and [`crate::run`] returns it.
//!
//! A panicked task must not leave a node behind that answers with half a state. The runtime swallows panics, so each task
//! carries a guard that notices when it is unwound.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use tokio::sync::Notify;

use crate::error::NodeError;

/// The first failure of any task.
#[derive(Debug, Default)]
pub(crate) struct Failure {
    error: RefCell<Option<NodeError>>,
    failed: Cell<bool>,
    changed: Notify,
}

impl Failure {
    /// Notes a failure; later ones are logged only.
    pub(crate) fn set(&self, error: NodeError) {
        if self.failed.replace(true) {
            tracing::warn!(%error, "failed as well, while the node stops for the failure that it ends with");
            return;
        }
        *self.error.borrow_mut() = Some(error);
        self.changed.notify_one();
    }

    /// Whether anything failed: nothing may be acknowledged any more.
    pub(crate) fn is_set(&self) -> bool {
        self.failed.get()
    }

    /// Returns the failure when there is one.
    pub(crate) async fn wait(&self) -> NodeError {
        loop {
            if let Some(error) = self.error.borrow_mut().take() {
                return error;
            }
            self.changed.notified().await;
        }
    }

    /// Spawns a task on this thread that takes the node down when it panics.
    pub(crate) fn spawn(self: &Rc<Self>, task: impl Future<Output = ()> + 'static) {
        let alarm = Alarm(Rc::clone(self));
        tokio::task::spawn_local(async move {
            let _alarm = alarm;
            task.await;
        });
    }
}

/// Dropped while its task unwinds: nobody else runs on this thread before it has told.
struct Alarm(Rc<Failure>);

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.set(NodeError::Panicked);
        }
    }
}

#[cfg(test)]
#[path = "failure_tests.rs"]
mod failure_tests;
