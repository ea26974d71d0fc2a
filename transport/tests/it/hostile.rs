//! Bytes that no honest peer sends.

use std::net::{SocketAddr, UdpSocket};

use bytes::Bytes;
use sixfold_log_format::limits;
use sixfold_log_format::wire::{Frame, Role};
use sixfold_transport::TransportError;

use crate::common::{Cluster, assert_works, hello, message, within};

fn raw(bytes: &[u8]) -> Frame {
    Frame {
        head: Bytes::copy_from_slice(bytes),
        tail: Vec::new(),
    }
}

#[tokio::test]
async fn garbage_at_the_port_changes_nothing() {
    let cluster = Cluster::new();
    let address = cluster.serve();
    let client = cluster.client(Role::Writer);
    let client_address = SocketAddr::from(([127, 0, 0, 1], client.local_address().port()));
    let (connection, _) = within(client.connect(address, hello(Role::Writer)))
        .await
        .unwrap();
    within(assert_works(&connection)).await;
    let attacker = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    for round in 0..400_usize {
        let mut datagram = vec![0_u8; [1, 20, 64, 1_200, 1_472][round % 5]];
        for byte in &mut datagram {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = state as u8;
        }
        // Some look like the long headers of a handshake, some like the short ones of a connection.
        match round % 4 {
            0 => datagram[0] = 0xC3,
            1 => datagram[0] = 0x43,
            _ => {}
        }
        if round % 4 == 0 && datagram.len() > 5 {
            datagram[1..5].copy_from_slice(&1_u32.to_be_bytes());
        }
        attacker.send_to(&datagram, address).unwrap();
        attacker.send_to(&datagram, client_address).unwrap();
        if round % 40 == 0 {
            within(assert_works(&connection)).await;
        }
    }
    within(assert_works(&connection)).await;
    let (second, _) = within(client.connect(address, hello(Role::Writer)))
        .await
        .unwrap();
    within(assert_works(&second)).await;
}

#[tokio::test]
async fn a_frame_above_the_limit_ends_its_stream_and_no_other() {
    let (near, far) = within(Cluster::new().pair()).await;
    let (mut sender, _answers) = within(near.open()).await.unwrap();
    let claimed = u32::try_from(limits::FRAME_BYTES_MAX + 1).unwrap();
    within(sender.send_frame(raw(&claimed.to_le_bytes())))
        .await
        .unwrap();
    let (_sender, mut receiver) = within(far.accept()).await.unwrap();
    for _ in 0..2 {
        let error = within(receiver.recv()).await.unwrap_err();
        assert!(
            matches!(error, TransportError::TooLong { bytes } if bytes == claimed as usize),
            "{error}"
        );
    }
    // The other side is told to stop.
    let refused = async {
        loop {
            if let Err(error) = sender.send(&message(1, 1_000)).await {
                return error;
            }
            tokio::task::yield_now().await;
        }
    };
    assert!(matches!(within(refused).await, TransportError::Ended));
    works_on_another_stream(&near, &far).await;
}

#[tokio::test]
async fn a_frame_that_is_no_message_ends_its_stream_and_no_other() {
    let (near, far) = within(Cluster::new().pair()).await;
    for bytes in [&[0, 0, 0, 0][..], &[3, 0, 0, 0, 0xFF, 0xFF, 0xFF]] {
        let (mut sender, _answers) = within(near.open()).await.unwrap();
        within(sender.send_frame(raw(bytes))).await.unwrap();
        let (_sender, mut receiver) = within(far.accept()).await.unwrap();
        let error = within(receiver.recv()).await.unwrap_err();
        assert!(matches!(error, TransportError::Malformed(_)), "{error}");
    }
    works_on_another_stream(&near, &far).await;
}

#[tokio::test]
async fn a_stream_that_ends_inside_a_message_is_not_taken_for_a_whole_one() {
    let (near, far) = within(Cluster::new().pair()).await;
    for bytes in [&[9, 0][..], &[9, 0, 0, 0, 1, 2, 3]] {
        let (mut sender, _answers) = within(near.open()).await.unwrap();
        within(sender.send_frame(raw(bytes))).await.unwrap();
        sender.finish();
        let (_sender, mut receiver) = within(far.accept()).await.unwrap();
        let error = within(receiver.recv()).await.unwrap_err();
        assert!(matches!(error, TransportError::Ended), "{error}");
    }
    works_on_another_stream(&near, &far).await;
}

