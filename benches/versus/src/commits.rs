//! The load of commits: a put of a key drawn evenly from a million, one to a commit, each client after its last answer.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::CommitArgs;
use crate::draw::{KeyName, scattered};
use crate::embedded;
use crate::outcome::{About, CommitRow, Outcome};
use crate::pace::{Pace, run as run_paced};
use crate::{etcd, postgresql, redis};

/// Keys that are drawn from.
pub(crate) const KEY_COUNT: u64 = 1_000_000;

/// A client of a server: one request at a time.
pub(crate) trait Client {
    /// Puts, and returns when it is durable.
    async fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()>;
}

/// Runs the load on the system that is named.
pub(crate) fn run(args: &CommitArgs) -> Result<Outcome<CommitRow>> {
    Outcome::of(match args.system.as_str() {
        "etcd-3" => on_a_runtime(etcd::commits(args, 3)),
        "etcd-5" => on_a_runtime(etcd::commits(args, 5)),
        "postgresql-4of6" => on_a_runtime(postgresql::commits(args)),
        "redis" => on_a_runtime(redis::commits(args)),
        "redb" | "lmdb" | "rocksdb" => embedded::commits(args),
        other => bail!("no system {other:?}"),
    })
}

/// Servers are ended by the thread that started them, and signals of its death go out at the end of this very thread.
fn on_a_runtime<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    tokio::task::LocalSet::new().block_on(&runtime, future)
}

/// Runs connected clients: the warm-up first, then what counts.
pub(crate) async fn drive<C: Client + 'static>(
    args: &CommitArgs,
    about: About,
    clients: Vec<C>,
) -> Result<CommitRow> {
    let clients: Rc<Vec<tokio::sync::Mutex<C>>> =
        Rc::new(clients.into_iter().map(tokio::sync::Mutex::new).collect());
    let value: Rc<[u8]> = vec![0x5a; args.value_bytes].into();
    let numbers = Rc::new(Cell::new(0_u64));
    let load = |seconds| {
        let (clients, value, numbers) =
            (Rc::clone(&clients), Rc::clone(&value), Rc::clone(&numbers));
        let pace = Pace {
            clients: clients.len(),
            time: Duration::from_secs(seconds),
            rate: None,
        };
        run_paced(pace, move |client, _| {
            let (clients, value) = (Rc::clone(&clients), Rc::clone(&value));
            let number = numbers.replace(numbers.get() + 1);
            async move {
                let key = KeyName::of(scattered(number, KEY_COUNT));
                // Nobody else asks for it: a client has one request at a time.
                clients[client].lock().await.put(key.as_ref(), &value).await
            }
        })
    };
    if args.warm_up_seconds > 0 {
        load(args.warm_up_seconds).await?;
    }
    let paced = load(args.seconds).await?;
    Ok(CommitRow::new(
        about,
        args.clients,
        &paced.latencies,
        paced.seconds,
    ))
}
