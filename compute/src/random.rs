//! The one place where the library draws randomness.

/// Bytes from the operating system.
///
/// # Panics
/// When it gives none, which no supported system does after boot.
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system gives randomness");
    bytes
}
