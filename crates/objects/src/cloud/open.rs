//! From an address to a store of one of the three clouds, set up by the variables that its users know.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use engine::{Error, Result};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GcpCredential, GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::{BackoffConfig, RetryConfig, StaticCredentialProvider};

use super::service::{Azure, Connector, Service};
use super::{Asker, Cloud, Vendor};
use crate::address::{Address, Scheme};
use crate::error::{causes, convert};
use crate::{Limits, Network};

/// More would not fit into the time for which a request is tried again.
const TRIES_MAX: usize = 12;

pub(super) fn open(network: &Arc<Network>, address: &Address) -> Result<(Arc<dyn Vendor>, Asker)> {
    let opened = match address.scheme {
        Scheme::S3 => network.block_on(s3(network, address)),
        Scheme::Gcs => gcs(network, address),
        Scheme::Azure => azure(network, address),
        Scheme::Http | Scheme::Folder => Err(Error::internal("a place that is no bucket")),
    };
    opened.map_err(|error| error.context(address))
}

async fn s3(network: &Network, address: &Address) -> Result<(Arc<dyn Vendor>, Asker)> {
    let variables = &network.variables;
    let account = network.aws_account().await?;
    let mut builder = AmazonS3Builder::new();
    for (name, value) in variables.starting_with("AWS_") {
        if let Ok(key) = name.to_ascii_lowercase().parse() {
            builder = builder.with_config(key, value);
        }
    }
    let unsigned = variables.get("AWS_SKIP_SIGNATURE").is_some_and(is_true);
    let hosted = variables.get("AWS_VIRTUAL_HOSTED_STYLE_REQUEST").map(is_true);
    let endpoint = account.endpoint(variables, "S3", "AWS_ENDPOINT_URL_S3")?;
    // What keys there are in the variables is for the chain to say.
    builder = builder.with_bucket_name(&address.root).with_credentials(Arc::clone(&account.held) as _);
    builder = builder.with_retry(retries(&network.limits)).with_skip_signature(unsigned);
    let plain = match &endpoint {
        Some(endpoint) => {
            let hosted = hosted.unwrap_or(false);
            let full = if hosted { with_bucket(endpoint, &address.root)? } else { endpoint.clone() };
            builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, full);
            builder = builder.with_virtual_hosted_style_request(hosted);
            builder = builder.with_region(account.region().unwrap_or("us-east-1"));
            plain_host(endpoint)?
        }
        None => {
            // A certificate for one label covers no name with a dot.
            builder = builder.with_virtual_hosted_style_request(hosted.unwrap_or(!address.root.contains('.')));
            builder = builder.with_region(region(network, &account, &address.root).await);
            None
        }
    };
    let service = Arc::new(Service::new(network, Scheme::S3, plain));
    let store = builder.with_http_connector(Connector(service)).build().map_err(|error| unfit(&error))?;
    let asker =
        if unsigned { Asker::Named("nobody's name (AWS_SKIP_SIGNATURE)".to_owned()) } else { Asker::Aws(account) };
    Ok((Arc::new(store), asker))
}

/// The region of `bucket`: what somebody said, else what the bucket itself says to anybody who asks.
async fn region(network: &Network, account: &crate::aws::Account, bucket: &str) -> String {
    if let Some(said) = account.region() {
        return said.to_owned();
    }
    let url = format!("https://s3.amazonaws.com/{bucket}");
    let asked = network.clients.cloud.head(url).timeout(Duration::from_secs(5)).send().await;
    let told =
        asked.ok().and_then(|answer| Some(answer.headers().get("x-amz-bucket-region")?.to_str().ok()?.to_owned()));
    told.unwrap_or_else(|| "us-east-1".to_owned())
}

