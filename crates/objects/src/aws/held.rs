//! Credentials as they are held: found once, renewed before they are over, and shared by all who ask.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials, future};
use engine::{Error, Result};
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;
use std::sync::Arc;

use super::chain::{Chain, Found};

/// Renewed when they last no longer than this, so that a request that is tried again does not outlive them.
const RENEW_BEFORE: Duration = Duration::from_secs(300);
/// So long nobody looks again after nothing was found, so that a hundred requests do not wait for the same silence.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
struct State {
    found: Option<Found>,
    /// Why the last look failed, and when.
    failed: Option<(Instant, Error)>,
}

/// The credentials of one process.
#[derive(Debug)]
pub(crate) struct Held {
    chain: Chain,
    /// Held while somebody looks, so that the others wait for what he finds.
    state: tokio::sync::Mutex<State>,
    /// For people; beside the state, because errors are worded where nothing can be waited for.
    description: Mutex<String>,
}

impl Held {
    pub(super) fn new(chain: Chain) -> Self {
        Self { chain, state: tokio::sync::Mutex::default(), description: Mutex::new("no credentials".to_owned()) }
    }

    pub(super) async fn get(&self) -> Result<Found> {
        let mut state = self.state.lock().await;
        if let Some(found) = state.found.as_ref().filter(|found| lasts(found, RENEW_BEFORE)) {
            return Ok(found.clone());
        }
        if let Some((when, error)) = state.failed.as_ref().filter(|(when, _)| when.elapsed() < LOOK_AGAIN) {
            tracing::trace!(since = ?when.elapsed(), "not looked for again yet");
            return Err(error.clone());
        }
        match self.chain.find().await {
            Ok(found) => {
                let key = found.credentials.access_key_id();
                let description = format!("credentials of {}, key {key}", found.source);
                *self.description.lock().unwrap_or_else(PoisonError::into_inner) = description;
                *state = State { found: Some(found.clone()), failed: None };
                Ok(found)
            }
            Err(error) => {
                state.failed = Some((Instant::now(), error.clone()));
                match state.found.as_ref().filter(|found| lasts(found, Duration::ZERO)) {
                    Some(found) => {
                        tracing::warn!(%error, "credentials are not renewed; the old ones hold a little longer");
                        Ok(found.clone())
                    }
                    None => Err(error),
                }
            }
        }
    }

    /// Has them looked for again: the service did not take them.
    pub(crate) async fn forget(&self) {
        *self.state.lock().await = State::default();
    }

    pub(crate) fn description(&self) -> String {
        self.description.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn lasts(found: &Found, time: Duration) -> bool {
    found.credentials.expiry().is_none_or(|expiry| SystemTime::now() + time < expiry)
}

#[async_trait]
impl CredentialProvider for Held {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let found = self.get().await;
        let Found { credentials, .. } =
            found.map_err(|error| object_store::Error::Generic { store: "S3", source: Box::new(error) })?;
        Ok(Arc::new(AwsCredential {
            key_id: credentials.access_key_id().to_owned(),
            secret_key: credentials.secret_access_key().to_owned(),
            token: credentials.session_token().map(str::to_owned),
        }))
    }
}

impl ProvideCredentials for Held {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async move {
            let found: provider::Result =
                self.get().await.map(|found| found.credentials).map_err(CredentialsError::provider_error);
            found
        })
    }
}
