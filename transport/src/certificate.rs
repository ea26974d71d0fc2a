//! What certificates say, for people and for whoever looks after them; and the list of authorities in `ca.pem`.
//!
//! An authority is exchanged for another while everything runs, in three steps, each taken on every host before the next:
//! [`trust`] adds the new one, certificates are issued anew by it, [`distrust`] removes the old one.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use sixfold_log_format::NodeId;
use sixfold_log_format::wire::Role;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use x509_parser::time::ASN1Time;

use crate::tls::{
    Party, TlsError, invalid, read_certificate, read_certificates, read_file, verify_issued,
    write_certificate_file,
};

/// What a certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Whose it is; `None` for an authority's, and for one that names no party.
    pub party: Option<(Role, Option<NodeId>)>,
    /// SHA-256 of its bytes, hexadecimal.
    pub fingerprint: String,
    /// Valid from then on.
    pub not_before: SystemTime,
    /// Valid until then.
    pub not_after: SystemTime,
    /// For a party's certificate: the fingerprint of the authority in `ca.pem` that issued it, if one did and it is valid now.
    pub issuer: Option<String>,
}

/// The certificate in a file, with the authority of `ca_file` that issued it.
///
/// # Errors
/// When a file cannot be read or holds no certificate.
pub fn of_party(file: &Path, ca_file: &Path) -> Result<Facts, TlsError> {
    let what = file.display().to_string();
    let certificate = read_certificate(&what, &read_file(file)?)?;
    let mut facts = Facts::of(&what, &certificate)?;
    let ca_text = read_file(ca_file)?;
    for ca in read_certificates(&ca_file.display().to_string(), &ca_text)? {
        if verify_issued(&roots(&ca)?, &certificate).is_ok() {
            facts.issuer = Some(fingerprint(&ca));
        }
    }
    Ok(facts)
}

/// The authorities in a file.
///
/// # Errors
/// When it cannot be read or holds no certificate.
pub fn of_authorities(ca_file: &Path) -> Result<Vec<Facts>, TlsError> {
    let what = ca_file.display().to_string();
    let all = read_certificates(&what, &read_file(ca_file)?)?;
    all.iter()
        .map(|certificate| Facts::of(&what, certificate))
        .collect()
}

/// Adds the authorities in `ca_file` to the `ca.pem` of `dir`. Returns how many were new.
///
/// # Errors
/// When a file cannot be read or written.
pub fn trust(dir: &Path, ca_file: &Path) -> Result<usize, TlsError> {
    let held_file = dir.join("ca.pem");
    let mut held = blocks(&held_file)?;
    let before = held.len();
    for (text, certificate) in blocks(ca_file)? {
        if held.iter().all(|(_, known)| *known != certificate) {
            held.push((text, certificate));
        }
    }
    let added = held.len() - before;
    if added > 0 {
        write_blocks(&held_file, &held)?;
    }
    Ok(added)
}

/// Removes the authorities in `ca_file` from the `ca.pem` of `dir`. Returns how many stood there.
///
/// # Errors
/// When a file cannot be read or written; when none would be left, or a certificate in `dir` would be without its authority.
pub fn distrust(dir: &Path, ca_file: &Path, names: &[&str]) -> Result<usize, TlsError> {
    let held_file = dir.join("ca.pem");
    let gone = blocks(ca_file)?;
    let held = blocks(&held_file)?;
    let before = held.len();
    let left: Vec<_> = held
        .into_iter()
        .filter(|(_, known)| gone.iter().all(|(_, certificate)| certificate != known))
        .collect();
    if left.is_empty() {
        return Err(invalid(
            held_file.display().to_string(),
            "no authority would be left",
        ));
    }
    for name in names {
        let path = dir.join(format!("{name}.pem"));
        if !path.exists() {
            continue;
        }
        let what = path.display().to_string();
        let certificate = read_certificate(&what, &read_file(&path)?)?;
        let mut issued = false;
        for (_, ca) in &left {
            issued |= verify_issued(&roots(ca)?, &certificate).is_ok();
        }
        if !issued {
            return Err(invalid(
                what,
                "was issued by the authority that is to go: issue it anew first",
            ));
        }
    }
    let removed = before - left.len();
    if removed > 0 {
        write_blocks(&held_file, &left)?;
    }
    Ok(removed)
}

/// Whether every authority in `ca_file` stands in the `ca.pem` of `dir`.
///
/// # Errors
/// When a file cannot be read.
pub fn trusts(dir: &Path, ca_file: &Path) -> Result<bool, TlsError> {
    let held = blocks(&dir.join("ca.pem"))?;
    let wanted = blocks(ca_file)?;
    Ok(wanted
        .iter()
        .all(|(_, wanted)| held.iter().any(|(_, known)| known == wanted)))
}

impl Facts {
    fn of(what: &str, certificate: &CertificateDer<'static>) -> Result<Facts, TlsError> {
        let (not_before, not_after) =
            validity(certificate).ok_or_else(|| invalid(what, "its validity cannot be read"))?;
        let party = Party::of(certificate).ok();
        Ok(Facts {
            party: party.map(|party| (party.role, party.node)),
            fingerprint: fingerprint(certificate),
            not_before,
            not_after,
            issuer: None,
        })
    }
}

fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, certificate);
    let bytes = digest.as_ref().iter();
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

fn roots(ca: &CertificateDer<'static>) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    roots
        .add(ca.clone())
        .map_err(|error| invalid("ca.pem", error))?;
    Ok(Arc::new(roots))
}

/// A certificate as it stands in a file, and its bytes.
type Block = (String, CertificateDer<'static>);

/// The certificates of a file, each as it stands there.
fn blocks(path: &Path) -> Result<Vec<Block>, TlsError> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let text = read_file(path)?;
    let what = path.display().to_string();
    let mut found = Vec::new();
    let mut rest = text.as_str();
    while let Some(start) = rest.find(BEGIN) {
        let end = rest[start..]
            .find(END)
            .ok_or_else(|| invalid(&what, "a certificate that does not end"))?;
        let block = &rest[start..start + end + END.len()];
        found.push((block.to_owned(), read_certificate(&what, block)?));
        rest = &rest[start + end + END.len()..];
    }
    if found.is_empty() {
        return Err(invalid(what, "holds no certificate"));
    }
    Ok(found)
}

fn write_blocks(path: &Path, blocks: &[Block]) -> Result<(), TlsError> {
    let lines: Vec<&str> = blocks.iter().map(|(text, _)| text.as_str()).collect();
    write_certificate_file(path, &format!("{}\n", lines.join("\n")))
}

/// From when to when a certificate is valid. `None` for what is no certificate, and for times before 1970.
fn validity(certificate: &[u8]) -> Option<(SystemTime, SystemTime)> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let at = |time: ASN1Time| {
        let seconds = u64::try_from(time.timestamp()).ok()?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
    };
    let validity = parsed.validity();
    Some((at(validity.not_before)?, at(validity.not_after)?))
}

/// A time as `2026-11-23T22:40:00Z`, the beginning of 1970 for any before and for any behind the year 9999.
pub fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    let seconds = since.map_or(0, |since| since.as_secs());
    let seconds = i64::try_from(seconds).unwrap_or(0);
    let date = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    date.format(&Rfc3339)
        .expect("a year of four digits has this form")
}

#[cfg(test)]
#[path = "certificate_tests.rs"]
mod certificate_tests;
