//! Tokens: how a commit whose outcome is unknown is run again without being applied twice (T3).

use sixfold_compute_core::Token as CoreToken;
use sixfold_log_format::Lsn;

/// Recognizes a commit that was done already. A token is stored with its commit; another transaction with the same token, of this
/// writer or of one after it, is answered with the LSN of the commit that was done, and is not applied.
///
/// A token that the database made ([`Database::new_token`](crate::Database::new_token)) is good for the retention window
/// ([`Options::token_retention`](crate::Options::token_retention)) from when it was drawn, whenever its commit came; from then on it
/// may be refused as [`Error::TokenTooOld`](crate::Error::TokenTooOld), and is never applied twice. One of the user's own, 16
/// bytes, is remembered for the retention window after its commit, and applied again behind it: draw it at random, and do not
/// use it for longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub(crate) CoreToken);

impl Token {
    pub(crate) fn made(birth: Lsn, id: [u8; 16]) -> Token {
        Token(CoreToken::Made { birth, id })
    }

    /// Bytes to be kept until the outcome is known: 16 for a token of the user's own, 24 for one that the database made.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self.0 {
            CoreToken::Made { birth, id } => [&birth.get().to_be_bytes()[..], &id].concat(),
            CoreToken::Given(id) => id.to_vec(),
        }
    }

    /// Reads what [`Token::to_bytes`] gave; `None` when it is something else.
    ///
    /// ```
    /// let token = sixfold::Token::from(*b"order 4711, pay!");
    /// assert_eq!(sixfold::Token::from_bytes(&token.to_bytes()), Some(token));
    /// ```
    pub fn from_bytes(bytes: &[u8]) -> Option<Token> {
        if let Ok(id) = <[u8; 16]>::try_from(bytes) {
            return Some(Token::from(id));
        }
        let (birth, id) = bytes.split_first_chunk()?;
        let birth = Lsn::new(u64::from_be_bytes(*birth));
        Some(Token::made(birth, id.try_into().ok()?))
    }
}

/// A token of the user's own.
impl From<[u8; 16]> for Token {
    fn from(id: [u8; 16]) -> Token {
        Token(CoreToken::Given(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_their_bytes() {
        for token in [
            Token::from([7; 16]),
            Token::made(Lsn::new(1 << 40), [9; 16]),
        ] {
            assert_eq!(Token::from_bytes(&token.to_bytes()), Some(token));
        }
        for bytes in [&[][..], &[1; 15], &[1; 17], &[1; 23], &[1; 25]] {
            assert_eq!(Token::from_bytes(bytes), None);
        }
    }
}
