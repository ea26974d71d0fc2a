//! `sixfold shell`: get, put, delete, scan, begin, commit on the volume of a running local cluster. Works with its input
//! piped: then there is no prompt, and the first failing line ends it with an error.

use std::io::{BufRead, IsTerminal};
use std::ops::Bound;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use reedline::{DefaultPrompt, DefaultPromptSegment, Reedline, Signal};
use sixfold::{Database, Error, Options, Range, ReadOnly, Transaction};

use crate::cluster_dir::{ClusterDir, SettingArgs};
use crate::observe::collect::Slot;
use crate::observe::{ServeArgs, Source};

/// Flags of `shell`.
#[derive(Debug, Args)]
pub(crate) struct ShellArgs {
    /// Where the cluster is kept
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Take the volume over from a writer that is alive
    #[arg(long)]
    take_over: bool,
    /// Only read, as of one point: disturbs no writer, and works with three nodes of each protection group
    #[arg(long, conflicts_with = "take_over")]
    read_only: bool,
    #[command(flatten)]
    settings: SettingArgs,
    #[command(flatten)]
    serve: ServeArgs,
}

const HELP: &str = "\
get KEY                  the value of a key
put KEY VALUE            sets a key; the value is the rest of the line
delete KEY               removes a key
scan [FROM [TO]]         keys from FROM (inclusive) to TO (exclusive), at most 100
begin | commit | rollback
                         a transaction; without begin each line is one
status                   points of the volume and its segments
refresh                  the state of now, in a read-only shell
help | exit
Text is UTF-8; \\xHH in a key or value stands for a byte.";

/// A writer counts as alive for a second after it was last heard, also when it was closed: one shell right behind another
/// waits that long before it says that the volume is in use.
const IN_USE_LIMIT: Duration = Duration::from_millis(1_500);
/// How often it asks meanwhile.
const IN_USE_INTERVAL: Duration = Duration::from_millis(100);

/// Most lines that a scan prints.
const SCAN_COUNT_MAX: usize = 100;

struct Shell {
    volume: Volume,
    /// For whoever looks at the process.
    slot: Slot,
    transaction: Option<Transaction>,
}

/// What the lines are for.
#[derive(Clone)]
enum Volume {
    Open(Database),
    ReadOnly(ReadOnly),
}

impl Volume {
    async fn open(options: Options, args: &ShellArgs) -> Result<Volume> {
        if args.read_only {
            let reader = Database::open_read_only(options).await?;
            return Ok(Volume::ReadOnly(reader));
        }
        Ok(Volume::Open(open(options, args.take_over).await?))
    }

    /// Shows it to whoever looks at the process.
    fn show(&self, slot: &Slot) {
        match self {
            Volume::Open(database) => slot.set(Some(database.clone())),
            Volume::ReadOnly(reader) => slot.set_reader(reader),
        }
    }

    /// The volume for what a reader cannot do.
    fn writable(&self) -> Result<&Database> {
        match self {
            Volume::Open(database) => Ok(database),
            Volume::ReadOnly(reader) => bail!(
                "the volume is open read-only, {}; nothing can be changed",
                reader.as_of()
            ),
        }
    }

    async fn close(&self) {
        match self {
            Volume::Open(database) => database.close().await,
            Volume::ReadOnly(reader) => reader.close().await,
        }
    }
}

/// Opens the volume (creates it at the first use) and reads lines until `exit` or the end of the input.
pub(crate) fn run(args: &ShellArgs) -> Result<()> {
    let dir = ClusterDir::at(&args.dir)?;
    let options = dir.options(&args.settings)?;
    let slot = Slot::default();
    let _served = args.serve.serve(
        "shell",
        Source::Writer {
            slot: slot.clone(),
            cluster: options.cluster().clone(),
        },
    )?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let volume = runtime.block_on(Volume::open(options, args))?;
    volume.show(&slot);
    let mut shell = Shell {
        volume,
        slot,
        transaction: None,
    };
    let ended = if std::io::stdin().is_terminal() {
        interactive(&runtime, &mut shell)
    } else {
        piped(&runtime, &mut shell)
    };
    shell.transaction = None;
    shell.slot.set(None);
    runtime.block_on(shell.volume.close());
    ended
}

