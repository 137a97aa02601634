//! What a worker does about those who take machines away: it heeds their notices, and has them leave it alone while it is busy.

use std::path::PathBuf;

use objects::aws::Instance;
use work::notice::{Notice, Watch};
use work::protection::{Group, GroupNames, Hook, Pod, PodAddress, Protection, SERVICE_ACCOUNT, Shield};

use crate::exit::Exit;
use crate::places::Outside;

#[derive(clap::Args)]
pub(super) struct Taken {
    /// Ends as with SIGTERM at these notices of the instance's metadata: spot, rebalance, scale-in
    #[arg(long, env = "PACKHORSE_NOTICES", value_enum, value_delimiter = ',', value_name = "NOTICES")]
    notices: Vec<NoticeChoice>,
    /// While it is busy, has autoscalers leave alone its pod of Kubernetes, or its instance of an Auto Scaling group: pod,
    /// instance
    #[arg(long, env = "PACKHORSE_PROTECT", value_enum, value_delimiter = ',', value_name = "KINDS")]
    protect: Vec<Kind>,
    /// The pod's name
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pod_name: Option<String>,
    /// The folder with the pod's token, its ca.crt and its namespace
    #[arg(long, env = "PACKHORSE_SERVICE_ACCOUNT", value_name = "FOLDER", default_value = SERVICE_ACCOUNT)]
    service_account: PathBuf,
    /// The instance's id, if its metadata is not to be asked
    #[arg(long, env = "PACKHORSE_INSTANCE", value_name = "ID")]
    instance: Option<String>,
    /// The name of its group, likewise
    #[arg(long, env = "PACKHORSE_SCALING_GROUP", value_name = "NAME")]
    scaling_group: Option<String>,
    /// The lifecycle hook by which the group waits for this worker when it takes the instance out: the notice scale-in is
    /// heeded, and the hook completed when nothing is held any more
    #[arg(long, env = "PACKHORSE_LIFECYCLE_HOOK", value_name = "NAME")]
    lifecycle_hook: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum NoticeChoice {
    Spot,
    Rebalance,
    ScaleIn,
}

/// Completes `hook` if the group takes the instance out; what goes wrong is told, and holds nobody up.
pub(super) fn let_go(hook: &Hook) {
    let name = hook.name();
    match hook.complete() {
        Ok(true) => tracing::info!(name, "nothing is held any more, and the group was told that it may go on"),
        Ok(false) => {}
        Err(error) => tracing::error!(name, %error, "it is not completed, and the group waits for its time limit"),
    }
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    Pod,
    Instance,
}

impl Taken {
    /// The shields that were asked for, each once.
    pub(super) fn protection(&self, outside: &Outside) -> Result<Protection, Exit> {
        let mut shields: Vec<Box<dyn Shield>> = Vec::new();
        for kind in [Kind::Pod, Kind::Instance].into_iter().filter(|kind| self.protect.contains(kind)) {
            let network = outside.network()?;
            shields.push(match kind {
                Kind::Pod => Box::new(
                    Pod::new(network, self.pod()?)
                        .map_err(|error| Exit::configuration(&error.context("--protect pod")))?,
                ),
                Kind::Instance => {
                    let group = Group::find(network, &self.group());
                    Box::new(group.map_err(|error| Exit::configuration(&error.context("--protect instance")))?)
                }
            });
        }
        Ok(Protection::start(shields)?)
    }

    /// The hook that is to be completed at the end.
    pub(super) fn hook(&self, outside: &Outside) -> Result<Option<Hook>, Exit> {
        let find = |name| {
            let hook = Hook::find(outside.network()?, &self.group(), name);
            hook.map_err(|error| Exit::configuration(&error.context("--lifecycle-hook")))
        };
        self.lifecycle_hook.as_deref().map(find).transpose()
    }

    fn group(&self) -> GroupNames {
        GroupNames { instance: self.instance.clone(), group: self.scaling_group.clone() }
    }

    /// The pod that this is, as Kubernetes tells every process in it.
    fn pod(&self) -> Result<PodAddress, Exit> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let (host, port) = (variable("KUBERNETES_SERVICE_HOST"), variable("KUBERNETES_SERVICE_PORT"));
        let (Some(host), Some(port)) = (host, port) else {
            let why = "--protect pod: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set: this is no pod";
            return Err(Exit::Configuration(why.to_owned()));
        };
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        // A pod's host name is its own, unless it shares its node's network.
        let name = self
            .pod_name
            .clone()
            .or_else(|| variable("HOSTNAME"))
            .ok_or_else(|| Exit::Configuration("--protect pod: which one? give its name as POD_NAME".to_owned()))?;
        Ok(PodAddress { api: format!("https://{host}:{port}"), name, account: self.service_account.clone() })
    }

    /// Looks for the notices that were asked for, and calls `stop` at the first.
    pub(super) fn watch(&self, outside: &Outside, stop: impl FnOnce() + Send + 'static) -> Result<Option<Watch>, Exit> {
        let by_hook = |choice| choice == NoticeChoice::ScaleIn && self.lifecycle_hook.is_some();
        let heeded = |(choice, notice)| (self.notices.contains(&choice) || by_hook(choice)).then_some(notice);
        let all = [
            (NoticeChoice::Spot, Notice::Spot),
            (NoticeChoice::Rebalance, Notice::Rebalance),
            (NoticeChoice::ScaleIn, Notice::ScaleIn),
        ];
        let notices: Vec<Notice> = all.into_iter().filter_map(heeded).collect();
        if notices.is_empty() {
            return Ok(None);
        }
        let instance = Instance::new(outside.network()?)?;
        let given = move |notice| {
            tracing::warn!(%notice, "asked to stop; giving back what is held");
            stop();
        };
        Ok(Some(Watch::start(notices, move |path| instance.get(path), given)?))
    }
}
