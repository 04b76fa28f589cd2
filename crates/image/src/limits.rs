//! Limits in bytes that the environment sets.

use std::ffi::OsString;

/// Looks up a variable of the environment.
pub(crate) type Lookup<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The process's environment.
pub(crate) fn environment(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// A variable of the environment that is no number of bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable}={value:?} must be a number of bytes{rule}")]
pub struct BadLimit {
    variable: &'static str,
    value: OsString,
    rule: &'static str,
}

/// The variable's bytes, at least 1.
pub(crate) fn bytes(variable: &'static str, default: u64, lookup: Lookup<'_>) -> Result<u64, BadLimit> {
    parse(variable, default, lookup, 1, ", at least 1")
}

/// The variable's bytes, where 0 means no limit.
pub(crate) fn bytes_or_none(
    variable: &'static str,
    default: u64,
    lookup: Lookup<'_>,
) -> Result<u64, BadLimit> {
    parse(variable, default, lookup, 0, "; 0 means no limit")
}

fn parse(
    variable: &'static str,
    default: u64,
    lookup: Lookup<'_>,
    least: u64,
    rule: &'static str,
) -> Result<u64, BadLimit> {
    let Some(value) = lookup(variable) else { return Ok(default) };
    let parsed = value.to_str().and_then(|text| text.parse().ok()).filter(|&bytes: &u64| bytes >= least);
    parsed.ok_or(BadLimit { variable, value, rule })
}
