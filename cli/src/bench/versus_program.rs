//! `sixfold-versus`, the program with the peers: looked for, started, spoken to. It has a workspace of its own (`benches/versus`),
//! so that nobody builds other databases to use or test this one.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;
use sixfold_benches::points::{PointRun, Round};

use crate::child::OwnedChild;
use crate::cluster_dir::path_text;

/// Its name.
const PROGRAM: &str = "sixfold-versus";
/// Where cargo puts it, from the root of a checkout.
const BUILT: [&str; 2] = [
    "benches/versus/target/release",
    "benches/versus/target/debug",
];
/// What to say when it is not there.
const HOW_TO_BUILD: &str =
    "sixfold-versus is not built (cargo build --release --manifest-path benches/versus/Cargo.toml)";
/// How long a peer may take to load its rows.
const LOAD_LIMIT: Duration = Duration::from_secs(600);
/// How long starting and ending a peer may take, beside the measuring.
const SETUP_LIMIT: Duration = Duration::from_secs(180);

/// The program, where it is.
#[derive(Debug, Clone)]
pub(super) struct VersusProgram(PathBuf);

/// What it says that could not be measured here, or what was.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome<T> {
    /// It was measured.
    Row(T),
    /// It is not installed or not built in; why.
    Skipped(String),
}

impl VersusProgram {
    /// The one that is named, or the one beside this program, or that of the checkout in which this program or the current
    /// directory lies.
    ///
    /// # Errors
    /// How to build it, when it is nowhere.
    pub(super) fn find(named: Option<&Path>) -> Result<VersusProgram> {
        if let Some(path) = named {
            if !path.is_file() {
                bail!("{} is no file", path.display());
            }
            return Ok(VersusProgram(path.to_owned()));
        }
        let own = std::env::current_exe().unwrap_or_default();
        let beside = own.parent().map(Path::to_owned);
        let here = std::env::current_dir().ok();
        let roots = own.ancestors().map(Path::to_owned).chain(here);
        let built = roots.flat_map(|root| BUILT.map(|dir| root.join(dir)));
        let found = beside
            .into_iter()
            .chain(built)
            .map(|dir| dir.join(PROGRAM))
            .find(|path| path.is_file());
        found.map(VersusProgram).context(HOW_TO_BUILD)
    }

    /// Runs a load of commits on a peer. Its data goes into `dir`.
    pub(super) async fn commits(
        &self,
        system: &str,
        flags: &[String],
        time: Duration,
        dir: &Path,
    ) -> Result<Outcome<Value>> {
        let mut args = vec!["commit".to_owned(), format!("--system={system}")];
        args.extend_from_slice(flags);
        args.push(format!("--dir={}", path_text(dir)?));
        let mut child = OwnedChild::start_program(system, &self.0, &args)?;
        let said = child.wait_for("done ", SETUP_LIMIT + time).await?;
        let outcome =
            serde_json::from_str(&said).with_context(|| format!("{system} said {said:?}"))?;
        child.finish(SETUP_LIMIT).await?;
        Ok(outcome)
    }

    /// Starts a peer that holds rows to be read.
    pub(super) async fn reader(
        &self,
        system: &str,
        keys: u64,
        value_bytes: u32,
        cache_mib: u64,
        dir: &Path,
    ) -> Result<Outcome<Reader>> {
        let args = [
            "read".to_owned(),
            format!("--system={system}"),
            format!("--keys={keys}"),
            format!("--value-bytes={value_bytes}"),
            format!("--cache-mib={cache_mib}"),
            format!("--dir={}", path_text(dir)?),
        ];
        let mut child = OwnedChild::start_program(system, &self.0, &args)?;
        let said = child.wait_for("ready ", LOAD_LIMIT).await?;
        let outcome: Outcome<String> =
            serde_json::from_str(&said).with_context(|| format!("{system} said {said:?}"))?;
        Ok(match outcome {
            Outcome::Row(settings) => Outcome::Row(Reader { child, settings }),
            Outcome::Skipped(why) => Outcome::Skipped(why),
        })
    }
}

/// A peer that holds rows, in a process of its own.
#[derive(Debug)]
pub(super) struct Reader {
    child: OwnedChild,
    settings: String,
}

impl Reader {
    /// Its version and how it was set.
    pub(super) fn settings(&self) -> &str {
        &self.settings
    }

    /// Runs a round.
    pub(super) async fn round(&mut self, round: Round) -> Result<PointRun> {
        self.child.tell(&serde_json::to_string(&round)?)?;
        let limit = SETUP_LIMIT + Duration::from_millis(round.time_ms);
        let said = self.child.wait_for("round ", limit).await?;
        serde_json::from_str(&said).with_context(|| format!("a peer said {said:?}"))
    }

    /// Ends it.
    pub(super) async fn finish(self) -> Result<()> {
        self.child.finish(SETUP_LIMIT).await
    }
}
