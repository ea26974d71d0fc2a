//! Messages on streams: whole, in order, many at once.

use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use sixfold_log_format::limits;
use sixfold_log_format::wire::{Frame, Message};

use crate::common::{Cluster, assert_works, message, within};

#[tokio::test]
async fn many_small_messages_arrive_in_order() {
    let connection = within(Cluster::new().connected()).await;
    let (mut sender, mut receiver) = within(connection.open()).await.unwrap();
    let sizes = |number: u64| (number as usize * 37) % 700;
    let sending = async {
        for number in 0..20_000 {
            sender.send(&message(number, sizes(number))).await.unwrap();
        }
        sender.finish();
    };
    let receiving = async {
        for number in 0..20_000 {
            let heard = receiver.recv().await.unwrap().unwrap();
            assert_eq!(heard, message(number, sizes(number)));
        }
        assert_eq!(receiver.recv().await.unwrap(), None);
    };
    within(async { tokio::join!(sending, receiving) }).await;
}

#[tokio::test]
async fn batches_of_a_megabyte_arrive_whole_and_in_order() {
    let connection = within(Cluster::new().connected()).await;
    let (mut sender, mut receiver) = within(connection.open()).await.unwrap();
    let sending = async {
        for number in 0..40 {
            sender
                .send(&message(number, limits::BATCH_BYTES_MAX))
                .await
                .unwrap();
        }
        sender.finish();
    };
    let receiving = async {
        for number in 0..40 {
            let heard = receiver.recv().await.unwrap().unwrap();
            assert!(
                heard == message(number, limits::BATCH_BYTES_MAX),
                "message {number}"
            );
        }
        assert_eq!(receiver.recv().await.unwrap(), None);
    };
    within(async { tokio::join!(sending, receiving) }).await;
    let stats = connection.stats();
    assert!(
        stats.sent_bytes > 40 << 20 && stats.received_bytes > 40 << 20,
        "{stats:?}"
    );
    assert!(stats.sent_datagrams > 0 && stats.received_datagrams > 0);
}

#[tokio::test]
async fn calls_run_side_by_side_and_each_gets_its_own_answer() {
    let connection = within(Cluster::new().connected()).await;
    let mut calls = Vec::new();
    for number in 0..500 {
        let connection = connection.clone();
        calls.push(tokio::spawn(async move {
            let said = message(number, 1 + (number as usize * 331) % 20_000);
            assert_eq!(connection.call(&said).await.unwrap(), said);
        }));
    }
    for call in calls {
        within(call).await.unwrap();
    }
}

#[tokio::test]
async fn a_stream_that_waits_holds_no_other_back() {
    let (near, far) = within(Cluster::new().pair()).await;
    let (mut first, mut first_answers) = within(near.open()).await.unwrap();
    within(first.send(&message(1, 100))).await.unwrap();
    let (mut far_first, mut far_first_heard) = within(far.accept()).await.unwrap();
    assert_eq!(
        within(far_first_heard.recv()).await.unwrap(),
        Some(message(1, 100))
    );
    for number in 2..50 {
        let asked = message(number, 5_000);
        let calling = near.call(&asked);
        let answering = async {
            let (mut sender, mut receiver) = far.accept().await.unwrap();
            let heard = receiver.recv().await.unwrap().unwrap();
            sender.send(&heard).await.unwrap();
        };
        let (answer, ()) = within(async { tokio::join!(calling, answering) }).await;
        assert_eq!(answer.unwrap(), asked);
    }
    within(far_first.send(&message(99, 100))).await.unwrap();
    assert_eq!(
        within(first_answers.recv()).await.unwrap(),
        Some(message(99, 100))
    );
}

#[tokio::test]
async fn one_request_may_have_many_answers() {
    let (near, far) = within(Cluster::new().pair()).await;
    let mut answers = within(near.request(&message(0, 10))).await.unwrap();
    let (mut sender, mut receiver) = within(far.accept()).await.unwrap();
    assert!(within(receiver.recv()).await.unwrap().is_some());
    assert_eq!(within(receiver.recv()).await.unwrap(), None);
    for number in 0..3 {
        within(sender.send(&message(number, 90_000))).await.unwrap();
    }
    drop(sender);
    for number in 0..3 {
        assert_eq!(
            within(answers.recv()).await.unwrap(),
            Some(message(number, 90_000))
        );
    }
    assert_eq!(within(answers.recv()).await.unwrap(), None);
    assert_eq!(within(answers.recv()).await.unwrap(), None);
}

