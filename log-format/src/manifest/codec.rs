//! The manifest's bytes, and what a decoded one must satisfy.

use super::{
    Manifest, Member, MemberKind, NodeHint, PgEntry, QuorumModel, SegmentSet, VolumeParameters,
};
use crate::codec::{Put, Reader};
use crate::error::DecodeError;
use crate::field::{Field, code_field, struct_field, take_list};
use crate::id::{ManifestVersion, PgId, TokenDigest, VolumeId};
use crate::limits::{
    LAL_MAX, PAGE_BYTES_MAX, PAGE_BYTES_MIN, PG_COUNT_MAX, SEGMENTS_PER_SET_MAX, SET_COUNT_MAX,
};

/// The highest version of manifests that this build writes and reads: of a volume with a token. Without one the manifest is
/// written as version 1, which lacks the digest and is else the same, so that older builds read it.
pub const MANIFEST_VERSION: u16 = 2;

/// The version without a token's digest.
const VERSION_WITHOUT_TOKEN: u16 = 1;

const ZONE: &str = "manifest";

impl Manifest {
    /// Its bytes, as they stand in messages and hot-log entries too.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.put(&mut out);
        out
    }

    /// Reads a manifest and checks it: parameters within the limits, PGs numbered from 0 without gaps, one to four sets
    /// each, as many members as the model has, no segment twice in a set.
    ///
    /// # Errors
    /// [`DecodeError`] for anything that is not one whole manifest.
    pub fn decode(bytes: &[u8]) -> Result<Manifest, DecodeError> {
        let mut input = Reader::new(ZONE, bytes);
        let manifest = Manifest::take(&mut input)?;
        input.finish()?;
        Ok(manifest)
    }
}

code_field!(QuorumModel { FourOfSix = 0, ThreeOfFour = 1, FullTail = 2, TwoOfThree = 3 });
code_field!(MemberKind { Full = 0, Tail = 1 });
struct_field!(Member {
    segment,
    node,
    kind,
    joining
});
struct_field!(NodeHint { node, az, address });

impl Field for VolumeParameters {
    fn put(&self, out: &mut Vec<u8>) {
        out.put_u32(self.page_bytes);
        for number in [
            self.lal,
            self.pages_per_pg,
            self.retention_ms,
            self.retention_bytes,
        ] {
            out.put_u64(number);
        }
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let page_bytes = input.u32()?;
        let in_range = (PAGE_BYTES_MIN..=PAGE_BYTES_MAX).contains(&(page_bytes as usize));
        if !in_range || !page_bytes.is_power_of_two() {
            return Err(input.invalid_field("page size", u64::from(page_bytes)));
        }
        let lal = input.u64()?;
        if !(1..=LAL_MAX).contains(&lal) {
            return Err(input.invalid_field("lsn allocation limit", lal));
        }
        let pages_per_pg = input.u64()?;
        if pages_per_pg == 0 {
            return Err(input.invalid_field("pages per pg", pages_per_pg));
        }
        Ok(VolumeParameters {
            page_bytes,
            lal,
            pages_per_pg,
            retention_ms: input.u64()?,
            retention_bytes: input.u64()?,
            token: None,
        })
    }
}

impl Field for SegmentSet {
    fn put(&self, out: &mut Vec<u8>) {
        self.model.put(out);
        self.members.put(out);
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let model = QuorumModel::take(input.field("quorum model"))?;
        let members: Vec<Member> = take_list(input.field("member count"), SEGMENTS_PER_SET_MAX)?;
        if members.len() != model.member_count() {
            return Err(input.invalid_field("member count", members.len() as u64));
        }
        for (index, member) in members.iter().enumerate() {
            if members[..index]
                .iter()
                .any(|other| other.segment == member.segment)
            {
                return Err(input.invalid_field("member that is named twice", index as u64));
            }
        }
        let full_count = members
            .iter()
            .filter(|member| member.kind == MemberKind::Full)
            .count();
        if model == QuorumModel::FullTail && full_count != 3 {
            return Err(input.invalid_field("count of full members", full_count as u64));
        }
        Ok(SegmentSet { model, members })
    }
}

impl Field for PgEntry {
    fn put(&self, out: &mut Vec<u8>) {
        self.pg.put(out);
        self.sets.put(out);
        self.removed.put(out);
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let pg = PgId::take(input)?;
        let sets: Vec<SegmentSet> = take_list(input.field("set count"), SET_COUNT_MAX)?;
        if sets.is_empty() {
            return Err(input.invalid_field("set count", 0));
        }
        Ok(PgEntry {
            pg,
            sets,
            removed: Vec::take(input.field("removed count"))?,
        })
    }
}

impl Field for Manifest {
    fn put(&self, out: &mut Vec<u8>) {
        out.put_u16(match self.parameters.token {
            Some(_) => MANIFEST_VERSION,
            None => VERSION_WITHOUT_TOKEN,
        });
        self.version.put(out);
        self.volume.put(out);
        self.parameters.put(out);
        if let Some(token) = &self.parameters.token {
            out.extend_from_slice(token.as_bytes());
        }
        self.pgs.put(out);
        self.hints.put(out);
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let zone = input.set_zone(ZONE);
        let version = input.u16()?;
        if !(VERSION_WITHOUT_TOKEN..=MANIFEST_VERSION).contains(&version) {
            return Err(DecodeError::Version {
                zone: ZONE,
                found: version,
                supported: MANIFEST_VERSION,
            });
        }
        let (of, volume) = (ManifestVersion::take(input)?, VolumeId::take(input)?);
        let mut parameters = VolumeParameters::take(input)?;
        if version == MANIFEST_VERSION {
            parameters.token = Some(TokenDigest::from_bytes(input.array()?));
        }
        let manifest = Manifest {
            version: of,
            volume,
            parameters,
            pgs: take_list(input.field("pg count"), PG_COUNT_MAX)?,
            hints: Vec::take(input.field("hint count"))?,
        };
        for (index, entry) in manifest.pgs.iter().enumerate() {
            if entry.pg.get() as usize != index {
                return Err(input.invalid_field("pg", u64::from(entry.pg.get())));
            }
        }
        if manifest.pgs.is_empty() {
            return Err(input.invalid_field("pg count", 0));
        }
        input.set_zone(zone);
        Ok(manifest)
    }
}
