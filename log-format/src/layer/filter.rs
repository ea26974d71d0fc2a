//! The page filter of a layer: a Bloom filter over the pages that have entries, so that a read asks no layer in vain.
//! Integers only: every build computes the same bits.

use super::index::{check_part, end_part};
use super::{FILTER_BITS_PER_PAGE, FILTER_PROBES, LayerIdentity, Part};
use crate::codec::Put;
use crate::error::DecodeError;
use crate::id::PageId;

const ZONE: &str = "layer filter";
const WORD_BITS: u64 = 64;
/// More bits than this gain nothing: probes are 32 bits wide.
const WORDS_MAX: u64 = 1 << 24;

#[derive(Debug, Clone)]
pub(super) struct PageFilter {
    words: Box<[u64]>,
}

/// The bits of `page` among `bit_count`.
fn bits_of(page: PageId, bit_count: u64) -> impl Iterator<Item = u64> {
    // The finalizer of splitmix64: every bit of the page id reaches every bit of the hash.
    let mut hash = page.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^= hash >> 31;
    let step = (hash >> 32) | 1;
    (0..u64::from(FILTER_PROBES)).map(move |probe| {
        let mixed = hash.wrapping_add(probe.wrapping_mul(step)) & 0xffff_ffff;
        (mixed * bit_count) >> 32
    })
}

/// Appends the filter of `pages` to `out`. Returns its length.
pub(super) fn encode_filter(out: &mut Vec<u8>, identity: &LayerIdentity, pages: &[PageId]) -> u32 {
    let bits = pages.len() as u64 * FILTER_BITS_PER_PAGE;
    let word_count = bits.div_ceil(WORD_BITS).clamp(1, WORDS_MAX);
    let word_count = usize::try_from(word_count).expect("bounded by WORDS_MAX");
    let mut words = vec![0_u64; word_count];
    for page in pages {
        for bit in bits_of(*page, words.len() as u64 * WORD_BITS) {
            words[place(bit)] |= 1 << (bit % WORD_BITS);
        }
    }
    let start = out.len();
    out.put_u32(0);
    out.put_u32(0);
    for word in words {
        out.put_u64(word);
    }
    end_part(out, start, identity, Part::Filter)
}

fn place(bit: u64) -> usize {
    usize::try_from(bit / WORD_BITS).expect("within the filter")
}

impl PageFilter {
    pub(super) fn decode(
        identity: &LayerIdentity,
        bytes: &[u8],
    ) -> Result<PageFilter, DecodeError> {
        let mut input = check_part(ZONE, bytes, identity, Part::Filter)?;
        let words = input.rest();
        if words.is_empty() || !words.len().is_multiple_of(8) || words.len() as u64 / 8 > WORDS_MAX
        {
            return Err(input.invalid_field("filter length", words.len() as u64));
        }
        let (words, _) = words.as_chunks::<8>();
        Ok(PageFilter {
            words: words.iter().map(|word| u64::from_le_bytes(*word)).collect(),
        })
    }

    pub(super) fn may_hold(&self, page: PageId) -> bool {
        bits_of(page, self.words.len() as u64 * WORD_BITS)
            .all(|bit| self.words[place(bit)] & (1 << (bit % WORD_BITS)) != 0)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.words.len() * 8
    }
}
