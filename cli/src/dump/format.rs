//! The bytes of a dump. It is read and written in one go, from front to end, and never held in memory as a whole.
//!
//! Numbers are little-endian.
//!
//! ```text
//! file   := "SIXDUMP\n"  version: u32 = 1  id: 16 random bytes  chunk...
//! chunk  := bytes: u32  checksum: u32  kind: u8  payload: `bytes` bytes
//! kinds  := 1 head (JSON)   2 keyspace (its name; empty = the default one)   3 entries   4 end (JSON)
//! entry  := flags: u8 (1 = deadline)  key bytes: u16  value bytes: u32  [deadline: u64, unix ms]  key  value
//! ```
//!
//! A chunk's checksum is the CRC-32 of the id, the chunk's number (u64, the head is 0), its kind and its payload: neither a chunk
//! of another dump nor one in another place verifies. The end counts chunks, entries and bytes, and holds the CRC-32 of all
//! checksums before it. Behind it there is nothing.

use std::io::{ErrorKind, Read, Write};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use sixfold_log_format::checksum::checksum;
use sixfold_log_format::limits::{USER_KEY_BYTES_MAX, VALUE_BYTES_MAX};

const MAGIC: &[u8; 8] = b"SIXDUMP\n";
/// The version that this build writes and reads.
pub(crate) const VERSION: u32 = 1;
/// Length of what comes before the first chunk.
const PREAMBLE_BYTES: usize = 8 + 4 + 16;
/// Length of what comes before a payload.
const CHUNK_HEAD_BYTES: usize = 4 + 4 + 1;
/// Length of what comes before an entry's deadline.
const ENTRY_HEAD_BYTES: usize = 1 + 2 + 4;
const HAS_DEADLINE: u8 = 1;

/// A chunk of entries is closed when it has reached this many bytes, or this many entries.
const ENTRIES_BYTES: usize = 1 << 20;
const ENTRIES_COUNT: usize = 4_096;
/// Longest payload: a full chunk, short of a byte, and the largest entry behind it.
const PAYLOAD_BYTES_MAX: usize =
    ENTRIES_BYTES + ENTRY_HEAD_BYTES + 8 + USER_KEY_BYTES_MAX + VALUE_BYTES_MAX;

/// Kinds of chunks.
mod kind {
    pub(super) const HEAD: u8 = 1;
    pub(super) const KEYSPACE: u8 = 2;
    pub(super) const ENTRIES: u8 = 3;
    pub(super) const END: u8 = 4;
}

/// What a dump says of itself first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    /// The volume that it is of.
    pub(crate) volume: String,
    /// The point that it shows.
    pub(crate) lsn: u64,
    /// The volume's clock there, unix milliseconds.
    pub(crate) unix_ms: Option<u64>,
    /// False where commits of unknown outcome may be in it that vanished later (R23).
    pub(crate) settled: bool,
    /// The version of the program that wrote it.
    pub(crate) written_by: String,
}

/// What a dump says of itself last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Totals {
    /// Chunks before the end.
    pub(crate) chunks: u64,
    /// Keyspaces, the default one among them.
    pub(crate) keyspaces: u64,
    pub(crate) entries: u64,
    pub(crate) key_bytes: u64,
    pub(crate) value_bytes: u64,
    /// Of all checksums of chunks.
    pub(crate) checksum: u32,
}

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
    /// When it expires, unix milliseconds.
    pub(crate) deadline_ms: Option<u64>,
}

/// A part of a dump.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Chunk {
    Head(Head),
    /// The entries that follow are of this keyspace.
    Keyspace(String),
    Entries(Vec<Entry>),
    End(Totals),
}

/// What ties a chunk to its place.
fn seed(id: &[u8; 16], number: u64, kind: u8) -> [u8; 25] {
    let mut seed = [0; 25];
    seed[..16].copy_from_slice(id);
    seed[16..24].copy_from_slice(&number.to_le_bytes());
    seed[24] = kind;
    seed
}

/// Writes a dump.
#[derive(Debug)]
pub(crate) struct Writer<W> {
    output: W,
    id: [u8; 16],
    /// Entries that are not written yet.
    open: Vec<u8>,
    open_count: usize,
    totals: Totals,
}

impl<W: Write> Writer<W> {
    /// Begins one.
    pub(crate) fn new(mut output: W, id: [u8; 16], head: &Head) -> Result<Writer<W>> {
        output.write_all(MAGIC)?;
        output.write_all(&VERSION.to_le_bytes())?;
        output.write_all(&id)?;
        let mut writer = Writer {
            output,
            id,
            open: Vec::new(),
            open_count: 0,
            totals: Totals::default(),
        };
        writer.chunk(kind::HEAD, &serde_json::to_vec(head)?)?;
        Ok(writer)
    }

