//! The tag of each message. A number never changes its meaning; a retired one is not used again.

/// [`super::Message::Hello`].
pub const HELLO: u8 = 1;
/// [`super::Message::Welcome`].
pub const WELCOME: u8 = 2;
/// [`super::Message::Refused`].
pub const REFUSED: u8 = 3;
/// [`super::Message::Done`].
pub const DONE: u8 = 4;
/// [`super::Message::Echo`].
pub const ECHO: u8 = 5;
/// [`super::Message::Attach`].
pub const ATTACH: u8 = 16;
/// [`super::Message::Attached`].
pub const ATTACHED: u8 = 17;
/// [`super::Message::Append`].
pub const APPEND: u8 = 18;
/// [`super::Message::Heartbeat`].
pub const HEARTBEAT: u8 = 19;
/// [`super::Message::Ack`].
pub const ACK: u8 = 20;
/// [`super::Message::Probe`].
pub const PROBE: u8 = 32;
/// [`super::Message::ProbeAnswer`].
pub const PROBE_ANSWER: u8 = 33;
/// [`super::Message::Claim`].
pub const CLAIM: u8 = 34;
/// [`super::Message::Census`].
pub const CENSUS: u8 = 35;
/// [`super::Message::Install`].
pub const INSTALL: u8 = 36;
/// [`super::Message::Installed`].
pub const INSTALLED: u8 = 37;
/// [`super::Message::Refill`].
pub const REFILL: u8 = 38;
/// [`super::Message::Survey`].
pub const SURVEY: u8 = 39;
/// [`super::Message::ReadPages`].
pub const READ_PAGES: u8 = 48;
/// [`super::Message::Pages`].
pub const PAGES: u8 = 49;
/// [`super::Message::Gossip`].
pub const GOSSIP: u8 = 64;
/// [`super::Message::GossipAnswer`].
pub const GOSSIP_ANSWER: u8 = 65;
/// [`super::Message::ReadLog`].
pub const READ_LOG: u8 = 66;
/// [`super::Message::LogPiece`].
pub const LOG_PIECE: u8 = 67;
/// [`super::Message::ReadLayer`].
pub const READ_LAYER: u8 = 68;
/// [`super::Message::LayerPiece`].
pub const LAYER_PIECE: u8 = 69;
/// [`super::Message::CreateSegment`].
pub const CREATE_SEGMENT: u8 = 80;
/// [`super::Message::AskStatus`].
pub const ASK_STATUS: u8 = 81;
/// [`super::Message::NodeStatus`].
pub const NODE_STATUS: u8 = 82;
/// [`super::Message::DropSegment`].
pub const DROP_SEGMENT: u8 = 84;
/// [`super::Message::Wish`].
pub const WISH: u8 = 83;
/// [`super::Message::WishReport`].
pub const WISH_REPORT: u8 = 85;
/// [`super::Message::AskWish`].
pub const ASK_WISH: u8 = 86;
/// [`super::Message::LeaveHint`].
pub const LEAVE_HINT: u8 = 87;
/// [`super::Message::AskHints`].
pub const ASK_HINTS: u8 = 88;
/// [`super::Message::Hints`].
pub const HINTS: u8 = 89;
/// [`super::Message::RetireVolume`].
pub const RETIRE_VOLUME: u8 = 90;
