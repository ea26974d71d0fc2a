//! Messages.

use bytes::Bytes;
use sixfold_log_format::limits::{FRAME_BYTES_MAX, PAGES_REQUEST_COUNT_MAX, TEXT_BYTES_MAX};
use sixfold_log_format::wire::{
    FRAME_LENGTH_BYTES, Hello, Message, PageAnswer, PageRequest, Pages, ReadPages, Refusal, Role,
    tag,
};
use sixfold_log_format::{Lsn, PageId};

use crate::messages::{messages, refusals};
use crate::samples::{NODE, VOLUME_EPOCH, segment};

fn body(message: &Message) -> Bytes {
    message.encode().to_bytes().slice(FRAME_LENGTH_BYTES..)
}

#[test]
fn every_message_comes_back() {
    let mut tags = Vec::new();
    for (name, message) in messages() {
        let frame = message.encode();
        let bytes = frame.to_bytes();
        let length = u32::from_le_bytes(bytes[..4].try_into().unwrap());
        assert_eq!(length as usize, bytes.len() - FRAME_LENGTH_BYTES, "{name}");
        assert_eq!(frame.len_bytes(), bytes.len(), "{name}");
        tags.push(bytes[FRAME_LENGTH_BYTES]);
        assert_eq!(Message::decode(body(&message)).unwrap(), message, "{name}");
    }
    tags.sort_unstable();
    tags.dedup();
    assert_eq!(tags.len(), messages().len(), "one sample of each tag");
    for refusal in refusals() {
        let message = Message::Refused(refusal);
        assert_eq!(Message::decode(body(&message)).unwrap(), message);
    }
}

#[test]
fn every_truncation_is_an_error() {
    for (name, message) in messages() {
        let whole = body(&message);
        // What carries one payload to its end cannot know how long the payload was: a batch has its own length.
        let open_end = matches!(
            message,
            Message::Append(_) | Message::LayerPiece(_) | Message::Echo(_)
        );
        for length in 0..whole.len() {
            match Message::decode(whole.slice(..length)) {
                Err(_) => {}
                Ok(shorter) => {
                    assert!(open_end, "{name}: {length} bytes of {}", whole.len());
                    assert_ne!(shorter, message);
                }
            }
        }
    }
}

#[test]
fn a_byte_too_many_is_an_error() {
    for (name, message) in messages() {
        let longer = Bytes::from([&body(&message)[..], &[0]].concat());
        match message {
            Message::Append(_) | Message::LayerPiece(_) | Message::Echo(_) => {}
            _ => assert!(Message::decode(longer).is_err(), "{name}"),
        }
    }
}

#[test]
fn payloads_are_not_copied() {
    for (name, message) in messages() {
        let (Message::Append(_) | Message::Pages(_) | Message::Refill(_) | Message::LogPiece(_)) =
            &message
        else {
            continue;
        };
        let frame = message.encode();
        let sent: Vec<_> = frame.tail.iter().map(|bytes| bytes.as_ptr()).collect();
        assert_eq!(payloads(&message), sent, "{name} encoded");
        let body = body(&message);
        let decoded = Message::decode(body.clone()).unwrap();
        for payload in payloads(&decoded) {
            assert!(body.as_ptr_range().contains(&payload), "{name} decoded");
        }
    }
}

fn payloads(message: &Message) -> Vec<*const u8> {
    let pages = |pages: &Pages| {
        let pages = pages.pages.iter().filter_map(|answer| match answer {
            PageAnswer::Page(bytes) => Some(bytes.as_ptr()),
            PageAnswer::Refused(_) => None,
        });
        pages.collect()
    };
    match message {
        Message::Append(append) => vec![append.batch.as_ptr()],
        Message::Pages(answer) => pages(answer),
        Message::Refill(refill) => refill.batches.iter().map(|bytes| bytes.as_ptr()).collect(),
        Message::LogPiece(piece) => piece.batches.iter().map(|bytes| bytes.as_ptr()).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn unknown_tags_and_absurd_counts_are_refused() {
    for unknown in [0, 6, 15, 255] {
        assert!(Message::decode(Bytes::from(vec![unknown])).is_err());
    }
    // A list that claims four billion items in a few bytes.
    let mut bytes = vec![tag::LOG_PIECE, 0];
    bytes.extend_from_slice(&u32::MAX.to_le_bytes());
    assert!(Message::decode(bytes.into()).is_err());
    let large = vec![tag::ECHO; FRAME_BYTES_MAX + 1];
    assert!(Message::decode(large.into()).is_err());
}

#[test]
fn more_pages_than_the_limit_are_refused() {
    let request = PageRequest {
        page: PageId::new(1),
        lsn: Lsn::new(1),
        pg_last: Lsn::new(1),
    };
    let ask = |count| {
        let pages = vec![request; count];
        Message::ReadPages(ReadPages {
            segment: segment(1),
            history_epoch: VOLUME_EPOCH,
            pages,
        })
    };
    assert!(Message::decode(body(&ask(PAGES_REQUEST_COUNT_MAX))).is_ok());
    assert!(Message::decode(body(&ask(PAGES_REQUEST_COUNT_MAX + 1))).is_err());
    let answer = |count| {
        let pages = vec![PageAnswer::Refused(Refusal::Overloaded); count];
        Message::Pages(Pages { pages })
    };
    assert!(Message::decode(body(&answer(PAGES_REQUEST_COUNT_MAX))).is_ok());
    assert!(Message::decode(body(&answer(PAGES_REQUEST_COUNT_MAX + 1))).is_err());
}

#[test]
fn long_reasons_are_cut_at_a_character() {
    let reason = "ä".repeat(TEXT_BYTES_MAX);
    let message = Message::Refused(Refusal::Malformed { reason });
    let Message::Refused(Refusal::Malformed { reason }) = Message::decode(body(&message)).unwrap()
    else {
        panic!("another message")
    };
    assert_eq!(reason, "ä".repeat(TEXT_BYTES_MAX / 2));
}

#[test]
fn tokens_have_a_limit() {
    let hello = |count| {
        Message::Hello(Hello {
            wire_min: 1,
            wire_max: 1,
            role: Role::Reader,
            node: NODE,
            volume: None,
            token: vec![0; count],
        })
    };
    assert!(Message::decode(body(&hello(TEXT_BYTES_MAX))).is_ok());
    assert!(Message::decode(body(&hello(TEXT_BYTES_MAX + 1))).is_err());
}

#[test]
fn refusals_read_as_short_sentences() {
    for refusal in refusals() {
        let text = refusal.to_string();
        assert!(!text.is_empty() && text.len() < 100, "{text}");
        assert!(!text.ends_with('.') && text.starts_with(|first: char| first.is_lowercase()));
    }
    let stale = Refusal::StaleEpoch {
        volume_epoch: VOLUME_EPOCH,
    };
    assert_eq!(stale.to_string(), "stale epoch, volume epoch 7 was claimed");
}
