//! The log stream of one segment: attach, then batches and heartbeats out, acks in.
//!
//! Two tasks a stream: the reader hands acks to the core as they come; the writer empties the queue that the core fills.
//! The queue's bound is the core's: it sends no more than the stream has drained.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use sixfold_compute_core::{AttachKey, WriterEvent, stream_bytes};
use sixfold_log_format::NodeId;
use sixfold_log_format::wire::Message;
use sixfold_transport::{Receiver, Sender, TransportError};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::bridge::Bridge;
use super::clock;
use super::links::{LinkError, Patience};

/// A segment makes history and manifest durable before it answers an attach; slower than this is lost.
const ATTACH_LIMIT: Duration = Duration::from_secs(5);

/// Bytes that have left the queue are reported to the core from this many on: reporting each batch would wake it once more a
/// batch and segment, for a bound that is much larger. An ack tells it of the rest.
const DRAINED_BYTES_MIN: usize = 128 << 10;

/// What the bridge holds of a stream. Dropping it ends the stream.
#[derive(Debug)]
pub(crate) struct LogStream {
    queue: Rc<Queue>,
    reader: AbortHandle,
}

#[derive(Debug, Default)]
struct Queue {
    messages: RefCell<VecDeque<(Duration, Message)>>,
    filled: Notify,
}

impl LogStream {
    /// Connects and attaches in the background. The core hears `Attached`, then `Arrived`, and `Lost` at the end.
    pub(crate) fn begin(
        bridge: &Rc<Bridge>,
        attach: AttachKey,
        node: NodeId,
        message: Message,
    ) -> LogStream {
        let queue = Rc::new(Queue::default());
        let task = {
            let bridge = Rc::clone(bridge);
            let queue = Rc::clone(&queue);
            async move {
                let error = match run(&bridge, attach, node, &message, &queue).await {
                    Ok(()) => TransportError::Ended.into(),
                    Err(error) => error,
                };
                tracing::debug!(%node, %error, "log stream lost");
                bridge.stream_lost(attach);
            }
        };
        LogStream {
            queue,
            reader: bridge.spawn(task),
        }
    }

    /// Queues a message, now.
    pub(crate) fn send(&self, now: Duration, message: Message) {
        self.queue.messages.borrow_mut().push_back((now, message));
        self.queue.filled.notify_one();
    }
}

impl Drop for LogStream {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Aborts the writing task when the reading task ends, however it ends.
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn run(
    bridge: &Rc<Bridge>,
    attach: AttachKey,
    node: NodeId,
    message: &Message,
    queue: &Rc<Queue>,
) -> Result<(), LinkError> {
    let opening = async {
        let connection = bridge.links().connection(node, Patience::OneTry).await?;
        let (mut sender, mut receiver) = connection.open().await?;
        sender.send(message).await?;
        let answer = receiver.recv().await?.ok_or(TransportError::Ended)?;
        Ok::<_, LinkError>((sender, receiver, answer))
    };
    let (sender, receiver, answer) = tokio::time::timeout(ATTACH_LIMIT, opening)
        .await
        .unwrap_or(Err(TransportError::TimedOut.into()))?;
    let attached = matches!(answer, Message::Attached(_));
    bridge.event(WriterEvent::Attached {
        attach,
        message: answer,
    });
    if !attached {
        return Ok(());
    }
    let writer = bridge.spawn(write(Rc::clone(bridge), attach, sender, Rc::clone(queue)));
    let _writer = AbortOnDrop(writer);
    read(bridge, attach, receiver).await
}

async fn read(bridge: &Bridge, attach: AttachKey, mut receiver: Receiver) -> Result<(), LinkError> {
    while let Some(message) = receiver.recv().await? {
        bridge.event(WriterEvent::Arrived { attach, message });
    }
    Ok(())
}

async fn write(bridge: Rc<Bridge>, attach: AttachKey, mut sender: Sender, queue: Rc<Queue>) {
    let mut drained_bytes = 0;
    loop {
        let next = queue.messages.borrow_mut().pop_front();
        let Some((since, message)) = next else {
            queue.filled.notified().await;
            continue;
        };
        if sender.send(&message).await.is_err() {
            bridge.stream_lost(attach);
            return;
        }
        if matches!(message, Message::Append(_)) {
            let shipped = clock::now().saturating_sub(since);
            bridge.meters().ship.count(shipped);
        }
        drained_bytes += stream_bytes(&message);
        if drained_bytes >= DRAINED_BYTES_MIN {
            bridge.event(WriterEvent::Drained {
                attach,
                bytes: std::mem::take(&mut drained_bytes),
            });
        }
    }
}
