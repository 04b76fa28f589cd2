//! A certificate authority that nobody trusts who is not told to.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// The names by which a server of the tests is reached.
const NAMES: [&str; 2] = ["localhost", "127.0.0.1"];

/// An authority, and one server of this machine for which it vouches. All in PEM.
#[derive(Debug, Clone)]
pub struct Authority {
    /// The authority's own certificate.
    pub authority: String,
    /// The server's certificate.
    pub certificate: String,
    /// The server's key.
    pub key: String,
}

/// A server's certificate and its key, in PEM.
#[derive(Debug, Clone, Copy)]
pub struct Identity<'a> {
    /// The certificate.
    pub certificate: &'a str,
    /// The key.
    pub key: &'a str,
}

impl Authority {
    /// With keys that did not exist before.
    ///
    /// # Errors
    /// No key could be made.
    pub fn new() -> Result<Self, rcgen::Error> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test authority");
        let own_key = KeyPair::generate()?;
        let authority = params.self_signed(&own_key)?.pem();
        let key = KeyPair::generate()?;
        let server = CertificateParams::new(NAMES.map(str::to_owned))?;
        let certificate = server.signed_by(&key, &Issuer::from_params(&params, &own_key))?;
        Ok(Self { authority, certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// The server's certificate and key.
    #[must_use]
    pub fn identity(&self) -> Identity<'_> {
        Identity { certificate: &self.certificate, key: &self.key }
    }
}
