//! The host's extra CA certificates in the workload's trust stores. Runs with the workload's root as `/`.

use std::collections::BTreeSet;
use std::io;

use rustix::fs::{OFlags, fstat};

use super::etc::Files;

/// Largest system bundle that is extended, in bytes.
const BUNDLE_MAX: usize = 16 << 20;

/// The certificates alone.
const HOST_CA: &str = "/etc/ssl/certs/vmette-host-ca.pem";

/// Files in which distributions keep all trusted certificates; the first is the place to make one.
const BUNDLES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/cert.pem", "/etc/pki/tls/certs/ca-bundle.crt"];

/// Folders from which distributions make those files anew.
const ANCHORS: [(&str, &str); 2] = [
    ("/usr/local/share/ca-certificates", "/usr/local/share/ca-certificates/vmette-host-ca.crt"),
    ("/etc/pki/ca-trust/source/anchors", "/etc/pki/ca-trust/source/anchors/vmette-host-ca.crt"),
];

/// Makes the workload trust `bundle`; returns environment for runtimes that have stores of their own.
pub(crate) fn install(bundle: &[u8], read_only: bool) -> io::Result<Vec<String>> {
    let files = Files::of_own_root(read_only)?;
    let mut env = vec![format!("NODE_EXTRA_CA_CERTS={HOST_CA}")];
    let found = system_bundles(&files)?;
    files.replace(HOST_CA, bundle)?;
    if found.is_empty() {
        // A bundle of these alone is better than none; beside an image's own it would hide that one from programs that
        // take the first they find.
        files.replace(BUNDLES[0], bundle)?;
        env.push(format!("SSL_CERT_FILE={HOST_CA}"));
    }
    for path in found {
        let own = files.tree().read(path, BUNDLE_MAX)?.unwrap_or_default();
        files.replace(path, &extended(&own, bundle))?;
    }
    for (folder, path) in ANCHORS {
        if files.tree().is_dir(folder) {
            files.replace(path, bundle)?;
        }
    }
    Ok(env)
}

/// The bundles that exist, each file once: two of these paths may lead to the same one. They are all looked at before
/// the first is written, since writing to a lower layer's file makes it another one.
fn system_bundles(files: &Files) -> io::Result<Vec<&'static str>> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for path in BUNDLES {
        match files.tree().open_regular(path, OFlags::RDONLY) {
            Ok(file) => {
                let stat = fstat(&file)?;
                if seen.insert((stat.st_dev, stat.st_ino)) {
                    found.push(path);
                }
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(found)
}

fn extended(own: &[u8], bundle: &[u8]) -> Vec<u8> {
    let mut all = own.to_vec();
    if all.last().is_some_and(|b| *b != b'\n') {
        all.push(b'\n');
    }
    all.extend_from_slice(bundle);
    all
}

#[cfg(test)]
mod tests {
    use super::extended;

    #[test]
    fn certificates_begin_on_a_line_of_their_own() {
        assert_eq!(extended(b"A", b"B\n"), b"A\nB\n");
        assert_eq!(extended(b"A\n", b"B\n"), b"A\nB\n");
        assert_eq!(extended(b"", b"B\n"), b"B\n");
    }
}
