//! Servers' messages, made fit for a terminal and a line.

use serde_json::Value;
use vmette_work::printable;

/// Bytes of an error's body that are read: enough for what registries and proxies say.
pub(super) const ERROR_BODY_MAX: usize = 16 << 10;
/// Characters of it that are shown.
const SHOWN_MAX: usize = 300;

/// The message in an error's body: the messages of a registry's or token server's JSON, or the first line of a plain text.
/// A page for a browser says nothing. `hide` takes out secrets before anything is cut.
pub(super) fn message(content_type: &str, body: &[u8], hide: impl Fn(String) -> String) -> String {
    let text = String::from_utf8_lossy(body);
    let said = match serde_json::from_slice::<Value>(body) {
        Ok(value) => from_json(&value),
        Err(_) if content_type.starts_with("text/plain") => {
            text.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
        }
        Err(_) => None,
    };
    said.map(hide)
        .filter(|said| !said.trim().is_empty())
        .map_or_else(String::new, |said| format!(": {}", printable(said.trim(), SHOWN_MAX)))
}

fn from_json(value: &Value) -> Option<String> {
    let one = |value: &Value| {
        ["message", "error_description", "details", "detail", "code", "error"]
            .iter()
            .find_map(|key| value.get(key)?.as_str().filter(|text| !text.is_empty()).map(str::to_owned))
    };
    match value.get("errors").and_then(Value::as_array) {
        Some(errors) => Some(errors.iter().take(3).filter_map(one).collect::<Vec<_>>().join("; ")),
        None => one(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_servers_say() {
        for (content_type, body, said) in [
            (
                "application/json",
                r#"{"errors":[{"code":"DENIED","message":"no \u001b[31mway"}]}"#,
                ": no \\u{1b}[31mway",
            ),
            ("application/json", r#"{"errors":[{"code":"UNKNOWN"}]}"#, ": UNKNOWN"),
            ("application/json", r#"{"details":"wrong password"}"#, ": wrong password"),
            ("application/json", r#"{"message":"a\u202eb\u061c"}"#, r": a\u{202e}b\u{61c}"),
            ("text/plain; charset=utf-8", "\n404 page not found\nmore", ": 404 page not found"),
            ("text/html", "<html>", ""),
            ("", "\u{1b}]0;x\u{7}", ""),
            ("application/json", "{}", ""),
        ] {
            assert_eq!(message(content_type, body.as_bytes(), |text| text), said);
        }
        assert_eq!(message("text/plain", &[b'x'; 2000], |text| text).chars().count(), SHOWN_MAX + 3);
    }
}
