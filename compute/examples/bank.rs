//! Moves money between accounts, from several tasks at once, and shows that none is lost.
//!
//! Start a cluster with `sixfold local --dir bank`, then run this with the path of its cluster file:
//! `cargo run --release -p sixfold --example bank -- bank/cluster.toml`

use sixfold::{Bytes, Database, Error, Options};

const ACCOUNTS: u64 = 1_000;
const OPENING_BALANCE: i64 = 100;
const TELLERS: u64 = 16;
const TRANSFERS_PER_TELLER: u64 = 1_000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let Some(path) = std::env::args().nth(1) else {
        eprintln!("usage: bank CLUSTER_FILE");
        std::process::exit(2);
    };
    let options = Options::from_cluster_file(path)?;
    let database = match Database::create(options.clone()).await {
        Err(Error::Exists { .. }) => Database::open(options).await?,
        created => created?,
    };
    open_accounts(&database).await?;

    let begin = std::time::Instant::now();
    let tellers: Vec<_> = (0..TELLERS)
        .map(|teller| tokio::spawn(work(database.clone(), teller)))
        .collect();
    let mut conflicts = 0;
    for teller in tellers {
        conflicts += teller.await.expect("a teller does not panic")?;
    }
    let transfers = TELLERS * TRANSFERS_PER_TELLER;
    println!(
        "{transfers} transfers in {:?}, {conflicts} conflicts",
        begin.elapsed()
    );

    let snapshot = database.snapshot();
    let mut sum = 0;
    let mut accounts = snapshot.range(sixfold::prefix("account/"));
    while let Some((_, value)) = accounts.next().await? {
        sum += balance(Some(value));
    }
    println!("sum of all accounts at LSN {}: {sum}", snapshot.lsn());
    assert_eq!(
        sum,
        OPENING_BALANCE * i64::try_from(ACCOUNTS).expect("few accounts")
    );
    database.close().await;
    Ok(())
}

async fn open_accounts(database: &Database) -> Result<(), Error> {
    let txn = database.begin().await?;
    if txn.get(account(0)).await?.is_some() {
        return Ok(());
    }
    for number in 0..ACCOUNTS {
        txn.put(account(number), OPENING_BALANCE.to_le_bytes())?;
    }
    txn.commit().await?;
    Ok(())
}

/// Does one teller's transfers, each again until it is committed. Returns how many times it had to.
async fn work(database: Database, teller: u64) -> Result<u64, Error> {
    let mut dice = teller + 1;
    let mut conflicts = 0;
    for _ in 0..TRANSFERS_PER_TELLER {
        let (from, to, amount) = (roll(&mut dice) % ACCOUNTS, roll(&mut dice) % ACCOUNTS, 5);
        loop {
            match transfer(&database, from, to, amount).await {
                Ok(()) => break,
                Err(error) if error.is_retryable() => conflicts += 1,
                Err(error) => return Err(error),
            }
        }
    }
    Ok(conflicts)
}

async fn transfer(database: &Database, from: u64, to: u64, amount: i64) -> Result<(), Error> {
    let txn = database.begin().await?;
    let payer = balance(txn.get(account(from)).await?);
    if from == to || payer < amount {
        return Ok(());
    }
    let payee = balance(txn.get(account(to)).await?);
    txn.put(account(from), (payer - amount).to_le_bytes())?;
    txn.put(account(to), (payee + amount).to_le_bytes())?;
    txn.commit().await?;
    Ok(())
}

fn account(number: u64) -> String {
    format!("account/{number:06}")
}

fn balance(value: Option<Bytes>) -> i64 {
    value
        .and_then(|value| Some(i64::from_le_bytes(value.as_ref().try_into().ok()?)))
        .unwrap_or(0)
}

/// A small generator of numbers that look random (xorshift).
fn roll(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}