fn gcs(network: &Network, address: &Address) -> Result<(Arc<dyn Vendor>, Asker)> {
    let variables = &network.variables;
    let mut builder = GoogleCloudStorageBuilder::new();
    if let Some(path) = variables.get("SERVICE_ACCOUNT") {
        builder = builder.with_service_account_path(path);
    }
    for (name, value) in variables.starting_with("GOOGLE_") {
        if let Ok(key) = name.to_ascii_lowercase().parse() {
            builder = builder.with_config(key, value);
        }
    }
    let emulator = variables.get("STORAGE_EMULATOR_HOST");
    if let Some(host) = emulator {
        let url = if host.contains("://") { host.to_owned() } else { format!("http://{host}") };
        builder = builder.with_config(GoogleConfigKey::BaseUrl, url.trim_end_matches('/'));
    }
    let unsigned = emulator.is_some() || variables.get("GOOGLE_SKIP_SIGNATURE").is_some_and(is_true);
    if unsigned {
        // Without a token of its own it asks the machine for one before it writes, whatever it was told:
        // https://github.com/apache/arrow-rs-object-store/issues/520.
        let nobody = GcpCredential { bearer: String::new() };
        builder = builder.with_skip_signature(true).with_credentials(Arc::new(StaticCredentialProvider::new(nobody)));
    }
    let base = builder.get_config_value(&GoogleConfigKey::BaseUrl);
    let plain = base.as_deref().map(plain_host).transpose()?.flatten();
    let service = Arc::new(Service::new(network, Scheme::Gcs, plain));
    builder = builder.with_bucket_name(&address.root).with_retry(retries(&network.limits));
    let store = builder.with_http_connector(Connector(service)).build().map_err(|error| unfit(&error))?;
    let who = match (unsigned, variables.get("GOOGLE_BEARER_TOKEN")) {
        (true, _) => "nobody's name (STORAGE_EMULATOR_HOST or GOOGLE_SKIP_SIGNATURE)",
        (false, Some(_)) => "the token in GOOGLE_BEARER_TOKEN",
        (false, None) => {
            "Google's default credentials (GOOGLE_APPLICATION_CREDENTIALS, GOOGLE_SERVICE_ACCOUNT, or the machine's)"
        }
    };
    Ok((Arc::new(store), Asker::Named(who.to_owned())))
}

fn azure(network: &Network, address: &Address) -> Result<(Arc<dyn Vendor>, Asker)> {
    let variables = &network.variables;
    let mut builder = MicrosoftAzureBuilder::new();
    for (name, value) in variables.starting_with("AZURE_") {
        if let Ok(key) = name.to_ascii_lowercase().parse() {
            builder = builder.with_config(key, value);
        }
    }
    if let Some(account) = &address.account {
        builder = builder.with_account(account);
    }
    let emulated = variables.get("AZURE_STORAGE_USE_EMULATOR").is_some_and(is_true);
    let endpoint = builder.get_config_value(&AzureConfigKey::Endpoint);
    let plain = endpoint.as_deref().map(plain_host).transpose()?.flatten();
    let account =
        builder.get_config_value(&AzureConfigKey::AccountName).unwrap_or_else(|| "devstoreaccount1".to_owned());
    if !emulated && address.account.is_none() && variables.get("AZURE_STORAGE_ACCOUNT_NAME").is_none() {
        let fix = "set AZURE_STORAGE_ACCOUNT_NAME, or give abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PREFIX";
        return Err(Error::invalid(format!("no account is named: {fix}")));
    }
    let late = Arc::new(OnceLock::new());
    let service = Arc::new(Service { azure: Arc::clone(&late), ..Service::new(network, Scheme::Azure, plain) });
    builder = builder.with_container_name(&address.root).with_retry(retries(&network.limits));
    let store = builder.with_http_connector(Connector(service)).build().map_err(|error| unfit(&error))?;
    let _ = late.set(Azure { credentials: Arc::clone(store.credentials()), account: account.clone() });
    let who = format!("the credentials of AZURE_STORAGE_* or the machine's identity, account {account}");
    Ok((Arc::new(store), Asker::Named(who)))
}

impl Service {
    fn new(network: &Network, scheme: Scheme, plain: Option<String>) -> Self {
        Self { client: network.clients.cloud.clone(), scheme, plain, azure: Arc::default() }
    }
}

impl Cloud {
    pub(crate) fn open(network: &Arc<Network>, address: &Address) -> Result<Self> {
        let (store, asker) = open(network, address)?;
        Ok(Self { store, asker: Arc::new(asker), network: Arc::clone(network), address: address.clone() })
    }
}

