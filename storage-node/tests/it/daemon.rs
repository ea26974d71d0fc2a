//! The daemon's life, seen by a writer.

use bytes::Bytes;
use sixfold_log_format::Lsn;
use sixfold_log_format::wire::ReadLog;
use sixfold_log_format::wire::{Message, Role};
use sixfold_transport::{Endpoint, TransportOptions};

use crate::client::{Client, LAL, VOLUME_EPOCH, batch, bounded, hello, segment};
use crate::cluster::{Cluster, Daemon};

#[test]
fn a_node_starts_on_an_empty_directory_and_stops_when_it_is_told_to() {
    let cluster = Cluster::new();
    for _ in 0..3 {
        let daemon = Daemon::start(cluster.options(1)).unwrap();
        assert_ne!(daemon.address.port(), 0);
        daemon.stop().unwrap();
    }
}

#[test]
fn an_echo_comes_back() {
    let cluster = Cluster::new();
    let daemon = Daemon::start(cluster.options(1)).unwrap();
    bounded(async {
        let client = Client::connect(&cluster, &daemon, Role::Writer).await;
        let sent = Message::Echo(Bytes::from(vec![7; 100_000]));
        assert_eq!(client.call(sent.clone()).await, sent);
    });
    daemon.stop().unwrap();
}

#[test]
fn what_was_acknowledged_is_there_after_a_restart() {
    let cluster = Cluster::new();
    let count = 50;
    let last = Lsn::new(LAL + count);
    let daemon = Daemon::start(cluster.options(1)).unwrap();
    bounded(async {
        let client = Client::connect(&cluster, &daemon, Role::Writer).await;
        assert_eq!(client.create_segment().await, Message::Done);
        let mut stream = client.attach().await;
        assert_eq!(stream.scl, Lsn::NONE);
        let mut prev = Lsn::NONE;
        for number in 1..=count {
            let batch = batch(LAL + number, prev);
            prev = batch.header().last;
            stream.append(&batch).await;
        }
        let ack = stream.ack(|ack| ack.scl == last).await;
        assert_eq!((ack.echo, ack.history_epoch), (count, VOLUME_EPOCH));
    });
    daemon.stop().unwrap();

    let daemon = Daemon::start(cluster.options(1)).unwrap();
    bounded(async {
        let client = Client::connect(&cluster, &daemon, Role::Writer).await;
        assert_eq!(client.probe().await, (last, VOLUME_EPOCH));
        let mut stream = client.attach().await;
        assert_eq!(stream.scl, last);
        let next = batch(LAL + count + 1, last);
        stream.append(&next).await;
        stream.ack(|ack| ack.scl == next.header().last).await;
    });
    daemon.stop().unwrap();
}

#[test]
fn redo_that_fills_several_hot_log_files_is_there_after_a_restart() {
    let cluster = Cluster::new();
    let daemon = Daemon::start(cluster.options(1)).unwrap();
    let mut last = Lsn::NONE;
    bounded(async {
        let client = Client::connect(&cluster, &daemon, Role::Writer).await;
        assert_eq!(client.create_segment().await, Message::Done);
        last = client.attach().await.fill(26).await;
    });
    daemon.stop().unwrap();

    let names = std::fs::read_dir(cluster.data_dir(1).join("hot-log"))
        .unwrap()
        .count();
    assert!(names >= 3, "{names} hot-log files");
    let daemon = Daemon::start(cluster.options(1)).unwrap();
    bounded(async {
        let client = Client::connect(&cluster, &daemon, Role::Writer).await;
        assert_eq!(client.probe().await, (last, VOLUME_EPOCH));
    });
    daemon.stop().unwrap();
}

#[test]
fn a_stream_that_ends_does_not_disturb_the_next_one() {
    let cluster = Cluster::new();
    let daemon = Daemon::start(cluster.options(1)).unwrap();
    bounded(async {
        let client = Client::connect(&cluster, &daemon, Role::Writer).await;
        assert_eq!(client.create_segment().await, Message::Done);
        let mut prev = Lsn::NONE;
        for number in 1..=20 {
            let mut stream = client.attach().await;
            assert_eq!(stream.scl, prev);
            let batch = batch(LAL + number, prev);
            prev = batch.header().last;
            stream.append(&batch).await;
            stream.heartbeat().await;
            stream.ack(|ack| ack.scl == prev && ack.echo == 2).await;
            stream.sender.finish();
            assert_eq!(stream.receiver.recv().await.unwrap(), None);
        }
    });
    daemon.stop().unwrap();
}

