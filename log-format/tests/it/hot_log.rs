//! The hot log's zones.

use bytes::Bytes;
use sixfold_log_format::hot_log::{
    ENTRY_HEADER_BYTES, Entry, FileHeader, FileNumber, Found, GROUP_BYTES_MAX, GROUP_HEADER_BYTES,
    HOT_LOG_VERSION, SUPERBLOCK_BYTES, SUPERBLOCK_COPY_BYTES, Superblock, decode_group,
    encode_group,
};
use sixfold_log_format::{DecodeError, NodeId};

use crate::samples::{
    self, entries, file_header, group, removed, removed_group, small_batch, superblock,
};

#[test]
fn the_superblock_survives_the_loss_of_either_copy() {
    let bytes = superblock().encode();
    assert_eq!(bytes.len(), SUPERBLOCK_BYTES);
    assert_eq!(Superblock::decode(&bytes).unwrap(), superblock());
    assert_eq!(
        Superblock::decode(&bytes[..SUPERBLOCK_COPY_BYTES]).unwrap(),
        superblock()
    );
    for copy in [0, SUPERBLOCK_COPY_BYTES] {
        let mut damaged = bytes.clone();
        damaged[copy..copy + SUPERBLOCK_COPY_BYTES].fill(0xa5);
        assert_eq!(Superblock::decode(&damaged).unwrap(), superblock());
    }
    assert!(Superblock::decode(&vec![0; SUPERBLOCK_BYTES]).is_err());
    assert!(Superblock::decode(&[]).is_err());
}

#[test]
fn every_bit_flip_of_a_superblock_copy_is_detected() {
    let sound = superblock().encode()[..SUPERBLOCK_COPY_BYTES].to_vec();
    for bit in 0..sound.len() * 8 {
        let mut bytes = sound.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(Superblock::decode(&bytes).is_err(), "bit {bit}");
    }
}

#[test]
fn every_bit_flip_of_a_file_header_is_detected() {
    let sound = file_header().encode();
    assert_eq!(FileHeader::decode(&sound).unwrap(), file_header());
    for bit in 0..sound.len() * 8 {
        let mut bytes = sound.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(FileHeader::decode(&bytes).is_err(), "bit {bit}");
    }
    for length in 0..sound.len() {
        assert!(
            FileHeader::decode(&sound[..length]).is_err(),
            "{length} bytes"
        );
    }
    let longer = [sound.as_slice(), &[7; 100]].concat();
    assert_eq!(FileHeader::decode(&longer).unwrap(), file_header());
}

#[test]
fn a_file_header_says_up_to_where_a_start_needs_nothing() {
    let header = FileHeader {
        folded: FileNumber(1),
        ..file_header()
    };
    let bytes = header.encode();
    assert_eq!(bytes[56..64], 1_u64.to_le_bytes());
    assert_eq!(FileHeader::decode(&bytes).unwrap(), header);
    // What is said of the file before this one, or of later ones, cannot have been known.
    for file in [2, 3, 4, u64::MAX] {
        let folded = FileNumber(file);
        let bytes = FileHeader {
            folded,
            ..header.clone()
        };
        assert!(FileHeader::decode(&bytes.encode()).is_err(), "{file}");
    }
}

