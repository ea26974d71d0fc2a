//! Callers that mean no good, or do nothing: others are answered all the same.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use sixfold::Cluster;

use super::super::collect::Slot;
use super::super::{Served, bind, serve_within};
use super::*;

/// Bounds every wait.
const LIMIT: Duration = Duration::from_secs(60);
/// A time that does not come.
const NEVER: Duration = Duration::from_secs(3_600);

fn served(head: Duration) -> Served {
    let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let source = Source::Writer {
        slot: Slot::default(),
        cluster: Cluster::new(Vec::new(), ""),
    };
    let limits = Limits {
        head,
        connection: NEVER,
    };
    serve_within(listener, "test", source, limits).unwrap()
}

fn caller(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_write_timeout(Some(LIMIT)).unwrap();
    stream
}

/// What comes until the other side closes; it may reset the connection where it did not read everything.
fn rest(mut stream: TcpStream) -> String {
    let mut all = Vec::new();
    if let Err(error) = stream.read_to_end(&mut all) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    }
    String::from_utf8_lossy(&all).into_owned()
}

fn assert_healthy(address: SocketAddr) {
    let mut stream = caller(address);
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        .unwrap();
    let answer = rest(stream);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[test]
fn silent_callers_keep_nobody_out() {
    let served = served(NEVER);
    let mut silent: Vec<TcpStream> = Vec::new();
    for _ in 0..3 * CONNECTIONS_MAX {
        silent.push(caller(served.address));
    }
    // Some have begun to ask, and say no more.
    for stream in silent.iter_mut().rev().take(CONNECTIONS_MAX / 2) {
        stream.write_all(b"GET /healthz HT").unwrap();
    }
    assert_healthy(served.address);
    // The first were dropped for the last.
    assert_eq!(rest(silent.remove(0)), "");
    let mut newest = silent.pop().unwrap();
    newest
        .write_all(b"TP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        .unwrap();
    let answer = rest(newest);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[test]
fn who_asks_again_and_again_is_dropped_after_those_who_ask_nothing() {
    let served = served(NEVER);
    let mut regular = caller(served.address);
    let mut ask = || {
        regular
            .write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n")
            .unwrap();
        let mut answer = [0; 2_048];
        let mut read = 0;
        while !answer[..read].ends_with(b"ok\n") {
            let more = regular.read(&mut answer[read..]).unwrap();
            assert!(more > 0, "it was dropped");
            read += more;
        }
    };
    ask();
    let mut silent = Vec::new();
    for _ in 0..3 {
        for _ in 0..CONNECTIONS_MAX - 2 {
            silent.push(caller(served.address));
        }
        // Behind them in the same queue: they are in by then.
        assert_healthy(served.address);
        ask();
    }
}

#[test]
fn a_head_that_comes_byte_by_byte_ends_at_its_limit() {
    let served = served(Duration::from_millis(200));
    let mut slow = caller(served.address);
    slow.set_read_timeout(Some(Duration::from_millis(10)))
        .unwrap();
    let begun = std::time::Instant::now();
    let mut head = b"GET /healthz HTTP/1.1\r\nx: ".iter().copied();
    let ended = loop {
        assert!(begun.elapsed() < LIMIT, "it goes on for ever");
        if slow.write_all(&[head.next().unwrap_or(b'y')]).is_err() {
            break true;
        }
        match slow.read(&mut [0; 256]) {
            Ok(0) => break true,
            // It may be told that it took too long.
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break true,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    };
    assert!(ended);
    assert_healthy(served.address);
}

#[test]
fn a_head_that_is_too_long_is_refused_and_costs_no_memory() {
    let served = served(NEVER);
    for (begin, filler) in [
        ("GET / HTTP/1.1\r\n", "x: y\r\n"),
        ("GET / HTTP/1.1\r\nx: ", "yyyyyyyy"),
        ("GET /", "xxxxxxxx"),
    ] {
        let mut stream = caller(served.address);
        let text = format!("{begin}{}", filler.repeat(4 << 20));
        // Far more than any buffer of the system: it is read no further than its bound.
        let written = stream.write_all(text.as_bytes());
        assert!(written.is_err(), "all of {filler:?} were taken");
        let answer = rest(stream);
        assert!(!answer.contains(" 200 "), "{answer}");
    }
    assert_healthy(served.address);
}
