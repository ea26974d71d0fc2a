//! `sixfold cert`: the authority of a cluster and the certificates that it issues. The authority's key is needed here alone; no
//! process of the cluster reads it.
//!
//! A renewed certificate is taken up by the running process within seconds; connections that are open stay open.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand, ValueEnum};
use sixfold_log_format::NodeId;
use sixfold_log_format::wire::Role;
use sixfold_storage_node::TLS_NAME;
use sixfold_transport::endpoint::role_name;
use sixfold_transport::{ClusterCa, Identity};

use crate::verbs::node_id;

/// Verbs of `cert`.
#[derive(Debug, Subcommand)]
pub(crate) enum CertVerb {
    /// Make the authority of a new cluster: ca.pem and ca-key.pem
    Ca(CaArgs),
    /// Issue a certificate
    Issue(IssueArgs),
    /// Issue the certificates of a directory anew, for the same parties
    Renew(RenewArgs),
}

/// Flags of `cert ca`.
#[derive(Debug, Args)]
pub(crate) struct CaArgs {
    /// Where to write them; made when it is not there
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// Where the authority is, and for how long it issues.
#[derive(Debug, Args)]
struct Authority {
    /// Directory with ca.pem and ca-key.pem
    #[arg(long, value_name = "DIR")]
    ca: PathBuf,
    /// For how long the certificate is valid, days
    #[arg(long, default_value_t = 3_652, value_parser = clap::value_parser!(u64).range(1..=36_520))]
    days: u64,
}

impl Authority {
    fn load(&self) -> Result<ClusterCa> {
        Ok(ClusterCa::load(&self.ca)?)
    }

    fn validity(&self) -> Duration {
        Duration::from_secs(self.days * 86_400)
    }
}

/// Flags of `cert issue`.
#[derive(Debug, Args)]
pub(crate) struct IssueArgs {
    /// For whom
    #[arg(value_name = "ROLE")]
    role: RoleName,
    #[command(flatten)]
    authority: Authority,
    /// Where to write ca.pem, ROLE.pem and ROLE-key.pem; made when it is not there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The node's id, 32 hexadecimal digits: for a node, and only for one
    #[arg(long, value_name = "ID", required_if_eq("role", "node"))]
    node: Option<String>,
}

/// Flags of `cert renew`.
#[derive(Debug, Args)]
pub(crate) struct RenewArgs {
    /// Directory with certificates; those of node, writer, reader and operator in it are renewed, each with a new key
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    #[command(flatten)]
    authority: Authority,
}

/// A role, as a flag writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RoleName {
    /// A storage node
    Node,
    /// Whoever opens the volume for writing
    Writer,
    /// Whoever only reads
    Reader,
    /// Whoever looks after the cluster
    Operator,
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Role {
        match name {
            RoleName::Node => Role::Node,
            RoleName::Writer => Role::Writer,
            RoleName::Reader => Role::Reader,
            RoleName::Operator => Role::Operator,
        }
    }
}

/// Runs one of them.
pub(crate) fn run(verb: &CertVerb) -> Result<()> {
    match verb {
        CertVerb::Ca(args) => make_ca(&args.dir),
        CertVerb::Issue(args) => issue(args),
        CertVerb::Renew(args) => renew(args),
    }
}

fn make_ca(dir: &Path) -> Result<()> {
    for name in ["ca.pem", "ca-key.pem"] {
        let path = dir.join(name);
        // Everything that it issued would be worth nothing.
        ensure!(!path.exists(), "{} is there already", path.display());
    }
    ClusterCa::generate()?.save(dir)?;
    say!(
        "made an authority in {}; keep ca-key.pem away from the cluster",
        dir.display()
    );
    Ok(())
}

/// The name of a role's files.
fn file_name(role: Role) -> &'static str {
    match role {
        Role::Node => TLS_NAME,
        role => role_name(role),
    }
}

fn issue(args: &IssueArgs) -> Result<()> {
    let role = Role::from(args.role);
    let node: Option<NodeId> = args.node.as_deref().map(node_id).transpose()?;
    let name = file_name(role);
    for file in [format!("{name}.pem"), format!("{name}-key.pem")] {
        let path = args.out.join(file);
        ensure!(
            !path.exists(),
            "{} is there already; `sixfold cert renew` replaces it",
            path.display()
        );
    }
    let authority = args.authority.load()?;
    keep_authority(&args.out, &args.authority.ca)?;
    let identity = authority.issue_for(role, node, args.authority.validity())?;
    identity.save(&args.out, name)?;
    say!(
        "issued {}/{name}.pem, valid for {} days",
        args.out.display(),
        args.authority.days
    );
    Ok(())
}

/// A directory trusts one authority: another one's certificate would make those in it worthless.
fn keep_authority(dir: &Path, ca: &Path) -> Result<()> {
    let held = dir.join("ca.pem");
    if !held.exists() {
        return Ok(());
    }
    let read = |path: &Path| {
        std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
    };
    if read(&held)? != read(&ca.join("ca.pem"))? {
        bail!(
            "{} is of another authority than {}",
            held.display(),
            ca.display()
        );
    }
    Ok(())
}

fn renew(args: &RenewArgs) -> Result<()> {
    let authority = args.authority.load()?;
    keep_authority(&args.dir, &args.authority.ca)?;
    let mut renewed = 0;
    for role in [Role::Node, Role::Writer, Role::Reader, Role::Operator] {
        let name = file_name(role);
        if !args.dir.join(format!("{name}.pem")).exists() {
            continue;
        }
        let (role, node) = Identity::named_in(&args.dir, name)?;
        let identity = authority.issue_for(role, node, args.authority.validity())?;
        identity.save(&args.dir, name)?;
        renewed += 1;
        say!(
            "renewed {}/{name}.pem, valid for {} days",
            args.dir.display(),
            args.authority.days
        );
    }
    ensure!(renewed > 0, "{} holds no certificates", args.dir.display());
    Ok(())
}
