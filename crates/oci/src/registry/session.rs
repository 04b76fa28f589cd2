//! Being let into one repository.

use std::sync::{Mutex, PoisonError};

use super::challenge::Challenge;
use super::credentials::{self, Credentials, Found};
use super::token::{self, Given};
use vmette_http::Result;
use vmette_http::{Authorization, Client, NetworkError, Request, ResponseHead, Url};
use vmette_work::Work;

/// Reads a variable of the environment, from any thread.
pub(super) type Environment = Box<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Credentials are looked for when the registry asks for them, once, and are sent to the registry itself or to the token
/// server that it names.
///
/// That server may be another host: docker.io's is. Who the registry's credentials belong to may name it, and that is
/// the registry, which TLS vouches for. A registry that is talked to without TLS cannot be vouched for, so that its
/// token server has to be on the same host, unless all of this happens on this machine.
pub(super) struct Session {
    host: String,
    repository: String,
    client: Client,
    known: Credentials,
    env: Environment,
    work: Work,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    found: Option<Found>,
    authorization: Option<Authorization>,
    /// Counts what `authorization` has been.
    generation: u64,
}

impl Session {
    pub(super) fn new(
        client: Client,
        host: &str,
        repository: &str,
        known: Credentials,
        env: Environment,
        work: Work,
    ) -> Self {
        let (host, repository) = (host.to_owned(), repository.to_owned());
        Self { host, repository, client, known, env, work, state: Mutex::default() }
    }

    /// Makes the request as who the registry was last told, and once more when it asks who.
    ///
    /// # Errors
    /// [`NetworkError::Denied`] when it lets nobody in that we know; `run`'s.
    pub(super) fn send<R>(
        &self,
        request: &Request,
        run: impl Fn(&Request) -> vmette_http::Result<R>,
        head: impl Fn(&R) -> &ResponseHead,
        refusal: impl FnOnce(R) -> NetworkError,
    ) -> Result<R> {
        let (authorization, generation) = {
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            (state.authorization.clone(), state.generation)
        };
        let mut answer = run(&request.clone().authorized(authorization))?;
        // Another host, which a redirect led to, is told nothing and believed nothing.
        let is_registry = |answer: &R| head(answer).url().origin() == request.url().origin();
        if head(&answer).status() == 401
            && is_registry(&answer)
            && let Some(authorization) = self.renewed(head(&answer), generation)?
        {
            answer = run(&request.clone().authorized(Some(authorization)))?;
        }
        if matches!(head(&answer).status(), 401 | 403) && is_registry(&answer) {
            return Err(self.denied(refusal(answer)).into());
        }
        Ok(answer)
    }

    /// The answer to the challenge; `None` if it was answered already, with everything there is.
    fn renewed(&self, head: &ResponseHead, generation: u64) -> Result<Option<Authorization>> {
        let Some(challenge) = Challenge::of(&head.headers("www-authenticate")) else { return Ok(None) };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.generation != generation {
            // Another thread was faster.
            return Ok(state.authorization.clone());
        }
        let found = match &state.found {
            Some(found) => found.clone(),
            None => {
                let found = self.find()?;
                state.found.insert(found).clone()
            }
        };
        let authorization = match challenge {
            Challenge::Basic if state.authorization.is_some() => return Ok(None),
            Challenge::Basic => found.credential.as_ref().and_then(credentials::Credential::basic),
            Challenge::Bearer { realm, service } => {
                Some(self.token(head.url(), &realm, service.as_deref(), &found)?)
            }
        };
        if authorization.is_some() {
            state.authorization.clone_from(&authorization);
            state.generation += 1;
        }
        Ok(authorization)
    }

    fn find(&self) -> Result<Found> {
        credentials::find(&self.host, &self.repository, &self.known, &self.work, &*self.env)
    }

    fn token(
        &self,
        registry: &Url,
        realm: &str,
        service: Option<&str>,
        found: &Found,
    ) -> Result<Authorization> {
        let protocol = |problem: String| NetworkError::Protocol { url: registry.to_string(), problem };
        let realm = Url::parse(realm).map_err(|e| protocol(format!("the token server it names {e}")))?;
        if registry.is_tls() && !realm.is_tls() {
            return Err(protocol(format!("the token server it names, {realm}, has no TLS")).into());
        }
        let vouched = registry.is_tls() || registry.is_loopback() || realm.host() == registry.host();
        if found.credential.is_some() && !vouched {
            let problem = format!(
                "they are not sent to {realm}, which the registry names as its token server: it was reached without TLS, so that anybody could have named that server"
            );
            return Err(NetworkError::Credentials { host: self.host.clone(), problem }.into());
        }
        match token::fetch(&self.client, &realm, service, &self.repository, found.credential.as_ref())? {
            Given::Token(authorization) => Ok(authorization),
            Given::Refused(answer) => {
                let (url, status, message) = (realm.to_string(), answer.status(), answer.message());
                Err(NetworkError::Denied { url, status, message, advice: found.advice(&self.host) }.into())
            }
        }
    }

    #[cfg(test)]
    pub(super) fn try_token(&self, registry: &Url, realm: &str) -> Result<Authorization> {
        let found = self.find()?;
        self.token(registry, realm, None, &found)
    }

    /// The refusal, with what was tried.
    fn denied(&self, refusal: NetworkError) -> NetworkError {
        let NetworkError::Status { url, status, message } = refusal else { return refusal };
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let advice = match &state.found {
            Some(found) => found.advice(&self.host),
            None => "it asks for no credentials, so that there may be no such image".to_owned(),
        };
        NetworkError::Denied { url, status, message, advice }
    }
}
