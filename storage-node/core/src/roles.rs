//! Who may say what: the certificate's role decides.

use sixfold_log_format::wire::{Message, Role};

/// What a message is to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Permission {
    /// Allowed.
    Yes,
    /// Not for this role.
    No,
    /// Nobody says this to a node once a connection is open.
    Never,
}

/// Whether `role` may send `message`.
pub(crate) fn permission(role: Role, message: &Message) -> Permission {
    let allowed = match message {
        Message::Echo(_) => true,
        Message::Attach(_)
        | Message::Append(_)
        | Message::Heartbeat(_)
        | Message::Claim(_)
        | Message::Install(_)
        | Message::Refill(_) => role == Role::Writer,
        Message::Probe(_) | Message::Survey(_) => {
            matches!(role, Role::Writer | Role::Reader | Role::Operator)
        }
        Message::ReadPages(_) => matches!(role, Role::Writer | Role::Reader),
        Message::ReadLog(_) => matches!(role, Role::Writer | Role::Reader | Role::Node),
        Message::ReadLayer(_) => matches!(role, Role::Writer | Role::Node),
        Message::Gossip(_) => role == Role::Node,
        // What a writer may drop is decided there.
        Message::DropSegment(_) => matches!(role, Role::Writer | Role::Operator),
        Message::RetireVolume(_) => role == Role::Operator,
        Message::WishReport(_) => role == Role::Writer,
        Message::AskWish(_) | Message::AskHints(_) => {
            matches!(role, Role::Writer | Role::Operator)
        }
        Message::LeaveHint(_) => matches!(role, Role::Node | Role::Operator),
        Message::CreateSegment(_) | Message::AskStatus => {
            matches!(role, Role::Writer | Role::Operator)
        }
        Message::Wish(_) => role == Role::Operator,
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
        | Message::NodeStatus(_) => return Permission::Never,
    };
    if allowed {
        Permission::Yes
    } else {
        Permission::No
    }
}
