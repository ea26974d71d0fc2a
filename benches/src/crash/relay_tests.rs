use super::*;

const LIMIT: Duration = Duration::from_secs(30);

fn socket() -> std::net::UdpSocket {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket
}

fn receive(socket: &std::net::UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut bytes = [0; 64];
    let (length, source) = socket.recv_from(&mut bytes).unwrap();
    (bytes[..length].to_vec(), source)
}

#[test]
fn what_is_sent_arrives_and_so_does_the_answer_but_not_through_a_cut() {
    let (nodes, client) = ([socket(), socket()], socket());
    let listen: Vec<_> = nodes
        .iter()
        .map(|node| node.local_addr().unwrap())
        .collect();
    let relay = Relay::start(listen).unwrap();
    let front = relay.addresses()[0];
    client.send_to(b"one", front).unwrap();
    let (said, source) = receive(&nodes[0]);
    assert_eq!(said, b"one");
    nodes[0].send_to(b"two", source).unwrap();
    assert_eq!(receive(&client), (b"two".to_vec(), front));
    // The other node is known by its own port.
    nodes[1].send_to(b"three", front).unwrap();
    assert_eq!(receive(&nodes[0]).0, b"three");

    let ports = ports_of(std::process::id()).unwrap();
    assert!(ports.contains(&client.local_addr().unwrap().port()));
    let client_only = BTreeSet::from([client.local_addr().unwrap().port()]);
    relay.set(Cut {
        ports: client_only,
        ..Cut::default()
    });
    client.send_to(b"lost", front).unwrap();
    nodes[1].send_to(b"node to node", front).unwrap();
    assert_eq!(receive(&nodes[0]).0, b"node to node");
    relay.set(Cut::default());
    client.send_to(b"again", front).unwrap();
    assert_eq!(receive(&nodes[0]).0, b"again");
}

#[test]
fn a_cut_is_between_those_in_it_and_the_others() {
    let (a, b, c, port) = (
        Party::Node(0),
        Party::Node(1),
        Party::Node(2),
        Party::Port(9),
    );
    let zone = Cut {
        nodes: BTreeSet::from([0, 1]),
        ..Cut::default()
    };
    assert!(zone.loses(a, c) && zone.loses(c, b) && zone.loses(port, a));
    assert!(!zone.loses(a, b) && !zone.loses(c, port));
    let alone = Cut {
        each_alone: true,
        ..zone.clone()
    };
    assert!(alone.loses(a, b));
    let deaf = Cut {
        lost: Some(Lost::Inbound),
        ..zone.clone()
    };
    assert!(deaf.loses(c, a) && !deaf.loses(a, c));
    let dumb = Cut {
        lost: Some(Lost::Outbound),
        ..zone
    };
    assert!(!dumb.loses(c, a) && dumb.loses(a, c));
}
