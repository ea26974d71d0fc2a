//! Batches and the records in them.

use bytes::Bytes;
use sixfold_log_format::batch::BATCH_HEADER_BYTES;
use sixfold_log_format::limits::{BATCH_BYTES_MAX, KEY_BYTES_MAX};
use sixfold_log_format::{
    Batch, BatchBuilder, DecodeError, Lsn, Op, PageId, PgId, Record, VolumeId, record::Cell,
};

use crate::samples::{self, UNIX_MS, VOLUME, VOLUME_EPOCH, plain, record};

fn builder(prev: u64) -> BatchBuilder {
    BatchBuilder::new(VOLUME, PgId::ROOT, VOLUME_EPOCH, Lsn::new(prev))
}

fn visible_insert<'a>(lsn: u64, page: u64, page_prev: u64, cell: Cell<'a>) -> Record<'a> {
    let slot = (lsn % 60) as u16;
    Record {
        user_visible: true,
        ..record(lsn, page, page_prev, Op::Insert { slot, cell })
    }
}

#[test]
fn what_was_pushed_comes_out() {
    let sealed = samples::batch();
    let decoded = Batch::decode(sealed.bytes().clone(), VOLUME).unwrap();
    assert_eq!(decoded, sealed);
    let records: Vec<_> = decoded.records().map(|placed| placed.record).collect();
    let mut pushed = samples::records();
    pushed.push(record(
        200,
        1,
        114,
        Op::Clock {
            unix_ms: UNIX_MS + 100,
        },
    ));
    assert_eq!(records, pushed);
    let header = decoded.header();
    let lsn = Lsn::new;
    assert_eq!(
        (header.first, header.last, header.prev),
        (lsn(101), lsn(200), lsn(90))
    );
    assert_eq!(
        header.runs,
        vec![(lsn(101), lsn(115)), (lsn(200), lsn(201))]
    );
    assert_eq!(header.record_count as usize, pushed.len());
    let cpls: Vec<_> = decoded.cpls().map(Lsn::get).collect();
    assert_eq!(cpls, [111, 112, 113, 114, 200]);
}

#[test]
fn a_record_can_be_read_by_itself() {
    let batch = samples::batch();
    for placed in batch.records() {
        let Record { lsn, page, .. } = placed.record;
        assert_eq!(batch.record_at(placed.offset, lsn, page), placed.record);
    }
}

#[test]
fn an_insert_costs_at_most_sixteen_bytes_from_32_records_on() {
    let (key, value) = ([7; 16], [8; 100]);
    for count in [32_u64, 64, 1_000] {
        // Random leaves of a tree of 100,000 pages, each last changed up to a million records ago.
        let mut builder = builder(50_000_000);
        let mut state = 1_u64;
        let mut draw = |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) % below
        };
        for index in 0..count {
            let lsn = 50_000_001 + index;
            let page_prev = lsn - 1 - draw(1_000_000);
            let record = visible_insert(lsn, 2 + draw(100_000), page_prev, plain(&key, &value));
            assert!(builder.push(&record));
        }
        let bytes = builder.seal(Lsn::new(50_000_000), UNIX_MS).len_bytes();
        let user_bytes = (key.len() + value.len()) * count as usize;
        let overhead = bytes - user_bytes;
        assert!(
            overhead <= 16 * count as usize,
            "{overhead} bytes for {count} records"
        );
    }
}

#[test]
fn the_length_is_known_before_sealing() {
    let mut builder = builder(0);
    assert_eq!(builder.len_bytes(), BATCH_HEADER_BYTES);
    // Runs of all lengths, gaps of all sizes, more runs than the room that is kept for them.
    let mut lsn = 0;
    for index in 0_u64..300 {
        lsn += if index % 3 == 0 {
            1 + (1 << (index % 20))
        } else {
            1
        };
        let record = visible_insert(lsn, 4, lsn - 1, plain(b"k", b"v"));
        assert!(builder.push(&record));
        assert_eq!(builder.last(), Lsn::new(lsn));
        assert_eq!(u64::from(builder.record_count()), index + 1);
    }
    let expected = builder.len_bytes();
    let sealed = builder.seal(Lsn::NONE, 0);
    assert_eq!(sealed.len_bytes(), expected);
    assert_eq!(
        Batch::decode(sealed.bytes().clone(), VOLUME).unwrap(),
        sealed
    );
    assert!(builder.is_empty());
    assert_eq!(builder.last(), Lsn::new(lsn));
}

