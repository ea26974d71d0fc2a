//! `sixfold dump` and `sixfold load`: everything that a volume holds at one point, as keys and values, in one file
//! ([`format`] has its bytes). Keyspaces and deadlines are kept; versions, tokens and the past are not.
//!
//! A dump reads as a reader does: it claims nothing and disturbs no writer. A load writes one transaction a chunk, so that what it did is
//! known to the chunk wherever it stops; to load a chunk twice changes nothing.

mod format;

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Args;
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};
use sixfold::{Database, Error, Options, Range, ReadOnly, Snapshot};
use sixfold_log_format::Lsn;
use sixfold_log_format::limits::TRANSACTION_BYTES_MAX;

use self::format::{Chunk, Entry, Head, Reader, Totals, Writer};
use crate::cluster_dir::{ClusterDir, SettingArgs, random_bytes};
use crate::observe::collect::Slot;
use crate::observe::{self, ServeArgs, Served};
use crate::verbs::outcome::{Outcome, conclude, of_library};

/// How often a read that found too few nodes is tried again.
const AGAIN_INTERVAL: Duration = Duration::from_millis(500);
/// Memory between the file and this.
const BUFFER_BYTES: usize = 1 << 20;

/// Flags of `dump`.
#[derive(Debug, Args)]
pub(crate) struct DumpArgs {
    /// Where the cluster is kept
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Where to write it, `-` for standard output. A file that is there already is left alone
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The state at this LSN instead of now. Opens the volume as its writer: refused while another writer is alive
    #[arg(long, value_name = "LSN")]
    at: Option<u64>,
    /// For how long too few nodes may answer before it gives up, seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    patience: u64,
    /// End with one JSON object on the last line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: SettingArgs,
    #[command(flatten)]
    serve: ServeArgs,
}

/// Flags of `load`.
#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// Where the cluster is kept
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The dump, `-` for standard input. A file is checked to its end before anything is written
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Load into a volume that holds something: keys that are in both get the values of the dump
    #[arg(long)]
    into_existing: bool,
    /// Go on where a load stopped: chunks below this one are there already
    #[arg(long, value_name = "CHUNK", default_value_t = 0)]
    from_chunk: u64,
    /// Only check the dump
    #[arg(long)]
    dry_run: bool,
    /// End with one JSON object on the last line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: SettingArgs,
    #[command(flatten)]
    serve: ServeArgs,
}

/// Serves metrics of what will be in the slot, where that is wanted.
fn serve(
    args: &ServeArgs,
    process: &'static str,
    options: &Options,
) -> Result<(Slot, Option<Served>)> {
    let slot = Slot::default();
    let source = observe::Source::Writer {
        slot: slot.clone(),
        cluster: options.cluster().clone(),
    };
    let served = args.serve(process, source)?;
    Ok((slot, served))
}

