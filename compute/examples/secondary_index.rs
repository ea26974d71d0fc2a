//! An index that never disagrees with what it indexes: rows and index change in one transaction.
//!
//! Start a cluster with `sixfold local --dir people`, then run this with the path of its cluster file:
//! `cargo run --release -p sixfold --example secondary_index -- people/cluster.toml`

use std::collections::BTreeSet;

use sixfold::{Database, Error, Keyspace, Options, Snapshot, Transaction, prefix};

const CITIES: [&str; 4] = ["Oslo", "Lima", "Kyoto", "Accra"];

/// People by number, and the index: city and number to nothing.
#[derive(Debug, Clone)]
struct People {
    by_number: Keyspace,
    by_city: Keyspace,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let Some(path) = std::env::args().nth(1) else {
        eprintln!("usage: secondary_index CLUSTER_FILE");
        std::process::exit(2);
    };
    let options = Options::from_cluster_file(path)?;
    let database = match Database::create(options.clone()).await {
        Err(Error::Exists { .. }) => Database::open(options).await?,
        created => created?,
    };
    run(&database, 8, 200).await?;
    database.close().await;
    Ok(())
}

/// Lets people move, from several tasks at once, and compares the index with them.
pub async fn run(database: &Database, tasks: u64, moves: u64) -> Result<(), Error> {
    let people = People {
        by_number: database.create_keyspace("people").await?,
        by_city: database.create_keyspace("people by city").await?,
    };
    let moving: Vec<_> = (0..tasks)
        .map(|task| {
            let people = people.clone();
            tokio::spawn(async move {
                let mut dice = task + 1;
                for _ in 0..moves {
                    let (person, city) = (roll(&mut dice) % 20, roll(&mut dice) % 4);
                    let city = CITIES[usize::try_from(city).expect("four cities")];
                    people.moves(&format!("{person:04}"), city).await?;
                }
                Ok::<_, Error>(())
            })
        })
        .collect();
    for task in moving {
        task.await.expect("nobody panics")?;
    }
    let snapshot = database.snapshot();
    let mut indexed = BTreeSet::new();
    for city in CITIES {
        let inhabitants = people.inhabitants(&snapshot, city).await?;
        println!("{city}: {} people", inhabitants.len());
        for person in inhabitants {
            assert!(indexed.insert((person, city.to_owned())));
        }
    }
    let rows = snapshot
        .within(&people.by_number)
        .range(..)
        .collect()
        .await?;
    let rows: BTreeSet<_> = rows
        .iter()
        .map(|(person, city)| (text(person), text(city)))
        .collect();
    assert_eq!(indexed, rows, "the index says what the rows say");
    Ok(())
}

impl People {
    /// A person moves, or is born.
    async fn moves(&self, person: &str, city: &str) -> Result<(), Error> {
        self.by_number
            .transact(|people| async move {
                let index: Transaction = people.within(&self.by_city);
                if let Some(before) = people.get(person).await? {
                    index.delete(entry(&text(&before), person))?;
                }
                index.put(entry(city, person), "")?;
                people.put(person, city)
            })
            .await
    }

    /// The people of a city, without looking at anybody else.
    async fn inhabitants(&self, snapshot: &Snapshot, city: &str) -> Result<Vec<String>, Error> {
        let start = entry(city, "");
        let entries = snapshot.within(&self.by_city).range(prefix(&start));
        let entries = entries.collect().await?;
        Ok(entries
            .iter()
            .map(|(key, _)| text(&key[start.len()..]))
            .collect())
    }
}

fn entry(city: &str, person: &str) -> String {
    format!("{city}/{person}")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A small generator of numbers that look random (xorshift).
fn roll(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}