#[test]
fn a_full_batch_takes_no_more_and_the_next_one_links_back() {
    let value = vec![1; 7_000];
    let mut builder = builder(0);
    let mut lsn = 1;
    while builder.push(&visible_insert(lsn, 4, lsn - 1, plain(b"key", &value))) {
        lsn += 1;
    }
    let first = builder.seal(Lsn::NONE, 0);
    assert!(first.len_bytes() <= BATCH_BYTES_MAX);
    assert!(first.len_bytes() > BATCH_BYTES_MAX - 7_100);
    assert_eq!(first.header().last, Lsn::new(lsn - 1));
    assert!(builder.push(&visible_insert(lsn, 4, lsn - 1, plain(b"key", &value))));
    let second = builder.seal(Lsn::NONE, 0);
    assert_eq!(second.header().prev, first.header().last);
    assert_eq!(second.header().first, Lsn::new(lsn));
    assert_eq!(
        Batch::decode(second.bytes().clone(), VOLUME).unwrap(),
        second
    );
}

#[test]
fn a_batch_of_another_volume_does_not_verify() {
    let other = VolumeId::from_bytes([0x12; 16]);
    let error = Batch::decode(samples::batch().bytes().clone(), other).unwrap_err();
    assert!(matches!(error, DecodeError::Checksum { .. }), "{error}");
}

#[test]
fn a_newer_version_is_named() {
    let mut bytes = samples::batch().bytes().to_vec();
    bytes[8] = 2;
    let error = Batch::decode(bytes.into(), VOLUME).unwrap_err();
    assert!(
        matches!(error, DecodeError::Version { found: 2, .. }),
        "{error}"
    );
}

#[test]
fn every_bit_flip_is_detected() {
    let sound = samples::batch().bytes().to_vec();
    for bit in 0..sound.len() * 8 {
        let mut bytes = sound.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(Batch::decode(bytes.into(), VOLUME).is_err(), "bit {bit}");
    }
}

#[test]
fn every_truncation_is_detected() {
    let sound = samples::batch().bytes().clone();
    for length in 0..sound.len() {
        assert!(
            Batch::decode(sound.slice(..length), VOLUME).is_err(),
            "{length} bytes"
        );
    }
    let longer = [&sound[..], &[0]].concat();
    assert!(Batch::decode(Bytes::from(longer), VOLUME).is_err());
}

/// A batch with `change` made to its bytes and a checksum that fits them: what only a faulty writer could send.
fn forged(change: impl FnOnce(&mut Vec<u8>)) -> Result<Batch, DecodeError> {
    let mut bytes = samples::batch().bytes().to_vec();
    change(&mut bytes);
    let checksum = sixfold_log_format::checksum::checksum(VOLUME.as_bytes(), &bytes[4..]);
    bytes[..4].copy_from_slice(&checksum.to_le_bytes());
    Batch::decode(bytes.into(), VOLUME)
}

#[test]
fn reserved_fields_and_lies_in_the_header_are_refused() {
    assert!(forged(|_| {}).is_ok());
    assert!(forged(|bytes| bytes[10] = 1).is_err(), "flags");
    assert!(forged(|bytes| bytes[12] = 1).is_err(), "extension");
    assert!(forged(|bytes| bytes[14] = 0).is_err(), "no runs");
    assert!(forged(|bytes| bytes[20] += 1).is_err(), "record count");
    assert!(forged(|bytes| bytes[32] += 1).is_err(), "first lsn");
    assert!(forged(|bytes| bytes[40] += 1).is_err(), "last lsn");
    assert!(
        forged(|bytes| bytes[48] = 101).is_err(),
        "back-link to itself"
    );
    assert!(
        forged(|bytes| bytes.truncate(bytes.len() - 1)).is_err(),
        "cut"
    );
}

#[test]
fn cells_may_carry_any_stamp() {
    use sixfold_log_format::Stamp;
    for stamp in [1, 5, 1_000, u64::MAX] {
        let mut cell = plain(b"k", b"v");
        cell.stamp = Stamp::At(Lsn::new(stamp));
        let pushed = record(1_000, 4, 999, Op::Insert { slot: 0, cell });
        let mut builder = builder(0);
        assert!(builder.push(&pushed));
        let batch = builder.seal(Lsn::NONE, 0);
        assert_eq!(batch.records().next().unwrap().record, pushed);
    }
}

#[test]
#[should_panic(expected = "pushed after")]
fn records_are_pushed_in_order() {
    let mut builder = builder(10);
    let _ = builder.push(&record(10, 4, 9, Op::Truncate { from_slot: 0 }));
}

