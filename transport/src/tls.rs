//! The cluster's certificate authority and the identities that it issues.
//!
//! One CA per cluster, made by whoever creates the cluster. Each party has a certificate of it with exactly one DNS
//! name, which says what the party may do:
//!
//! | name | party | may serve TLS |
//! |---|---|---|
//! | `<32 hex digits>.node.sixfold` | the storage node with that id | yes, and connect to other nodes |
//! | `writer.sixfold`, `reader.sixfold`, `operator.sixfold` | that role | no |
//!
//! It does not revoke: a stolen key means a new CA. `ca.pem` may hold several authorities, each of which is trusted: so one is exchanged for
//! another while everything runs. Certificates last ten years from the day before they were made
//! (clocks of a cluster disagree by less) unless asked otherwise, so that no cluster stops because nobody renewed them. One that was
//! renewed in its files is taken up by the running process (`IdentityFiles`).

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::RootCertStore;
use rustls::crypto::{CryptoProvider, ring as ring_provider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use sixfold_log_format::NodeId;
use sixfold_log_format::wire::Role;

use crate::endpoint::role_name;

/// What connections negotiate: the protocol and its major version.
const ALPN: &[u8] = b"sixfold/1";
/// What the name of every certificate ends with.
const DOMAIN: &str = "sixfold";
/// How long certificates are valid.
const VALIDITY: Duration = Duration::from_secs(3_652 * 86_400);
/// How far a peer's clock may be behind the clock of whoever issued the certificate.
const CLOCK_SKEW: Duration = Duration::from_secs(86_400);
/// Mode of files that hold a key.
const KEY_FILE_MODE: u32 = 0o600;
/// Mode of files that hold a certificate.
const CERTIFICATE_FILE_MODE: u32 = 0o644;

/// Why an identity cannot be made or loaded.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or written.
    #[error("cannot access {path}: {source}")]
    File {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A certificate or key is not one, or does not belong to the cluster's CA.
    #[error("{what}: {reason}")]
    Invalid {
        /// What.
        what: String,
        /// Why.
        reason: String,
    },
}

pub(crate) fn invalid(what: impl Into<String>, reason: impl fmt::Display) -> TlsError {
    TlsError::Invalid {
        what: what.into(),
        reason: reason.to_string(),
    }
}

/// A certificate authority made on the spot.
pub struct ClusterCa {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
}

impl fmt::Debug for ClusterCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterCa").finish_non_exhaustive()
    }
}