    fn chunk(&mut self, kind: u8, payload: &[u8]) -> Result<()> {
        let sum = checksum(&seed(&self.id, self.totals.chunks, kind), payload);
        let bytes = u32::try_from(payload.len()).expect("a chunk is bounded");
        self.output.write_all(&bytes.to_le_bytes())?;
        self.output.write_all(&sum.to_le_bytes())?;
        self.output.write_all(&[kind])?;
        self.output.write_all(payload)?;
        if kind != kind::END {
            self.totals.chunks += 1;
            self.totals.checksum =
                checksum(&self.totals.checksum.to_le_bytes(), &sum.to_le_bytes());
        }
        Ok(())
    }

    /// The entries from now on are of this keyspace.
    pub(crate) fn keyspace(&mut self, name: &str) -> Result<()> {
        self.close_entries()?;
        self.totals.keyspaces += 1;
        self.chunk(kind::KEYSPACE, name.as_bytes())
    }

    /// One entry.
    pub(crate) fn entry(
        &mut self,
        key: &[u8],
        value: &[u8],
        deadline_ms: Option<u64>,
    ) -> Result<()> {
        let key_bytes = u16::try_from(key.len()).context("a key is too long")?;
        let value_bytes = u32::try_from(value.len()).context("a value is too long")?;
        self.open.push(if deadline_ms.is_some() {
            HAS_DEADLINE
        } else {
            0
        });
        self.open.extend_from_slice(&key_bytes.to_le_bytes());
        self.open.extend_from_slice(&value_bytes.to_le_bytes());
        if let Some(deadline_ms) = deadline_ms {
            self.open.extend_from_slice(&deadline_ms.to_le_bytes());
        }
        self.open.extend_from_slice(key);
        self.open.extend_from_slice(value);
        self.open_count += 1;
        self.totals.entries += 1;
        self.totals.key_bytes += u64::from(key_bytes);
        self.totals.value_bytes += u64::from(value_bytes);
        if self.open.len() >= ENTRIES_BYTES || self.open_count >= ENTRIES_COUNT {
            self.close_entries()?;
        }
        Ok(())
    }

    fn close_entries(&mut self) -> Result<()> {
        if self.open_count == 0 {
            return Ok(());
        }
        let payload = std::mem::take(&mut self.open);
        self.open_count = 0;
        self.chunk(kind::ENTRIES, &payload)
    }

    /// So far.
    pub(crate) fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Ends it; what was written, and where to.
    pub(crate) fn finish(mut self) -> Result<(W, Totals)> {
        self.close_entries()?;
        let totals = self.totals.clone();
        self.chunk(kind::END, &serde_json::to_vec(&totals)?)?;
        self.output.flush()?;
        Ok((self.output, totals))
    }
}

/// Reads a dump, and believes nothing that it says before it is checked.
#[derive(Debug)]
pub(crate) struct Reader<R> {
    input: R,
    id: [u8; 16],
    /// The next chunk's number.
    number: u64,
    /// Where it begins.
    offset: u64,
    found: Totals,
    ended: bool,
}

impl<R: Read> Reader<R> {
    /// Begins to read one.
    pub(crate) fn new(mut input: R) -> Result<Reader<R>> {
        let mut preamble = [0; PREAMBLE_BYTES];
        let count = read_up_to(&mut input, &mut preamble)?;
        ensure!(
            preamble.starts_with(MAGIC) && count >= MAGIC.len(),
            "this is no dump: it does not begin with {:?}",
            String::from_utf8_lossy(MAGIC)
        );
        ensure!(
            count == PREAMBLE_BYTES,
            "the dump is cut off at byte {count}"
        );
        let version = u32::from_le_bytes(preamble[8..12].try_into().expect("four bytes"));
        ensure!(
            version == VERSION,
            "the dump has version {version}, this build reads {VERSION}"
        );
        Ok(Reader {
            input,
            id: preamble[12..].try_into().expect("sixteen bytes"),
            number: 0,
            offset: PREAMBLE_BYTES as u64,
            found: Totals::default(),
            ended: false,
        })
    }