#[tokio::test]
async fn a_receive_that_is_cancelled_loses_nothing() {
    let (near, far) = within(Cluster::new().pair()).await;
    let (mut sender, _answers) = within(near.open()).await.unwrap();
    let said: Vec<Message> = (0..20)
        .map(|number| message(number, 10_000 * number as usize))
        .collect();
    let mut bytes = Vec::new();
    for message in &said {
        let frame = message.encode();
        bytes.extend_from_slice(&frame.head);
        frame
            .tail
            .iter()
            .for_each(|part| bytes.extend_from_slice(part));
    }
    // The first piece makes the stream known to the other side.
    let mut pieces = bytes.chunks(997);
    let raw = |piece: &[u8]| Frame {
        head: Bytes::copy_from_slice(piece),
        tail: Vec::new(),
    };
    within(sender.send_frame(raw(pieces.next().unwrap())))
        .await
        .unwrap();
    let (_sender, mut receiver) = within(far.accept()).await.unwrap();
    let mut heard = Vec::new();
    let mut cancelled = 0;
    within(async {
        while heard.len() < said.len() {
            let polled = pin!(receiver.recv()).poll(&mut Context::from_waker(Waker::noop()));
            match polled {
                Poll::Ready(received) => heard.push(received.unwrap().unwrap()),
                Poll::Pending => {
                    cancelled += 1;
                    if let Some(piece) = pieces.next() {
                        sender.send_frame(raw(piece)).await.unwrap();
                    }
                    tokio::task::yield_now().await;
                }
            }
        }
    })
    .await;
    // Each piece went out because a receive was cancelled between two of them.
    assert!(
        cancelled >= bytes.len() / 997,
        "cancelled {cancelled} times only"
    );
    assert!(heard == said);
}

#[tokio::test]
async fn a_send_that_is_cancelled_leaves_the_stream_whole() {
    let (near, far) = within(Cluster::new().pair()).await;
    let (mut sender, _answers) = within(near.open()).await.unwrap();
    let mut sent = 0;
    // Nobody reads, so the windows fill and a send hangs with a part of its message gone.
    loop {
        let said = message(sent, 1_000_000);
        sent += 1;
        let sending = tokio::time::timeout(Duration::from_millis(300), sender.send(&said));
        if sending.await.is_err() {
            break;
        }
        assert!(sent < 500, "nothing holds the sender back");
    }
    let (_answers, mut receiver) = within(far.accept()).await.unwrap();
    let last = message(sent, 10);
    let sending = async {
        sender.send(&last).await.unwrap();
        sender.finish();
    };
    let receiving = async {
        for number in 0..sent {
            let heard = receiver.recv().await.unwrap().unwrap();
            assert!(heard == message(number, 1_000_000), "message {number}");
        }
        assert_eq!(receiver.recv().await.unwrap(), Some(message(sent, 10)));
        assert_eq!(receiver.recv().await.unwrap(), None);
    };
    within(async { tokio::join!(sending, receiving) }).await;
}

#[tokio::test]
async fn jumbo_datagrams_are_used_from_the_first_batch() {
    let mut cluster = Cluster::new();
    cluster.options.mtu_bytes = Some(8_900);
    let connection = within(cluster.connected()).await;
    let before = connection.stats();
    let said = message(1, 1_000_000);
    assert!(within(connection.call(&said)).await.unwrap() == said);
    let after = connection.stats();
    let bytes = after.sent_bytes - before.sent_bytes;
    let datagrams = after.sent_datagrams - before.sent_datagrams;
    assert!(
        bytes / datagrams > 5_000,
        "{bytes} bytes in {datagrams} datagrams"
    );
}

#[tokio::test]
async fn sides_with_different_datagram_sizes_understand_each_other() {
    let mut cluster = Cluster::new();
    let address = cluster.serve();
    cluster.options.mtu_bytes = Some(60_000);
    let client = cluster.client(sixfold_log_format::wire::Role::Writer);
    let hello = crate::common::hello(sixfold_log_format::wire::Role::Writer);
    let (connection, _) = within(client.connect(address, hello)).await.unwrap();
    within(assert_works(&connection)).await;
    let said = message(1, 1_000_000);
    assert!(within(connection.call(&said)).await.unwrap() == said);
}
