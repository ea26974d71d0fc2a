//! Metrics, health and the console over HTTP, for every process that runs long: nodes, standbys, shells, dumps and loads, the demo's
//! writer, `sixfold console`.
//!
//! ```text
//!  node's thread ◀──Probe────┐
//!  writer's library ◀──Slot──┤  Eye ◀── http (a thread of its own) ◀── Prometheus, a browser, an orchestrator
//!  all nodes, as operator ◀──┘   └──▶ Picture ──▶ `sixfold top`
//! ```
//!
//! Nothing here decides anything about data, and nothing on a commit's path waits for it.

mod client;
pub(crate) mod collect;
mod http;
pub(crate) mod picture;

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use sixfold::Cluster;
use sixfold_metrics::Snapshot;
use sixfold_storage_node::probe::Probe;

use self::collect::{ClusterEye, Rates, Slot};
use self::picture::Picture;

/// A picture is good for this long: however many look, the processes behind it are asked no more often.
const PICTURE_LIFE: Duration = Duration::from_millis(700);

/// The flag of processes that serve nothing unless told.
#[derive(Debug, Clone, Args)]
pub(crate) struct ServeArgs {
    /// Serve metrics, health and the console over HTTP at this address (HOST:PORT); keep it on loopback or a network of your own
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<SocketAddr>,
}

impl ServeArgs {
    /// Serves, if told to.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub(crate) fn serve(&self, process: &'static str, source: Source) -> Result<Option<Served>> {
        let Some(address) = self.metrics else {
            return Ok(None);
        };
        let served = serve(bind(address)?, process, source)?;
        tracing::info!(address = %served.address, "serves metrics over HTTP");
        Ok(Some(served))
    }
}

/// What is looked at.
pub(crate) enum Source {
    /// The node of this process.
    Node {
        /// Asks it.
        probe: Probe,
        /// Where it answers peers.
        address: SocketAddr,
    },
    /// The writer of this process, or what it reads.
    Writer {
        /// Has it, when there is one.
        slot: Slot,
        /// Where its nodes are.
        cluster: Cluster,
    },
    /// All nodes of a cluster, as an operator.
    Cluster {
        /// Who they are.
        cluster: Cluster,
        /// Where the writer serves its metrics.
        writer: Option<String>,
    },
}

/// Whether a process can do its work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Health {
    /// It can.
    Ready,
    /// It cannot, for this reason.
    Not(String),
}

/// Looks at a source.
struct Eye {
    source: Looking,
    rates: Rates,
    process: &'static str,
    begun: Instant,
    last: Option<(Instant, Picture)>,
}

enum Looking {
    Node { probe: Probe, address: SocketAddr },
    Writer { slot: Slot, cluster: Cluster },
    Cluster(Box<ClusterEye>),
}

impl Eye {
    /// To be made on a runtime: an operator's has an endpoint.
    fn new(process: &'static str, source: Source) -> Result<Eye> {
        let source = match source {
            Source::Node { probe, address } => Looking::Node { probe, address },
            Source::Writer { slot, cluster } => Looking::Writer { slot, cluster },
            Source::Cluster { cluster, writer } => {
                Looking::Cluster(Box::new(ClusterEye::new(cluster, writer)?))
            }
        };
        Ok(Eye {
            source,
            rates: Rates::default(),
            process,
            begun: Instant::now(),
            last: None,
        })
    }