/// `-` is no file.
fn is_pipe(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Where a dump reads.
enum Source {
    ReadOnly(ReadOnly),
    Writer(Database),
}

impl Source {
    async fn open(
        args: &DumpArgs,
        options: Options,
        slot: &Slot,
    ) -> Result<(Source, Snapshot, Head)> {
        let volume = options.cluster().volume.to_string();
        let head = |lsn: Lsn, unix_ms, settled| Head {
            volume: volume.clone(),
            lsn: lsn.get(),
            unix_ms,
            settled,
            written_by: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let Some(lsn) = args.at else {
            let reader = Database::open_read_only(options)
                .await
                .map_err(of_library)?;
            let as_of = reader.as_of();
            if !as_of.settled {
                eprintln!(
                    "the point is unsettled: commits whose outcome was unknown may be in the dump that vanish later"
                );
            }
            let head = head(as_of.lsn, as_of.unix_ms, as_of.settled);
            let snapshot = reader.snapshot();
            slot.set_reader(&reader);
            return Ok((Source::ReadOnly(reader), snapshot, head));
        };
        let database = Database::open(options).await.map_err(of_library)?;
        slot.set(Some(database.clone()));
        match database.snapshot_at(Lsn::new(lsn)).await {
            Ok(snapshot) => {
                let head = head(snapshot.lsn(), None, true);
                Ok((Source::Writer(database), snapshot, head))
            }
            Err(error) => {
                database.close().await;
                Err(of_library(error))
            }
        }
    }

    async fn close(&self) {
        match self {
            Source::ReadOnly(reader) => reader.close().await,
            Source::Writer(database) => database.close().await,
        }
    }
}

/// `sixfold dump`.
pub(crate) fn dump(args: &DumpArgs) -> Result<()> {
    conclude("dump", false, args.json, async {
        let pipe = is_pipe(&args.file);
        ensure!(
            !(pipe && args.json),
            "--json needs a file: the dump itself goes to standard output"
        );
        ensure!(
            pipe || !args.file.exists(),
            "{} is there already",
            args.file.display()
        );
        let options = ClusterDir::at(&args.dir)?.options(&args.settings)?;
        let (slot, _served) = serve(&args.serve, "dump", &options)?;
        let (source, snapshot, head) = Source::open(args, options, &slot).await?;
        let dumped = match pipe {
            true => dump_to_pipe(args, &snapshot, &head).await,
            false => dump_to_file(args, &snapshot, &head).await,
        };
        source.close().await;
        let totals = dumped?;
        let text = format!(
            "dumped {} as of {}, checksum {:08x}",
            described(&totals),
            head.lsn,
            totals.checksum
        );
        let outcome = Outcome {
            done: totals.entries,
            of: totals.entries,
            ..Outcome::done("dump", text)
        };
        if pipe {
            eprintln!("{}", outcome.text);
            return Ok(Outcome::done("dump", ""));
        }
        Ok(outcome)
    })
}

fn described(totals: &Totals) -> String {
    format!(
        "{} entries of {} keyspaces, {}",
        HumanCount(totals.entries),
        totals.keyspaces,
        HumanBytes(totals.key_bytes + totals.value_bytes)
    )
}

async fn dump_to_pipe(args: &DumpArgs, snapshot: &Snapshot, head: &Head) -> Result<Totals> {
    let output = BufWriter::with_capacity(BUFFER_BYTES, std::io::stdout());
    let (_, totals) = write_dump(args, snapshot, head, output).await?;
    Ok(totals)
}

/// Under another name until it is whole and on disk.
async fn dump_to_file(args: &DumpArgs, snapshot: &Snapshot, head: &Head) -> Result<Totals> {
    let path = &args.file;
    let failed = || format!("cannot write {}", path.display());
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let draft = tempfile::Builder::new()
        .prefix(".sixfold-dump-")
        .tempfile_in(dir)
        .with_context(failed)?;
    let output = BufWriter::with_capacity(BUFFER_BYTES, draft.as_file());
    let (output, totals) = write_dump(args, snapshot, head, output).await?;
    output
        .into_inner()
        .map_err(|error| error.into_error())
        .and_then(File::sync_all)
        .with_context(failed)?;
    draft.persist_noclobber(path).with_context(failed)?;
    Ok(totals)
}

async fn write_dump<W: Write>(
    args: &DumpArgs,
    snapshot: &Snapshot,
    head: &Head,
    output: W,
) -> Result<(W, Totals)> {
    let patience = Duration::from_secs(args.patience);
    let progress = ProgressBar::new_spinner();
    let mut writer = Writer::new(output, random_bytes()?, head)?;
    writer.keyspace("")?;
    write_keyspace(&mut writer, snapshot.range(..), patience, &progress).await?;
    for name in snapshot.keyspaces().await.map_err(explained)? {
        let keyspace = snapshot.within_name(&name).await.map_err(explained)?;
        let keyspace = keyspace.with_context(|| format!("keyspace {name:?} has no row"))?;
        writer.keyspace(&name)?;
        write_keyspace(&mut writer, keyspace.range(..), patience, &progress).await?;
    }
    let finished = writer.finish().context("cannot write the dump")?;
    progress.finish_and_clear();
    Ok(finished)
}

async fn write_keyspace<W: Write>(
    writer: &mut Writer<W>,
    mut range: Range,
    patience: Duration,
    progress: &ProgressBar,
) -> Result<()> {
    let mut silent_since: Option<Instant> = None;
    loop {
        let (key, value, deadline_ms) = match range.next_with_deadline().await {
            Ok(Some(entry)) => entry,
            Ok(None) => return Ok(()),
            // It goes on where it stood.
            Err(Error::Unavailable { .. })
                if silent_since.get_or_insert_with(Instant::now).elapsed() < patience =>
            {
                tokio::time::sleep(AGAIN_INTERVAL).await;
                continue;
            }
            Err(error) => return Err(explained(error)),
        };
        silent_since = None;
        writer
            .entry(&key, &value, deadline_ms)
            .context("cannot write the dump")?;
        let totals = writer.totals();
        if totals.entries.is_multiple_of(1_024) {
            progress.set_message(described(totals));
            progress.tick();
        }
    }
}

/// What ended a dump, and what to do.
fn explained(error: Error) -> anyhow::Error {
    let advice = match &error {
        Error::TooOld { .. } => {
            "the volume does not keep the past for as long as the dump takes: dump again, or with a longer retention"
        }
        Error::Unavailable { .. } => "too few nodes answer: dump again when they do",
        _ => "the dump was not written",
    };
    of_library(error).context(advice)
}

/// `sixfold load`.
pub(crate) fn load(args: &LoadArgs) -> Result<()> {
    conclude("load", args.dry_run, args.json, async {
        let pipe = is_pipe(&args.file);
        let mut checked = None;
        if !pipe {
            checked =
                Some(check(open(&args.file)?).with_context(|| args.file.display().to_string())?);
        }
        if args.dry_run {
            let (head, totals) = match checked {
                Some(checked) => checked,
                None => check(Box::new(std::io::stdin().lock()))?,
            };
            let text = format!(
                "a whole dump of volume {} as of {}: {}",
                head.volume,
                head.lsn,
                described(&totals)
            );
            return Ok(Outcome {
                of: totals.entries,
                ..Outcome::planned("load", Vec::new(), text)
            });
        }
        let input: Box<dyn Read> = match pipe {
            true => Box::new(std::io::stdin().lock()),
            false => open(&args.file)?,
        };
        let options = ClusterDir::at(&args.dir)?
            .options(&args.settings)?
            .transact_bytes_max(TRANSACTION_BYTES_MAX);
        let (slot, _served) = serve(&args.serve, "load", &options)?;
        let database = crate::shell::open(options, false).await?;
        slot.set(Some(database.clone()));
        let loaded = load_into(args, &database, input).await;
        database.close().await;
        loaded
    })
}

fn open(path: &Path) -> Result<Box<dyn Read>> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, file)))
}

