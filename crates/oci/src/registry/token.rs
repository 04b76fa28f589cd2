//! Tokens: what a registry's token server gives for credentials, or for none.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::credentials::Credential;
use crate::bounded::object;
use vmette_http::Result;
use vmette_http::{Authorization, Client, NetworkError, Request, SmallResponse, Url};

/// Bytes of a token server's answer. Tokens that list the rights of a large company's users take 10 to 20 KiB.
const ANSWER_MAX: usize = 128 << 10;
/// Bytes of a token: it has to fit into a header with which servers accept a request.
const TOKEN_MAX: usize = 32 << 10;
/// Characters that a form and a query take unencoded.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The part that is needed of an answer.
#[derive(Default)]
struct Answer {
    token: String,
    access_token: String,
}
object!(Answer { token: "token", access_token: "access_token" });

/// A token server's answer.
pub(super) enum Given {
    Token(Authorization),
    /// It wants credentials, or others.
    Refused(Box<SmallResponse>),
}

/// Asks `realm` for a token to read one repository. The credential goes to that URL and to no redirect of it.
pub(super) fn fetch(
    client: &Client,
    realm: &Url,
    service: Option<&str>,
    repository: &str,
    credential: Option<&Credential>,
) -> Result<Given> {
    let encode = |text: &str| utf8_percent_encode(text, PLAIN).to_string();
    let mut parameters = format!("scope={}", encode(&format!("repository:{repository}:pull")));
    if let Some(service) = service {
        parameters += &format!("&service={}", encode(service));
    }
    let request = match credential {
        Some(Credential::IdentityToken(token)) => {
            let form = format!(
                "grant_type=refresh_token&client_id=vmette&{parameters}&refresh_token={}",
                encode(token.expose())
            );
            Request::post(realm.clone(), form, vec![token.expose().to_owned(), encode(token.expose())])
        }
        _ => {
            let whole = realm.with_query();
            let separator = if whole.contains('?') { '&' } else { '?' };
            let url = Url::parse(&format!("{whole}{separator}{parameters}"))
                .map_err(|e| bad(realm, &e.to_string()))?;
            Request::get(url).authorized(credential.and_then(Credential::basic))
        }
    };
    let answer = client.send_small(&request, ANSWER_MAX)?;
    if matches!(answer.status(), 400 | 401 | 403) {
        return Ok(Given::Refused(Box::new(answer)));
    }
    if !answer.is_success() {
        return Err(answer.refusal().into());
    }
    let parsed: Answer =
        serde_json::from_slice(answer.bytes()).map_err(|_| bad(realm, "the answer is not a token's JSON"))?;
    // Some servers have the one, some the other, and some leave one of the two empty.
    let token = if parsed.token.is_empty() { parsed.access_token } else { parsed.token };
    if token.is_empty() || token.len() > TOKEN_MAX || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(bad(realm, "the answer holds no token").into());
    }
    Ok(Given::Token(Authorization::bearer(&token)))
}

fn bad(realm: &Url, problem: &str) -> NetworkError {
    NetworkError::Protocol { url: realm.to_string(), problem: problem.to_owned() }
}
