use bytes::Bytes;
use proptest::prelude::*;

use super::{FIRST_ROOM_BYTES, FrameReader, TooLong};

const MAX: usize = 1 << 20;

fn framed(body: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(body.len()).unwrap().to_le_bytes().to_vec();
    bytes.extend_from_slice(body);
    bytes
}

#[test]
fn a_frame_inside_a_chunk_is_not_copied() {
    let chunk = Bytes::from([framed(b"one"), framed(b"two")].concat());
    let at = chunk[4..].as_ptr();
    let mut reader = FrameReader::new(MAX);
    reader.push(chunk);
    let body = reader.next_frame().unwrap().unwrap();
    assert_eq!(&body[..], b"one");
    assert_eq!(body.as_ptr(), at);
    assert_eq!(&reader.next_frame().unwrap().unwrap()[..], b"two");
    assert_eq!(reader.next_frame(), Ok(None));
    assert!(!reader.is_inside_frame());
}

#[test]
fn a_frame_above_the_limit_is_refused_before_its_body_comes() {
    let length = u32::try_from(MAX + 1).unwrap().to_le_bytes();
    let mut reader = FrameReader::new(MAX);
    reader.push(Bytes::copy_from_slice(&length));
    assert_eq!(reader.next_frame(), Err(TooLong { bytes: MAX + 1 }));
    let mut reader = FrameReader::new(MAX);
    for byte in length {
        assert_eq!(reader.next_frame(), Ok(None));
        reader.push(Bytes::copy_from_slice(&[byte]));
    }
    assert_eq!(reader.next_frame(), Err(TooLong { bytes: MAX + 1 }));
}

#[test]
fn room_is_given_for_what_has_arrived_and_not_for_what_is_claimed() {
    let mut reader = FrameReader::new(MAX);
    reader.push(Bytes::copy_from_slice(
        &u32::try_from(MAX).unwrap().to_le_bytes(),
    ));
    reader.push(Bytes::from(vec![7; 100]));
    assert_eq!(reader.next_frame(), Ok(None));
    assert!(reader.body.capacity() <= FIRST_ROOM_BYTES);
    for _ in 0..9 {
        reader.push(Bytes::from(vec![7; 100_000]));
        assert_eq!(reader.next_frame(), Ok(None));
        assert!(reader.body.capacity() <= (2 * reader.body.len()).max(FIRST_ROOM_BYTES));
    }
    reader.push(Bytes::from(vec![7; MAX - 900_100]));
    assert_eq!(reader.next_frame().unwrap().unwrap().len(), MAX);
}

#[test]
fn a_frame_without_a_body_is_one() {
    let mut reader = FrameReader::new(MAX);
    reader.push(Bytes::from_static(&[0, 0]));
    assert_eq!(reader.next_frame(), Ok(None));
    reader.push(Bytes::from_static(&[0, 0]));
    assert_eq!(reader.next_frame(), Ok(Some(Bytes::new())));
    assert_eq!(reader.next_frame(), Ok(None));
    assert!(!reader.is_inside_frame());
}

proptest! {
    #[test]
    fn frames_come_out_as_they_went_in_however_they_are_cut(
        bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..12),
        cuts in prop::collection::vec(1_usize..200, 1..40),
        pushes_before_reading in 1_usize..4,
    ) {
        let stream = Bytes::from(bodies.iter().flat_map(|body| framed(body)).collect::<Vec<u8>>());
        let mut reader = FrameReader::new(MAX);
        let mut found = Vec::new();
        let mut at = 0;
        for (index, cut) in cuts.iter().cycle().enumerate() {
            if at == stream.len() {
                break;
            }
            let end = (at + cut).min(stream.len());
            reader.push(stream.slice(at..end));
            at = end;
            if index % pushes_before_reading == 0 {
                while let Some(body) = reader.next_frame().unwrap() {
                    found.push(body.to_vec());
                }
            }
        }
        while let Some(body) = reader.next_frame().unwrap() {
            found.push(body.to_vec());
        }
        prop_assert_eq!(found, bodies);
        prop_assert!(!reader.is_inside_frame());
    }
}
