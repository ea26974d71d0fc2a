//! The command line of Sixfold: `sixfold VERB`. One file per verb; what a verb does lies in the libraries.

/// Prints a line; returns the error from the function when nobody reads standard output any more, where `println!` panics.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        writeln!(std::io::stdout(), $($text)*).map_err(|error| anyhow::anyhow!("cannot write to standard output: {error}"))?
    }};
}

mod bench;
mod cert;
mod child;
mod cluster_dir;
mod completions;
mod config;
mod console;
mod demo;
mod dump;
mod inspect;
mod local;
mod node;
mod observe;
mod service;
mod shell;
mod standby;
mod status;
mod storage_node;
mod top;
mod verbs;
mod volume;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// Sixfold, a log-is-the-database storage engine.
#[derive(Debug, Parser)]
#[command(name = "sixfold", version, about, propagate_version = true)]
struct Cli {
    /// What is logged on standard error, for example `info` or `sixfold_transport=debug`
    #[arg(
        long,
        global = true,
        env = "SIXFOLD_LOG",
        default_value = "warn",
        value_name = "FILTER"
    )]
    log: String,
    /// How log lines are written: for people, or a JSON object a line
    #[arg(
        long,
        global = true,
        env = "SIXFOLD_LOG_FORMAT",
        default_value = "text",
        value_name = "FORMAT"
    )]
    log_format: LogFormat,
    #[command(subcommand)]
    verb: Verb,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum LogFormat {
    /// For people.
    Text,
    /// An object a line: `timestamp`, `level`, `target`, `fields`, and the spans around it.
    Json,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the main job: six nodes, load, an outage, a crash, a reopening, and a check of every answered commit
    Demo(demo::DemoArgs),
    /// Run one storage node
    StorageNode(storage_node::StorageNodeArgs),
    /// Run six storage nodes on this machine until Ctrl-C
    Local(local::LocalArgs),
    /// Open the volume of a running local cluster and talk to it
    Shell(shell::ShellArgs),
    /// Follow the writer of a volume, and become the writer when it is gone
    Standby(standby::StandbyArgs),
    /// Show how the nodes of a cluster are
    Status(status::StatusArgs),
    /// Show how a cluster is in this terminal, live
    Top(top::TopArgs),
    /// Serve a web page that shows how a cluster is
    Console(console::ConsoleArgs),
    /// Create, show, grow or retire the volume
    #[command(subcommand)]
    Volume(volume::VolumeVerb),
    /// Add, replace or empty nodes; list or drop segments of single ones
    #[command(subcommand)]
    Node(node::NodeVerb),
    /// Tell what stands in the data directory of a node that is not running
    Inspect(inspect::InspectArgs),
    /// Write everything that the volume holds at one point into a file
    Dump(dump::DumpArgs),
    /// Write what a dump holds into a volume
    Load(dump::LoadArgs),
    /// Write and check settings files
    #[command(subcommand)]
    Config(config::ConfigVerb),
    /// Make the cluster's authority, issue and renew certificates
    #[command(subcommand)]
    Cert(cert::CertVerb),
    /// Print completions for a shell
    Completions(completions::CompletionsArgs),
    /// Write manual pages
    Man(completions::ManArgs),
    /// Measure
    Bench(bench::BenchArgs),
    /// The writer process of the demo
    #[command(hide = true)]
    DemoWriter(demo::writer::DemoWriterArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = match cli.log.parse::<tracing_subscriber::EnvFilter>() {
        Ok(filter) => filter,
        Err(error) => {
            eprintln!("sixfold: --log {}: {error}", cli.log);
            return ExitCode::from(2);
        }
    };
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(true);
    match cli.log_format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => lines.json().init(),
    }
    let result = match cli.verb {
        Verb::Demo(args) => demo::run(&args),
        Verb::StorageNode(args) => storage_node::run(args),
        Verb::Local(args) => local::run(&args),
        Verb::Shell(args) => shell::run(&args),
        Verb::Standby(args) => standby::run(&args),
        Verb::Status(args) => status::run(&args),
        Verb::Top(args) => top::run(&args),
        Verb::Console(args) => console::run(&args),
        Verb::Volume(verb) => volume::run(&verb),
        Verb::Node(verb) => node::run(&verb),
        Verb::Inspect(args) => inspect::run(&args),
        Verb::Dump(args) => dump::dump(&args),
        Verb::Load(args) => dump::load(&args),
        Verb::Config(verb) => config::run(&verb),
        Verb::Cert(verb) => cert::run(&verb),
        Verb::Completions(args) => completions::completions(&args, Cli::command()),
        Verb::Man(args) => completions::man(&args, Cli::command()),
        Verb::Bench(args) => bench::run(&args),
        Verb::DemoWriter(args) => demo::writer::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sixfold: {}", in_one_line(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error and its causes. Those of the libraries tell their causes themselves: nothing is said twice.
pub(crate) fn in_one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text.replace('\n', ", ")
}
