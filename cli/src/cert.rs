//! `sixfold cert`: the authority of a cluster and the certificates that it issues. The authority's key is needed here alone; no
//! process of the cluster reads it.
//!
//! A renewed certificate is taken up by the running process within seconds; connections that are open stay open.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use sixfold_log_format::NodeId;
use sixfold_log_format::wire::Role;
use sixfold_storage_node::TLS_NAME;
use sixfold_transport::certificate::{self, Facts};
use sixfold_transport::endpoint::role_name;
use sixfold_transport::{ClusterCa, Identity};

use crate::verbs::node_id;

/// Names of the certificates in a directory.
const NAMES: [&str; 4] = [TLS_NAME, "writer", "reader", "operator"];

/// Verbs of `cert`.
#[derive(Debug, Subcommand)]
pub(crate) enum CertVerb {
    /// Make the authority of a new cluster: ca.pem and ca-key.pem
    Ca(CaArgs),
    /// Issue a certificate
    Issue(IssueArgs),
    /// Issue the certificates of a directory anew, for the same parties
    Renew(RenewArgs),
    /// Show whose the certificates of a directory are, until when, and of which authority
    Show(ShowArgs),
    /// Trust another authority, too: the first step from one to another
    Trust(TrustArgs),
    /// Trust an authority no longer: the last step
    Distrust(TrustArgs),
}

/// Flags of `cert show`.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// Directory with certificates
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// End with one JSON object on the last line
    #[arg(long)]
    json: bool,
}

/// Flags of `cert trust` and `cert distrust`.
#[derive(Debug, Args)]
pub(crate) struct TrustArgs {
    /// Directory with certificates, of a node or of a client
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Directory with the authority's ca.pem; its key is not needed
    #[arg(long, value_name = "DIR")]
    ca: PathBuf,
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
        CertVerb::Show(args) => show(args),
        CertVerb::Trust(args) => trust(args),
        CertVerb::Distrust(args) => distrust(args),
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
    save(&identity, &args.out, name)?;
    say!(
        "issued {}/{name}.pem, valid for {} days",
        args.out.display(),
        args.authority.days
    );
    Ok(())
}

/// What is issued into a directory is of an authority that is trusted there.
fn keep_authority(dir: &Path, ca: &Path) -> Result<()> {
    let held = dir.join("ca.pem");
    let ca_file = ca.join("ca.pem");
    if !held.exists() {
        return Ok(());
    }
    ensure!(
        certificate::trusts(dir, &ca_file)?,
        "{} is of another authority than {}; `sixfold cert trust` adds it",
        held.display(),
        ca.display()
    );
    Ok(())
}

/// Writes a certificate and its key; `ca.pem` only where there is none, since it may name more authorities than one.
fn save(identity: &Identity, dir: &Path, name: &str) -> Result<()> {
    if dir.join("ca.pem").exists() {
        identity.save_own(dir, name)?;
    } else {
        identity.save(dir, name)?;
    }
    Ok(())
}

/// The object of `cert show`.
#[derive(Debug, Serialize)]
struct Shown {
    certificates: Vec<ShownCertificate>,
    authorities: Vec<ShownCertificate>,
}

#[derive(Debug, Serialize)]
struct ShownCertificate {
    file: String,
    /// `node`, `writer`, `reader` or `operator`; absent for an authority.
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    not_after: String,
    not_after_unix_seconds: u64,
    days_left: i64,
    /// SHA-256.
    fingerprint: String,
    /// The fingerprint of the authority that issued it; absent when none in ca.pem did, or when it is not valid now.
    #[serde(skip_serializing_if = "Option::is_none")]
    issuer: Option<String>,
}

fn shown(file: &Path, facts: Facts) -> ShownCertificate {
    let seconds = |time: SystemTime| {
        let since = time.duration_since(SystemTime::UNIX_EPOCH);
        since.map_or(0, |since| since.as_secs())
    };
    let end = seconds(facts.not_after);
    let left = end.cast_signed() - seconds(SystemTime::now()).cast_signed();
    ShownCertificate {
        file: file.display().to_string(),
        role: facts.party.map(|(role, _)| role_name(role)),
        node: facts
            .party
            .and_then(|(_, node)| node.map(|node| node.to_string())),
        not_after: certificate::rfc3339(facts.not_after),
        not_after_unix_seconds: end,
        days_left: left.div_euclid(86_400),
        fingerprint: facts.fingerprint,
        issuer: facts.issuer,
    }
}

fn show(args: &ShowArgs) -> Result<()> {
    let ca_file = args.dir.join("ca.pem");
    let authorities = certificate::of_authorities(&ca_file)?;
    let mut certificates = Vec::new();
    for name in NAMES {
        let file = args.dir.join(format!("{name}.pem"));
        if file.exists() {
            let facts = certificate::of_party(&file, &ca_file)?;
            certificates.push(shown(&file, facts));
        }
    }
    let authorities = authorities.into_iter();
    let all = Shown {
        certificates,
        authorities: authorities.map(|facts| shown(&ca_file, facts)).collect(),
    };
    for one in &all.certificates {
        let node = one.node.as_ref();
        say!(
            "{} {}{} until {} ({} days), sha-256 {}, {}",
            one.file,
            one.role.unwrap_or("of no party"),
            node.map_or(String::new(), |node| format!(" {node}")),
            one.not_after,
            one.days_left,
            one.fingerprint,
            match &one.issuer {
                Some(issuer) => format!("issued by {issuer}"),
                None => "NOT ISSUED by an authority in ca.pem, or not valid now".to_owned(),
            }
        );
    }
    for one in &all.authorities {
        say!(
            "{} authority until {} ({} days), sha-256 {}",
            one.file,
            one.not_after,
            one.days_left,
            one.fingerprint
        );
    }
    if args.json {
        say!("{}", serde_json::to_string(&all)?);
    }
    Ok(())
}

fn trust(args: &TrustArgs) -> Result<()> {
    let added = certificate::trust(&args.dir, &args.ca.join("ca.pem"))?;
    say!(
        "{}: {added} authorities added",
        args.dir.join("ca.pem").display()
    );
    Ok(())
}

fn distrust(args: &TrustArgs) -> Result<()> {
    let removed = certificate::distrust(&args.dir, &args.ca.join("ca.pem"), &NAMES)?;
    say!(
        "{}: {removed} authorities removed",
        args.dir.join("ca.pem").display()
    );
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
        save(&identity, &args.dir, name)?;
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
