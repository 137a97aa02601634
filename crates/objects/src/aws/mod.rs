//! Who asks Amazon's services, and where they are: one chain of credentials for every service.

mod chain;
mod client;
mod held;
mod instance;
mod query;

pub(crate) use held::Held;
pub use instance::Instance;
pub use query::{Query, Service};

use std::sync::Arc;

use aws_config::BehaviorVersion;
use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
pub use aws_types::SdkConfig;
use aws_types::region::Region;
use aws_types::service_config::ServiceConfigKey;
use engine::{Error, Result};

use crate::Network;
use client::Sdk;

/// Who asks, and where.
#[derive(Debug)]
pub struct Account {
    sdk: SdkConfig,
    pub(crate) held: Arc<Held>,
    endpoint: Option<String>,
}

impl Account {
    /// Reads the environment and the shared files of profiles; asks no service yet.
    pub(crate) async fn find(network: &Network) -> Result<Self> {
        let variables = &network.variables;
        let http = Sdk::new(network.clients.sdk.clone());
        let given = variables.get("AWS_REGION").or_else(|| variables.get("AWS_DEFAULT_REGION")).map(str::to_owned);
        let config = ProviderConfig::without_region().with_http_client(http.clone());
        // Without the instance's own, which takes seconds to find out that there is none; a bucket tells its region itself.
        let region = RegionProviderChain::first_try(given.map(Region::new))
            .or_else(EnvironmentVariableRegionProvider::new())
            .or_else(ProfileFileRegionProvider::builder().configure(&config).build())
            .region()
            .await;
        // A role is assumed in some region, whichever.
        let somewhere = region.clone().unwrap_or_else(|| Region::new("us-east-1"));
        let chain = chain::Chain::new(variables, &config.with_region(Some(somewhere)));
        let held = Arc::new(Held::new(chain));
        let loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http)
            .credentials_provider(SharedCredentialsProvider::new(Arc::clone(&held) as Arc<dyn ProvideCredentials>))
            .region(region);
        let sdk = loader.load().await;
        let endpoint = variables.get("AWS_ENDPOINT_URL").map(str::to_owned);
        Ok(Self { sdk, held, endpoint })
    }

    /// What clients of the AWS SDK are made with: credentials, region and endpoint as the environment and the profile say,
    /// over the network's own connections. `region` comes before what they say.
    pub fn sdk(&self, region: Option<&str>) -> SdkConfig {
        let mut builder = self.sdk.to_builder();
        if let Some(region) = region {
            builder = builder.region(Region::new(region.to_owned()));
        }
        if self.sdk.endpoint_url().is_none() {
            builder.set_endpoint_url(self.endpoint.clone());
        }
        builder.build()
    }

    /// The region, where somebody said one.
    pub fn region(&self) -> Option<&str> {
        self.sdk.region().map(Region::as_ref)
    }

    /// Whose credentials are used, for people: where they come from and which key; never the secret.
    pub fn description(&self) -> String {
        self.held.description()
    }

    /// The credentials, as they are now.
    ///
    /// # Errors
    /// [`Forbidden`](engine::ErrorKind::Forbidden) when there are none, with what was tried.
    pub(crate) fn credentials(&self, network: &Network) -> Result<Credentials> {
        network.block_on(self.held.get()).map(|found| found.credentials)
    }

    /// Looks for credentials now.
    ///
    /// # Errors
    /// [`Forbidden`](engine::ErrorKind::Forbidden) when there are none, with what was tried.
    pub async fn check(&self) -> Result<()> {
        self.held.get().await.map(drop)
    }

    /// Where the service called `id` is, when that is not its own address; `variable` is the service's own of the
    /// environment.
    pub(crate) fn endpoint(&self, variables: &crate::Variables, id: &str, variable: &str) -> Result<Option<String>> {
        if let Some(given) = variables.get(variable) {
            return Ok(Some(given.to_owned()));
        }
        let key = ServiceConfigKey::builder().service_id(id).env("AWS_ENDPOINT_URL").profile("endpoint_url").build();
        let key = key.map_err(|error| Error::internal(error.to_string()))?;
        let told = self.sdk.service_config().and_then(|config| config.load_config(key));
        Ok(self.endpoint.clone().or(told))
    }
}
