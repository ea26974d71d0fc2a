//! Messages to bytes and back: the frame, and the table of tags.

use bytes::Bytes;

use super::payload::{Input, Output, Payload};
use super::{Message, tag};
use crate::codec::length_u32;
use crate::error::DecodeError;
use crate::field::Field;
use crate::limits::FRAME_BYTES_MAX;

/// Bytes of the length before each message.
pub const FRAME_LENGTH_BYTES: usize = 4;

/// An encoded message: the length and everything up to the payload, then the payloads as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Length prefix, tag and fields.
    pub head: Bytes,
    /// What follows without being copied: a batch, several batches, pages. Often empty.
    pub tail: Vec<Bytes>,
}

impl Frame {
    /// Its size in bytes, length prefix included.
    pub fn len_bytes(&self) -> usize {
        self.head.len() + self.tail.iter().map(Bytes::len).sum::<usize>()
    }

    /// Head and tail in one piece, length prefix included. Copies; senders that can write several slices should.
    pub fn to_bytes(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(self.len_bytes());
        bytes.extend_from_slice(&self.head);
        for part in &self.tail {
            bytes.extend_from_slice(part);
        }
        Bytes::from(bytes)
    }
}

pub(super) fn encode(message: &Message) -> Frame {
    let mut out = Output {
        head: vec![0; FRAME_LENGTH_BYTES],
        tail: Vec::new(),
    };
    out.head.push(tag_of(message));
    put(message, &mut out);
    let payload_bytes = out.tail.iter().map(Bytes::len).sum::<usize>();
    let length = length_u32(out.head.len() - FRAME_LENGTH_BYTES + payload_bytes);
    out.head[..FRAME_LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
    Frame {
        head: Bytes::from(out.head),
        tail: out.tail,
    }
}

pub(super) fn decode(body: &Bytes) -> Result<Message, DecodeError> {
    let mut input = Input::new("message", body);
    if body.len() > FRAME_BYTES_MAX {
        return Err(input.reader.invalid_field("length", body.len() as u64));
    }
    let tag = input.reader.u8()?;
    let message = take(tag, &mut input)?;
    input.reader.finish()?;
    Ok(message)
}

fn tag_of(message: &Message) -> u8 {
    match message {
        Message::Hello(_) => tag::HELLO,
        Message::Welcome(_) => tag::WELCOME,
        Message::Refused(_) => tag::REFUSED,
        Message::Attach(_) => tag::ATTACH,
        Message::Attached(_) => tag::ATTACHED,
        Message::Append(_) => tag::APPEND,
        Message::Heartbeat(_) => tag::HEARTBEAT,
        Message::Ack(_) => tag::ACK,
        Message::Probe(_) => tag::PROBE,
        Message::ProbeAnswer(_) => tag::PROBE_ANSWER,
        Message::Claim(_) => tag::CLAIM,
        Message::Census(_) => tag::CENSUS,
        Message::Install(_) => tag::INSTALL,
        Message::Installed(_) => tag::INSTALLED,
        Message::Refill(_) => tag::REFILL,
        Message::ReadPages(_) => tag::READ_PAGES,
        Message::Pages(_) => tag::PAGES,
        Message::Gossip(_) => tag::GOSSIP,
        Message::GossipAnswer(_) => tag::GOSSIP_ANSWER,
        Message::ReadLog(_) => tag::READ_LOG,
        Message::LogPiece(_) => tag::LOG_PIECE,
        Message::ReadLayer(_) => tag::READ_LAYER,
        Message::LayerPiece(_) => tag::LAYER_PIECE,
        Message::CreateSegment(_) => tag::CREATE_SEGMENT,
        Message::DropSegment(_) => tag::DROP_SEGMENT,
        Message::Done => tag::DONE,
        Message::AskStatus => tag::ASK_STATUS,
        Message::NodeStatus(_) => tag::NODE_STATUS,
        Message::Wish(_) => tag::WISH,
        Message::Survey(_) => tag::SURVEY,
        Message::WishReport(_) => tag::WISH_REPORT,
        Message::AskWish(_) => tag::ASK_WISH,
        Message::LeaveHint(_) => tag::LEAVE_HINT,
        Message::AskHints(_) => tag::ASK_HINTS,
        Message::Hints(_) => tag::HINTS,
        Message::RetireVolume(_) => tag::RETIRE_VOLUME,
        Message::Echo(_) => tag::ECHO,
    }
}

fn put(message: &Message, out: &mut Output) {
    match message {
        Message::Hello(message) => message.put(&mut out.head),
        Message::Welcome(message) => message.put(&mut out.head),
        Message::Refused(message) => message.put(&mut out.head),
        Message::Attach(message) => message.put(&mut out.head),
        Message::Attached(message) => message.put(&mut out.head),
        Message::Append(message) => message.put(out),
        Message::Heartbeat(message) => message.put(&mut out.head),
        Message::Ack(message) => message.put(&mut out.head),
        Message::Probe(message) => message.put(&mut out.head),
        Message::ProbeAnswer(message) => message.put(&mut out.head),
        Message::Claim(message) => message.put(&mut out.head),
        Message::Census(message) => message.put(&mut out.head),
        Message::Install(message) => message.put(&mut out.head),
        Message::Installed(message) => message.put(&mut out.head),
        Message::Refill(message) => message.put(out),
        Message::ReadPages(message) => message.put(&mut out.head),
        Message::Pages(message) => message.put(out),
        Message::Gossip(message) => message.put(&mut out.head),
        Message::GossipAnswer(message) => message.put(&mut out.head),
        Message::ReadLog(message) => message.put(&mut out.head),
        Message::LogPiece(message) => message.put(out),
        Message::ReadLayer(message) => message.put(&mut out.head),
        Message::LayerPiece(message) => message.put(out),
        Message::CreateSegment(message) => message.put(&mut out.head),
        Message::DropSegment(message) => message.put(&mut out.head),
        Message::NodeStatus(message) => message.put(&mut out.head),
        Message::Wish(message) => message.put(&mut out.head),
        Message::Survey(message) => message.put(&mut out.head),
        Message::WishReport(message) => message.put(&mut out.head),
        Message::AskWish(message) => message.put(&mut out.head),
        Message::LeaveHint(message) => message.put(&mut out.head),
        Message::AskHints(message) => message.put(&mut out.head),
        Message::Hints(message) => message.put(&mut out.head),
        Message::RetireVolume(message) => message.put(&mut out.head),
        Message::Echo(payload) => out.put_rest(payload),
        Message::Done | Message::AskStatus => {}
    }
}

fn take(tag: u8, input: &mut Input<'_>) -> Result<Message, DecodeError> {
    let reader = &mut input.reader;
    Ok(match tag {
        tag::HELLO => Message::Hello(Field::take(reader)?),
        tag::WELCOME => Message::Welcome(Field::take(reader)?),
        tag::REFUSED => Message::Refused(Field::take(reader)?),
        tag::ATTACH => Message::Attach(Field::take(reader)?),
        tag::ATTACHED => Message::Attached(Field::take(reader)?),
        tag::APPEND => Message::Append(Payload::take(input)?),
        tag::HEARTBEAT => Message::Heartbeat(Field::take(reader)?),
        tag::ACK => Message::Ack(Field::take(reader)?),
        tag::PROBE => Message::Probe(Field::take(reader)?),
        tag::PROBE_ANSWER => Message::ProbeAnswer(Field::take(reader)?),
        tag::CLAIM => Message::Claim(Field::take(reader)?),
        tag::CENSUS => Message::Census(Field::take(reader)?),
        tag::INSTALL => Message::Install(Field::take(reader)?),
        tag::INSTALLED => Message::Installed(Field::take(reader)?),
        tag::REFILL => Message::Refill(Payload::take(input)?),
        tag::READ_PAGES => Message::ReadPages(Field::take(reader)?),
        tag::PAGES => Message::Pages(Payload::take(input)?),
        tag::GOSSIP => Message::Gossip(Field::take(reader)?),
        tag::GOSSIP_ANSWER => Message::GossipAnswer(Field::take(reader)?),
        tag::READ_LOG => Message::ReadLog(Field::take(reader)?),
        tag::LOG_PIECE => Message::LogPiece(Payload::take(input)?),
        tag::READ_LAYER => Message::ReadLayer(Field::take(reader)?),
        tag::LAYER_PIECE => Message::LayerPiece(Payload::take(input)?),
        tag::CREATE_SEGMENT => Message::CreateSegment(Field::take(reader)?),
        tag::DROP_SEGMENT => Message::DropSegment(Field::take(reader)?),
        tag::DONE => Message::Done,
        tag::ASK_STATUS => Message::AskStatus,
        tag::NODE_STATUS => Message::NodeStatus(Field::take(reader)?),
        tag::WISH => Message::Wish(Field::take(reader)?),
        tag::SURVEY => Message::Survey(Field::take(reader)?),
        tag::WISH_REPORT => Message::WishReport(Field::take(reader)?),
        tag::ASK_WISH => Message::AskWish(Field::take(reader)?),
        tag::LEAVE_HINT => Message::LeaveHint(Field::take(reader)?),
        tag::ASK_HINTS => Message::AskHints(Field::take(reader)?),
        tag::HINTS => Message::Hints(Field::take(reader)?),
        tag::RETIRE_VOLUME => Message::RetireVolume(Field::take(reader)?),
        tag::ECHO => Message::Echo(input.rest()),
        _ => return Err(reader.invalid_field("tag", u64::from(tag))),
    })
}
