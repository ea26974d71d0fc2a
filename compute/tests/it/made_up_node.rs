//! Nodes that answer each request with what a test says.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use sixfold::{Cluster, ClusterNode};
use sixfold_log_format::wire::{Message, Role};
use sixfold_transport::{ClusterCa, Connection, Endpoint, TransportOptions};

/// What a node answers, given its place in the cluster and the request; `None` = it says nothing.
pub type Answer = dyn Fn(usize, &Message) -> Option<Message> + Send + Sync;

/// An answer made of a function.
pub fn answers(
    answer: impl Fn(usize, &Message) -> Option<Message> + Send + Sync + 'static,
) -> Arc<Answer> {
    Arc::new(answer)
}

/// What was asked of whom, in order.
pub type Heard = Arc<Mutex<Vec<(usize, Message)>>>;

/// Starts six nodes on the current runtime, two in each of three availability zones, and writes the certificates of
/// the cluster into `dir`.
pub fn six(dir: &Path, answer: &Arc<Answer>) -> (Cluster, Heard) {
    let ca = ClusterCa::generate().unwrap();
    ca.save(dir).unwrap();
    ca.issue(Role::Writer, None)
        .unwrap()
        .save(dir, "writer")
        .unwrap();
    let heard = Heard::default();
    let nodes = (0..6).map(|index| {
        let mut node = ClusterNode::new(
            format!("az{}", index / 2 + 1),
            SocketAddr::from(([127, 0, 0, 1], 0)),
        );
        let identity = ca.issue(Role::Node, Some(node.node)).unwrap();
        let endpoint =
            Endpoint::server(node.address, &identity, &TransportOptions::default()).unwrap();
        node.address = endpoint.local_address();
        let (id, answer, heard) = (node.node, Arc::clone(answer), Arc::clone(&heard));
        tokio::spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                let Ok((connection, _hello)) = incoming.welcome(id, 1).await else {
                    continue;
                };
                tokio::spawn(serve(
                    connection,
                    index,
                    Arc::clone(&answer),
                    Arc::clone(&heard),
                ));
            }
        });
        node
    });
    let nodes = nodes.collect();
    (Cluster::new(nodes, dir), heard)
}

async fn serve(connection: Connection, index: usize, answer: Arc<Answer>, heard: Heard) {
    while let Ok((mut sender, mut receiver)) = connection.accept().await {
        let (answer, heard) = (Arc::clone(&answer), Arc::clone(&heard));
        tokio::spawn(async move {
            let Ok(Some(request)) = receiver.recv().await else {
                return;
            };
            let reply = answer(index, &request);
            heard.lock().unwrap().push((index, request));
            match reply {
                Some(reply) => {
                    sender.send(&reply).await.unwrap();
                    sender.finish();
                    // Kept until the asker has read it.
                    let _ended = receiver.recv().await;
                }
                None => std::future::pending().await,
            }
        });
    }
}
