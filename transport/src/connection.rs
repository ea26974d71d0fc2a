//! Connections and their streams: messages in, messages out.
//!
//! A stream keeps order and delivers once; two streams know nothing of each other. Flow control bounds what is
//! queued: a sender whose peer does not read waits. It does not reconnect and does not repeat anything.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use quinn::{ConnectionError, ReadError, VarInt, WriteError};
use sixfold_log_format::wire::{Frame, Message, Role, WIRE_VERSION_MIN};
use sixfold_log_format::{DecodeError, NodeId, limits};

use crate::frame_reader::FrameReader;
use crate::tls::Party;

/// Close and stop codes of the protocol.
pub(crate) mod code {
    use quinn::VarInt;

    /// Nothing is wrong.
    pub(crate) const DONE: VarInt = VarInt::from_u32(0);
    /// The hello was refused; the refusal was sent before.
    pub(crate) const REFUSED: VarInt = VarInt::from_u32(1);
    /// No hello came in time.
    pub(crate) const SILENT: VarInt = VarInt::from_u32(2);
    /// The certificate is of the CA, but names no party.
    pub(crate) const CERTIFICATE: VarInt = VarInt::from_u32(3);
    /// The bytes on a stream were no messages.
    pub(crate) const MALFORMED: VarInt = VarInt::from_u32(4);
}

/// Chunks taken from QUIC at once.
const CHUNKS_PER_READ: usize = 16;
/// Longest reason that is sent when a connection is closed, bytes.
const REASON_BYTES_MAX: usize = 200;

/// Why a message did not get through.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TransportError {
    /// The connection is gone.
    #[error("connection lost: {reason}")]
    Lost {
        /// How.
        reason: String,
    },
    /// The stream ended where a message was due.
    #[error("stream ended")]
    Ended,
    /// The peer sent bytes that are no message.
    #[error("malformed message: {0}")]
    Malformed(#[from] DecodeError),
    /// A frame is longer than allowed.
    #[error("frame of {bytes} bytes is too long")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// It took too long.
    #[error("no answer in time")]
    TimedOut,
}

impl From<ConnectionError> for TransportError {
    fn from(error: ConnectionError) -> TransportError {
        TransportError::Lost {
            reason: error.to_string(),
        }
    }
}

impl From<WriteError> for TransportError {
    fn from(error: WriteError) -> TransportError {
        match error {
            WriteError::ConnectionLost(error) => error.into(),
            WriteError::Stopped(_) | WriteError::ClosedStream | WriteError::ZeroRttRejected => {
                TransportError::Ended
            }
        }
    }
}

impl From<ReadError> for TransportError {
    fn from(error: ReadError) -> TransportError {
        match error {
            ReadError::ConnectionLost(error) => error.into(),
            ReadError::Reset(_)
            | ReadError::ClosedStream
            | ReadError::IllegalOrderedRead
            | ReadError::ZeroRttRejected => TransportError::Ended,
        }
    }
}

/// What a connection has moved, UDP payload bytes and datagrams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WireStats {
    /// Payload bytes sent.
    pub sent_bytes: u64,
    /// Datagrams sent.
    pub sent_datagrams: u64,
    /// Payload bytes received.
    pub received_bytes: u64,
    /// Datagrams received.
    pub received_datagrams: u64,
}

/// A connection to a peer. Cheap to clone. It ends when it is closed on either side, when nothing was heard for the
/// idle limit, and when the last clone and the last stream are dropped.
#[derive(Debug, Clone)]
pub struct Connection {
    quic: quinn::Connection,
    peer: Party,
    /// The wire version that both speak; the lowest until the hello has settled it.
    wire: u16,
}

impl Connection {
    pub(crate) fn new(quic: quinn::Connection, peer: Party) -> Connection {
        Connection {
            quic,
            peer,
            wire: WIRE_VERSION_MIN,
        }
    }

