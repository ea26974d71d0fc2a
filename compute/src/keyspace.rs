//! Keyspaces: named, isolated sets of keys in one volume. Their directory is a few rows of the engine's own, written by ordinary
//! transactions.
//!
//! | row | value |
//! |---|---|
//! | `00 'k'` | the next id, 4 bytes little-endian |
//! | `00 'k' name` | the id of that keyspace, 4 bytes little-endian |
//!
//! An id is never used again: a handle of a keyspace that was dropped finds nothing and can change nothing, whatever was
//! made under its name since.

use std::sync::Arc;

use bytes::Bytes;
use sixfold_compute_core::ReadPoint;
use sixfold_kv::Found;
use sixfold_log_format::Lsn;

use crate::commit::CommitInfo;
use crate::database::{Database, Inner};
use crate::error::Error;
use crate::range::{Range, prefix};
use crate::read::{self, ReadLimit};
use crate::snapshot::Snapshot;
use crate::space::{Named, Space};
use crate::token::Token;
use crate::transaction::Transaction;

/// Longest name of a keyspace, bytes.
const NAME_BYTES_MAX: usize = 128;
const ROW: &[u8] = b"k";

/// A named, isolated set of keys: a handle with the methods of a [`Database`], over its own keys. Cheap to clone.
///
/// Made by [`Database::create_keyspace`] and [`Database::keyspace`]. One transaction may change several keyspaces:
/// [`Transaction::within`].
///
/// ```no_run
/// # async fn example(database: sixfold::Database) -> Result<(), sixfold::Error> {
/// let users = database.create_keyspace("users").await?;
/// let emails = database.create_keyspace("emails").await?;
/// users
///     .transact(|txn| {
///         let emails = emails.clone();
///         async move {
///             txn.put("7", "Alice")?;
///             txn.within(&emails).put("alice@example.org", "7")
///         }
///     })
///     .await?;
/// assert_eq!(users.snapshot().get("alice@example.org").await?, None);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Keyspace {
    database: Database,
    space: Space,
}

impl Keyspace {
    fn new(database: &Database, name: &str, id: u32) -> Keyspace {
        let named = Named {
            name: name.to_owned(),
            id,
        };
        Keyspace {
            database: database.clone(),
            space: database.inner.space.named(Arc::new(named)),
        }
    }

    pub(crate) fn space(&self) -> &Space {
        &self.space
    }

    /// Its name.
    pub fn name(&self) -> &str {
        let named = self.space.keyspace();
        &named.expect("a keyspace has a name").name
    }

    /// The database that it is part of.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// As [`Database::begin`], over the keys of this keyspace.
    ///
    /// # Errors
    /// Those of [`Database::begin`].
    pub async fn begin(&self) -> Result<Transaction, Error> {
        Ok(self.database.begin().await?.within(self))
    }

    /// As [`Database::begin_with_token`], over the keys of this keyspace.
    ///
    /// # Errors
    /// Those of [`Database::begin`].
    pub async fn begin_with_token(&self, token: impl Into<Token>) -> Result<Transaction, Error> {
        Ok(self.database.begin_with_token(token).await?.within(self))
    }

    /// As [`Database::transact`], over the keys of this keyspace.
    ///
    /// # Errors
    /// Those of [`Database::transact`].
    pub async fn transact<T, F, R>(&self, body: F) -> Result<T, Error>
    where
        F: FnMut(Transaction) -> R,
        R: Future<Output = Result<T, Error>>,
    {
        Ok(self.try_transact(body).await?.0)
    }

    /// As [`Database::try_transact`], over the keys of this keyspace.
    ///
    /// # Errors
    /// Those of [`Database::try_transact`].
    pub async fn try_transact<T, E, F, R>(&self, mut body: F) -> Result<(T, CommitInfo), E>
    where
        E: From<Error>,
        F: FnMut(Transaction) -> R,
        R: Future<Output = Result<T, E>>,
    {
        self.database
            .try_transact(|txn| body(txn.within(self)))
            .await
    }

    /// As [`Database::snapshot`], over the keys of this keyspace.
    pub fn snapshot(&self) -> Snapshot {
        self.database.snapshot().within(self)
    }
}

impl Database {
    /// The keyspace of this name, which is made when it is not there.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an empty name or one above 128 bytes; those of [`Database::transact`].
    pub async fn create_keyspace(&self, name: &str) -> Result<Keyspace, Error> {
        check_name(name)?;
        let directory = self.inner.engine_space();
        let id = self
            .transact(|txn| {
                let txn = txn.within_space(directory.clone());
                async move {
                    if let Some(row) = txn.get(row_key(name)).await? {
                        return id_of(&row);
                    }
                    let next = txn.get(ROW).await?;
                    let id = next.as_ref().map_or(Ok(1), id_of)?;
                    let after = id.checked_add(1).ok_or(Error::Full)?;
                    txn.put(ROW, after.to_le_bytes())?;
                    txn.put(row_key(name), id.to_le_bytes())?;
                    Ok(id)
                }
            })
            .await?;
        Ok(Keyspace::new(self, name, id))
    }