/// Opens the volume, and creates it where it does not exist yet.
pub(crate) async fn open(options: Options, take_over: bool) -> Result<Database> {
    let begun = Instant::now();
    let opened = loop {
        let opened = if take_over {
            Database::take_over(options.clone()).await
        } else {
            Database::open(options.clone()).await
        };
        if !matches!(opened, Err(Error::InUse { .. })) || begun.elapsed() >= IN_USE_LIMIT {
            break opened;
        }
        tokio::time::sleep(IN_USE_INTERVAL).await;
    };
    match opened {
        Ok(database) => Ok(database),
        Err(Error::NoVolume { .. }) => {
            eprintln!("the volume does not exist yet; creating it");
            Ok(Database::create(options).await?)
        }
        Err(error @ Error::InUse { .. }) => {
            Err(error).context("use --take-over to fence the writer that is alive")
        }
        Err(error) => Err(error.into()),
    }
}

fn interactive(runtime: &tokio::runtime::Runtime, shell: &mut Shell) -> Result<()> {
    say!("sixfold shell; help lists the commands");
    let mut editor = Reedline::create();
    loop {
        let mark = if shell.transaction.is_some() {
            "sixfold*"
        } else {
            "sixfold"
        };
        let prompt = DefaultPrompt::new(
            DefaultPromptSegment::Basic(mark.to_owned()),
            DefaultPromptSegment::Empty,
        );
        match editor.read_line(&prompt).context("cannot read a line")? {
            Signal::Success(line) => match runtime.block_on(shell.execute(&line)) {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(error) => say!("error: {}", crate::in_one_line(&error)),
            },
            _ => return Ok(()),
        }
    }
}

fn piped(runtime: &tokio::runtime::Runtime, shell: &mut Shell) -> Result<()> {
    for (number, line) in std::io::stdin().lock().lines().enumerate() {
        let line = line.context("cannot read standard input")?;
        if !runtime
            .block_on(shell.execute(&line))
            .with_context(|| format!("line {}", number + 1))?
        {
            break;
        }
    }
    Ok(())
}

