//! A small HTTP server: five paths, GET and HEAD alone, everything bounded. The only place of the daemon that names hyper.
//!
//! | path | answer |
//! |---|---|
//! | `/metrics` | Prometheus' text |
//! | `/healthz` | 200 while the process serves, else 503 with the reason |
//! | `/readyz` | 200 while it can do its work, else 503 with the reason |
//! | `/api/status` | a [`Picture`](super::picture::Picture) as JSON |
//! | `/` | the console: one page, which asks `/api/status` once a second |

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::net::TcpListener;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, oneshot};
use tokio::task::{AbortHandle, LocalSet};

use super::{Eye, Health, Looking, Source};

/// Connections at once. For one more the one goes that has asked for nothing the longest, so that silent callers keep nobody out; while all
/// of them are being answered, more wait in the system's queue.
const CONNECTIONS_MAX: usize = 64;
/// Longest request head, bytes.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Most header lines.
const HEADERS_MAX: usize = 64;
/// How long the accepting task rests when all connections are being answered, or the system has no more.
const REST: Duration = Duration::from_millis(50);

/// How long a caller may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// For a request's head, counted from its connection or from the answer before.
    pub(super) head: Duration,
    /// For all that he does on one connection; browsers and scrapers make another one.
    pub(super) connection: Duration,
}

/// What is good for all.
pub(super) const LIMITS: Limits = Limits {
    head: Duration::from_secs(5),
    connection: Duration::from_secs(120),
};

/// The console, with a mark where the nonce of its script and style comes.
const CONSOLE: &str = include_str!("console.html");
const NONCE_MARK: &str = "NONCE";

type Answer = Response<Full<Bytes>>;

/// Serves until `stopped` resolves.
pub(super) fn run(
    listener: TcpListener,
    process: &'static str,
    source: Source,
    limits: Limits,
    stopped: oneshot::Receiver<()>,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot build a runtime")?;
    LocalSet::new().block_on(&runtime, async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let eye = Rc::new(Mutex::new(Eye::new(process, source)?));
        tokio::select! {
            biased;
            _ = stopped => {}
            () = accept(&listener, &eye, limits) => {}
        }
        if let Looking::Cluster(eye) = &eye.lock().await.source {
            eye.close().await;
        }
        Ok(())
    })
}

/// The callers that are connected, the one first that has asked for nothing the longest.
#[derive(Debug, Default)]
struct Callers(RefCell<Vec<Caller>>);

#[derive(Debug)]
struct Caller {
    number: u64,
    /// It is being answered.
    is_busy: bool,
    task: Option<AbortHandle>,
}

impl Callers {
    /// Whether there is room for one more; makes it, if somebody is idle.
    fn make_room(&self) -> bool {
        let mut callers = self.0.borrow_mut();
        if callers.len() < CONNECTIONS_MAX {
            return true;
        }
        let idle = callers.iter().position(|caller| !caller.is_busy);
        let gone = idle.map(|index| callers.remove(index));
        if let Some(task) = gone.as_ref().and_then(|caller| caller.task.as_ref()) {
            task.abort();
        }
        gone.is_some()
    }

    fn enter(&self, number: u64) {
        self.0.borrow_mut().push(Caller {
            number,
            is_busy: false,
            task: None,
        });
    }

    fn runs_as(&self, number: u64, task: AbortHandle) {
        let mut callers = self.0.borrow_mut();
        if let Some(caller) = callers.iter_mut().find(|caller| caller.number == number) {
            caller.task = Some(task);
        }
    }

    /// It is being answered, or was: then it is the one that has been idle for the shortest time.
    fn set_busy(&self, number: u64, is_busy: bool) {
        let mut callers = self.0.borrow_mut();
        let found = callers.iter().position(|caller| caller.number == number);
        if let Some(index) = found {
            let caller = callers.remove(index);
            callers.push(Caller { is_busy, ..caller });
        }
    }

    fn leave(&self, number: u64) {
        self.0.borrow_mut().retain(|caller| caller.number != number);
    }
}

/// A connection's place among the callers, given back whatever way it ends.
struct Place {
    callers: Rc<Callers>,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.callers.leave(self.number);
    }
}