impl ClusterCa {
    /// Makes a new CA.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn generate() -> Result<ClusterCa, TlsError> {
        let key = KeyPair::generate().map_err(|error| invalid("cluster ca key", error))?;
        let params = ca_params(&key);
        let certificate = params
            .self_signed(&key)
            .map_err(|error| invalid("cluster ca certificate", error))?;
        Ok(ClusterCa {
            issuer: Issuer::new(params, key),
            certificate_pem: certificate.pem(),
        })
    }

    /// Writes `ca.pem` and `ca-key.pem` (mode 0600) into `dir`, which is made where it is missing.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, dir: &Path) -> Result<(), TlsError> {
        make_dir(dir)?;
        let key_pem = self.issuer.key().serialize_pem();
        write_file(&dir.join("ca-key.pem"), &key_pem, KEY_FILE_MODE)?;
        write_file(
            &dir.join("ca.pem"),
            &self.certificate_pem,
            CERTIFICATE_FILE_MODE,
        )
    }

    /// Loads what [`ClusterCa::save`] wrote.
    ///
    /// # Errors
    /// When a file is missing or damaged, or the two do not belong together.
    pub fn load(dir: &Path) -> Result<ClusterCa, TlsError> {
        let key_path = dir.join("ca-key.pem");
        let certificate_path = dir.join("ca.pem");
        let key = KeyPair::from_pem(&read_file(&key_path)?)
            .map_err(|error| invalid(key_path.display().to_string(), error))?;
        let certificate_pem = read_file(&certificate_path)?;
        let what = certificate_path.display().to_string();
        read_certificate(&what, &certificate_pem)?;
        // The issuer's name is derived from its key, so it need not be parsed out of the certificate. But then the
        // certificate must be the one of this key: issuing checks what it issues.
        let ca = ClusterCa {
            issuer: Issuer::new(ca_params(&key), key),
            certificate_pem,
        };
        let foreign = |_| invalid(what, "does not belong to ca-key.pem");
        ca.issue(Role::Operator, None).map_err(foreign)?;
        Ok(ca)
    }

    /// Issues a certificate for a role; a node's names its id.
    ///
    /// # Errors
    /// When the CA cannot sign, or `node` is given for another role than [`Role::Node`], or missing for it.
    pub fn issue(&self, role: Role, node: Option<NodeId>) -> Result<Identity, TlsError> {
        self.issue_for(role, node, VALIDITY)
    }

    /// The same for a time of the caller's choice.
    ///
    /// # Errors
    /// As [`ClusterCa::issue`].
    pub fn issue_for(
        &self,
        role: Role,
        node: Option<NodeId>,
        validity: Duration,
    ) -> Result<Identity, TlsError> {
        let name = match (role, node) {
            (Role::Node, Some(node)) => node_name(node),
            (Role::Node, None) => {
                return Err(invalid("certificate of a node", "needs the id of the node"));
            }
            (role, None) => format!("{}.{DOMAIN}", role_name(role)),
            (role, Some(node)) => {
                let what = format!("certificate of a {}", role_name(role));
                return Err(invalid(what, format!("cannot name node {node}")));
            }
        };
        let failed = |error| invalid(format!("certificate {name}"), error);
        let mut params = CertificateParams::new(vec![name.clone()]).map_err(failed)?;
        set_validity(&mut params, validity);
        params.distinguished_name = common_name(&name);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if role == Role::Node {
            params
                .extended_key_usages
                .push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Identity::from_pem(
            &name,
            [
                self.certificate_pem.clone(),
                certificate.pem(),
                key.serialize_pem(),
            ],
        )
    }
}