    /// The keyspace of this name; `None` when there is none.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an empty name or one above 128 bytes; those of [`Transaction::get`].
    pub async fn keyspace(&self, name: &str) -> Result<Option<Keyspace>, Error> {
        check_name(name)?;
        let directory = self.begin().await?.within_space(self.inner.engine_space());
        let row = directory.get(row_key(name)).await?;
        let id = row.as_ref().map(id_of).transpose()?;
        Ok(id.map(|id| Keyspace::new(self, name, id)))
    }

    /// The names of all keyspaces, sorted; the default one has no name.
    ///
    /// # Errors
    /// Those of [`Transaction::get`].
    pub async fn keyspaces(&self) -> Result<Vec<String>, Error> {
        let directory = self.begin().await?.within_space(self.inner.engine_space());
        names_of(directory.range(prefix(ROW))).await
    }

    /// Drops a keyspace with all its keys; false when there is none of this name. The cost does not grow with the number of
    /// keys. Snapshots from before still see it.
    ///
    /// # Errors
    /// Those of [`Database::create_keyspace`].
    pub async fn drop_keyspace(&self, name: &str) -> Result<bool, Error> {
        check_name(name)?;
        let directory = self.inner.engine_space();
        self.transact(|txn| {
            let rows = txn.within_space(directory.clone());
            async move {
                let Some(row) = rows.get(row_key(name)).await? else {
                    return Ok(false);
                };
                let keyspace = Keyspace::new(self, name, id_of(&row)?);
                rows.delete(row_key(name))?;
                txn.within(&keyspace).delete_range(..)?;
                Ok(true)
            }
        })
        .await
    }
}

/// The names in the rows of the directory.
async fn names_of(mut rows: Range) -> Result<Vec<String>, Error> {
    let mut names = Vec::new();
    while let Some((key, _)) = rows.next().await? {
        if key.len() > ROW.len() {
            let name = String::from_utf8(key[ROW.len()..].to_vec());
            names.push(name.map_err(|_| corrupt())?);
        }
    }
    Ok(names)
}

/// The names of all keyspaces as of a snapshot, sorted.
///
/// # Errors
/// Those of a read.
pub(crate) async fn names_at(snapshot: &Snapshot, inner: &Inner) -> Result<Vec<String>, Error> {
    let directory = snapshot.within_space(inner.engine_space());
    names_of(directory.range(prefix(ROW))).await
}

/// A snapshot over the keys of the keyspace of this name, if there was one.
///
/// # Errors
/// [`Error::Invalid`] for a name that none can have; those of a read.
pub(crate) async fn snapshot_of(
    snapshot: &Snapshot,
    inner: &Inner,
    name: &str,
) -> Result<Option<Snapshot>, Error> {
    check_name(name)?;
    let directory = snapshot.within_space(inner.engine_space());
    let row = directory.get(row_key(name)).await?;
    let id = row.as_ref().map(id_of).transpose()?;
    Ok(id.map(|id| {
        let name = name.to_owned();
        snapshot.within_space(inner.space.named(Arc::new(Named { name, id })))
    }))
}

/// Makes sure that a keyspace is in the directory as of a read point; its row's stored key.
///
/// # Errors
/// [`Error::TooOld`] when it was made behind the read point, [`Error::Invalid`] when it was dropped; those of a read.
pub(crate) async fn check(
    inner: &Inner,
    point: &ReadPoint,
    named: &Named,
    limit: ReadLimit,
) -> Result<Bytes, Error> {
    let row = inner.engine_space().stored(&row_key(&named.name))?;
    let found = read::get(inner, point, limit, &row).await?;
    if is_of(found, named)?.is_some() {
        return Ok(row);
    }
    // It is not there yet, or not any more.
    let now = inner.shared.announce();
    match is_of(read::get(inner, &now, limit, &row).await?, named)? {
        Some(made_at) => Err(Error::TooOld {
            read_point: point.lsn(),
            oldest: made_at,
        }),
        None => {
            let name = &named.name;
            Err(Error::invalid(format!("keyspace {name:?} was dropped")))
        }
    }
}

/// The commit that made this very keyspace, if that is what the row says.
fn is_of(row: Option<Found>, named: &Named) -> Result<Option<Lsn>, Error> {
    let Some(row) = row else {
        return Ok(None);
    };
    let is_it = id_of(&row.value)? == named.id;
    Ok(is_it.then_some(row.stamp))
}

fn check_name(name: &str) -> Result<(), Error> {
    match name.len() {
        0 => Err(Error::invalid("the name of the keyspace is empty")),
        1..=NAME_BYTES_MAX => Ok(()),
        len => Err(Error::invalid(format!(
            "the name of the keyspace has {len} bytes, {NAME_BYTES_MAX} at most"
        ))),
    }
}

fn row_key(name: &str) -> Vec<u8> {
    [ROW, name.as_bytes()].concat()
}

fn id_of(row: &Bytes) -> Result<u32, Error> {
    let bytes = row.as_ref().try_into().map_err(|_| corrupt())?;
    Ok(u32::from_le_bytes(bytes))
}

fn corrupt() -> Error {
    Error::Corrupt {
        what: "the directory of keyspaces".to_owned(),
    }
}