#[test]
#[should_panic(expected = "is for no page")]
fn a_record_needs_a_page() {
    let mut builder = builder(10);
    let bad = Record {
        page: PageId::NONE,
        ..record(11, 4, 9, Op::Truncate { from_slot: 0 })
    };
    let _ = builder.push(&bad);
}

/// A batch of the one record at LSN 1,000 whose bytes are `raw`, with everything around it as it should be.
fn around(raw: &[u8]) -> Result<Batch, DecodeError> {
    let mut builder = builder(0);
    assert!(builder.push(&record(1_000, 4, 999, Op::Truncate { from_slot: 0 })));
    let sealed = builder.seal(Lsn::NONE, 0);
    let mut bytes = [&sealed.bytes()[..BATCH_HEADER_BYTES + 1], raw].concat();
    let length = bytes.len() as u32;
    bytes[4..8].copy_from_slice(&length.to_le_bytes());
    let checksum = sixfold_log_format::checksum::checksum(VOLUME.as_bytes(), &bytes[4..]);
    bytes[..4].copy_from_slice(&checksum.to_le_bytes());
    Batch::decode(bytes.into(), VOLUME)
}

#[test]
fn records_that_no_writer_makes_are_refused() {
    // Truncate, page 4, back-link 1, slot 0.
    assert!(around(&[5, 8, 1, 0]).is_ok());
    assert!(
        around(&[5, 8, 1, 0x80, 0]).is_err(),
        "a varint longer than it must be"
    );
    assert!(
        around(&[5, 8, 1, 0x80, 0x80, 4]).is_err(),
        "a slot of 65,536"
    );
    assert!(around(&[5, 0, 1, 0]).is_err(), "a difference of no page");
    assert!(around(&[0x15, 1, 0]).is_err(), "the same page as none");
    assert!(around(&[5, 8, 0, 0]).is_err(), "a back-link to itself");
    assert!(
        around(&[5, 8, 0xe9, 7, 0]).is_err(),
        "a back-link below zero"
    );
    assert!(around(&[0x25, 8, 1, 0, 0]).is_err(), "a CPL at no distance");
    assert!(
        around(&[0x45, 8, 1, 0]).is_err(),
        "a truncation that is user-visible"
    );
    assert!(
        around(&[0x85, 8, 1, 0, 0]).is_err(),
        "a truncation with a cell byte"
    );
    assert!(around(&[0, 8, 1, 0]).is_err(), "kind 0");
    assert!(around(&[10, 8, 1, 0]).is_err(), "kind 10");
    assert!(around(&[5, 8, 1, 0, 0]).is_err(), "a byte too many");
    assert!(around(&[5, 8, 1]).is_err(), "a byte too few");
    assert!(around(&[1, 8, 5, 0]).is_err(), "page kind 5");
    assert!(
        around(&[0x44, 8, 1, 0, 0]).is_err(),
        "a user-visible removal without key"
    );
    assert!(around(&[0x44, 8, 1, 0, 1, 7]).is_ok());
    // Insert, page 4, back-link 1, then cell byte, slot 0, key and value of one byte.
    assert!(around(&[0x82, 8, 1, 0x40, 0, 1, 1, 7, 7]).is_ok());
    assert!(
        around(&[0x82, 8, 1, 0, 0, 1, 1, 7, 7]).is_err(),
        "an empty cell byte"
    );
    assert!(
        around(&[0x82, 8, 1, 4, 0, 1, 1, 7, 7]).is_err(),
        "an unknown cell flag"
    );
    assert!(
        around(&[0x82, 8, 1, 0xc0, 0, 1, 1, 7, 7]).is_err(),
        "two stamps"
    );
}

#[test]
fn a_cell_larger_than_any_page_is_refused() {
    let insert = |key_bytes: usize, value_bytes: usize| {
        use sixfold_log_format::codec::Put;
        let mut raw = vec![2, 8, 1, 0];
        raw.put_varint(key_bytes as u64);
        raw.put_varint(value_bytes as u64);
        raw.resize(raw.len() + key_bytes + value_bytes, 7);
        around(&raw)
    };
    assert!(insert(1_024, 8_192 - 1_024).is_ok());
    assert!(insert(1_024, 8_192 - 1_023).is_err());
    assert!(insert(KEY_BYTES_MAX, 0).is_ok());
    assert!(insert(KEY_BYTES_MAX + 1, 0).is_err());
}
