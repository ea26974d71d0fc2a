//! `sixfold node replace`, `restore` and `drain`: segments move, the volume serves on.

use std::io::{IsTerminal, Write};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use sixfold::{Operation, Subject};
use sixfold_log_format::SegmentId;

use super::{WishFlags, node_id, not_an_id, run};

/// Whose segments.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct SubjectFlags {
    /// All segments of this node
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    node: Vec<String>,
    /// This segment
    #[arg(long, value_name = "ID")]
    segment: Option<String>,
}

impl SubjectFlags {
    fn subject(&self) -> Result<Subject> {
        match (self.node.as_slice(), &self.segment) {
            ([node], _) => Ok(Subject::Node(node_id(node)?)),
            (_, Some(segment)) => {
                let segment = SegmentId::from_hex(segment).with_context(|| not_an_id(segment))?;
                Ok(Subject::Segment(segment))
            }
            _ => bail!("several nodes at once only with --declare-lost"),
        }
    }
}

/// Flags of `node replace`.
#[derive(Debug, Args)]
pub(crate) struct ReplaceArgs {
    #[command(flatten)]
    wish: WishFlags,
    #[command(flatten)]
    subject: SubjectFlags,
    /// Build the new segments on this node. Default: the least loaded one of the same availability zone
    #[arg(long, value_name = "ID", conflicts_with = "declare_lost")]
    onto: Option<String>,
    /// UNSAFE. The nodes named (several with commas) are destroyed, so that fewer than four copies of something are left: reopens the
    /// volume on the survivors alone, three and more of each protection group
    #[arg(long, requires = "node")]
    declare_lost: bool,
    /// Do not ask before an unsafe deed
    #[arg(long, requires = "declare_lost")]
    yes_i_know: bool,
}

/// Flags of `node restore`.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    #[command(flatten)]
    wish: WishFlags,
    #[command(flatten)]
    subject: SubjectFlags,
}

/// Flags of `node drain`.
#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    #[command(flatten)]
    wish: WishFlags,
    /// The node
    #[arg(long, value_name = "ID")]
    node: String,
}

/// `node replace`.
pub(crate) fn replace(args: &ReplaceArgs) -> Result<()> {
    if args.declare_lost {
        let nodes: Result<Vec<_>> = args.subject.node.iter().map(|id| node_id(id)).collect();
        return super::lost::declare(&args.wish, &nodes?, args.yes_i_know);
    }
    run("replace", &args.wish, |_| {
        Ok(Operation::Replace {
            subject: args.subject.subject()?,
            onto: args.onto.as_deref().map(node_id).transpose()?,
        })
    })
}

/// `node restore`.
pub(crate) fn restore(args: &RestoreArgs) -> Result<()> {
    run("restore", &args.wish, |_| {
        Ok(Operation::Restore {
            subject: args.subject.subject()?,
        })
    })
}

/// `node drain`.
pub(crate) fn drain(args: &DrainArgs) -> Result<()> {
    run("drain", &args.wish, |_| {
        Ok(Operation::Drain {
            node: node_id(&args.node)?,
        })
    })
}

/// Has a person at the terminal type a word before something that cannot be undone; elsewhere `flag` has to be given.
pub(crate) fn confirm(what: &str, word: &str, flag: &str) -> Result<()> {
    ensure!(
        std::io::stdin().is_terminal() && std::io::stderr().is_terminal(),
        "{what}; without a terminal give {flag}"
    );
    eprint!("{what}.\nType {word} to go on: ");
    std::io::stderr().flush()?;
    let mut typed = String::new();
    std::io::stdin().read_line(&mut typed)?;
    ensure!(typed.trim() == word, "not confirmed: nothing was done");
    Ok(())
}