/// What a CA with this key says of itself. Its name holds the key's digest: certificates of two clusters are told apart
/// by their issuer, and a CA can be loaded from its key alone.
fn ca_params(key: &KeyPair) -> CertificateParams {
    let mut params = CertificateParams::default();
    let digest: String = params
        .key_identifier(key)
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    set_validity(&mut params, VALIDITY);
    params.distinguished_name = common_name(&format!("sixfold cluster {digest}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn set_validity(params: &mut CertificateParams, validity: Duration) {
    let now = SystemTime::now();
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + validity).into();
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// A party's certificate and key, and the CA that it trusts.
#[derive(Clone)]
pub struct Identity {
    party: Party,
    roots: Arc<RootCertStore>,
    certificate: CertificateDer<'static>,
    key: Arc<PrivateKeyDer<'static>>,
    /// CA, certificate, key, as the files hold them.
    pem: [String; 3],
    /// Where it was loaded from, and how the files were before they were read.
    files: Option<IdentityFiles>,
}

/// The files of an identity: whether they have changed since it was loaded.
#[derive(Debug, Clone)]
pub(crate) struct IdentityFiles {
    dir: PathBuf,
    name: String,
    /// When each was written, and how long it is.
    marks: [Option<(SystemTime, u64)>; 3],
}

impl IdentityFiles {
    fn paths(dir: &Path, name: &str) -> [PathBuf; 3] {
        [
            dir.join("ca.pem"),
            dir.join(format!("{name}.pem")),
            dir.join(format!("{name}-key.pem")),
        ]
    }

    /// As they are now.
    fn look(dir: &Path, name: &str) -> IdentityFiles {
        let mark = |path: PathBuf| {
            let metadata = fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        };
        IdentityFiles {
            dir: dir.to_owned(),
            name: name.to_owned(),
            marks: IdentityFiles::paths(dir, name).map(mark),
        }
    }

    /// The files as they are now, if they are others than these.
    pub(crate) fn changed(&self) -> Option<IdentityFiles> {
        let now = IdentityFiles::look(&self.dir, &self.name);
        (now.marks != self.marks).then_some(now)
    }

    /// What they hold, for the party that `held` is.
    ///
    /// # Errors
    /// As [`Identity::load`]; when they name another party; when neither `held` trusts the authority of the certificate nor the files the
    /// authority of the one that is held. An authority is changed in steps: the new one is added to `ca.pem`, certificates are issued by
    /// it, the old one is removed. Two steps may lie between two looks, not three.
    pub(crate) fn load(&self, held: &Identity) -> Result<Identity, TlsError> {
        let identity = Identity::load(&self.dir, &self.name)?;
        let path = self.dir.join(format!("{}.pem", self.name));
        let refused = |reason: &str| Err(invalid(path.display().to_string(), reason));
        if identity.party != held.party {
            return refused("names another party");
        }
        // Files of another cluster, put here by mistake, name the same party: roles are the same in every cluster.
        let goes_on = verify_issued(&held.roots, &identity.certificate).is_ok()
            || verify_issued(&identity.roots, &held.certificate).is_ok();
        if !goes_on {
            return refused(
                "was issued by an authority that this process does not trust: add that authority to ca.pem first",
            );
        }
        Ok(identity)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("party", &self.party)
            .finish_non_exhaustive()
    }
}

impl Identity {
    /// Loads `ca.pem` and `NAME.pem`, `NAME-key.pem` from `dir`.
    ///
    /// # Errors
    /// When a file is missing or is no certificate or key; when the certificate was not issued by that CA, is not valid
    /// now, or has another key.
    pub fn load(dir: &Path, name: &str) -> Result<Identity, TlsError> {
        // Looked at before they are read: what changes meanwhile has changed since.
        let files = IdentityFiles::look(dir, name);
        let [ca_path, certificate_path, key_path] = IdentityFiles::paths(dir, name);
        let pem = [
            read_file(&ca_path)?,
            read_file(&certificate_path)?,
            read_file(&key_path)?,
        ];
        if is_readable_by_others(&key_path) {
            tracing::warn!(path = %key_path.display(), "others can read the key file: `chmod 600` it");
        }
        let identity = Identity::from_pem(&certificate_path.display().to_string(), pem)?;
        Ok(Identity {
            files: Some(files),
            ..identity
        })
    }

    /// Who a certificate file names, also when it has expired: for whoever renews it.
    ///
    /// # Errors
    /// When the file is missing or no certificate of a party.
    pub fn named_in(dir: &Path, name: &str) -> Result<(Role, Option<NodeId>), TlsError> {
        let [_, path, _] = IdentityFiles::paths(dir, name);
        let what = path.display().to_string();
        let certificate = read_certificate(&what, &read_file(&path)?)?;
        let party = Party::of(&certificate).map_err(|reason| invalid(what, reason))?;
        Ok((party.role, party.node))
    }

    /// Where it was loaded from.
    pub(crate) fn files(&self) -> Option<&IdentityFiles> {
        self.files.as_ref()
    }

    /// Writes what [`Identity::load`] reads, into `dir`, which is made where it is missing. The key has mode 0600.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, dir: &Path, name: &str) -> Result<(), TlsError> {
        self.save_own(dir, name)?;
        write_file(&dir.join("ca.pem"), &self.pem[0], CERTIFICATE_FILE_MODE)
    }

    /// The same but for `ca.pem`, which is left as it is.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save_own(&self, dir: &Path, name: &str) -> Result<(), TlsError> {
        make_dir(dir)?;
        let [_, certificate, key] = &self.pem;
        write_file(&dir.join(format!("{name}-key.pem")), key, KEY_FILE_MODE)?;
        write_file(
            &dir.join(format!("{name}.pem")),
            certificate,
            CERTIFICATE_FILE_MODE,
        )
    }

    /// The role in the certificate.
    pub fn role(&self) -> Role {
        self.party.role
    }

    /// The node in the certificate.
    pub fn node(&self) -> Option<NodeId> {
        self.party.node
    }

    /// The same certificate, with the authority of `other` to judge peers by.
    #[cfg(test)]
    pub(crate) fn trusting(&self, other: &Identity) -> Identity {
        Identity {
            roots: other.roots.clone(),
            ..self.clone()
        }
    }

    /// `what` names the certificate in errors.
    fn from_pem(what: &str, pem: [String; 3]) -> Result<Identity, TlsError> {
        let mut roots = RootCertStore::empty();
        for ca in read_certificates("ca.pem", &pem[0])? {
            roots.add(ca).map_err(|error| invalid("ca.pem", error))?;
        }
        let roots = Arc::new(roots);
        let certificate = read_certificate(what, &pem[1])?;
        let key = PrivateKeyDer::from_pem_slice(pem[2].as_bytes())
            .map_err(|error| invalid(format!("key of {what}"), error))?;
        verify_issued(&roots, &certificate).map_err(|reason| invalid(what, reason))?;
        CertifiedKey::from_der(vec![certificate.clone()], key.clone_key(), &provider())
            .map_err(|error| invalid(format!("key of {what}"), error))?;
        let party = Party::of(&certificate).map_err(|reason| invalid(what, reason))?;
        Ok(Identity {
            party,
            roots,
            certificate,
            key: Arc::new(key),
            pem,
            files: None,
        })
    }

    /// The settings of a side that listens: it asks for a certificate of the same CA.
    pub(crate) fn server_config(&self) -> Result<rustls::ServerConfig, TlsError> {
        let failed = |error: &dyn fmt::Display| invalid("tls server settings", error);
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots.clone(), provider())
            .build()
            .map_err(|error| failed(&error))?;
        let mut config = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| failed(&error))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![self.certificate.clone()], self.key.clone_key())
            .map_err(|error| failed(&error))?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        // Every connection shows both certificates anew; a resumed one would not.
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok(config)
    }

    /// The settings of a side that connects.
    pub(crate) fn client_config(&self) -> Result<rustls::ClientConfig, TlsError> {
        let failed = |error: &dyn fmt::Display| invalid("tls client settings", error);
        let mut config = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| failed(&error))?
            .with_root_certificates(self.roots.clone())
            .with_client_auth_cert(vec![self.certificate.clone()], self.key.clone_key())
            .map_err(|error| failed(&error))?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        Ok(config)
    }

    /// A secret that only this identity knows and that a restart does not change.
    pub(crate) fn derive_secret(&self, purpose: &str) -> ring::hmac::Tag {
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, self.key.secret_der());
        ring::hmac::sign(&key, purpose.as_bytes())
    }
}

