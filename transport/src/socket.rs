//! The UDP socket under an endpoint.
//!
//! The kernel cuts one send into many datagrams (segmentation offload) if all of it fits the largest UDP datagram. QUIC
//! fills ten datagrams at a time whatever their size: ten jumbo ones are too much, the kernel refuses them all with
//! EMSGSIZE, quinn-udp takes that for a failed MTU probe, and the connection sends the same ten again until it times
//! out. So the socket says how many fit.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller};

/// What one send may hold: the largest UDP datagram, less headers of either IP version.
const SEND_BYTES_MAX: usize = 65_000;

/// A socket of the runtime's that fills each send with whole datagrams only as far as the kernel takes them.
pub(crate) struct CappedSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    segment_count_max: usize,
}

impl fmt::Debug for CappedSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl CappedSocket {
    /// `mtu_bytes_max` is the largest datagram that any connection of the endpoint may come to use.
    pub(crate) fn new(socket: UdpSocket, mtu_bytes_max: u16) -> io::Result<CappedSocket> {
        Ok(CappedSocket {
            inner: TokioRuntime.wrap_udp_socket(socket)?,
            segment_count_max: (SEND_BYTES_MAX / usize::from(mtu_bytes_max)).max(1),
        })
    }
}

impl AsyncUdpSocket for CappedSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.inner.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.inner.poll_recv(cx, buffers, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        // It falls to one where the device turns out to know no offload.
        self.inner
            .max_transmit_segments()
            .min(self.segment_count_max)
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}
