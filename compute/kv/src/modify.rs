//! Atomic operations on numbers: 8-byte little-endian i64 values that are changed at the tip, without a read (T6).

/// One operation on the number that a key holds. An absent or expired key counts as absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Modify {
    /// Adds; an absent key counts as 0. A sum out of range is refused.
    Add(i64),
    /// The larger of both; an absent key takes the operand.
    Max(i64),
    /// The smaller of both; an absent key takes the operand.
    Min(i64),
}

/// Why a number cannot be modified. Nothing was planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ModifyError {
    /// The key holds something else.
    #[error("the key holds {len_bytes} bytes, not a number of 8")]
    NotANumber {
        /// Length of what it holds.
        len_bytes: usize,
    },
    /// The sum is out of range.
    #[error("{held} + {added} is out of range")]
    Overflow {
        /// What the key holds.
        held: i64,
        /// What was to be added.
        added: i64,
    },
}

impl Modify {
    /// The number after it; `held` is the one before, `None` when the key is absent.
    ///
    /// # Errors
    /// [`ModifyError::Overflow`].
    pub fn apply(self, held: Option<i64>) -> Result<i64, ModifyError> {
        match self {
            Modify::Add(added) => {
                let held = held.unwrap_or(0);
                held.checked_add(added)
                    .ok_or(ModifyError::Overflow { held, added })
            }
            Modify::Max(operand) => Ok(held.map_or(operand, |held| held.max(operand))),
            Modify::Min(operand) => Ok(held.map_or(operand, |held| held.min(operand))),
        }
    }

    /// The number after all of `ops`, in order; `None` when there are none and the key is absent.
    ///
    /// # Errors
    /// [`ModifyError::Overflow`].
    pub fn apply_all(ops: &[Modify], held: Option<i64>) -> Result<Option<i64>, ModifyError> {
        ops.iter()
            .try_fold(held, |held, op| op.apply(held).map(Some))
    }
}

/// The number that a value is.
///
/// # Errors
/// [`ModifyError::NotANumber`] when it has not 8 bytes.
pub fn number(value: &[u8]) -> Result<i64, ModifyError> {
    let bytes = value.try_into().map_err(|_| ModifyError::NotANumber {
        len_bytes: value.len(),
    })?;
    Ok(i64::from_le_bytes(bytes))
}