/// What a certificate says that its holder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Party {
    pub(crate) role: Role,
    /// Set for nodes, and only for them.
    pub(crate) node: Option<NodeId>,
}

impl Party {
    /// Reads the one DNS name of a certificate. Says nothing of whether the certificate can be trusted.
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Result<Party, String> {
        let parsed = webpki::EndEntityCert::try_from(certificate)
            .map_err(|error| format!("is no certificate: {error}"))?;
        let mut names = parsed.valid_dns_names();
        match (names.next(), names.next()) {
            (Some(name), None) => {
                Party::named(name).ok_or_else(|| format!("name {name:?} is no party's"))
            }
            (None, _) => Err("names no party".to_owned()),
            (Some(_), Some(_)) => Err("names more than one party".to_owned()),
        }
    }

    fn named(name: &str) -> Option<Party> {
        let label = name.strip_suffix(DOMAIN)?.strip_suffix('.')?;
        if let Some(id) = label.strip_suffix(".node") {
            return Some(Party {
                role: Role::Node,
                node: Some(NodeId::from_hex(id)?),
            });
        }
        [Role::Writer, Role::Reader, Role::Operator]
            .into_iter()
            .find(|role| role_name(*role) == label)
            .map(|role| Party { role, node: None })
    }
}

/// The name that a node's certificate must have.
pub(crate) fn node_name(node: NodeId) -> String {
    format!("{node}.{}.{DOMAIN}", role_name(Role::Node))
}

