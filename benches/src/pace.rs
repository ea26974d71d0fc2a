//! How clients come: in a closed loop, where each waits for its answer before it asks again, or in an open one, where requests
//! are due at fixed times whatever became of those before.
//!
//! In the open loop a latency counts from the time at which the request was *due*, not from when a client was free to send it:
//! a system that stands still for a second then shows a thousand slow answers and not one (coordinated omission).

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::sync::Semaphore;

use crate::latency::Latencies;

/// Requests that are due and not yet taken by a client: beyond it the clients are hopelessly behind.
const DUE_MAX: usize = Semaphore::MAX_PERMITS >> 1;
/// The thread that tells what is due sleeps at most this long, so that it ends soon after the run.
const SLEEP_MAX: Duration = Duration::from_millis(50);

/// The clients.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// How many requests may be on their way at once.
    pub clients: usize,
    /// How long requests are begun.
    pub time: Duration,
    /// Requests a second that are due, at even distances; `None` for a closed loop.
    pub rate: Option<u32>,
}

/// What they saw.
#[derive(Debug, Clone, Default)]
pub struct Paced {
    /// From the time when a request was due (open) or begun (closed) to its answer.
    pub latencies: Latencies,
    /// From the first request to the last answer.
    pub seconds: f64,
    /// Requests of the open loop that were due and that no client came to within twice the run's time.
    pub never_begun: u64,
}

impl Paced {
    /// Answered requests a second.
    #[allow(clippy::cast_precision_loss)] // Figures for people: 52 bits are enough.
    pub fn per_second(&self) -> f64 {
        self.latencies.count() as f64 / self.seconds.max(f64::MIN_POSITIVE)
    }
}

/// Runs the clients on the calling thread; a `LocalSet` must be running. `request` is called with the client's index and the
/// request's number, counted over all clients.
///
/// # Errors
/// The first error of a request: none may fail.
pub async fn run<F, R>(pace: Pace, request: F) -> Result<Paced>
where
    F: Fn(usize, u64) -> R + 'static,
    R: Future<Output = Result<()>> + 'static,
{
    ensure!(pace.clients > 0, "no clients");
    let begun = Instant::now();
    let shared = Rc::new(Shared {
        pace,
        begun,
        latencies: RefCell::default(),
        next: Cell::new(0),
        due: Arc::new(Semaphore::new(0)),
    });
    let clock = pace
        .rate
        .map(|rate| Clock::start(rate, begun, pace.time, Arc::clone(&shared.due)))
        .transpose()?;
    let request = Rc::new(request);
    let mut tasks = tokio::task::JoinSet::new();
    for client in 0..pace.clients {
        let (shared, request) = (Rc::clone(&shared), Rc::clone(&request));
        tasks.spawn_local(async move {
            match shared.pace.rate {
                None => shared.closed(client, &*request).await,
                Some(rate) => shared.open(client, rate, &*request).await,
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.context("a client failed")??;
    }
    drop(clock);
    let seconds = begun.elapsed().as_secs_f64();
    let never_begun = pace.rate.map_or(0, |rate| {
        due_count(rate, pace.time).saturating_sub(shared.next.get())
    });
    Ok(Paced {
        latencies: shared.latencies.take(),
        seconds,
        never_begun,
    })
}

/// Requests that are due within this time.
fn due_count(rate: u32, time: Duration) -> u64 {
    let count = time.as_nanos().saturating_mul(u128::from(rate)) / 1_000_000_000;
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// When a request is due, from the beginning of the run.
fn due_at(rate: u32, number: u64) -> Duration {
    let ns = u128::from(number) * 1_000_000_000 / u128::from(rate.max(1));
    Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
}

struct Shared {
    pace: Pace,
    begun: Instant,
    latencies: RefCell<Latencies>,
    next: Cell<u64>,
    due: Arc<Semaphore>,
}

impl Shared {
    fn take_number(&self) -> u64 {
        let number = self.next.get();
        self.next.set(number + 1);
        number
    }

    async fn closed<R: Future<Output = Result<()>>>(
        &self,
        client: usize,
        request: &impl Fn(usize, u64) -> R,
    ) -> Result<()> {
        while self.begun.elapsed() < self.pace.time {
            let begun = Instant::now();
            request(client, self.take_number()).await?;
            self.latencies.borrow_mut().record(begun.elapsed());
        }
        Ok(())
    }

    async fn open<R: Future<Output = Result<()>>>(
        &self,
        client: usize,
        rate: u32,
        request: &impl Fn(usize, u64) -> R,
    ) -> Result<()> {
        let count = due_count(rate, self.pace.time);
        // What is late is still answered, but not for ever.
        let given_up = self.begun + self.pace.time * 2;
        while self.next.get() < count && Instant::now() < given_up {
            // Closed when everything that is ever due has been told; what was told can still be taken.
            match self.due.acquire().await {
                Ok(permit) => permit.forget(),
                Err(_) if self.next.get() < count => {}
                Err(_) => break,
            }
            let number = self.take_number();
            if number >= count {
                self.next.set(count);
                break;
            }
            request(client, number).await?;
            let due = self.begun + due_at(rate, number);
            self.latencies
                .borrow_mut()
                .record(Instant::now().saturating_duration_since(due));
        }
        Ok(())
    }
}

/// A thread that tells what is due: a runtime's timers are a millisecond coarse.
struct Clock {
    stopping: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Clock {
    fn start(rate: u32, begun: Instant, time: Duration, due: Arc<Semaphore>) -> Result<Clock> {
        ensure!(rate > 0, "a rate of 0 requests a second");
        let stopping = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stopping);
        let thread = std::thread::spawn(move || {
            let (count, mut told) = (due_count(rate, time), 0);
            while told < count && !asked.load(Ordering::Relaxed) {
                let now = begun.elapsed();
                let mut more = 0;
                while told + more < count && due_at(rate, told + more) <= now {
                    more += 1;
                }
                if more > 0 {
                    let permits = usize::try_from(more).unwrap_or(DUE_MAX).min(DUE_MAX);
                    due.add_permits(permits);
                    told += permits as u64;
                    continue;
                }
                std::thread::sleep(due_at(rate, told).saturating_sub(now).min(SLEEP_MAX));
            }
            due.close();
        });
        Ok(Clock {
            stopping,
            thread: Some(thread),
        })
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It does not panic; if it did, the run's figures say so by what was never begun.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
#[path = "pace_tests.rs"]
mod tests;