/// Reads a dump to its end.
fn check(input: Box<dyn Read>) -> Result<(Head, Totals)> {
    let mut reader = Reader::new(input)?;
    let Some(Chunk::Head(head)) = reader.next()? else {
        bail!("the dump has no head");
    };
    let mut totals = Totals::default();
    while let Some(chunk) = reader.next()? {
        if let Chunk::End(end) = chunk {
            totals = end;
        }
    }
    Ok((head, totals))
}

async fn load_into(args: &LoadArgs, database: &Database, input: Box<dyn Read>) -> Result<Outcome> {
    if !args.into_existing && args.from_chunk == 0 {
        let snapshot = database.snapshot();
        let held = snapshot
            .range(..)
            .limit(1)
            .collect()
            .await
            .map_err(of_library)?;
        let names = snapshot.keyspaces().await.map_err(of_library)?;
        ensure!(
            held.is_empty() && names.is_empty(),
            "the volume is not empty; --into-existing loads into it all the same"
        );
    }
    let progress = match args.file.metadata() {
        Ok(metadata) => ProgressBar::new(metadata.len()).with_style(
            ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {eta} {msg}")
                .expect("the template is well formed"),
        ),
        Err(_) => ProgressBar::new_spinner(),
    };
    let mut reader = Reader::new(input)?;
    let mut loading = Loading {
        database,
        keyspace: None,
        entries: 0,
        expired: 0,
    };
    let mut seen = Totals::default();
    loop {
        let number = reader.number();
        let stopped = || {
            format!(
                "stopped at chunk {number}, all before it is committed: go on with --from-chunk {number}"
            )
        };
        let Some(chunk) = reader.next().with_context(stopped)? else {
            break;
        };
        match chunk {
            Chunk::Head(_) => {}
            Chunk::Keyspace(name) => loading.begin_keyspace(&name).await.with_context(stopped)?,
            Chunk::Entries(_) if number < args.from_chunk => {}
            Chunk::Entries(entries) => loading.write(&entries).await.with_context(stopped)?,
            Chunk::End(totals) => seen = totals,
        }
        progress.set_position(reader.offset());
    }
    progress.finish_and_clear();
    let mut text = format!(
        "loaded {} of {} entries of {} keyspaces",
        HumanCount(loading.entries),
        HumanCount(seen.entries),
        seen.keyspaces
    );
    if loading.expired > 0 {
        text = format!("{text}; {} had expired", HumanCount(loading.expired));
    }
    Ok(Outcome {
        done: loading.entries,
        of: seen.entries,
        ..Outcome::done("load", text)
    })
}

/// A load under way.
struct Loading<'a> {
    database: &'a Database,
    /// `None` for the default one.
    keyspace: Option<sixfold::Keyspace>,
    entries: u64,
    expired: u64,
}

impl Loading<'_> {
    async fn begin_keyspace(&mut self, name: &str) -> Result<()> {
        self.keyspace = match name {
            "" => None,
            name => Some(
                self.database
                    .create_keyspace(name)
                    .await
                    .map_err(of_library)?,
            ),
        };
        Ok(())
    }

    /// One transaction.
    async fn write(&mut self, entries: &[Entry]) -> Result<()> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let now_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let is_alive = |entry: &&Entry| entry.deadline_ms.is_none_or(|deadline| deadline > now_ms);
        let alive: Vec<&Entry> = entries.iter().filter(is_alive).collect();
        let keyspace = self.keyspace.as_ref();
        let written = self.database.transact(|txn| {
            let txn = match keyspace {
                Some(keyspace) => txn.within(keyspace),
                None => txn,
            };
            let put = alive.iter().try_for_each(|entry| match entry.deadline_ms {
                Some(deadline_ms) => txn.put_until(&entry.key, &entry.value, deadline_ms),
                None => txn.put(&entry.key, &entry.value),
            });
            async move { put }
        });
        written.await.map_err(|error| anyhow!(error))?;
        self.entries += alive.len() as u64;
        self.expired += (entries.len() - alive.len()) as u64;
        Ok(())
    }
}
