//! Identities of new segments (R12), drawn without a source of chance.

use sixfold_log_format::{SegmentId, VolumeEpoch, WriterId};

/// What tells these ids from others that are made of a writer's id.
const DOMAIN: u64 = 0x7365_676d_656e_7421;

/// Draws segment ids. The writer's id is 128 bits of chance, fresh for each attempt (R8), and no two writers of a volume open under
/// one epoch: what is made of both and a count is drawn by nobody else.
#[derive(Debug)]
pub(crate) struct Draw {
    halves: [u64; 2],
    count: u64,
}

impl Draw {
    pub(crate) fn new(writer: WriterId, volume_epoch: VolumeEpoch) -> Draw {
        let number = u128::from_le_bytes(*writer.as_bytes());
        let low = u64::try_from(number & u128::from(u64::MAX)).expect("64 bits");
        let high = u64::try_from(number >> 64).expect("64 bits");
        Draw {
            halves: [low, high ^ mix(volume_epoch.get())],
            count: 0,
        }
    }

    /// An id for a new segment.
    pub(crate) fn segment(&mut self) -> SegmentId {
        self.count += 1;
        let [low, high] = self.halves;
        // Each half depends on the whole of the writer's id.
        let mixed = mix(low ^ mix(high ^ DOMAIN));
        let first = mix(mixed.wrapping_add(self.count));
        let second = mix(first ^ mix(high.wrapping_add(mix(low ^ self.count))));
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&first.to_le_bytes());
        bytes[8..].copy_from_slice(&second.to_le_bytes());
        SegmentId::from_bytes(bytes)
    }
}

/// The finalizer of SplitMix64: a permutation.
fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
