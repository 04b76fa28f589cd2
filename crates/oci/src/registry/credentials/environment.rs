//! Credentials in environment variables.

use super::{ANY_USER, Credential, Found};
use vmette_http::Result;
use vmette_http::{Lookup, NetworkError};

const AUTH_PREFIX: &str = "VMETTE_OCI_AUTH_";
const TOKEN: &str = "VMETTE_OCI_TOKEN";
const TOKEN_USER: &str = "VMETTE_OCI_USER";
const TOKEN_HOST: &str = "VMETTE_OCI_TOKEN_HOST";

/// The variable that holds a host's credentials: the host in capitals, `_` for `.` and `:`, and `__` for `-`, so that
/// `registry-example.com` is not given what is meant for `registry.example.com`.
pub(super) fn auth_variable(host: &str) -> String {
    host.chars().fold(AUTH_PREFIX.to_owned(), |name, c| match c {
        '-' => name + "__",
        c if c.is_ascii_alphanumeric() => name + &c.to_ascii_uppercase().to_string(),
        _ => name + "_",
    })
}

pub(super) fn find(host: &str, env: Lookup<'_>, warn: &dyn Fn(&str)) -> Result<Option<Found>> {
    let set = |name: &str| env(name).filter(|value| !value.is_empty());
    let variable = auth_variable(host);
    if let Some(value) = set(&variable) {
        let (user, secret) = value.split_once(':').unwrap_or((ANY_USER, &value));
        if user.is_empty() || secret.is_empty() || value.contains(char::is_control) {
            let problem = format!("{variable} is not USER:PASSWORD, or a token alone");
            return Err(NetworkError::Credentials { host: host.to_owned(), problem }.into());
        }
        return Ok(Some(Found::new(
            Credential::password(user, secret),
            format!("the environment variable {variable}"),
        )));
    }
    let ambiguous = variable.replace("__", "_");
    if ambiguous != variable && set(&ambiguous).is_some() {
        warn(&format!(
            "{ambiguous} is not sent to {host}: it may be meant for a host with dots in these places; to send it, call it {variable}"
        ));
    }
    let Some(token) = set(TOKEN) else { return Ok(None) };
    match set(TOKEN_HOST) {
        Some(meant) if meant.eq_ignore_ascii_case(host) => {
            let user = set(TOKEN_USER).unwrap_or_else(|| ANY_USER.to_owned());
            if token.contains(char::is_control) || user.contains([':', '\n', '\r', '\0']) {
                let problem = format!("{TOKEN} or {TOKEN_USER} holds a line break or a colon");
                return Err(NetworkError::Credentials { host: host.to_owned(), problem }.into());
            }
            Ok(Some(Found::new(
                Credential::password(&user, &token),
                format!("the environment variable {TOKEN}"),
            )))
        }
        Some(_) => Ok(None),
        None => {
            warn(&format!(
                "{TOKEN} is not sent to {host}: set {TOKEN_HOST}={host} if that is the registry it belongs to"
            ));
            Ok(None)
        }
    }
}