    /// The metrics of this process; those of a node that does not answer, or of a writer that is not open, are left out.
    async fn metrics(&mut self) -> Snapshot {
        let mut all = Snapshot::default();
        all.gauge(
            "sixfold_build_info",
            "Version of the program, and what it runs as; always 1.",
            &[
                ("version", env!("CARGO_PKG_VERSION")),
                ("process", self.process),
            ],
            1,
        );
        all.seconds(
            "sixfold_process_uptime_seconds",
            "Time since the process began to serve metrics.",
            &[],
            self.begun.elapsed(),
        );
        let resident = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let pages = resident
            .split(' ')
            .nth(1)
            .and_then(|pages| pages.parse::<u64>().ok());
        if let Some(pages) = pages {
            all.gauge(
                "sixfold_process_resident_bytes",
                "Memory of the process that is resident.",
                &[],
                pages.saturating_mul(rustix::param::page_size() as u64),
            );
        }
        let own = match &self.source {
            Looking::Node { probe, .. } => probe.report().await.map(|report| report.snapshot()),
            Looking::Writer { slot, .. } => match (slot.get(), slot.reader()) {
                (Some(database), _) => database.metrics().await.ok(),
                (None, reader) => reader.map(|reader| reader.metrics()),
            },
            Looking::Cluster(_) => None,
        };
        all.append(own.unwrap_or_default());
        all
    }

    /// The picture, as of now or a moment ago.
    async fn picture(&mut self) -> Option<Picture> {
        if let Some((at, picture)) = &self.last
            && at.elapsed() < PICTURE_LIFE
        {
            return Some(picture.clone());
        }
        let picture = match &mut self.source {
            Looking::Node { probe, address } => {
                let report = probe.report().await?;
                collect::of_node(
                    &mut self.rates,
                    &report.numbers.status,
                    &address.to_string(),
                )
            }
            Looking::Writer { slot, cluster } => {
                let database = slot.get()?;
                collect::of_writer(&mut self.rates, &database, cluster).await?
            }
            Looking::Cluster(eye) => eye.look().await,
        };
        self.last = Some((Instant::now(), picture.clone()));
        Some(picture)
    }

    /// Whether the process lives: its node's thread answers.
    async fn healthy(&self) -> Health {
        match &self.source {
            Looking::Node { probe, .. } if probe.report().await.is_none() => {
                Health::Not("the node's thread does not answer".to_owned())
            }
            _ => Health::Ready,
        }
    }

    /// Whether it does its work: a node has read its hot log, a writer is open and has a write quorum.
    async fn ready(&self) -> Health {
        let not = |why: &str| Health::Not(why.to_owned());
        match &self.source {
            Looking::Node { probe, .. } => match probe.report().await {
                None => not("the node's thread does not answer"),
                Some(report) if !report.numbers.is_ready => not("the hot log is being read"),
                Some(_) => Health::Ready,
            },
            Looking::Writer { slot, .. } => match slot.get() {
                None if slot.reader().is_some() => Health::Ready,
                None => not("this process is not the writer"),
                Some(database) if database.is_fenced() => not("fenced by another writer"),
                Some(database) => match database.stats().await {
                    Ok(stats) if stats.writer.is_writable => Health::Ready,
                    Ok(_) => not("no write quorum"),
                    Err(error) => Health::Not(error.to_string()),
                },
            },
            Looking::Cluster(_) => Health::Ready,
        }
    }
}

/// Takes an address.
///
/// # Errors
/// When it cannot be had.
pub(crate) fn bind(address: SocketAddr) -> Result<TcpListener> {
    let listener =
        TcpListener::bind(address).with_context(|| format!("cannot serve metrics at {address}"))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// A server that ends when this is dropped, or with the process.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    _stop: tokio::sync::oneshot::Sender<()>,
}

/// Serves on a thread of its own, so that nothing which commits waits for a browser.
///
/// # Errors
/// When the thread cannot be started.
pub(crate) fn serve(
    listener: TcpListener,
    process: &'static str,
    source: Source,
) -> Result<Served> {
    serve_within(listener, process, source, http::LIMITS)
}

fn serve_within(
    listener: TcpListener,
    process: &'static str,
    source: Source,
    limits: http::Limits,
) -> Result<Served> {
    let address = listener.local_addr()?;
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let main = move || {
        if let Err(error) = http::run(listener, process, source, limits, stopped) {
            tracing::error!(%address, "the HTTP server ended: {}; metrics are not served any more", crate::in_one_line(&error));
        }
    };
    std::thread::Builder::new()
        .name("sixfold-http".to_owned())
        .spawn(main)
        .context("cannot start a thread for HTTP")?;
    Ok(Served {
        address,
        _stop: stop,
    })
}
