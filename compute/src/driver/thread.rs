//! A thread of the library's own, with a runtime of its own: nothing of it runs on the user's (F14).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokio::sync::oneshot;

use super::state::State;
use super::tasks::{caught, panic_text};
use crate::error::Error;

/// How a thread tells that it is ready, or why it will not be.
pub(super) type Ready<T> = oneshot::Sender<Result<T, Error>>;

/// Starts a thread and waits until it is ready. Dropping the future ends the thread, if its main looks at `Ready::closed`.
///
/// # Errors
/// Whatever kept it from becoming ready.
pub(super) async fn start<T, F, R>(name: &str, main: F) -> Result<T, Error>
where
    T: Send + 'static,
    F: FnOnce(Ready<T>, Arc<State>) -> R + Send + 'static,
    R: Future<Output = ()> + 'static,
{
    let (ready, started) = oneshot::channel();
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread
        .spawn(move || run(main, ready))
        .map_err(|error| Error::unavailable(format!("cannot start a thread: {error}")))?;
    started.await.unwrap_or_else(|_| {
        Err(Error::Closed {
            reason: "its thread ended while opening".to_owned(),
        })
    })
}

/// The thread. Its state is told before anything is dropped that somebody may wait for.
fn run<T, F, R>(main: F, ready: Ready<T>)
where
    F: FnOnce(Ready<T>, Arc<State>) -> R,
    R: Future<Output = ()> + 'static,
{
    let state = Arc::new(State::default());
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => {
                let _gone = ready.send(Err(Error::unavailable(format!(
                    "cannot start a runtime: {error}"
                ))));
                return;
            }
        };
        let local = tokio::task::LocalSet::new();
        let told = Arc::clone(&state);
        let main = main(ready, Arc::clone(&state));
        let main = local.run_until(async move {
            // A task of its own: what the set polls first is then only the wait for it.
            match tokio::task::spawn_local(caught(main)).await {
                Ok(Ok(())) => {}
                Ok(Err(panic)) => told.close(internal_error(&panic)),
                Err(error) => told.close(internal_error(&error.to_string())),
            }
        });
        runtime.block_on(main);
        state.close("it was dropped");
    }));
    if let Err(panic) = outcome {
        state.close(internal_error(&panic_text(panic.as_ref())));
    }
}

/// What users are told of a bug.
pub(super) fn internal_error(what: &str) -> String {
    tracing::error!(
        what,
        "internal error, the database closes: open it again, what was answered is kept; report this line with those above"
    );
    format!("internal error: {what}")
}
