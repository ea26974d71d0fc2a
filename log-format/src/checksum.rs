//! Checksums: CRC-32 with a seed.
//!
//! Every zone that leaves the process carries one. The seed is what the bytes must belong to (a volume, a node and a
//! file): it costs no space, and bytes of another owner never verify.

/// The CRC-32 of `seed` followed by `bytes`.
///
/// Any single flipped bit changes it, and so does any burst of up to 32 bits.
pub fn checksum(seed: &[u8], bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(seed);
    hasher.update(bytes);
    hasher.finalize()
}