/// A zone with another version and a checksum that fits.
fn newer(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[12] = HOT_LOG_VERSION.to_le_bytes()[0] + 1;
    let checksum = sixfold_log_format::checksum::checksum(&[], &bytes[4..]);
    bytes[..4].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

#[test]
fn a_newer_version_is_named() {
    let copy = superblock().encode()[..SUPERBLOCK_COPY_BYTES].to_vec();
    let error = Superblock::decode(&newer(copy)).unwrap_err();
    assert!(
        matches!(error, DecodeError::Version { found: 3, .. }),
        "{error}"
    );
    let error = FileHeader::decode(&newer(file_header().encode())).unwrap_err();
    assert!(
        matches!(error, DecodeError::Version { found: 3, .. }),
        "{error}"
    );
}

#[test]
fn a_group_comes_back_with_every_kind_of_entry() {
    let bytes = group();
    assert_eq!(bytes.len() % 512, 0);
    let Found::Group {
        sequence,
        entries: found,
        bytes: length,
    } = decode_group(&bytes, &file_header())
    else {
        panic!("no group")
    };
    assert_eq!((sequence, length), (1_000, bytes.len()));
    let mut offset = GROUP_HEADER_BYTES;
    for ((at, entry), written) in found.iter().zip(entries()) {
        assert_eq!(*entry, written);
        assert_eq!(*at as usize, offset);
        offset += written.encoded_bytes();
        if let Entry::Batch { bytes: batch, .. } = entry {
            let start = *at as usize + ENTRY_HEADER_BYTES;
            assert_eq!(bytes.slice(start..start + batch.len()), *batch);
            assert_eq!(
                bytes[start..].as_ptr(),
                batch.as_ptr(),
                "the batch shares the memory"
            );
        }
    }
    assert_eq!(found.len(), entries().len());
}

#[test]
fn groups_stand_one_behind_the_other() {
    let header = file_header();
    let mut out = vec![9; 512];
    let entry = Entry::Batch {
        segment: samples::segment(1),
        bytes: small_batch(101),
    };
    let first = encode_group(&mut out, &header, 1, std::slice::from_ref(&entry));
    let second_start = out.len();
    let second = encode_group(&mut out, &header, 2, &[entry.clone(), entry]);
    assert_eq!(first, [GROUP_HEADER_BYTES as u32]);
    assert_eq!(second.len(), 2);
    out.resize(out.len() + 512, 0);
    let bytes = Bytes::from(out);
    let Found::Group {
        sequence: 1,
        bytes: length,
        ..
    } = decode_group(&bytes.slice(512..), &header)
    else {
        panic!("no group")
    };
    assert_eq!(512 + length, second_start);
    let Found::Group {
        sequence: 2,
        entries,
        bytes: length,
    } = decode_group(&bytes.slice(second_start..), &header)
    else {
        panic!("no group")
    };
    assert_eq!(entries.len(), 2);
    assert_eq!(
        decode_group(&bytes.slice(second_start + length..), &header),
        Found::Empty
    );
}

#[test]
fn every_bit_flip_of_a_group_is_detected() {
    every_bit_flip_is_detected(&group());
}

#[test]
fn every_bit_flip_of_a_tombstone_is_detected() {
    every_bit_flip_is_detected(&removed_group());
}

#[test]
fn a_tombstone_comes_back() {
    let bytes = removed_group();
    let Found::Group { entries, .. } = decode_group(&bytes, &file_header()) else {
        panic!("no group")
    };
    assert_eq!(entries, [(GROUP_HEADER_BYTES as u32, removed())]);
}

fn every_bit_flip_is_detected(sound: &Bytes) {
    let header = file_header();
    for bit in 0..sound.len() * 8 {
        let mut bytes = sound.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        match decode_group(&bytes.into(), &header) {
            Found::Bad(_) => {}
            // A length that grew asks for more first.
            Found::More { bytes } if bytes > sound.len() && (64..96).contains(&bit) => {}
            other => panic!("bit {bit}: {other:?}"),
        }
    }
}

#[test]
fn a_group_of_another_node_or_file_does_not_verify() {
    let bytes = group();
    let other_node = FileHeader {
        node: NodeId::from_bytes([0x23; 16]),
        ..file_header()
    };
    assert!(matches!(decode_group(&bytes, &other_node), Found::Bad(_)));
    let other_file = FileHeader {
        file: FileNumber(4),
        ..file_header()
    };
    assert!(matches!(decode_group(&bytes, &other_file), Found::Bad(_)));
}

#[test]
fn a_group_that_is_cut_asks_for_its_length() {
    let bytes = group();
    for length in 0..bytes.len() {
        let expected = if length < 512 { 512 } else { bytes.len() };
        let found = decode_group(&bytes.slice(..length), &file_header());
        assert_eq!(found, Found::More { bytes: expected }, "{length} bytes");
    }
}

#[test]
fn an_absurd_length_is_damage_and_not_a_wish_for_memory() {
    for length in [
        0_u32,
        1,
        511,
        513,
        GROUP_BYTES_MAX as u32 + 512,
        u32::MAX,
        u32::MAX - 511,
    ] {
        let mut bytes = group().to_vec();
        bytes[8..12].copy_from_slice(&length.to_le_bytes());
        let found = decode_group(&bytes.into(), &file_header());
        assert!(matches!(found, Found::Bad(_)), "{length}: {found:?}");
    }
}

#[test]
fn a_torn_group_is_bad() {
    let sound = group();
    for block in 0..sound.len() / 512 {
        let mut bytes = sound.to_vec();
        bytes[block * 512..(block + 1) * 512].fill(0);
        let found = decode_group(&bytes.into(), &file_header());
        let expected_empty = block == 0;
        assert_eq!(found == Found::Empty, expected_empty, "block {block}");
        assert!(
            expected_empty || matches!(found, Found::Bad(_)),
            "block {block}"
        );
    }
}

#[test]
fn reserved_bytes_and_padding_must_be_zero_even_with_a_fitting_checksum() {
    let header = file_header();
    let forged = |at: usize, byte: u8| {
        let mut bytes = group().to_vec();
        bytes[at] = byte;
        let seed = [&header.node.as_bytes()[..], &header.file.0.to_le_bytes()].concat();
        let checksum = sixfold_log_format::checksum::checksum(&seed, &bytes[4..]);
        bytes[..4].copy_from_slice(&checksum.to_le_bytes());
        decode_group(&bytes.into(), &header)
    };
    assert!(matches!(forged(28, 0), Found::Group { .. }));
    assert!(matches!(forged(28, 1), Found::Bad(_)), "reserved");
    assert!(
        matches!(forged(group().len() - 1, 1), Found::Bad(_)),
        "padding"
    );
    assert!(matches!(forged(12, 6), Found::Bad(_)), "one entry less");
    assert!(matches!(forged(12, 8), Found::Bad(_)), "one entry more");
    assert!(matches!(forged(12, 0), Found::Bad(_)), "no entry");
    assert!(
        matches!(forged(GROUP_HEADER_BYTES, 9), Found::Bad(_)),
        "type"
    );
    assert!(
        matches!(forged(GROUP_HEADER_BYTES + 1, 1), Found::Bad(_)),
        "reserved in an entry"
    );
}

#[test]
fn a_group_never_verifies_under_another_file_number_and_still_says_its_sequence() {
    use sixfold_log_format::hot_log::claimed_sequence;

    let header = file_header();
    let mut out = Vec::new();
    encode_group(&mut out, &header, 77, &entries());
    let bytes = Bytes::from(out);
    assert_eq!(claimed_sequence(&bytes), Some(77));
    assert_eq!(claimed_sequence(&bytes[1..]), None);
    assert_eq!(claimed_sequence(&bytes[..GROUP_HEADER_BYTES - 1]), None);
    assert_eq!(claimed_sequence(&[0; 64]), None);
    let mut number = 1_u32;
    for _ in 0..20_000 {
        number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let other = FileHeader {
            file: FileNumber(u64::from(number)),
            ..header.clone()
        };
        if other.file != header.file {
            assert!(
                matches!(decode_group(&bytes, &other), Found::Bad(_)),
                "{number}"
            );
        }
    }
}