impl Shell {
    /// Runs one line; false = leave.
    async fn execute(&mut self, line: &str) -> Result<bool> {
        let line = line.trim();
        let (verb, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        match verb {
            "" => {}
            "help" => say!("{HELP}"),
            "exit" | "quit" => return Ok(false),
            "begin" if self.transaction.is_some() => {
                bail!("a transaction is open; commit or rollback first")
            }
            "begin" => self.transaction = Some(self.volume.writable()?.begin().await?),
            "commit" => {
                let transaction = self.transaction.take().context("no transaction is open")?;
                say!("committed at {}", transaction.commit().await?.lsn);
            }
            "rollback" => {
                self.transaction
                    .take()
                    .context("no transaction is open")?
                    .rollback();
            }
            "status" => self.status().await?,
            "refresh" => self.refresh().await?,
            "get" | "put" | "delete" | "scan" => self.operate(verb, rest).await?,
            other => bail!("no command {other:?}; help lists them"),
        }
        Ok(true)
    }

    /// Runs an operation in the open transaction, or in one of its own.
    async fn operate(&self, verb: &str, rest: &str) -> Result<()> {
        if let (Volume::ReadOnly(reader), "get" | "scan") = (&self.volume, verb) {
            return match verb {
                "get" => print_value(reader.get(&one_key(rest)?).await?),
                _ => print_range(reader.range(scan_bounds(rest)?)).await,
            };
        }
        let transaction = match &self.transaction {
            Some(transaction) => transaction.clone(),
            None => self.volume.writable()?.begin().await?,
        };
        match verb {
            "get" => print_value(transaction.get(&one_key(rest)?).await?)?,
            "put" => {
                let (key, value) = rest
                    .split_once(char::is_whitespace)
                    .context("put KEY VALUE")?;
                transaction.put(&unescape(key)?, &unescape(value.trim_start())?)?;
            }
            "delete" => transaction.delete(&one_key(rest)?)?,
            _ => print_range(transaction.range(scan_bounds(rest)?)).await?,
        }
        if self.transaction.is_none() {
            let committed = transaction.commit().await?;
            if matches!(verb, "put" | "delete") {
                say!("committed at {}", committed.lsn);
            }
        }
        Ok(())
    }

    async fn refresh(&mut self) -> Result<()> {
        let Volume::ReadOnly(reader) = &self.volume else {
            bail!("only a read-only shell stays at one point");
        };
        let reader = reader.refresh().await?;
        say!("{}", reader.as_of());
        self.volume = Volume::ReadOnly(reader);
        self.volume.show(&self.slot);
        Ok(())
    }

    async fn status(&self) -> Result<()> {
        let database = match &self.volume {
            Volume::Open(database) => database,
            Volume::ReadOnly(reader) => {
                let as_of = reader.as_of();
                say!(
                    "read-only {as_of}, volume epoch {}, opened in {} ms",
                    as_of.volume_epoch,
                    as_of.open_ms()
                );
                return Ok(());
            }
        };
        let stats = database.stats().await?;
        let report = database.open_report();
        say!(
            "volume epoch {}, opened in {} ms",
            report.volume_epoch,
            report.open_ms()
        );
        say!(
            "last {} vcl {} vdl {}",
            stats.writer.last,
            stats.writer.vcl,
            stats.writer.vdl
        );
        for relation in &stats.writer.relations {
            say!(
                "segment {} node {} {} scl {}",
                relation.segment,
                relation.node,
                if relation.attached {
                    "attached"
                } else {
                    "away"
                },
                relation.scl
            );
        }
        Ok(())
    }
}

fn print_value(value: Option<sixfold::Bytes>) -> Result<()> {
    match value {
        Some(value) => say!("{}", escape(&value)),
        None => say!("(absent)"),
    }
    Ok(())
}

type Bounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

fn scan_bounds(rest: &str) -> Result<Bounds> {
    let mut words = rest.split_whitespace();
    let from = unescape(words.next().unwrap_or_default())?;
    let to = words.next().map(unescape).transpose()?;
    if words.next().is_some() {
        bail!("scan [FROM [TO]]");
    }
    Ok((
        Bound::Included(from),
        to.map_or(Bound::Unbounded, Bound::Excluded),
    ))
}

async fn print_range(range: Range) -> Result<()> {
    let mut range = range.limit(SCAN_COUNT_MAX);
    while let Some((key, value)) = range.next().await? {
        say!("{} {}", escape(&key), escape(&value));
    }
    Ok(())
}

fn one_key(rest: &str) -> Result<Vec<u8>> {
    if rest.is_empty() || rest.contains(char::is_whitespace) {
        bail!("one key is needed");
    }
    unescape(rest)
}

/// Text to bytes: `\xHH` is a byte, `\\` a backslash.
fn unescape(text: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        if first != b'\\' {
            bytes.push(first);
            continue;
        }
        if let Some(tail) = rest.strip_prefix(b"\\") {
            bytes.push(b'\\');
            rest = tail;
            continue;
        }
        let byte = rest
            .strip_prefix(b"x")
            .and_then(|hex| hex.get(..2))
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok())
            .with_context(|| {
                format!("{text:?}: a backslash needs xHH or another backslash behind it")
            })?;
        bytes.push(byte);
        rest = &rest[3..];
    }
    Ok(bytes)
}

/// Bytes to text that [`unescape`] reads back.
fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                character if character.is_control() => {
                    let mut buffer = [0; 4];
                    for byte in character.encode_utf8(&mut buffer).bytes() {
                        text.push_str(&format!("\\x{byte:02x}"));
                    }
                }
                character => text.push(character),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_survive_escaping() {
        for bytes in [
            &b"plain"[..],
            b"back\\slash",
            b"\x00\xff\n",
            "ümläut".as_bytes(),
        ] {
            assert_eq!(unescape(&escape(bytes)).unwrap(), bytes);
        }
    }

    #[test]
    fn a_lone_backslash_is_refused() {
        assert!(unescape("a\\").is_err());
        assert!(unescape("a\\x1").is_err());
        assert!(unescape("a\\xzz").is_err());
    }
}
