use super::*;
use bytes::Bytes;

fn frame(bytes: usize) -> Frame {
    Frame {
        head: Bytes::from(vec![0; bytes]),
        tail: Vec::new(),
    }
}

#[test]
fn a_full_outbox_takes_nothing_more() {
    let total = Rc::new(Cell::new(0));
    let outbox = Outbox::new(Rc::clone(&total));
    outbox.push(frame(STREAM_BYTES_MAX - 1)).unwrap();
    assert_eq!(outbox.push(frame(2)), Err(Full::Stream));
    outbox.push(frame(1)).unwrap();
    assert_eq!(total.get(), STREAM_BYTES_MAX);
}

#[test]
fn many_small_frames_fill_an_outbox_too() {
    let outbox = Outbox::new(Rc::default());
    for _ in 0..STREAM_FRAMES_MAX {
        outbox.push(frame(1)).unwrap();
    }
    assert_eq!(outbox.push(frame(1)), Err(Full::Stream));
}

#[test]
fn the_bound_on_all_outboxes_holds_for_one_that_is_empty() {
    let total = Rc::new(Cell::new(TOTAL_BYTES_MAX));
    assert_eq!(
        Outbox::new(Rc::clone(&total)).push(frame(1)),
        Err(Full::Total(frame(1)))
    );
    assert_eq!(total.get(), TOTAL_BYTES_MAX);
}

#[test]
fn a_dropped_outbox_gives_its_bytes_back() {
    let total = Rc::new(Cell::new(0));
    let outbox = Outbox::new(Rc::clone(&total));
    outbox.push(frame(10)).unwrap();
    outbox.push(frame(20)).unwrap();
    assert_eq!(outbox.pop().map(|frame| frame_bytes(&frame)), Some(10));
    assert_eq!(total.get(), 20);
    drop(outbox);
    assert_eq!(total.get(), 0);
}

#[tokio::test]
async fn what_was_queued_before_the_end_is_sent_and_nothing_behind_it() {
    let outbox = Outbox::new(Rc::default());
    outbox.push(frame(1)).unwrap();
    outbox.end();
    outbox.push(frame(2)).unwrap();
    assert_eq!(
        outbox.next().await.map(|frame| frame_bytes(&frame)),
        Some(1)
    );
    assert_eq!(outbox.next().await, None);
}

#[tokio::test]
async fn a_cut_outbox_gives_its_bytes_back_and_sends_nothing() {
    let total = Rc::new(Cell::new(0));
    let outbox = Outbox::new(Rc::clone(&total));
    outbox.push(frame(10)).unwrap();
    outbox.cut();
    outbox.push(frame(10)).unwrap();
    assert_eq!((total.get(), outbox.queued_bytes()), (0, 0));
    assert_eq!(outbox.next().await, None);
}
