//! What is written is read; whatever is cut off, flipped, moved or added is noticed.

use super::*;

fn head() -> Head {
    Head {
        volume: "00000000000000000000000000000007".to_owned(),
        lsn: 4_711,
        unix_ms: Some(1_700_000_000_000),
        settled: true,
        written_by: "0.1.0".to_owned(),
    }
}

fn sample(id: u8) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), [id; 16], &head()).unwrap();
    writer.keyspace("").unwrap();
    writer.entry(b"\x00\xff", b"binary", None).unwrap();
    writer
        .entry(b"session", b"", Some(1_700_000_060_000))
        .unwrap();
    writer.keyspace("empty").unwrap();
    writer.keyspace("users").unwrap();
    writer.entry(b"7", &[3; 300], None).unwrap();
    let (bytes, totals) = writer.finish().unwrap();
    assert_eq!((totals.entries, totals.keyspaces, totals.chunks), (3, 3, 6));
    bytes
}

fn read(bytes: &[u8]) -> Result<Vec<Chunk>> {
    let mut reader = Reader::new(bytes)?;
    let mut chunks = Vec::new();
    while let Some(chunk) = reader.next()? {
        chunks.push(chunk);
    }
    Ok(chunks)
}

#[test]
fn what_is_written_is_read() {
    let chunks = read(&sample(1)).unwrap();
    assert_eq!(chunks.len(), 7);
    assert_eq!(chunks[0], Chunk::Head(head()));
    assert_eq!(chunks[1], Chunk::Keyspace(String::new()));
    let Chunk::Entries(entries) = &chunks[2] else {
        panic!("{chunks:?}");
    };
    assert_eq!(entries[0].key, b"\x00\xff");
    assert_eq!(entries[1].deadline_ms, Some(1_700_000_060_000));
    assert_eq!(chunks[3], Chunk::Keyspace("empty".to_owned()));
    assert!(matches!(chunks[6], Chunk::End(_)));
}

#[test]
fn wherever_it_is_cut_off_it_says_so() {
    let bytes = sample(1);
    for end in 0..bytes.len() {
        let error = format!("{:#}", read(&bytes[..end]).unwrap_err());
        let expected = match end {
            0..8 => "this is no dump".to_owned(),
            _ => format!("the dump is cut off at byte {end}"),
        };
        assert!(error.starts_with(&expected), "{end}: {error}");
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    let bytes = sample(1);
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut bad = bytes.clone();
            bad[at] ^= 1 << bit;
            assert!(read(&bad).is_err(), "bit {bit} of byte {at}");
        }
    }
}

#[test]
fn chunks_that_are_left_out_doubled_swapped_or_of_another_dump_are_noticed() {
    let bytes = sample(1);
    let mut starts = vec![PREAMBLE_BYTES];
    while *starts.last().unwrap() < bytes.len() {
        let at = *starts.last().unwrap();
        let len = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        starts.push(at + CHUNK_HEAD_BYTES + len);
    }
    let chunks: Vec<&[u8]> = starts
        .windows(2)
        .map(|pair| &bytes[pair[0]..pair[1]])
        .collect();
    let build = |order: &[usize]| {
        let mut built = bytes[..PREAMBLE_BYTES].to_vec();
        for &index in order {
            built.extend_from_slice(chunks[index]);
        }
        built
    };
    assert_eq!(build(&[0, 1, 2, 3, 4, 5, 6]), bytes);
    for order in [
        &[0, 1, 3, 4, 5, 6][..],
        &[0, 1, 2, 2, 3, 4, 5, 6],
        &[0, 1, 2, 4, 3, 5, 6],
        &[0, 6],
        &[1, 2, 3, 4, 5, 6],
        &[0, 1, 2, 3, 4, 5, 6, 6],
    ] {
        assert!(read(&build(order)).is_err(), "{order:?}");
    }
    let other = sample(2);
    let mut mixed = bytes.clone();
    mixed[starts[2]..starts[3]].copy_from_slice(&other[starts[2]..starts[3]]);
    assert!(read(&mixed).is_err());
    let mut longer = bytes;
    longer.push(0);
    let error = read(&longer).unwrap_err().to_string();
    assert!(
        error.starts_with("there is something behind the end"),
        "{error}"
    );
}

#[test]
fn a_length_that_was_made_up_allocates_nothing() {
    let mut bytes = sample(1);
    bytes[PREAMBLE_BYTES..PREAMBLE_BYTES + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let error = read(&bytes).unwrap_err().to_string();
    assert!(
        error.contains("it says that it has 4294967295 bytes"),
        "{error}"
    );
}

#[test]
fn the_largest_entry_fits_a_chunk_that_is_nearly_full() {
    let mut writer = Writer::new(Vec::new(), [1; 16], &head()).unwrap();
    writer.keyspace("").unwrap();
    let nearly = vec![0; ENTRIES_BYTES - ENTRY_HEAD_BYTES - 2];
    writer.entry(b"a", &nearly, None).unwrap();
    let key = vec![b'b'; USER_KEY_BYTES_MAX];
    writer
        .entry(&key, &vec![7; VALUE_BYTES_MAX], Some(1))
        .unwrap();
    let (bytes, _) = writer.finish().unwrap();
    let chunks = read(&bytes).unwrap();
    assert!(matches!(&chunks[2], Chunk::Entries(entries) if entries.len() == 2));
}