fn retries(limits: &Limits) -> RetryConfig {
    let backoff =
        BackoffConfig { init_backoff: Duration::from_millis(50), max_backoff: Duration::from_secs(8), base: 2. };
    RetryConfig { backoff, max_retries: TRIES_MAX, retry_timeout: limits.retry }
}

/// Settings that make no store.
fn unfit(error: &object_store::Error) -> Error {
    let error = convert(error, None, "");
    Error::invalid(error.message)
}

fn is_true(text: &str) -> bool {
    matches!(text.to_ascii_lowercase().as_str(), "true" | "1" | "yes" | "on")
}

/// The host of `endpoint`, when it is to be asked without TLS.
fn plain_host(endpoint: &str) -> Result<Option<String>> {
    let uri: http::Uri = endpoint.parse().map_err(|error| not_an_endpoint(endpoint, &causes(&error)))?;
    match (uri.scheme_str(), uri.host()) {
        (Some("https"), Some(_)) => Ok(None),
        (Some("http"), Some(host)) => Ok(Some(host.to_owned())),
        _ => Err(not_an_endpoint(endpoint, "it has no scheme or no host")),
    }
}

/// `endpoint` with the bucket's name in front of its host.
fn with_bucket(endpoint: &str, bucket: &str) -> Result<String> {
    let (scheme, host) = endpoint.split_once("://").ok_or_else(|| not_an_endpoint(endpoint, "it has no scheme"))?;
    Ok(format!("{scheme}://{bucket}.{host}"))
}

fn not_an_endpoint(endpoint: &str, why: &str) -> Error {
    Error::invalid(format!("the endpoint '{endpoint}' is no URL such as https://s3.example.com: {why}"))
}

#[cfg(test)]
mod tests {
    use engine::ErrorKind;

    use super::*;
    use crate::Variables;

    #[track_caller]
    fn check(place: &str, variables: Variables, want: std::result::Result<(), &str>) {
        let network = Network::start(Limits::default(), variables).unwrap();
        match (network.place(place), want) {
            (Ok(_), Ok(())) => {}
            (Err(error), Err(says)) => {
                assert_eq!(error.kind, ErrorKind::InvalidInput, "{error}");
                assert!(error.message.contains(says), "{error}");
            }
            (opened, want) => panic!("{place}: {opened:?}, not {want:?}"),
        }
    }

    #[test]
    fn settings_that_make_no_store_are_named() {
        let region = ("AWS_REGION", "us-east-1");
        check("s3://b/p", [region].into(), Ok(()));
        check("s3://b.c/p", [region].into(), Ok(()));
        check("s3://b/p", [region, ("AWS_ENDPOINT_URL", "http://localhost:1")].into(), Ok(()));
        check("s3://b/p", [region, ("AWS_ENDPOINT_URL_S3", "localhost:1")].into(), Err("localhost:1"));
        check("s3://b/p", [region, ("AWS_CHECKSUM_ALGORITHM", "rot13")].into(), Err("rot13"));
        check("gs://b/p", [("GOOGLE_SKIP_SIGNATURE", "true")].into(), Ok(()));
        check("gs://b/p", [("GOOGLE_SERVICE_ACCOUNT", "/nowhere.json")].into(), Err("nowhere"));
        check("az://c/p", [].into(), Err("AZURE_STORAGE_ACCOUNT_NAME"));
        check("az://c/p", [("AZURE_STORAGE_ACCOUNT_NAME", "me"), ("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")].into(), Ok(()));
        check("abfss://c@me.dfs.core.windows.net/p", [("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")].into(), Ok(()));
        check(
            "az://c/p",
            [("AZURE_STORAGE_ACCOUNT_NAME", "me"), ("AZURE_STORAGE_ACCOUNT_KEY", "%%")].into(),
            Err("Access Key"),
        );
    }

    #[test]
    fn endpoints() {
        assert_eq!(plain_host("http://h:1/x").unwrap().as_deref(), Some("h"));
        assert_eq!(plain_host("https://h:1").unwrap(), None);
        assert!(plain_host("h:1").is_err() && plain_host("").is_err());
        assert_eq!(with_bucket("https://h:1", "b").unwrap(), "https://b.h:1");
    }
}