/// A request that is being answered, until the answer is made or given up.
struct Busy(Rc<Place>);

impl Busy {
    fn new(place: Rc<Place>) -> Busy {
        place.callers.set_busy(place.number, true);
        Busy(place)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.callers.set_busy(self.0.number, false);
    }
}

async fn accept(listener: &tokio::net::TcpListener, eye: &Rc<Mutex<Eye>>, limits: Limits) {
    let callers = Rc::new(Callers::default());
    let numbers = Cell::new(0_u64);
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept an HTTP connection, tries again");
                tokio::time::sleep(REST).await;
                continue;
            }
        };
        while !callers.make_room() {
            tokio::time::sleep(REST).await;
        }
        let number = numbers.get();
        numbers.set(number + 1);
        callers.enter(number);
        let place = Place {
            callers: Rc::clone(&callers),
            number,
        };
        let task = connection(stream, Rc::clone(eye), Rc::new(place), limits);
        let task = tokio::task::spawn_local(task);
        callers.runs_as(number, task.abort_handle());
    }
}

async fn connection(stream: TcpStream, eye: Rc<Mutex<Eye>>, place: Rc<Place>, limits: Limits) {
    let service = service_fn(move |request| {
        let (eye, busy) = (Rc::clone(&eye), Busy::new(Rc::clone(&place)));
        async move {
            let answer = answer(&request, &eye).await;
            drop(busy);
            Ok::<_, Infallible>(answer)
        }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(limits.connection, serving).await {
        Ok(Ok(())) | Err(_) => {}
        Ok(Err(error)) => tracing::debug!(%error, "HTTP connection"),
    }
}

async fn answer(request: &Request<Incoming>, eye: &Mutex<Eye>) -> Answer {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD alone\n");
        let allowed = hyper::header::HeaderValue::from_static("GET, HEAD");
        answer.headers_mut().insert(ALLOW, allowed);
        return answer;
    }
    match request.uri().path() {
        "/metrics" => {
            let text = eye.lock().await.metrics().await.text();
            body(
                StatusCode::OK,
                "text/plain; version=0.0.4; charset=utf-8",
                text,
            )
        }
        "/healthz" => health(eye.lock().await.healthy().await),
        "/readyz" => health(eye.lock().await.ready().await),
        "/api/status" => match eye.lock().await.picture().await {
            Some(picture) => {
                let json = serde_json::to_string(&picture).expect("a picture has no odd keys");
                body(StatusCode::OK, "application/json", json)
            }
            None => plain(
                StatusCode::SERVICE_UNAVAILABLE,
                "nothing can be seen now: the node does not answer, or this process is not the writer\n",
            ),
        },
        "/" => console(),
        _ => plain(
            StatusCode::NOT_FOUND,
            "no such page: / /metrics /healthz /readyz /api/status\n",
        ),
    }
}

fn health(health: Health) -> Answer {
    match health {
        Health::Ready => plain(StatusCode::OK, "ok\n"),
        Health::Not(why) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

/// The page. Its script and style carry a nonce that is drawn for each answer: nothing else runs in it.
fn console() -> Answer {
    let Ok(number) = getrandom::u64() else {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "no randomness\n");
    };
    let nonce = format!("{number:016x}");
    let mut answer = body(
        StatusCode::OK,
        "text/html; charset=utf-8",
        CONSOLE.replace(NONCE_MARK, &nonce),
    );
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    if let Ok(policy) = policy.parse() {
        answer.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    }
    answer
}

fn plain(status: StatusCode, text: impl Into<String>) -> Answer {
    body(status, "text/plain; charset=utf-8", text.into())
}

fn body(status: StatusCode, kind: &'static str, text: String) -> Answer {
    let answer = Response::builder()
        .status(status)
        .header(CONTENT_TYPE, kind)
        .header(CACHE_CONTROL, "no-store")
        .header("x-content-type-options", "nosniff")
        .header("referrer-policy", "no-referrer")
        .body(Full::new(Bytes::from(text)));
    answer.expect("all of it is constant or text")
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod http_tests;