    /// How many bytes were read.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// The number of the chunk that [`Reader::next`] gives next.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// The next chunk; `None` behind the end.
    ///
    /// # Errors
    /// One line with the chunk and the byte where it begins.
    pub(crate) fn next(&mut self) -> Result<Option<Chunk>> {
        let mut head = [0; CHUNK_HEAD_BYTES];
        let count = read_up_to(&mut self.input, &mut head)?;
        if self.ended {
            ensure!(
                count == 0,
                "there is something behind the end of the dump, at byte {}",
                self.offset
            );
            return Ok(None);
        }
        let place = format!("chunk {} at byte {}", self.number, self.offset);
        let cut_off = |count: u64| {
            let end = self.offset + count;
            anyhow::anyhow!("the dump is cut off at byte {end}, in {place}")
        };
        if count < head.len() {
            return Err(cut_off(count as u64));
        }
        let bytes = u32::from_le_bytes(head[..4].try_into().expect("four bytes")) as usize;
        let sum = u32::from_le_bytes(head[4..8].try_into().expect("four bytes"));
        let kind = head[8];
        ensure!(
            bytes <= PAYLOAD_BYTES_MAX,
            "{place} is damaged: it says that it has {bytes} bytes"
        );
        // Memory grows with what comes, not with what was announced.
        let mut payload = Vec::new();
        (&mut self.input)
            .take(bytes as u64)
            .read_to_end(&mut payload)
            .with_context(|| format!("cannot read {place}"))?;
        if payload.len() < bytes {
            return Err(cut_off((head.len() + payload.len()) as u64));
        }
        let expected = checksum(&seed(&self.id, self.number, kind), &payload);
        ensure!(
            sum == expected,
            "{place} is damaged: its checksum is {sum:08x}, its bytes give {expected:08x}"
        );
        let chunk = self
            .decode(kind, &payload)
            .with_context(|| format!("{place} makes no sense"))?;
        self.number += 1;
        self.offset += (head.len() + bytes) as u64;
        if kind != kind::END {
            self.found.chunks += 1;
            self.found.checksum = checksum(&self.found.checksum.to_le_bytes(), &sum.to_le_bytes());
        }
        Ok(Some(chunk))
    }

    fn decode(&mut self, kind: u8, payload: &[u8]) -> Result<Chunk> {
        ensure!(
            (kind == kind::HEAD) == (self.number == 0),
            "the head is the first chunk, and no other is"
        );
        match kind {
            kind::HEAD => Ok(Chunk::Head(serde_json::from_slice(payload)?)),
            kind::KEYSPACE => {
                self.found.keyspaces += 1;
                let name = std::str::from_utf8(payload).context("the name of a keyspace")?;
                Ok(Chunk::Keyspace(name.to_owned()))
            }
            kind::ENTRIES => {
                ensure!(self.found.keyspaces > 0, "entries of no keyspace");
                Ok(Chunk::Entries(self.decode_entries(payload)?))
            }
            kind::END => {
                let totals: Totals = serde_json::from_slice(payload)?;
                ensure!(
                    totals == self.found,
                    "it counts {totals:?}, there were {:?}",
                    self.found
                );
                self.ended = true;
                Ok(Chunk::End(totals))
            }
            other => bail!("kind {other} is unknown"),
        }
    }

    fn decode_entries(&mut self, mut rest: &[u8]) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        while !rest.is_empty() {
            let flags = take(&mut rest, 1)?[0];
            ensure!(flags <= HAS_DEADLINE, "flags {flags} are unknown");
            let key_bytes = u16::from_le_bytes(take(&mut rest, 2)?.try_into()?);
            let value_bytes = u32::from_le_bytes(take(&mut rest, 4)?.try_into()?);
            let deadline_ms = match flags {
                HAS_DEADLINE => Some(u64::from_le_bytes(take(&mut rest, 8)?.try_into()?)),
                _ => None,
            };
            let key = take(&mut rest, key_bytes.into())?.to_vec();
            let value = take(&mut rest, value_bytes as usize)?.to_vec();
            self.found.entries += 1;
            self.found.key_bytes += u64::from(key_bytes);
            self.found.value_bytes += u64::from(value_bytes);
            entries.push(Entry {
                key,
                value,
                deadline_ms,
            });
        }
        Ok(entries)
    }
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8]> {
    let (taken, left) = rest
        .split_at_checked(count)
        .context("an entry is cut off")?;
    *rest = left;
    Ok(taken)
}

/// Fills the buffer, or as much of it as there is.
fn read_up_to(input: &mut impl Read, buffer: &mut [u8]) -> Result<usize> {
    let mut count = 0;
    while count < buffer.len() {
        match input.read(&mut buffer[count..]) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("cannot read the dump"),
        }
    }
    Ok(count)
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod format_tests;
