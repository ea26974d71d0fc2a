//! Fields of messages, manifests and histories: one trait, one implementation per type, and a macro for structs that are
//! nothing but their fields in order.
//!
//! A list is its count in four bytes, then its items; an option is a byte, then the value. A count is compared with
//! the bytes that are left before anything is allocated, and lists grow as their items are read.

use crate::codec::{Put, Reader, length_u32};
use crate::error::DecodeError;
use crate::id::{
    ManifestVersion, MembershipEpoch, NodeId, PageId, PgId, SegmentId, VolumeEpoch, VolumeId,
    WriterId,
};
use crate::lsn::Lsn;

/// A value with one encoding.
pub(crate) trait Field: Sized {
    fn put(&self, out: &mut Vec<u8>);
    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError>;
}

/// Implements [`Field`] for a struct: its fields in the order given, nothing between them.
macro_rules! struct_field {
    ($name:ty { $($field:ident),+ $(,)? }) => {
        impl $crate::field::Field for $name {
            fn put(&self, out: &mut Vec<u8>) {
                $($crate::field::Field::put(&self.$field, out);)+
            }

            fn take(
                input: &mut $crate::codec::Reader<'_>,
            ) -> Result<Self, $crate::error::DecodeError> {
                Ok(Self {
                    $($field: {
                        input.field(stringify!($field));
                        $crate::field::Field::take(input)?
                    },)+
                })
            }
        }
    };
}

/// Implements [`Field`] for an enum without data: one byte.
macro_rules! code_field {
    ($name:ty { $($variant:ident = $code:literal),+ $(,)? }) => {
        impl $crate::field::Field for $name {
            fn put(&self, out: &mut Vec<u8>) {
                out.push(match self {
                    $(Self::$variant => $code,)+
                });
            }

            fn take(
                input: &mut $crate::codec::Reader<'_>,
            ) -> Result<Self, $crate::error::DecodeError> {
                match input.u8()? {
                    $($code => Ok(Self::$variant),)+
                    code => Err(input.invalid(u64::from(code))),
                }
            }
        }
    };
}

pub(crate) use {code_field, struct_field};

macro_rules! number_field {
    ($($name:ty, $put:ident, $take:ident);+ $(;)?) => {
        $(impl Field for $name {
            fn put(&self, out: &mut Vec<u8>) {
                out.$put(self.get());
            }

            fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
                Ok(<$name>::new(input.$take()?))
            }
        })+
    };
}

number_field!(
    Lsn, put_u64, u64;
    PageId, put_u64, u64;
    PgId, put_u32, u32;
    VolumeEpoch, put_u64, u64;
    MembershipEpoch, put_u64, u64;
);

macro_rules! drawn_field {
    ($($name:ty),+) => {
        $(impl Field for $name {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(self.as_bytes());
            }

            fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
                Ok(<$name>::from_bytes(input.array()?))
            }
        })+
    };
}

drawn_field!(SegmentId, NodeId, VolumeId, WriterId);

struct_field!(ManifestVersion {
    volume_epoch,
    membership_epoch
});

impl Field for u8 {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(*self);
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        input.u8()
    }
}

impl Field for u16 {
    fn put(&self, out: &mut Vec<u8>) {
        out.put_u16(*self);
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        input.u16()
    }
}

impl Field for u32 {
    fn put(&self, out: &mut Vec<u8>) {
        out.put_u32(*self);
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        input.u32()
    }
}

impl Field for u64 {
    fn put(&self, out: &mut Vec<u8>) {
        out.put_u64(*self);
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        input.u64()
    }
}

impl Field for [u8; 16] {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        input.array()
    }
}

impl Field for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match input.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(input.invalid(u64::from(other))),
        }
    }
}

impl Field for String {
    fn put(&self, out: &mut Vec<u8>) {
        out.put_text(self);
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(input.text()?.to_owned())
    }
}

impl<T: Field> Field for Box<T> {
    fn put(&self, out: &mut Vec<u8>) {
        T::put(self, out);
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Box::new(T::take(input)?))
    }
}

impl<T: Field> Field for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        bool::take(input)?.then(|| T::take(input)).transpose()
    }
}

impl<A: Field, B: Field> Field for (A, B) {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
        self.1.put(out);
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok((A::take(input)?, B::take(input)?))
    }
}

impl<T: Field> Field for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        out.put_u32(length_u32(self.len()));
        for item in self {
            item.put(out);
        }
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        take_list(input, usize::MAX)
    }
}

/// Reads a list of at most `count_max` items, each of which takes a byte at least.
pub(crate) fn take_list<T: Field>(
    input: &mut Reader<'_>,
    count_max: usize,
) -> Result<Vec<T>, DecodeError> {
    let count = input.u32()?;
    if count as usize > count_max.min(input.remaining()) {
        return Err(input.invalid(u64::from(count)));
    }
    let mut items = Vec::new();
    for _ in 0..count {
        items.push(T::take(input)?);
    }
    Ok(items)
}
