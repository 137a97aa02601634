//! Where credentials may come from, in the usual order, each tried until one has any.

use std::time::Duration;

use aws_config::ecs::EcsCredentialsProvider;
use aws_config::imds;
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::web_identity_token::WebIdentityTokenCredentialsProvider;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_types::os_shim_internal::{Env, Fs};
use engine::{Error, Result};

use crate::Variables;
use crate::error::causes;

/// An instance answers at once, and where there is none nothing does.
const INSTANCE_WAIT: Duration = Duration::from_secs(1);

/// Credentials and where they were found.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) credentials: Credentials,
    pub(super) source: &'static str,
}

/// A source of credentials and its name.
#[derive(Debug)]
struct Link {
    source: &'static str,
    provider: SharedCredentialsProvider,
}

/// The sources, in order.
#[derive(Debug)]
pub(super) struct Chain {
    links: Vec<Link>,
    /// The profile that somebody named, when nothing comes before it.
    profile: Option<String>,
}

impl Chain {
    pub(super) fn new(variables: &Variables, config: &ProviderConfig) -> Self {
        let client = imds::Client::builder()
            .configure(config)
            .max_attempts(2)
            .connect_timeout(INSTANCE_WAIT)
            .read_timeout(INSTANCE_WAIT)
            .build();
        let link = |source, provider| Link { source, provider };
        let links = vec![
            link("the environment (AWS_ACCESS_KEY_ID)", SharedCredentialsProvider::new(Environment::of(variables))),
            link(
                "the shared profile (AWS_PROFILE, ~/.aws)",
                SharedCredentialsProvider::new(ProfileFileCredentialsProvider::builder().configure(config).build()),
            ),
            link(
                "the web identity (AWS_WEB_IDENTITY_TOKEN_FILE, AWS_ROLE_ARN)",
                SharedCredentialsProvider::new(
                    WebIdentityTokenCredentialsProvider::builder().configure(config).build(),
                ),
            ),
            link(
                "the container or pod (AWS_CONTAINER_CREDENTIALS_*)",
                SharedCredentialsProvider::new(EcsCredentialsProvider::builder().configure(config).build()),
            ),
            link(
                "the instance's metadata",
                SharedCredentialsProvider::new(
                    ImdsCredentialsProvider::builder().configure(config).imds_client(client).build(),
                ),
            ),
        ];
        let keys = variables.get("AWS_ACCESS_KEY_ID").is_some();
        Self { links, profile: variables.get("AWS_PROFILE").filter(|_| !keys).map(str::to_owned) }
    }

    /// The first credentials that there are.
    ///
    /// # Errors
    /// [`Forbidden`](engine::ErrorKind::Forbidden): what was tried and why it gave none. A source that was set up and
    /// fails is not passed over: what came after it would be somebody else's.
    pub(super) async fn find(&self) -> Result<Found> {
        if let Some(profile) = &self.profile {
            is_there(profile).await?;
        }
        let mut tried = Vec::new();
        for Link { source, provider } in &self.links {
            match provider.provide_credentials().await {
                Ok(credentials) => return Ok(Found { credentials, source }),
                Err(error @ CredentialsError::CredentialsNotLoaded(_)) => {
                    tried.push(format!("{source}: {}", why(&error)));
                }
                Err(error) if std::ptr::eq(*source, self.links[self.links.len() - 1].source) => {
                    tried.push(format!("{source}: {}", why(&error)));
                }
                Err(error) => {
                    return Err(Error::forbidden(format!("credentials of {source} cannot be had: {}", why(&error))));
                }
            }
        }
        Err(Error::forbidden(format!(
            "there are no AWS credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give the \
             instance or pod a role (for a public bucket AWS_SKIP_SIGNATURE=true). Tried {}",
            tried.join("; ")
        )))
    }
}

fn why(error: &CredentialsError) -> String {
    // Its own words say no more than that there are none.
    std::error::Error::source(error).map_or_else(|| causes(error), causes)
}

/// That the files have the profile that somebody named: what came instead would be somebody else's.
async fn is_there(profile: &str) -> Result<()> {
    let known = aws_config::profile::load(&Fs::real(), &Env::real(), &Default::default(), None).await;
    let known = known.map_err(|error| Error::invalid(format!("the shared files of profiles: {}", causes(&error))))?;
    if known.get_profile(profile).is_some() {
        return Ok(());
    }
    let mut names: Vec<_> = known.profiles().collect();
    names.sort_unstable();
    let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    Err(Error::forbidden(format!("AWS_PROFILE is '{profile}', and ~/.aws has no such profile; it has {names}")))
}

/// Keys in variables.
#[derive(Debug)]
struct Environment(std::result::Result<Credentials, &'static str>);

impl Environment {
    fn of(variables: &Variables) -> Self {
        Self(match (variables.get("AWS_ACCESS_KEY_ID"), variables.get("AWS_SECRET_ACCESS_KEY")) {
            (Some(key), Some(secret)) => {
                let token = variables.get("AWS_SESSION_TOKEN").map(str::to_owned);
                Ok(Credentials::new(key.trim(), secret.trim(), token, None, "environment"))
            }
            (None, _) => Err("AWS_ACCESS_KEY_ID is not set"),
            (Some(_), None) => Err("AWS_SECRET_ACCESS_KEY is not set"),
        })
    }
}

impl ProvideCredentials for Environment {
    fn provide_credentials<'a>(&'a self) -> aws_credential_types::provider::future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let found = self.0.clone().map_err(CredentialsError::not_loaded);
        aws_credential_types::provider::future::ProvideCredentials::ready(found)
    }
}