#[test]
fn a_client_of_a_foreign_ca_gets_in_nowhere_and_the_node_goes_on() {
    let cluster = Cluster::new();
    let stranger = Cluster::new();
    let daemon = Daemon::start(cluster.options(1)).unwrap();
    bounded(async {
        let endpoint =
            Endpoint::client(&stranger.issue(Role::Writer), &TransportOptions::default()).unwrap();
        let refused = endpoint
            .connect(daemon.address, hello(1, Role::Writer))
            .await;
        assert!(refused.is_err());
        let client = Client::connect(&cluster, &daemon, Role::Writer).await;
        let sent = Message::Echo(Bytes::from_static(b"still here"));
        assert_eq!(client.call(sent.clone()).await, sent);
    });
    daemon.stop().unwrap();
}

#[test]
fn a_message_that_makes_no_sense_takes_nobody_else_down() {
    let cluster = Cluster::new();
    let daemon = Daemon::start(cluster.options(1)).unwrap();
    bounded(async {
        let rude = Client::connect(&cluster, &daemon, Role::Writer).await;
        let polite = Client::connect(&cluster, &daemon, Role::Writer).await;
        // An answer where a request is due. It is refused or cut off, never answered as if it were fine.
        if let Ok(answer) = rude.connection.call(&Message::Done).await {
            assert!(matches!(answer, Message::Refused(_)), "{answer:?}");
        }
        let sent = Message::Echo(Bytes::from_static(b"still here"));
        assert_eq!(polite.call(sent.clone()).await, sent);
    });
    daemon.stop().unwrap();
}

#[test]
fn a_hole_is_filled_by_gossip_from_another_node() {
    let cluster = Cluster::new();
    let daemons = [1, 2].map(|number| Daemon::start(cluster.options(number)).unwrap());
    bounded(async {
        let mut clients = Vec::new();
        for daemon in &daemons {
            let mut client = Client::connect(&cluster, daemon, Role::Writer).await;
            client.addresses = daemons
                .iter()
                .map(|daemon| (daemon.number, daemon.address))
                .collect();
            assert_eq!(client.create_segment().await, Message::Done);
            clients.push(client);
        }
        let [whole, hollow] = clients.as_slice() else {
            unreachable!()
        };
        let last = whole.attach().await.fill(3).await;
        // The other one never hears of the writer: history, claim and batches come from its peer.
        while hollow.probe().await != (last, VOLUME_EPOCH) {}
    });
    for daemon in daemons {
        daemon.stop().unwrap();
    }
}

#[test]
fn who_does_not_read_answers_is_cut_off_and_nobody_else_is() {
    let cluster = Cluster::new();
    let daemon = Daemon::start(cluster.options(1)).unwrap();
    bounded(async {
        let writer = Client::connect(&cluster, &daemon, Role::Writer).await;
        assert_eq!(writer.create_segment().await, Message::Done);
        let mut stream = writer.attach().await;
        let last = stream.fill(16).await;

        let lazy = Client::connect(&cluster, &daemon, Role::Reader).await;
        let question = Message::ReadLog(ReadLog {
            segment: segment(1),
            history_epoch: VOLUME_EPOCH,
            after: Lsn::NONE,
            through: last,
            bytes_max: u32::MAX,
        });
        let mut unread = Vec::new();
        // About 15 MiB each: more than all windows and all that a node lets wait.
        for _ in 0..40 {
            match lazy.connection.request(&question).await {
                Ok(receiver) => unread.push(receiver),
                Err(_) => break,
            }
        }
        let reason = lazy.connection.closed().await.to_string();
        assert!(reason.contains("answers are not read"), "{reason}");

        let next = batch(last.get() + 1, last);
        stream.append(&next).await;
        stream.ack(|ack| ack.scl == next.header().last).await;
    });
    daemon.stop().unwrap();
}
