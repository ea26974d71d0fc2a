//! How QUIC is set for a cluster: short round trips, long-lived connections, small messages whose latency counts and
//! batches of a megabyte.
//!
//! What each choice is worth, measured with `examples/echo.rs` (six nodes and a client on two cores over loopback): p50
//! with the choice, as a ratio to p50 without it; the median of nine pairs run in turns, on a machine busy with other
//! work. The quartiles of most cells span 0.2 to 0.4, so only what is clearly below 0.85 is a finding:
//!
//! | choice | 512 B lone | 512 B, 16 in flight | 4 KiB, 16 in flight | 64 KiB lone |
//! |---|---|---|---|---|
//! | datagrams to 8,900 bytes, found by probing, against 1,452 | 0.99 | 0.76 | 0.48 | 0.41 |
//! | segmentation offload, against none | 0.90 | 0.95 | 0.85 | 0.77 |
//! | an ack for 10 packets within 5 ms, against one for 2 within 25 | 0.99 | 0.96 | 0.87 | 0.91 |
//! | 1 MiB in flight from the start, against 14 KB | 0.91 | 0.95 | 1.07 | 1.04 |
//!
//! So the size of datagrams decides, and nothing here makes a lone small message faster: its cost is wake-ups. Fewer
//! acks are kept because they save datagrams (8.05 for 64 KiB instead of 9.04) and a lost last packet is repeated sooner;
//! the first window because a refill begins on a fresh connection, which these runs, warmed up, do not show. BBR was
//! tried twice and gave nothing consistent. Pacing stays on: at round trips below a millisecond it lets two windows
//! go at once, or 256 datagrams.

use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::CubicConfig;
use quinn::{
    AckFrequencyConfig, ConnectionId, ConnectionIdGenerator, EndpointConfig, IdleTimeout,
    MtuDiscoveryConfig, TransportConfig, VarInt,
};
use ring::rand::SecureRandom;
use rustix::net::sockopt;

use crate::endpoint::TransportOptions;
use crate::tls::Identity;

/// Streams that a peer may have open at once: requests in flight, and one log stream a segment.
const STREAM_COUNT_MAX: u32 = 1_024;
/// What a peer may send on one stream before it is read: several of the largest frames.
const STREAM_WINDOW_BYTES: u32 = 16 << 20;
/// What a peer may send on all streams of a connection before it is read. Bounds the memory that a peer can take.
const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;
/// What is kept to be sent again, on all streams of a connection, before senders wait.
const SEND_WINDOW_BYTES: u64 = 32 << 20;
/// What may be in flight before the first loss says otherwise: a whole batch in the first round trip.
const FIRST_WINDOW_BYTES: u64 = 1 << 20;
/// The round trip assumed before one is measured: a lost first datagram is sent again after three of them.
const FIRST_ROUND_TRIP: Duration = Duration::from_millis(30);
/// Packets that a peer may take before it must acknowledge. Answers carry acks anyway; this saves datagrams that only
/// wake the other side up.
const PACKETS_PER_ACK: u32 = 10;
/// Longest time that an ack may be held back. A lost last packet is sent again after about that; QUIC's usual 25 ms
/// would be felt in the commit latency.
const ACK_DELAY: Duration = Duration::from_millis(5);
/// Largest UDP payload looked for and accepted: what jumbo frames and loopback carry.
const MTU_BYTES_MAX: u16 = 8_900;
/// How soon larger datagrams are tried again after they seemed to be swallowed. A full socket buffer looks like that too.
const MTU_COOLDOWN: Duration = Duration::from_secs(2);
/// Kernel buffers of the socket: what six peers send in a burst. When all six send megabytes without a pause, datagrams
/// are dropped and sent again; four times as much room dropped fewer and was no faster.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// Length of connection ids.
const CONNECTION_ID_BYTES: usize = 8;

