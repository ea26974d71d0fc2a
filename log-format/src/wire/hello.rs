//! Opening a connection, and being refused.

use std::fmt;

use crate::codec::{Put, Reader};
use crate::error::DecodeError;
use crate::field::{Field, code_field, struct_field, take_list};
use crate::id::{NodeId, VolumeEpoch, VolumeId};
use crate::limits::TEXT_BYTES_MAX;
use crate::lsn::Lsn;
use crate::manifest::Manifest;

/// The highest wire version that this build speaks. 2 knows [`Refusal::Token`] and manifests with a token's digest.
pub const WIRE_VERSION: u16 = 2;

/// The lowest that it speaks.
pub const WIRE_VERSION_MIN: u16 = 1;

/// What a party may do. The certificate must name the same role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// A storage node: gossip, log and layer reads.
    Node,
    /// A writer or candidate.
    Writer,
    /// Reads pages and log, writes nothing.
    Reader,
    /// Status and wishes.
    Operator,
}

/// Opens a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Lowest wire version that the sender speaks.
    pub wire_min: u16,
    /// Highest wire version that the sender speaks.
    pub wire_max: u16,
    /// What the sender is.
    pub role: Role,
    /// The node that it means to speak to.
    pub node: NodeId,
    /// The volume that it is about, where it is about one.
    pub volume: Option<VolumeId>,
    /// The volume's token, where it has one: proof that the sender may speak of it.
    pub token: Vec<u8>,
}

impl Hello {
    /// What this build says to `node`: its wire versions, no token.
    pub fn new(role: Role, node: NodeId, volume: Option<VolumeId>) -> Hello {
        Hello {
            wire_min: WIRE_VERSION_MIN,
            wire_max: WIRE_VERSION,
            role,
            node,
            volume,
            token: Vec::new(),
        }
    }

    /// The same with the volume's token; none where that is empty.
    #[must_use]
    pub fn with_token(self, token: &[u8]) -> Hello {
        let token = token.to_vec();
        Hello { token, ..self }
    }
}

/// Answers [`Hello`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// The wire version that both speak from now on.
    pub wire: u16,
    /// Who answers.
    pub node: NodeId,
    /// Drawn at each start of the daemon: a change means that it was restarted.
    pub incarnation: u64,
}

/// Why something was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// No wire version in common.
    Wire {
        /// Lowest that the node speaks.
        min: u16,
        /// Highest that the node speaks.
        max: u16,
    },
    /// Not allowed for this role.
    NotAllowed,
    /// The message makes no sense here.
    Malformed {
        /// What is wrong.
        reason: String,
    },
    /// The node does not host this segment.
    UnknownSegment,
    /// Another volume.
    WrongVolume {
        /// The volume that the node knows.
        volume: VolumeId,
    },
    /// A higher claim was accepted, or the same epoch was claimed by another writer.
    StaleEpoch {
        /// The epoch claimed.
        volume_epoch: VolumeEpoch,
    },
    /// The sender's manifest is old; here is the current one.
    StaleMembership {
        /// The current manifest.
        manifest: Box<Manifest>,
    },
    /// The segment does not hold the sender's history yet; attach first (R3).
    OtherHistory {
        /// The history that it holds.
        history_epoch: VolumeEpoch,
    },
    /// The segment's SCL is below what was asked for.
    Behind {
        /// Its SCL.
        scl: Lsn,
    },
    /// The version asked for was collected.
    Forgotten {
        /// The oldest point still readable.
        horizon: Lsn,
    },
    /// Different bytes at an LSN that the segment holds (R13), or damage that is not healed yet.
    Corrupt {
        /// Where.
        reason: String,
    },
    /// No room on the disk; reads go on.
    DiskFull,
    /// Too much is queued.
    Overloaded,
    /// The segment exists already under another identity, or the volume has been opened before.
    Exists,
    /// The node has not heard of this wish, or has forgotten it: leave it again.
    UnknownWish,
    /// The volume has a token, and the connection showed none, or another one (wire version 2; before, such a peer is told
    /// [`Refusal::NotAllowed`]).
    Token,
}

code_field!(Role { Node = 1, Writer = 2, Reader = 3, Operator = 4 });
struct_field!(Welcome {
    wire,
    node,
    incarnation
});

impl Field for Hello {
    fn put(&self, out: &mut Vec<u8>) {
        out.put_u16(self.wire_min);
        out.put_u16(self.wire_max);
        self.role.put(out);
        self.node.put(out);
        self.volume.put(out);
        self.token.put(out);
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Hello {
            wire_min: input.u16()?,
            wire_max: input.u16()?,
            role: Role::take(input.field("role"))?,
            node: NodeId::take(input)?,
            volume: Field::take(input.field("volume"))?,
            token: take_list(input.field("token length"), TEXT_BYTES_MAX)?,
        })
    }
}

