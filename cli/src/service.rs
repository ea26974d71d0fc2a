//! What a daemon tells the service manager that started it: ready, alive, stopping. One datagram each to the socket that systemd names in
//! `NOTIFY_SOCKET` (sd_notify(3)). Without that variable nothing is said.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The service manager, if there is one.
#[derive(Debug)]
pub(crate) struct Service {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// How often it wants to hear that this process lives.
    keep_alive: Option<Duration>,
}

impl Service {
    /// Who the environment says that started this process.
    pub(crate) fn from_environment() -> Service {
        let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
        let socket = std::env::var_os("NOTIFY_SOCKET");
        let watchdog = number("WATCHDOG_USEC").filter(|_| {
            number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()))
        });
        Service::new(socket.as_deref(), watchdog)
    }

    /// `watchdog_us`: silence after which it kills this process, microseconds.
    fn new(socket: Option<&OsStr>, watchdog_us: Option<u64>) -> Service {
        let socket = socket
            .and_then(|path| match path.as_bytes() {
                // An address without a file, as `@` says.
                [b'@', name @ ..] => SocketAddr::from_abstract_name(name).ok(),
                path => SocketAddr::from_pathname(OsStr::from_bytes(path)).ok(),
            })
            .and_then(|address| {
                let socket = UnixDatagram::unbound().ok()?;
                // A manager that does not read must not stop who serves.
                socket.set_nonblocking(true).ok()?;
                Some((socket, address))
            });
        Service {
            // Half of it, as sd_watchdog_enabled(3) advises.
            keep_alive: watchdog_us
                .filter(|&us| us > 0 && socket.is_some())
                .map(|us| Duration::from_micros(us / 2)),
            socket,
        }
    }

    fn say(&self, text: &str) {
        if let Some((socket, address)) = &self.socket {
            // It hears nothing when it does not listen or read; that ends nothing here.
            let _ = socket.send_to_addr(text.as_bytes(), address);
        }
    }

    /// Requests are answered from now on.
    pub(crate) fn ready(&self, status: &str) {
        self.say(&format!("READY=1\nSTATUS={status}"));
    }

    /// The end has begun.
    pub(crate) fn stopping(&self) {
        self.say("STOPPING=1");
    }

    /// Says again and again that this process lives, for ever.
    pub(crate) async fn keep_alive(&self) {
        let Some(interval) = self.keep_alive else {
            return std::future::pending().await;
        };
        loop {
            self.say("WATCHDOG=1");
            tokio::time::sleep(interval).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        let limit = Some(Duration::from_secs(30));
        socket.set_read_timeout(limit).unwrap();
        let mut buffer = [0; 256];
        let count = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..count].to_vec()).unwrap()
    }

    #[test]
    fn a_service_manager_hears_ready_alive_and_stopping() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let service = Service::new(Some(path.as_os_str()), Some(1_000));
        service.ready("serving at 127.0.0.1:1");
        assert_eq!(heard(&socket), "READY=1\nSTATUS=serving at 127.0.0.1:1");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        // It goes on although nobody reads: more is said than a socket keeps.
        runtime.block_on(async {
            for _ in 0..100 {
                let alive = Duration::from_millis(1);
                let _ended = tokio::time::timeout(alive, service.keep_alive()).await;
            }
        });
        assert_eq!(heard(&socket), "WATCHDOG=1");
        assert_eq!(heard(&socket), "WATCHDOG=1");
        socket.set_nonblocking(true).unwrap();
        while socket.recv(&mut [0; 256]).is_ok() {}
        service.stopping();
        assert_eq!(heard(&socket), "STOPPING=1");
    }

    #[test]
    fn an_abstract_socket_is_reached_and_a_missing_one_harms_nobody() {
        let name = format!("sixfold-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        let service = Service::new(Some(OsStr::new(&format!("@{name}"))), None);
        service.stopping();
        assert_eq!(heard(&socket), "STOPPING=1");
        Service::new(None, Some(1_000)).ready("nobody hears it");
        Service::new(Some(OsStr::new("/nowhere/at/all")), None).ready("nobody hears it");
    }
}