/// The largest UDP payload that a connection of an endpoint may send or receive.
pub(crate) fn mtu_bytes_max(options: &TransportOptions) -> u16 {
    options.mtu_bytes.unwrap_or(0).clamp(MTU_BYTES_MAX, 65_527)
}

/// Settings of every connection, in either direction.
pub(crate) fn transport_config(options: &TransportOptions) -> TransportConfig {
    let mut discovery = MtuDiscoveryConfig::default();
    discovery
        .upper_bound(mtu_bytes_max(options))
        .black_hole_cooldown(MTU_COOLDOWN);
    let mut congestion = CubicConfig::default();
    congestion.initial_window(FIRST_WINDOW_BYTES);
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(PACKETS_PER_ACK))
        .max_ack_delay(Some(ACK_DELAY));

    let mut config = TransportConfig::default();
    config
        .max_idle_timeout(Some(idle_timeout(options.idle_limit)))
        .keep_alive_interval(Some(options.keep_alive))
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAM_COUNT_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES))
        .send_window(SEND_WINDOW_BYTES)
        .initial_rtt(FIRST_ROUND_TRIP)
        .congestion_controller_factory(Arc::new(congestion))
        .ack_frequency_config(Some(acks))
        .mtu_discovery_config(Some(discovery));
    if let Some(mtu_bytes) = options.mtu_bytes {
        config.initial_mtu(mtu_bytes);
    }
    config
}

/// QUIC knows no limit below a millisecond and none above 2^62 of them.
fn idle_timeout(limit: Duration) -> IdleTimeout {
    let limit_ms = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX).max(1);
    VarInt::from_u32(limit_ms).into()
}

/// Settings of the socket's QUIC side.
///
/// Both keys come from the identity, so that a node that was killed and started again can tell its old peers with
/// their next datagram that their connections are gone. Otherwise they would wait out the idle limit.
pub(crate) fn endpoint_config(identity: &Identity, options: &TransportOptions) -> EndpointConfig {
    let secret = identity.derive_secret("sixfold stateless reset");
    let reset_key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_ref());
    let mut config = EndpointConfig::new(Arc::new(reset_key));
    config
        .max_udp_payload_size(mtu_bytes_max(options))
        .expect("the size is within what QUIC allows");
    config.cid_generator(|| Box::new(DrawnConnectionIds));
    config
}

/// Connection ids drawn at random. The usual generator recognizes only ids of its own process, and stays silent
/// about those of the process before it.
struct DrawnConnectionIds;

impl ConnectionIdGenerator for DrawnConnectionIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut bytes = [0; CONNECTION_ID_BYTES];
        ring::rand::SystemRandom::new()
            .fill(&mut bytes)
            .expect("the system gives randomness");
        ConnectionId::new(&bytes)
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// Asks for large buffers; the kernel may give less, which costs only speed.
pub(crate) fn enlarge_buffers(socket: &UdpSocket) {
    let bytes = SOCKET_BUFFER_BYTES;
    let received = force_buffer(socket, Half::Receive, bytes)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(socket, bytes));
    let sent = force_buffer(socket, Half::Send, bytes)
        .or_else(|_| sockopt::set_socket_send_buffer_size(socket, bytes));
    if let Err(error) = received.and(sent) {
        tracing::debug!(%error, "socket buffers keep their size");
    }
}

#[derive(Debug, Clone, Copy)]
enum Half {
    Receive,
    Send,
}

/// Beyond the system's bound, for those who may: only Linux knows that.
#[cfg(target_os = "linux")]
fn force_buffer(socket: &UdpSocket, half: Half, bytes: usize) -> rustix::io::Result<()> {
    match half {
        Half::Receive => sockopt::set_socket_recv_buffer_size_force(socket, bytes),
        Half::Send => sockopt::set_socket_send_buffer_size_force(socket, bytes),
    }
}

#[cfg(not(target_os = "linux"))]
fn force_buffer(_: &UdpSocket, _: Half, _: usize) -> rustix::io::Result<()> {
    Err(rustix::io::Errno::OPNOTSUPP)
}
