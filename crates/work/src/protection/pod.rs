//! A pod of Kubernetes: annotations of its own, by which autoscalers leave it alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use engine::{Error, ErrorKind, Result};
use http::{Request, StatusCode};
use objects::{Caller, Network};
use serde_json::{Value, json};

use super::Shield;

/// Where a pod finds what it may be asked for: a token, the API server's certificates, its namespace.
pub const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// All that one request may take.
const CALL: Duration = Duration::from_secs(5);

/// What is written, and what it is for. Nothing tells the busy from each other: each of them loses no more than what it
/// did since it made something durable.
const ANNOTATIONS: [(&str, &str); 3] = [
    // Karpenter does not consolidate its node away.
    ("karpenter.sh/do-not-disrupt", "true"),
    // Nor does the Cluster Autoscaler.
    ("cluster-autoscaler.kubernetes.io/safe-to-evict", "false"),
    // A ReplicaSet that shrinks takes the cheapest first; without it, a pod costs 0.
    ("controller.kubernetes.io/pod-deletion-cost", "1000"),
];

/// Where a pod is, and who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodAddress {
    /// The API server, `https://HOST:PORT`.
    pub api: String,
    /// The pod's name.
    pub name: String,
    /// The folder with `token`, `ca.crt` and `namespace`; they are read anew for every request, since they are replaced.
    pub account: PathBuf,
}

/// The pod that this process is in.
pub struct Pod {
    network: Arc<Network>,
    address: PodAddress,
    url: String,
}

impl Pod {
    /// Reads the namespace; asks nothing yet.
    ///
    /// # Errors
    /// [`FailedPrecondition`](ErrorKind::FailedPrecondition) where there is no service account,
    /// [`InvalidInput`](ErrorKind::InvalidInput) for names that are none.
    pub fn new(network: &Arc<Network>, address: PodAddress) -> Result<Self> {
        let namespace = read(&address.account, "namespace")?;
        for (what, name) in [("namespace", &namespace), ("pod", &address.name)] {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
            if name.is_empty() || name.len() > 253 || !name.chars().all(plain) {
                return Err(Error::invalid(format!("{name:?} is no name of a {what}")));
            }
        }
        let (api, name) = (address.api.trim_end_matches('/'), &address.name);
        let url = format!("{api}/api/v1/namespaces/{namespace}/pods/{name}?fieldManager=packhorse");
        Ok(Self { network: Arc::clone(network), url, address })
    }
}

impl Shield for Pod {
    fn name(&self) -> String {
        format!("pod {}", self.address.name)
    }

    fn set(&self, on: bool) -> Result<()> {
        let account = &self.address.account;
        let roots = self.url.starts_with("https:").then(|| read(account, "ca.crt")).transpose()?;
        let caller = Caller::near(&self.network, roots.as_deref().map(str::as_bytes))?;
        // A merge patch takes away what is null, and what is not there is no error.
        let value = |text: &str| if on { json!(text) } else { Value::Null };
        let annotations: Value = ANNOTATIONS.iter().map(|&(name, text)| (name.to_owned(), value(text))).collect();
        let body = json!({"metadata": {"annotations": annotations}}).to_string();
        let request = Request::patch(&self.url)
            .header("authorization", format!("Bearer {}", read(account, "token")?))
            .header("content-type", "application/merge-patch+json")
            .header("accept", "application/json")
            .body(body.into());
        let request = request.map_err(|error| Error::invalid(format!("{}: {error}", self.url)))?;
        let answer = caller.call(request, CALL).map_err(|error| error.context(&self.address.api))?;
        if answer.status().is_success() {
            return Ok(());
        }
        let said: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
        Err(refused(answer.status(), said["message"].as_str().unwrap_or_default()))
    }
}

fn refused(status: StatusCode, message: &str) -> Error {
    let (kind, fix) = match status.as_u16() {
        401 | 403 => (ErrorKind::Forbidden, "; let its service account 'patch' 'pods'"),
        404 => (ErrorKind::NotFound, "; give the pod's own name as POD_NAME"),
        429 => (ErrorKind::Exhausted, ""),
        408 | 409 | 500.. => (ErrorKind::Unavailable, ""),
        _ => (ErrorKind::InvalidInput, ""),
    };
    Error::new(kind, format!("the API server answers {status}: {message}{fix}"))
}

fn read(account: &Path, name: &str) -> Result<String> {
    let path = account.join(name);
    let text = std::fs::read_to_string(&path).map_err(|error| {
        let fix = "is this a pod, and is its service account's token mounted?";
        Error::new(ErrorKind::FailedPrecondition, format!("{}: {error}; {fix}", path.display()))
    })?;
    Ok(text.trim().to_owned())
}