/// Ring with AES-128-GCM first: it costs less than AES-256 for each byte, and each byte is sent six times.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = ring_provider::default_provider();
    provider.cipher_suites = vec![
        ring_provider::cipher_suite::TLS13_AES_128_GCM_SHA256,
        ring_provider::cipher_suite::TLS13_AES_256_GCM_SHA384,
        ring_provider::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    Arc::new(provider)
}

/// That `certificate` was issued by one of `roots` and is valid now, for connecting at least.
pub(crate) fn verify_issued(
    roots: &Arc<RootCertStore>,
    certificate: &CertificateDer<'static>,
) -> Result<(), String> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider())
        .build()
        .map_err(|error| error.to_string())?;
    match verifier.verify_client_cert(certificate, &[], UnixTime::now()) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)) => {
            Err("was not issued by the authority in ca.pem".to_owned())
        }
        Err(error) => Err(error.to_string()),
    }
}

pub(crate) fn read_certificate(what: &str, pem: &str) -> Result<CertificateDer<'static>, TlsError> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| invalid(what, error))
}

/// All certificates of a file: at least one.
pub(crate) fn read_certificates(
    what: &str,
    pem: &str,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let all = all.map_err(|error| invalid(what, error))?;
    if all.is_empty() {
        return Err(invalid(what, "holds no certificate"));
    }
    Ok(all)
}

fn file_error(path: &Path) -> impl Fn(std::io::Error) -> TlsError {
    let path = path.display().to_string();
    move |source| TlsError::File {
        path: path.clone(),
        source,
    }
}

pub(crate) fn read_file(path: &Path) -> Result<String, TlsError> {
    fs::read_to_string(path).map_err(file_error(path))
}

fn make_dir(dir: &Path) -> Result<(), TlsError> {
    fs::create_dir_all(dir).map_err(file_error(dir))
}

/// Writes a file that holds a secret.
pub(crate) fn write_key_file(path: &Path, text: &str) -> Result<(), TlsError> {
    write_file(path, text, KEY_FILE_MODE)
}

/// Writes a file that holds certificates.
pub(crate) fn write_certificate_file(path: &Path, text: &str) -> Result<(), TlsError> {
    write_file(path, text, CERTIFICATE_FILE_MODE)
}

#[cfg(unix)]
fn is_readable_by_others(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode());
    mode & 0o077 != 0
}

/// Systems without modes have rights of their own.
#[cfg(not(unix))]
fn is_readable_by_others(_: &Path) -> bool {
    false
}

#[cfg(unix)]
fn with_mode(options: &mut OpenOptions, mode: u32) {
    use std::os::unix::fs::OpenOptionsExt;
    options.mode(mode);
}

#[cfg(not(unix))]
fn with_mode(_: &mut OpenOptions, _: u32) {}

/// Writes beside and renames: whoever reads meanwhile sees the old file or the new one, never half of it.
fn write_file(path: &Path, text: &str, mode: u32) -> Result<(), TlsError> {
    let failed = file_error(path);
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    with_mode(&mut options, mode);
    let mut file = options.open(&beside).map_err(&failed)?;
    file.write_all(text.as_bytes()).map_err(&failed)?;
    file.sync_all().map_err(&failed)?;
    fs::rename(&beside, path).map_err(failed)
}
