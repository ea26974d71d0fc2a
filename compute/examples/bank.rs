//! Moves money between accounts, from several tasks at once, and shows that none is lost.
//!
//! Start a cluster with `sixfold local --dir bank`, then run this with the path of its cluster file:
//! `cargo run --release -p sixfold --example bank -- bank/cluster.toml`

use sixfold::{Bytes, Database, Error, Options, Transaction};

const ACCOUNTS: u64 = 1_000;
const OPENING_BALANCE: i64 = 100;

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
    run(&database, 16, 1_000).await?;
    database.close().await;
    Ok(())
}

/// Lets `tellers` make `transfers` each, and counts the money afterwards.
pub async fn run(database: &Database, tellers: u64, transfers: u64) -> Result<(), Error> {
    database.transact(open_accounts).await?;
    let begin = std::time::Instant::now();
    let work: Vec<_> = (0..tellers)
        .map(|teller| tokio::spawn(work(database.clone(), teller, transfers)))
        .collect();
    for teller in work {
        teller.await.expect("a teller does not panic")?;
    }
    println!("{} transfers in {:?}", tellers * transfers, begin.elapsed());

    let snapshot = database.snapshot();
    let mut sum = 0;
    let mut accounts = snapshot.range(sixfold::prefix("account/"));
    while let Some((_, value)) = accounts.next().await? {
        sum += balance(Some(value));
    }
    println!("sum of all accounts at LSN {}: {sum}", snapshot.lsn());
    let expected = OPENING_BALANCE * i64::try_from(ACCOUNTS).expect("few accounts");
    assert_eq!(sum, expected);
    Ok(())
}

async fn open_accounts(txn: Transaction) -> Result<(), Error> {
    if txn.is_absent(account(0)).await? {
        for number in 0..ACCOUNTS {
            txn.put(account(number), OPENING_BALANCE.to_le_bytes())?;
        }
    }
    Ok(())
}

async fn work(database: Database, teller: u64, transfers: u64) -> Result<(), Error> {
    let mut dice = teller + 1;
    for _ in 0..transfers {
        let (from, to) = (roll(&mut dice) % ACCOUNTS, roll(&mut dice) % ACCOUNTS);
        // Run again by itself when somebody else has touched one of the two meanwhile; never applied twice.
        database.transact(|txn| transfer(txn, from, to, 5)).await?;
    }
    Ok(())
}

async fn transfer(txn: Transaction, from: u64, to: u64, amount: i64) -> Result<(), Error> {
    let payer = balance(txn.get(account(from)).await?);
    if from == to || payer < amount {
        return Ok(());
    }
    let payee = balance(txn.get(account(to)).await?);
    txn.put(account(from), (payer - amount).to_le_bytes())?;
    txn.put(account(to), (payee + amount).to_le_bytes())?;
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
