//! The messages between a writer (or candidate, or operator) and storage nodes, and between storage nodes.
//!
//! Two kinds of streams cross a QUIC connection. The first bidirectional stream carries [`Hello`] and [`Welcome`]. Then:
//!
//! - a *log stream* per segment: [`Attach`], answered by [`Attached`], then [`Append`] and [`Heartbeat`] one way and
//!   [`Ack`] the other, in order, until either side ends it;
//! - a *request stream* per request: one message, one or more answers, end.
//!
//! Either is answered by [`Refusal`] where it is refused: refusals are data. A frame is a 4-byte little-endian length
//! and a message: a tag byte and a body. A batch or page stands last in its message, so that it is sent without
//! being copied.

mod encode;
mod fence;
mod hello;
mod log_stream;
mod node;
mod payload;
mod peer;
mod read;
pub mod tag;
mod wish;

pub use encode::{FRAME_LENGTH_BYTES, Frame};
pub use fence::{
    Census, CensusRun, Claim, Install, Installed, Probe, ProbeAnswer, Refill, SegmentProbe, Survey,
};
pub use hello::{Hello, Refusal, Role, WIRE_VERSION, WIRE_VERSION_MIN, Welcome};
pub use log_stream::{Ack, Append, Attach, Attached, Heartbeat};
pub use node::{
    CreateSegment, DropSegment, NodeMemory, NodeStatus, NodeUpkeep, RetireVolume, SegmentStatus,
};
pub use peer::{Gossip, GossipAnswer, LayerPiece, LogPiece, ReadLayer, ReadLog};
pub use read::{PageAnswer, PageRequest, Pages, ReadPages};
pub use wish::{AskHints, AskWish, Hints, LeaveHint, Wish, WishReport, WishState, WishVerb};

use std::borrow::Cow;

use bytes::Bytes;

use crate::error::DecodeError;

/// Any message. Tags are in `FORMAT.md` and never change their meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Opens a connection.
    Hello(Hello),
    /// Answers [`Hello`].
    Welcome(Welcome),
    /// Anything that is refused.
    Refused(Refusal),
    /// Opens a log stream.
    Attach(Box<Attach>),
    /// Answers [`Attach`].
    Attached(Attached),
    /// A batch.
    Append(Append),
    /// Nothing new.
    Heartbeat(Heartbeat),
    /// What is durable.
    Ack(Ack),
    /// Asks without writing.
    Probe(Probe),
    /// Answers [`Probe`].
    ProbeAnswer(ProbeAnswer),
    /// Claims an epoch.
    Claim(Claim),
    /// Asks for a census without a claim (R23).
    Survey(Survey),
    /// Answers [`Claim`] and [`Survey`], in one or more pieces.
    Census(Box<Census>),
    /// Sets history and manifest.
    Install(Box<Install>),
    /// Answers [`Install`] and [`Refill`].
    Installed(Installed),
    /// Batches for a segment that lacks them.
    Refill(Refill),
    /// Asks for pages.
    ReadPages(ReadPages),
    /// Answers [`ReadPages`].
    Pages(Pages),
    /// Compares two segments of a PG.
    Gossip(Gossip),
    /// Answers [`Gossip`].
    GossipAnswer(Box<GossipAnswer>),
    /// Asks for batches.
    ReadLog(ReadLog),
    /// Answers [`ReadLog`], in one or more pieces.
    LogPiece(LogPiece),
    /// Asks for a part of a layer.
    ReadLayer(ReadLayer),
    /// Answers [`ReadLayer`].
    LayerPiece(LayerPiece),
    /// Makes a segment.
    CreateSegment(Box<CreateSegment>),
    /// Drops a segment.
    DropSegment(DropSegment),
    /// Drops everything of a volume.
    RetireVolume(RetireVolume),
    /// Answers [`CreateSegment`], [`DropSegment`], [`RetireVolume`], [`Wish`], [`WishReport`] and [`LeaveHint`].
    Done,
    /// Asks how a node is.
    AskStatus,
    /// Answers [`Message::AskStatus`].
    NodeStatus(NodeStatus),
    /// What an operator wants done (R24).
    Wish(Wish),
    /// How far a wish is. Also answers [`AskWish`].
    WishReport(Box<WishReport>),
    /// Asks how far a wish is.
    AskWish(AskWish),
    /// Says where a node is (R25).
    LeaveHint(Box<LeaveHint>),
    /// Asks for what [`LeaveHint`] left.
    AskHints(AskHints),
    /// Answers [`AskHints`].
    Hints(Hints),
    /// Asks for nothing but an answer: what `bench floor` measures the transport with.
    Echo(Bytes),
}

impl Message {
    /// The frame that carries it. Batches and pages are not copied.
    pub fn encode(&self) -> Frame {
        encode::encode(self)
    }

    /// The same for a peer that speaks `wire`: what came later is said in the words that it knows.
    pub fn for_wire(&self, wire: u16) -> Cow<'_, Message> {
        match self {
            Message::Refused(Refusal::Token) if wire < 2 => {
                Cow::Owned(Message::Refused(Refusal::NotAllowed))
            }
            known => Cow::Borrowed(known),
        }
    }

    /// Reads a message from a frame's body (without the length).
    ///
    /// # Errors
    /// [`DecodeError`] for anything that is not one whole message.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "payloads keep the body's memory alive"
    )]
    pub fn decode(body: Bytes) -> Result<Message, DecodeError> {
        encode::decode(&body)
    }
}
