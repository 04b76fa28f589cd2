//! CA certificates that the workload is to trust.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use vmette_wire::root::CA_BUNDLE_MAX;

use crate::error::{ConfigError, Error};

const PEM_BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const PEM_LINE: usize = 64;

const _: () = assert!(CA_BUNDLE_MAX == 8 << 20);
const TOO_LARGE: &str = "more than 8 MiB together";

/// The folder that applies when none is named: `$VMETTE_CA_CERTS`, else `~/.config/vmette/certs` if there is one.
#[must_use]
pub fn default_ca_certs() -> Option<PathBuf> {
    from_env(|name| std::env::var_os(name).map(PathBuf::from))
}

fn from_env(var: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let set = |name| var(name).filter(|value| !value.as_os_str().is_empty());
    set("VMETTE_CA_CERTS")
        .or_else(|| set("HOME").map(|home| home.join(".config/vmette/certs")).filter(|dir| dir.is_dir()))
}

/// Every certificate of the folder as one PEM bundle; `None` when it holds none. DER files are converted.
pub(crate) fn bundle(dir: &Path) -> Result<Option<Vec<u8>>, Error> {
    const WHAT: &str = "CA certificates";
    let failed = |path: &Path| ConfigError::file(WHAT, path);
    let wrong = |path: &Path, problem| ConfigError::WrongFile { what: WHAT, path: path.to_owned(), problem };
    let entries = fs::read_dir(dir).map_err(failed(dir))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed(dir))?.path();
        if path.extension().is_some_and(|e| e == "pem" || e == "crt" || e == "cer") {
            files.push(path);
        }
    }
    files.sort();
    let mut out = String::new();
    for path in files {
        let len = fs::metadata(&path).map_err(failed(&path))?.len();
        if len + out.len() as u64 > CA_BUNDLE_MAX as u64 {
            return Err(wrong(dir, TOO_LARGE).into());
        }
        let bytes = fs::read(&path).map_err(failed(&path))?;
        match std::str::from_utf8(&bytes) {
            Ok(text) if text.contains(PEM_BEGIN) => out.push_str(text),
            _ if bytes.starts_with(&[0x30, 0x82]) => out.push_str(&der_to_pem(&bytes)),
            _ => return Err(wrong(&path, "neither a PEM nor a DER certificate").into()),
        }
        if !out.ends_with('\n') {
            out.push('\n');
        }
    }
    Ok((!out.is_empty()).then(|| out.into_bytes()))
}

fn der_to_pem(der: &[u8]) -> String {
    let base64 = STANDARD.encode(der);
    let mut pem = format!("{PEM_BEGIN}\n");
    for line in base64.as_bytes().chunks(PEM_LINE) {
        pem.extend(line.iter().map(|b| char::from(*b)));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pem_is_joined_and_der_converted() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(bundle(dir.path()).unwrap(), None);
        let pem = format!("{PEM_BEGIN}\nAAAA\n-----END CERTIFICATE-----");
        fs::write(dir.path().join("a.pem"), &pem).unwrap();
        fs::write(dir.path().join("b.cer"), [0x30, 0x82, 0, 1, 2]).unwrap();
        fs::write(dir.path().join("notes.txt"), "no certificate").unwrap();
        let text = String::from_utf8(bundle(dir.path()).unwrap().unwrap()).unwrap();
        assert_eq!(text, format!("{pem}\n{PEM_BEGIN}\nMIIAAQI=\n-----END CERTIFICATE-----\n"));
    }

    #[test]
    fn what_is_no_certificate_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("x.crt"), "hello").unwrap();
        assert!(bundle(dir.path()).unwrap_err().to_string().contains("x.crt"));
        assert!(bundle(Path::new("/nonexistent")).unwrap_err().to_string().contains("/nonexistent"));
    }

    #[test]
    fn the_variable_wins_and_an_empty_one_counts_as_unset() {
        let home = tempfile::tempdir().unwrap();
        let certs = home.path().join(".config/vmette/certs");
        fs::create_dir_all(&certs).unwrap();
        let env = |set: &'static str| {
            let home = home.path().to_owned();
            move |name: &str| match name {
                "VMETTE_CA_CERTS" => Some(PathBuf::from(set)),
                "HOME" => Some(home.clone()),
                _ => None,
            }
        };
        assert_eq!(from_env(env("/x")), Some("/x".into()));
        assert_eq!(from_env(env("")), Some(certs));
    }
}
