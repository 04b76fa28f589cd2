//! URLs as strangers write them: in specs, and where a server sends its clients.

use crate::Url;

/// Everything that is let through has a host, no credentials, and means the same when it is read again.
pub fn target(input: &[u8]) -> String {
    let text = String::from_utf8_lossy(input);
    let base = Url::parse("https://host.example:8443/a/b?c=d").unwrap();
    let mut outcome = String::new();
    for parsed in [Url::parse(&text), base.join(&text)] {
        match parsed {
            Ok(url) => {
                check(&url);
                outcome += &format!("taken, {} loopback {};", url.is_tls(), url.is_loopback());
            }
            Err(e) => outcome += &format!("{e};"),
        }
    }
    outcome
}

fn check(url: &Url) {
    assert!(!url.host().is_empty() && !url.authority().contains('@'));
    assert!(!url.host().contains(['/', '?', '#', '@', '%', ' ']), "{:?}", url.host());
    assert!(!url.to_string().contains(|c: char| c.is_control()));
    let again = Url::parse(&url.with_query()).unwrap();
    assert_eq!((again.origin(), again.with_query()), (url.origin(), url.with_query()));
    // A place on the same server stays there.
    assert_eq!(url.join("/x").unwrap().origin(), url.origin());
}

pub fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        "https://host.example/path/file.tar?signature=x%20y",
        "http://127.0.0.1:5000/v2/",
        "http://[::1]:80/",
        "http://localhost",
        "/relative",
        "//other.example/x",
        "https://user:secret@host.example/",
        "ftp://host/",
        "http://[]:80//",
        "https://HOST.example:443/%2e%2e/",
    ];
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}