    pub(crate) fn speaking(self, wire: u16) -> Connection {
        Connection { wire, ..self }
    }

    /// The wire version that both speak.
    pub fn wire(&self) -> u16 {
        self.wire
    }

    pub(crate) fn quic(&self) -> &quinn::Connection {
        &self.quic
    }

    /// Opens a stream. Waits while the peer's limit of streams is reached. The peer learns of the stream with the first
    /// message on it.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn open(&self) -> Result<(Sender, Receiver), TransportError> {
        let (sending, receiving) = self.quic.open_bi().await?;
        Ok((Sender::new(sending, self.wire), Receiver::new(receiving)))
    }

    /// The next stream that the peer opened. Safe to cancel.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn accept(&self) -> Result<(Sender, Receiver), TransportError> {
        let (sending, receiving) = self.quic.accept_bi().await?;
        Ok((Sender::new(sending, self.wire), Receiver::new(receiving)))
    }

    /// One request on a stream of its own; more answers may follow on the receiver.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn request(&self, message: &Message) -> Result<Receiver, TransportError> {
        let (mut sender, receiver) = self.open().await?;
        sender.send(message).await?;
        sender.finish();
        Ok(receiver)
    }

    /// One request, one answer. Waits as long as the connection lives; the caller sets its own deadline.
    ///
    /// # Errors
    /// When the connection is gone, or the answer is no message.
    pub async fn call(&self, message: &Message) -> Result<Message, TransportError> {
        let mut receiver = self.request(message).await?;
        let answer = receiver.recv().await?.ok_or(TransportError::Ended)?;
        receiver.settle();
        Ok(answer)
    }

    /// What the peer's certificate says that it is.
    pub fn peer_role(&self) -> Role {
        self.peer.role
    }

    /// The node that the peer's certificate names; `None` when the peer is no node.
    pub fn peer_node(&self) -> Option<NodeId> {
        self.peer.node
    }

    /// Closes the connection at once: what was sent and not yet delivered is lost.
    pub fn close(&self, reason: &str) {
        self.close_with(code::DONE, reason);
    }

    pub(crate) fn close_with(&self, code: VarInt, reason: &str) {
        let end = reason.floor_char_boundary(REASON_BYTES_MAX);
        self.quic.close(code, &reason.as_bytes()[..end]);
    }

    /// Returns when the connection is gone, with the reason.
    pub async fn closed(&self) -> TransportError {
        self.quic.closed().await.into()
    }

    /// What was moved so far.
    pub fn stats(&self) -> WireStats {
        let stats = self.quic.stats();
        WireStats {
            sent_bytes: stats.udp_tx.bytes,
            sent_datagrams: stats.udp_tx.datagrams,
            received_bytes: stats.udp_rx.bytes,
            received_datagrams: stats.udp_rx.datagrams,
        }
    }
}

/// The sending half of a stream. Dropping it says that nothing more comes, as [`Sender::finish`] does.
#[derive(Debug)]
pub struct Sender {
    stream: quinn::SendStream,
    /// Of messages given to [`Sender::send`]: what QUIC has not taken yet. Empty unless a send is going on or was
    /// cancelled.
    unsent: Vec<Bytes>,
    wire: u16,
}

impl Sender {
    fn new(stream: quinn::SendStream, wire: u16) -> Sender {
        Sender {
            stream,
            unsent: Vec::new(),
            wire,
        }
    }

    /// Sends a message; waits for room in the send window. It returns when the message is on its way, not when it has
    /// arrived.
    ///
    /// When it is cancelled, the message may be sent or not, in part too; the next send goes on where it was cut, so the
    /// stream stays whole.
    ///
    /// # Errors
    /// When the stream or connection is gone. Where the peer ended the stream, its reason may wait on the receiver.
    pub async fn send(&mut self, message: &Message) -> Result<(), TransportError> {
        self.send_frame(message.for_wire(self.wire).encode()).await
    }

