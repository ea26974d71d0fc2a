//! Takes in connections and their streams, and carries messages between them and the driver.
//!
//! One task for each connection and each stream, all on the node's thread. A stream's task reads and writes at the same time:
//! a message that was read goes straight into the driver, an answer comes back through the stream's outbox.

use std::cell::Cell;
use std::rc::Rc;

use sixfold_log_format::wire::{Hello, Message, Role};
use sixfold_log_format::{NodeId, TokenDigest, VolumeId};
use sixfold_storage_node_core::{ConnectionKey, Event, StreamKey};
use sixfold_transport::{
    Connection, Endpoint, Incoming, Receiver, Sender, TransportError, token_digest,
};

use crate::driver::Driver;
use crate::outbox::Outbox;

/// Most connections at once.
const CONNECTIONS_MAX: usize = 1_024;
/// Most handshakes at once.
const HANDSHAKES_MAX: usize = 64;
/// Most streams of all connections at once; the transport bounds those of each.
const STREAMS_MAX: usize = 65_536;

/// Who the node is, and how many there are.
struct Server {
    driver: Rc<Driver>,
    node: NodeId,
    incarnation: u64,
    connections: Cell<usize>,
    handshakes: Cell<usize>,
    streams: Cell<usize>,
}

/// Counts one more for as long as it lives.
struct Counted<'a>(&'a Cell<usize>);

impl<'a> Counted<'a> {
    fn new(count: &'a Cell<usize>) -> Counted<'a> {
        count.set(count.get() + 1);
        Counted(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Starts to accept.
pub(crate) fn start(endpoint: Endpoint, driver: Rc<Driver>, node: NodeId, incarnation: u64) {
    let failure = Rc::clone(driver.failure());
    let server = Rc::new(Server {
        driver,
        node,
        incarnation,
        connections: Cell::new(0),
        handshakes: Cell::new(0),
        streams: Cell::new(0),
    });
    let spawner = Rc::clone(&failure);
    failure.spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            if server.connections.get() >= CONNECTIONS_MAX
                || server.handshakes.get() >= HANDSHAKES_MAX
            {
                tracing::warn!(from = %incoming.remote_address(), "refuses a connection: too many are open or in their handshake");
                incoming.refuse();
                continue;
            }
            spawner.spawn(Rc::clone(&server).connection(incoming));
        }
    });
}

impl Server {
    /// One connection, from its handshake to its end.
    async fn connection(self: Rc<Self>, incoming: Incoming) {
        let _counted = Counted::new(&self.connections);
        let from = incoming.remote_address();
        let handshake = Counted::new(&self.handshakes);
        let (connection, hello) = match incoming.welcome(self.node, self.incarnation).await {
            Ok(welcomed) => welcomed,
            Err(error) => return tracing::info!(%from, %error, "handshake failed"),
        };
        drop(handshake);
        let role = connection.peer_role();
        let shown = shown(&hello);
        let key = self.driver.add_connection(connection.clone(), shown);
        tracing::debug!(%from, ?role, "connected");
        let reason = self.streams(&connection, key, role).await;
        tracing::debug!(%from, %reason, "disconnected");
        self.driver.remove_connection(key);
    }

    /// Accepts streams until the connection is gone.
    async fn streams(
        self: &Rc<Self>,
        connection: &Connection,
        key: ConnectionKey,
        role: Role,
    ) -> TransportError {
        loop {
            let (sender, receiver) = match connection.accept().await {
                Ok(halves) => halves,
                Err(error) => return error,
            };
            if self.streams.get() >= STREAMS_MAX {
                connection.close("too many streams");
                continue;
            }
            let server = Rc::clone(self);
            let connection = connection.clone();
            self.driver.failure().spawn(async move {
                let _counted = Counted::new(&server.streams);
                stream(&server.driver, &connection, key, role, sender, receiver).await;
            });
        }
    }
}

/// The token that a hello shows, as the core knows it.
fn shown(hello: &Hello) -> Option<(VolumeId, TokenDigest)> {
    let volume = hello.volume.filter(|_| !hello.token.is_empty())?;
    Some((volume, token_digest(volume, &hello.token)))
}

/// How the reading half of a stream ended.
enum Read {
    /// The peer says nothing more but still reads: a request whose answer is due.
    Half,
    /// The stream is over.
    Over,
}

/// One stream, from its first message to its end. The core hears of the end once.
async fn stream(
    driver: &Rc<Driver>,
    connection: &Connection,
    connection_key: ConnectionKey,
    role: Role,
    sender: Sender,
    receiver: Receiver,
) {
    let (key, outbox) = driver.add_stream(connection_key);
    {
        let mut writing = std::pin::pin!(write(sender, &outbox));
        let reading = std::pin::pin!(read(driver, connection_key, role, key, receiver));
        tokio::select! {
            biased;
            () = &mut writing => {}
            read = reading => match read {
                // The core may take its time; the peer may be gone before it answers.
                Read::Half => tokio::select! {
                    () = writing => {}
                    _ = connection.closed() => {}
                },
                Read::Over => {}
            },
        }
    }
    driver.remove_stream(key);
}

/// Carries messages to the core.
async fn read(
    driver: &Rc<Driver>,
    connection: ConnectionKey,
    role: Role,
    stream: StreamKey,
    mut receiver: Receiver,
) -> Read {
    let mut is_log = None;
    loop {
        match receiver.recv().await {
            Ok(Some(message)) => {
                is_log.get_or_insert(matches!(message, Message::Attach(_)));
                driver.handle(Event::Message {
                    connection,
                    role,
                    stream,
                    message,
                });
                // A peer with much to say must not keep everybody else waiting.
                tokio::task::coop::consume_budget().await;
            }
            // A log stream is over when its writer says so; a request still waits for its answer.
            Ok(None) if is_log == Some(false) => return Read::Half,
            Ok(None) => return Read::Over,
            Err(error) => {
                tracing::debug!(%error, "stream lost");
                return Read::Over;
            }
        }
    }
}

/// Carries answers to the peer, until the core has ended the stream or the peer is gone.
async fn write(mut sender: Sender, outbox: &Outbox) {
    while let Some(frame) = outbox.next().await {
        if let Err(error) = sender.send_frame(frame).await {
            return tracing::debug!(%error, "stream lost");
        }
    }
    sender.finish();
}
