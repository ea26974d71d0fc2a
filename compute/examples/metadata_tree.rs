//! The metadata of a file system: directories, files, and a rename that is atomic whatever else happens.
//!
//! Start a cluster with `sixfold local --dir files`, then run this with the path of its cluster file:
//! `cargo run --release -p sixfold --example metadata_tree -- files/cluster.toml`
//!
//! | key | value |
//! |---|---|
//! | `next` | the next node's number |
//! | `entry/DIRECTORY/NAME` | the number of the node of that name |
//! | `node/NUMBER` | `d`, or `f` with the file's length |
//! | `parent/NUMBER` | the directory that holds it |
//!
//! Numbers are 16 hexadecimal digits; the root is 0.

use std::collections::BTreeSet;

use sixfold::{Bytes, Database, Error, Options, Transaction, prefix};

/// What a caller of the file system has to answer for.
#[derive(Debug)]
pub enum TreeError {
    /// There is nothing of this name.
    NotFound,
    /// There is something of this name already.
    Exists,
    /// A directory cannot be moved below itself.
    Loop,
    /// The database's own.
    Database(Error),
}

impl From<Error> for TreeError {
    fn from(error: Error) -> TreeError {
        TreeError::Database(error)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), TreeError> {
    let Some(path) = std::env::args().nth(1) else {
        eprintln!("usage: metadata_tree CLUSTER_FILE");
        std::process::exit(2);
    };
    let options = Options::from_cluster_file(path)?;
    let database = match Database::create(options.clone()).await {
        Err(Error::Exists { .. }) => Database::open(options).await?,
        created => created?,
    };
    run(&database, 6, 60).await?;
    database.close().await;
    Ok(())
}

/// Makes some directories and moves them into each other, from several tasks at once; it stays a tree.
pub async fn run(database: &Database, tasks: u64, renames: u64) -> Result<(), TreeError> {
    const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
    for name in NAMES {
        match make(database, &[], name, "d").await {
            Ok(()) | Err(TreeError::Exists) => {}
            Err(error) => return Err(error),
        }
        match make(database, &[name], "file", "f:42").await {
            Ok(()) | Err(TreeError::Exists | TreeError::NotFound) => {}
            Err(error) => return Err(error),
        }
    }
    let before = walk(database).await?;
    let moving: Vec<_> = (0..tasks)
        .map(|task| {
            let database = database.clone();
            tokio::spawn(async move {
                let mut dice = task + 1;
                let mut moved = 0_u64;
                let name = |dice: u64| NAMES[usize::try_from(dice % 5).expect("five names")];
                for _ in 0..renames {
                    let (one, other) = (name(roll(&mut dice)), name(roll(&mut dice)));
                    // Down into each other, or back up to the root, wherever it is now.
                    let target = if roll(&mut dice).is_multiple_of(2) {
                        vec![]
                    } else {
                        vec![other]
                    };
                    for source in [vec![], vec![other], vec![other, one]] {
                        match rename(&database, &source, one, &target, one).await {
                            Ok(()) => moved += 1,
                            Err(TreeError::Database(error)) => return Err(error),
                            Err(_refused) => {}
                        }
                    }
                }
                Ok(moved)
            })
        })
        .collect();
    let mut moved = 0;
    for task in moving {
        moved += task.await.expect("nobody panics")?;
    }
    let after = walk(database).await?;
    println!(
        "{moved} directories were moved; {} nodes, each in its place",
        after.len()
    );
    assert_eq!(
        before, after,
        "nothing was lost, and nothing is in two places"
    );
    Ok(())
}

/// The node that a path leads to.
async fn find(txn: &Transaction, path: &[&str]) -> Result<Bytes, TreeError> {
    let mut node = number(0);
    for name in path {
        node = txn
            .get(entry(&node, name))
            .await?
            .ok_or(TreeError::NotFound)?;
    }
    Ok(node)
}

/// Makes a file or a directory.
async fn make(
    database: &Database,
    directory: &[&str],
    name: &str,
    what: &str,
) -> Result<(), TreeError> {
    let make = |txn: Transaction| async move {
        let directory = find(&txn, directory).await?;
        if !txn.is_absent(entry(&directory, name)).await? {
            return Err(TreeError::Exists);
        }
        let next = txn.get("next").await?.unwrap_or_else(|| number(1));
        let text = std::str::from_utf8(&next).unwrap_or_default();
        let after = u64::from_str_radix(text, 16).unwrap_or(1) + 1;
        txn.put("next", number(after))?;
        txn.put(entry(&directory, name), &next)?;
        txn.put(named("node/", &next), what)?;
        txn.put(named("parent/", &next), &directory)?;
        Ok(())
    };
    database.try_transact(make).await?;
    Ok(())
}

/// Moves a file or a directory with all that is in it: one entry goes, one comes, whatever the size. Every directory on the
/// way up from the target is read, so that two renames that would make a loop together conflict.
async fn rename(
    database: &Database,
    from: &[&str],
    name: &str,
    to: &[&str],
    new_name: &str,
) -> Result<(), TreeError> {
    let rename = |txn: Transaction| async move {
        let (from, to) = (find(&txn, from).await?, find(&txn, to).await?);
        let node = txn
            .get(entry(&from, name))
            .await?
            .ok_or(TreeError::NotFound)?;
        if !txn.is_absent(entry(&to, new_name)).await? {
            return Err(TreeError::Exists);
        }
        let mut above = Some(to.clone());
        while let Some(directory) = above {
            if directory == node {
                return Err(TreeError::Loop);
            }
            above = txn.get(named("parent/", &directory)).await?;
        }
        txn.delete(entry(&from, name))?;
        txn.put(entry(&to, new_name), &node)?;
        txn.put(named("parent/", &node), &to)?;
        Ok(())
    };
    database.try_transact(rename).await?;
    Ok(())
}

/// Every node that can be reached from the root.
async fn walk(database: &Database) -> Result<BTreeSet<Bytes>, TreeError> {
    let snapshot = database.snapshot();
    let mut found = BTreeSet::new();
    let mut directories = vec![number(0)];
    while let Some(directory) = directories.pop() {
        let mut entries = snapshot.range(prefix(entry(&directory, "")));
        while let Some((_, node)) = entries.next().await? {
            assert!(found.insert(node.clone()), "{node:?} is in two places");
            let parent = snapshot.get(named("parent/", &node)).await?;
            assert_eq!(parent, Some(directory.clone()));
            directories.push(node);
        }
    }
    let nodes = snapshot.range(prefix("node/")).collect().await?;
    assert_eq!(found.len(), nodes.len(), "every node can be reached");
    Ok(found)
}

fn number(number: u64) -> Bytes {
    Bytes::from(format!("{number:016x}"))
}

fn entry(directory: &[u8], name: &str) -> Vec<u8> {
    [b"entry/", directory, b"/", name.as_bytes()].concat()
}

fn named(kind: &str, node: &[u8]) -> Vec<u8> {
    [kind.as_bytes(), node].concat()
}

/// A small generator of numbers that look random (xorshift).
fn roll(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}