    /// Sends an encoded message, as [`Sender::send`] does. A frame that goes to several peers is encoded once and cloned; that it is
    /// in words that the peer knows ([`Message::for_wire`]) is the caller's business.
    ///
    /// # Errors
    /// When the stream or connection is gone.
    pub async fn send_frame(&mut self, frame: Frame) -> Result<(), TransportError> {
        self.unsent.push(frame.head);
        self.unsent.extend(frame.tail);
        loop {
            // Each call takes whole chunks from the front and leaves what it could not take in place.
            let start = self.unsent.iter().position(|chunk| !chunk.is_empty());
            let Some(start) = start else {
                self.unsent.clear();
                return Ok(());
            };
            self.stream.write_chunks(&mut self.unsent[start..]).await?;
        }
    }

    /// Says that nothing more comes.
    pub fn finish(&mut self) {
        // Either fails only when the stream is over already, which is what is asked for.
        if self.unsent.iter().all(Bytes::is_empty) {
            let _ = self.stream.finish();
        } else {
            let _ = self.stream.reset(code::DONE);
        }
    }

    /// Waits until the peer has received everything, or will not.
    pub(crate) async fn delivered(&self) {
        let _ = self.stream.stopped().await;
    }
}

/// The receiving half of a stream. Dropping it tells the peer to stop sending.
///
/// Payloads (batches, pages) of messages that lie in one datagram are slices of what the socket delivered, and keep it
/// in memory: who keeps a small payload for long copies it.
#[derive(Debug)]
pub struct Receiver {
    stream: quinn::RecvStream,
    frames: FrameReader,
    /// Where QUIC puts chunks; empty between reads.
    landing: [Bytes; CHUNKS_PER_READ],
    failed: Option<TransportError>,
}

impl Receiver {
    fn new(stream: quinn::RecvStream) -> Receiver {
        Receiver {
            stream,
            frames: FrameReader::new(limits::FRAME_BYTES_MAX),
            landing: [const { Bytes::new() }; CHUNKS_PER_READ],
            failed: None,
        }
    }

    /// The next message; `None` at the end of the stream. Safe to cancel at any point: what has arrived of a message
    /// stays here.
    ///
    /// # Errors
    /// When the connection is gone or the bytes are no message. Then the stream is over, and every later call gives the
    /// same error.
    pub async fn recv(&mut self) -> Result<Option<Message>, TransportError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let received = match self.next_frame().await {
            Ok(Some(body)) => Message::decode(body)
                .map(Some)
                .map_err(TransportError::from),
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        if let Err(error) = &received {
            self.failed = Some(error.clone());
            // Fails only when the stream is over already.
            let _ = self.stream.stop(code::MALFORMED);
        }
        received
    }

    async fn next_frame(&mut self) -> Result<Option<Bytes>, TransportError> {
        loop {
            let framed = self.frames.next_frame();
            if let Some(body) =
                framed.map_err(|error| TransportError::TooLong { bytes: error.bytes })?
            {
                return Ok(Some(body));
            }
            let Some(count) = self.stream.read_chunks(&mut self.landing).await? else {
                let whole = !self.frames.is_inside_frame();
                return if whole {
                    Ok(None)
                } else {
                    Err(TransportError::Ended)
                };
            };
            for chunk in &mut self.landing[..count] {
                self.frames.push(std::mem::take(chunk));
            }
        }
    }

    /// Looks whether the stream's end has arrived with its last message, as it mostly has. A stream that was read to its
    /// end is dropped in silence; otherwise the peer would be told to stop, in a datagram that helps nobody.
    pub(crate) fn settle(&mut self) {
        let mut context = Context::from_waker(Waker::noop());
        let read = pin!(self.stream.read_chunks(&mut self.landing)).poll(&mut context);
        if let Poll::Ready(Ok(Some(count))) = read {
            for chunk in &mut self.landing[..count] {
                self.frames.push(std::mem::take(chunk));
            }
        }
    }
}