impl Field for Refusal {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(self.code());
        match self {
            Refusal::Wire { min, max } => {
                out.put_u16(*min);
                out.put_u16(*max);
            }
            Refusal::Malformed { reason } | Refusal::Corrupt { reason } => out.put_text(reason),
            Refusal::WrongVolume { volume } => volume.put(out),
            Refusal::StaleEpoch { volume_epoch } => volume_epoch.put(out),
            Refusal::StaleMembership { manifest } => manifest.put(out),
            Refusal::OtherHistory { history_epoch } => history_epoch.put(out),
            Refusal::Behind { scl } => scl.put(out),
            Refusal::Forgotten { horizon } => horizon.put(out),
            Refusal::NotAllowed
            | Refusal::UnknownSegment
            | Refusal::DiskFull
            | Refusal::Overloaded
            | Refusal::Exists
            | Refusal::UnknownWish
            | Refusal::Token => {}
        }
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match input.u8()? {
            1 => Refusal::Wire {
                min: input.u16()?,
                max: input.u16()?,
            },
            2 => Refusal::NotAllowed,
            3 => Refusal::Malformed {
                reason: String::take(input.field("reason"))?,
            },
            4 => Refusal::UnknownSegment,
            5 => Refusal::WrongVolume {
                volume: VolumeId::take(input)?,
            },
            6 => Refusal::StaleEpoch {
                volume_epoch: VolumeEpoch::take(input)?,
            },
            7 => Refusal::StaleMembership {
                manifest: Field::take(input)?,
            },
            8 => Refusal::OtherHistory {
                history_epoch: VolumeEpoch::take(input)?,
            },
            9 => Refusal::Behind {
                scl: Lsn::take(input)?,
            },
            10 => Refusal::Forgotten {
                horizon: Lsn::take(input)?,
            },
            11 => Refusal::Corrupt {
                reason: String::take(input.field("reason"))?,
            },
            12 => Refusal::DiskFull,
            13 => Refusal::Overloaded,
            14 => Refusal::Exists,
            15 => Refusal::UnknownWish,
            16 => Refusal::Token,
            code => return Err(input.invalid_field("refusal", u64::from(code))),
        })
    }
}

impl Refusal {
    /// Its number on the wire.
    const fn code(&self) -> u8 {
        match self {
            Refusal::Wire { .. } => 1,
            Refusal::NotAllowed => 2,
            Refusal::Malformed { .. } => 3,
            Refusal::UnknownSegment => 4,
            Refusal::WrongVolume { .. } => 5,
            Refusal::StaleEpoch { .. } => 6,
            Refusal::StaleMembership { .. } => 7,
            Refusal::OtherHistory { .. } => 8,
            Refusal::Behind { .. } => 9,
            Refusal::Forgotten { .. } => 10,
            Refusal::Corrupt { .. } => 11,
            Refusal::DiskFull => 12,
            Refusal::Overloaded => 13,
            Refusal::Exists => 14,
            Refusal::UnknownWish => 15,
            Refusal::Token => 16,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Wire { min, max } => {
                write!(
                    f,
                    "no wire version in common, the node speaks {min} to {max}"
                )
            }
            Refusal::NotAllowed => f.write_str("not allowed"),
            Refusal::Malformed { reason } => write!(f, "malformed message: {reason}"),
            Refusal::UnknownSegment => f.write_str("the node does not host this segment"),
            Refusal::WrongVolume { volume } => write!(f, "another volume, the node knows {volume}"),
            Refusal::StaleEpoch { volume_epoch } => {
                write!(f, "stale epoch, volume epoch {volume_epoch} was claimed")
            }
            Refusal::StaleMembership { manifest } => {
                write!(f, "stale membership, the manifest is {}", manifest.version)
            }
            Refusal::OtherHistory { history_epoch } => {
                write!(
                    f,
                    "the segment holds the history of volume epoch {history_epoch}"
                )
            }
            Refusal::Behind { scl } => write!(f, "behind, the segment is complete to lsn {scl}"),
            Refusal::Forgotten { horizon } => {
                write!(f, "forgotten, the oldest readable point is lsn {horizon}")
            }
            Refusal::Corrupt { reason } => write!(f, "corrupt: {reason}"),
            Refusal::DiskFull => f.write_str("the disk is full"),
            Refusal::Overloaded => f.write_str("too much is queued"),
            Refusal::Exists => f.write_str("it exists already"),
            Refusal::UnknownWish => f.write_str("no such wish is known here"),
            Refusal::Token => f.write_str(
                "the volume has a token, and the one that was shown is missing or wrong",
            ),
        }
    }
}
