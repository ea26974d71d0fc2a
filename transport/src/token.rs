//! A volume's token: 32 random bytes that whoever speaks of the volume shows, beside the certificate of a role. Nodes keep a digest of it.
//!
//! A digest needs no salt and no slow hash: the token is drawn, not chosen by people.

use std::fmt;
use std::path::Path;

use ring::rand::SecureRandom;
use sixfold_log_format::{TokenDigest, VolumeId};

use crate::tls::{TlsError, invalid, read_file, write_key_file};

/// Bytes of a token.
const TOKEN_BYTES: usize = 32;

/// A volume's token. It is not printed but by [`VolumeToken::to_hex`].
#[derive(Clone, PartialEq, Eq)]
pub struct VolumeToken([u8; TOKEN_BYTES]);

impl fmt::Debug for VolumeToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VolumeToken(..)")
    }
}

impl VolumeToken {
    /// Draws one.
    ///
    /// # Panics
    /// When the system gives no randomness.
    pub fn draw() -> VolumeToken {
        let mut bytes = [0; TOKEN_BYTES];
        ring::rand::SystemRandom::new()
            .fill(&mut bytes)
            .expect("the system gives randomness");
        VolumeToken(bytes)
    }

    /// Reads 64 hexadecimal digits; `None` for anything else.
    pub fn from_hex(text: &str) -> Option<VolumeToken> {
        let digits = text.as_bytes();
        if digits.len() != 2 * TOKEN_BYTES || !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let mut bytes = [0; TOKEN_BYTES];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
        }
        Some(VolumeToken(bytes))
    }

    /// The digits that [`VolumeToken::from_hex`] reads: the secret itself.
    pub fn to_hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Reads a file with the digits.
    ///
    /// # Errors
    /// When it cannot be read or holds something else.
    pub fn load(path: &Path) -> Result<VolumeToken, TlsError> {
        let text = read_file(path)?;
        VolumeToken::from_hex(text.trim()).ok_or_else(|| {
            invalid(
                path.display().to_string(),
                "no token: 64 hexadecimal digits",
            )
        })
    }

    /// Writes such a file, with mode 0600 where the system knows modes.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), TlsError> {
        write_key_file(path, &format!("{}\n", self.to_hex()))
    }

    /// What a hello carries.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// What nodes keep of it.
    pub fn digest(&self, volume: VolumeId) -> TokenDigest {
        token_digest(volume, &self.0)
    }
}

/// The digest of what a hello showed for a volume.
pub fn token_digest(volume: VolumeId, shown: &[u8]) -> TokenDigest {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    context.update(b"sixfold volume token");
    context.update(volume.as_bytes());
    context.update(shown);
    let mut bytes = [0; 32];
    bytes.copy_from_slice(context.finish().as_ref());
    TokenDigest::from_bytes(bytes)
}
