//! A volume's token: one tenant's certificate does not open another tenant's volume.
//!
//! The manifest holds the token's digest, so every segment of the volume knows it, after a restart too. A connection shows a token for one
//! volume when it opens; what it says about another volume that has a token is refused. Roles are judged before (`roles.rs`).
//! Nodes among themselves go by their certificates, and operators may see and drop what they cannot read.

use std::collections::BTreeMap;

use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::wire::{Message, Refusal, Role};
use sixfold_log_format::{Manifest, SegmentId, TokenDigest, VolumeId};

use crate::event::ConnectionKey;
use crate::node::NodeCore;

/// The tokens that the connections showed.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    shown: BTreeMap<ConnectionKey, (VolumeId, TokenDigest)>,
}

impl Tokens {
    /// A connection was opened.
    pub(crate) fn connected(
        &mut self,
        connection: ConnectionKey,
        shown: Option<(VolumeId, TokenDigest)>,
    ) {
        if let Some(shown) = shown {
            self.shown.insert(connection, shown);
        }
    }

    /// It is gone.
    pub(crate) fn disconnected(&mut self, connection: ConnectionKey) {
        self.shown.remove(&connection);
    }

    fn fits(&self, connection: ConnectionKey, volume: VolumeId, token: &TokenDigest) -> bool {
        let shown = self.shown.get(&connection);
        shown.is_some_and(|(of, shown)| *of == volume && token.fits(shown))
    }
}

/// What a message is about, as far as tokens go.
enum About {
    Segment(SegmentId),
    Volume(VolumeId),
    /// No volume; or what a stream says whose opening was judged.
    Nothing,
}

fn about(role: Role, message: &Message) -> About {
    match message {
        Message::Attach(attach) => About::Segment(attach.segment),
        Message::Claim(claim) => About::Segment(claim.segment),
        Message::Survey(survey) => About::Segment(survey.segment),
        Message::Install(install) => About::Segment(install.segment),
        Message::Refill(refill) => About::Segment(refill.segment),
        Message::ReadPages(read) => About::Segment(read.segment),
        Message::ReadLog(read) => About::Segment(read.segment),
        Message::ReadLayer(read) => About::Segment(read.segment),
        Message::CreateSegment(create) => About::Volume(create.manifest.volume),
        Message::Wish(wish) => About::Volume(wish.volume),
        Message::WishReport(report) => About::Volume(report.volume),
        Message::AskWish(ask) => About::Volume(ask.volume),
        Message::LeaveHint(leave) => About::Volume(leave.volume),
        Message::AskHints(ask) => About::Volume(ask.volume),
        // The owner of the machines sees what is on them, and may drop it.
        Message::Probe(_) | Message::DropSegment(_) | Message::RetireVolume(_)
            if role == Role::Operator =>
        {
            About::Nothing
        }
        Message::Probe(probe) => About::Volume(probe.volume),
        Message::DropSegment(drop) => About::Volume(drop.volume),
        Message::RetireVolume(retire) => About::Volume(retire.volume),
        Message::Append(_) | Message::Heartbeat(_) | Message::AskStatus | Message::Echo(_) => {
            About::Nothing
        }
        // From nodes alone.
        Message::Gossip(_) => About::Nothing,
        Message::Hello(_)
        | Message::Welcome(_)
        | Message::Refused(_)
        | Message::Attached(_)
        | Message::Ack(_)
        | Message::ProbeAnswer(_)
        | Message::Census(_)
        | Message::Installed(_)
        | Message::Pages(_)
        | Message::GossipAnswer(_)
        | Message::LogPiece(_)
        | Message::LayerPiece(_)
        | Message::Done
        | Message::Hints(_)
        | Message::NodeStatus(_) => unreachable!("permission() lets no answer through"),
    }
}

impl NodeCore {
    /// Whether a connection may say this, as far as tokens go.
    ///
    /// # Errors
    /// [`Refusal::Token`].
    pub(crate) fn check_token(
        &self,
        connection: ConnectionKey,
        role: Role,
        message: &Message,
    ) -> Result<(), Refusal> {
        if role == Role::Node || planted(Mutant::TokenUnchecked) {
            return Ok(());
        }
        let volume = match about(role, message) {
            About::Nothing => return Ok(()),
            About::Segment(id) => {
                let held = self.segments.get(&id).map(|segment| &segment.manifest);
                // One that is not here is refused as unknown; one that was removed, with a manifest that is its volume's alone to see.
                let held = held.or_else(|| self.gone.manifest_of(id));
                return held.map_or(Ok(()), |held| self.judge(connection, held));
            }
            About::Volume(volume) => volume,
        };
        // The first segment of a volume on this node brings the token: whoever makes it has it.
        if let Message::CreateSegment(create) = message {
            self.judge(connection, &create.manifest)?;
        }
        let segments = self.segments.values().map(|segment| &segment.manifest);
        let of_volume = segments.filter(|manifest| manifest.volume == volume);
        let gone = self.gone.of_volume(volume).map(|(_, manifest)| manifest);
        of_volume
            .chain(gone)
            .try_for_each(|manifest| self.judge(connection, manifest))
    }

    /// Whether a connection has shown the token of the volume that this is the manifest of.
    fn judge(&self, connection: ConnectionKey, manifest: &Manifest) -> Result<(), Refusal> {
        let Some(token) = &manifest.parameters.token else {
            return Ok(());
        };
        if self.tokens.fits(connection, manifest.volume, token) {
            Ok(())
        } else {
            Err(Refusal::Token)
        }
    }
}