async fn works_on_another_stream(
    near: &sixfold_transport::Connection,
    far: &sixfold_transport::Connection,
) {
    let (mut sender, _answers) = within(near.open()).await.unwrap();
    within(sender.send(&message(5, 50))).await.unwrap();
    let (_sender, mut receiver) = within(far.accept()).await.unwrap();
    assert_eq!(within(receiver.recv()).await.unwrap(), Some(message(5, 50)));
}

/// First datagrams of handshakes, as real as a stranger can make them: each of another connection.
async fn first_datagrams(count: usize) -> Vec<Vec<u8>> {
    let hole = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = hole.local_addr().unwrap();
    let stranger = Cluster::new().client(Role::Writer);
    let mut datagrams = Vec::with_capacity(count);
    let mut known = std::collections::BTreeSet::new();
    let mut buffer = vec![0; 2_048];
    while datagrams.len() < count {
        let connecting = stranger.connect(address, hello(Role::Writer));
        let bytes = tokio::select! {
            _ = connecting => panic!("nobody answers there"),
            received = hole.recv_from(&mut buffer) => received.unwrap().0,
        };
        let datagram = buffer[..bytes].to_vec();
        // What a connection sends when it is given up is shorter; what it sends again has the same connection id. The first byte says
        // nothing: a part of it is masked, each time otherwise.
        let is_first = bytes >= 1_200 && datagram[0] & 0xC0 == 0xC0;
        if is_first && known.insert(connection_id(&datagram).to_vec()) {
            datagrams.push(datagram);
        }
    }
    assert_eq!(known.len(), count, "each is of another connection");
    datagrams
}

/// The id that a first datagram draws for the connection: behind the first byte and the version.
fn connection_id(datagram: &[u8]) -> &[u8] {
    let bytes = usize::from(datagram[5]);
    assert!((8..=20).contains(&bytes), "{bytes} bytes of connection id");
    &datagram[6..6 + bytes]
}

#[tokio::test]
async fn a_thousand_handshakes_from_one_address_keep_nobody_out_and_are_answered_with_less_than_they_sent()
 {
    let cluster = Cluster::new();
    let server = cluster.listen();
    let address = server.local_address();
    tokio::spawn(crate::common::serve_echo(server.clone()));
    let client = cluster.client(Role::Writer);
    let (connection, _) = within(client.connect(address, hello(Role::Writer)))
        .await
        .unwrap();
    let datagrams = within(first_datagrams(1_000)).await;
    let attacker = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (mut sent, mut received, mut buffer) = (0, 0, vec![0; 2_048]);
    let drain = |received: &mut usize, buffer: &mut Vec<u8>| {
        while let Ok(bytes) = attacker.try_recv(buffer) {
            *received += bytes;
        }
    };
    for (number, datagram) in datagrams.iter().enumerate() {
        sent += attacker.send_to(datagram, address).await.unwrap();
        if number % 3 == 0 {
            // Cut off: no handshake at all.
            sent += attacker.send_to(&datagram[..700], address).await.unwrap();
        }
        if number % 50 == 0 {
            within(assert_works(&connection)).await;
            let (newcomer, _) = within(client.connect(address, hello(Role::Writer)))
                .await
                .unwrap();
            within(assert_works(&newcomer)).await;
        }
        drain(&mut received, &mut buffer);
    }
    within(assert_works(&connection)).await;
    // Each newcomer is judged once, the 21 of the writer too: nothing gets lost, since never more than fifty datagrams wait in the socket,
    // and nobody is judged twice but those who came back to prove their address.
    let counted = async {
        loop {
            let stats = server.gate_stats();
            if stats.entered + stats.retried + stats.refused >= 1_021 {
                return stats;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    let stats = within(counted).await;
    let judged = stats.entered + stats.retried + stats.refused;
    assert!((1_021..=1_042).contains(&judged), "{stats:?}");
    drain(&mut received, &mut buffer);
    // Nobody shows a certificate: only the writer's 21 connections came about. Few strangers ever had a place.
    assert!(stats.retried > 300, "{stats:?}");
    assert!(stats.entered < 200, "{stats:?}");
    assert!(received < sent, "{received} bytes for {sent}");
    let over = async {
        while server.gate_stats().failed + 21 < server.gate_stats().entered {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    // Two seconds, and all their places are free.
    within(over).await;
}
