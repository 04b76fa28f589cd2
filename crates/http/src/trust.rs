//! Authorities whose certificates are trusted.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use super::error::NetworkError;

/// Largest file of certificates. The authorities of a whole system take a quarter of that.
const FILE_MAX: u64 = 4 << 20;
/// Most files of a folder that are read.
const FILES_MAX: usize = 1024;
/// Suffixes of certificates' files in a folder that may hold other things.
const SUFFIXES: [&str; 3] = ["pem", "crt", "cer"];

/// The system's authorities, or those of `SSL_CERT_FILE` and `SSL_CERT_DIR`, and those of `extra` beside them. TLS 1.2
/// and 1.3, with the algorithms of rustls' ring provider.
pub(super) fn tls_config(extra: Option<&Path>) -> Result<TlsConfig, NetworkError> {
    let system = rustls_native_certs::load_native_certs();
    let mut roots: Vec<Certificate<'static>> =
        system.certs.iter().map(|certificate| Certificate::from_der(certificate).to_owned()).collect();
    if let Some(path) = extra {
        for certificate in read(path)? {
            roots.push(Certificate::from_der(&certificate).to_owned());
        }
    }
    if roots.is_empty() {
        let first = system.errors.first().map_or_else(String::new, |e| format!(": {e}"));
        return Err(NetworkError::TrustStore {
            problem: format!("are not to be found on this system{first}"),
        });
    }
    Ok(TlsConfig::builder()
        .root_certs(RootCerts::Specific(Arc::new(roots)))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build())
}

/// The certificates of a PEM or DER file, or of a folder of such files.
fn read(path: &Path) -> Result<Vec<CertificateDer<'static>>, NetworkError> {
    let bad = |path: &Path, what: &str| NetworkError::TrustStore {
        problem: format!("in {}: {what}", path.display()),
    };
    let metadata = fs::metadata(path).map_err(|e| bad(path, &e.to_string()))?;
    if !metadata.is_dir() {
        return read_file(path).map_err(|problem| bad(path, &problem));
    }
    let entries = fs::read_dir(path).map_err(|e| bad(path, &e.to_string()))?;
    let mut files: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|file| {
            let suffix = file.extension().and_then(|suffix| suffix.to_str()).map(str::to_ascii_lowercase);
            suffix.is_some_and(|suffix| SUFFIXES.contains(&suffix.as_str())) && file.is_file()
        })
        .take(FILES_MAX + 1)
        .collect();
    files.sort();
    match files.len() {
        0 => Err(bad(path, "the folder has no *.pem, *.crt or *.cer file")),
        n if n > FILES_MAX => Err(bad(path, "the folder has more than 1024 files")),
        _ => files.iter().try_fold(Vec::new(), |mut all, file| {
            all.extend(read_file(file).map_err(|problem| bad(file, &problem))?);
            Ok(all)
        }),
    }
}

fn read_file(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let file = crate::regular::open_regular(path).map_err(|e| e.to_string())?;
    let mut bytes = Vec::new();
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() as u64 > FILE_MAX {
        return Err("the file is larger than 4 MiB".to_owned());
    }
    // The outermost tag of a certificate in DER; PEM is text.
    let found = if bytes.first() == Some(&0x30) {
        vec![CertificateDer::from(bytes)]
    } else {
        CertificateDer::pem_slice_iter(&bytes)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| format!("the file is damaged: {e}"))?
    };
    if found.is_empty() {
        return Err("the file holds no certificate".to_owned());
    }
    // A certificate that cannot be parsed would be passed over later, and the server be distrusted without a reason.
    let mut store = rustls::RootCertStore::empty();
    for certificate in &found {
        store
            .add(certificate.clone())
            .map_err(|e| format!("the file holds a certificate that cannot be used: {e}"))?;
    }
    Ok(found)
}
