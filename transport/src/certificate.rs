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

/// From when to when a certificate is valid: RFC 5280, `TBSCertificate.validity`. `None` for what is no certificate.
fn validity(certificate: &[u8]) -> Option<(SystemTime, SystemTime)> {
    const SEQUENCE: u8 = 0x30;
    const VERSION: u8 = 0xA0;
    let (tag, body, _) = element(certificate)?;
    let (tbs_tag, mut rest, _) = element(body)?;
    if (tag, tbs_tag) != (SEQUENCE, SEQUENCE) {
        return None;
    }
    if let (VERSION, _, behind) = element(rest)? {
        rest = behind;
    }
    // Serial number, algorithm, issuer.
    for _ in 0..3 {
        rest = element(rest)?.2;
    }
    let (_, dates, _) = element(rest)?;
    let (tag, from, behind) = element(dates)?;
    let not_before = time(tag, from)?;
    let (tag, to, _) = element(behind)?;
    Some((not_before, time(tag, to)?))
}

/// The first element of DER bytes: its tag, its content, and what is behind it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7F => (usize::from(first), rest),
        0x81..=0x83 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7F))?;
            let length = digits
                .iter()
                .fold(0, |length, digit| length << 8 | usize::from(*digit));
            (length, rest)
        }
        _ => return None,
    };
    let (content, behind) = rest.split_at_checked(length)?;
    Some((tag, content, behind))
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`.
fn time(tag: u8, text: &[u8]) -> Option<SystemTime> {
    const UTC_TIME: u8 = 0x17;
    const GENERALIZED_TIME: u8 = 0x18;
    let digits = text.strip_suffix(b"Z")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |range: std::ops::Range<usize>| {
        let digits = digits.get(range)?;
        Some(
            digits
                .iter()
                .fold(0, |number, digit| number * 10 + i64::from(digit - b'0')),
        )
    };
    let (year, at) = match (tag, digits.len()) {
        (UTC_TIME, 12) => match number(0..2)? {
            late @ 50.. => (1_900 + late, 2),
            early => (2_000 + early, 2),
        },
        (GENERALIZED_TIME, 14) => (number(0..4)?, 4),
        _ => return None,
    };
    let part = |index: usize| number(at + 2 * index..at + 2 * index + 2);
    let days = days_from_civil(year, part(0)?, part(1)?)?;
    let seconds = days * 86_400 + part(2)? * 3_600 + part(3)? * 60 + part(4)?;
    let seconds = u64::try_from(seconds).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// Days since 1970-01-01 of a date of the Gregorian calendar.
fn days_from_civil(year: i64, month: i64, day: i64) -> Option<i64> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Years begin in March: the day that comes and goes is the last one then.
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    Some(365 * year + year / 4 - year / 100 + year / 400 + day_of_year - 719_468)
}

/// A time as `2026-11-23T22:40:00Z`, the beginning of 1970 for any before.
pub fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    let seconds = since.map_or(0, |since| since.as_secs());
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // The other way round than `days_from_civil`: eras of 400 years, years from March.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = (month + 2) % 12 + 1;
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        second / 3_600,
        second / 60 % 60,
        second % 60
    )
}

#[cfg(test)]
#[path = "certificate_tests.rs"]
mod certificate_tests;
