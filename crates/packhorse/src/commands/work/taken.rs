//! What a worker does about those who take machines away: it heeds their notices, and has them leave it alone while it is busy.

use std::path::PathBuf;

use objects::aws::Instance;
use work::Stop;
use work::notice::{Notice, Watch};
use work::protection::{Group, GroupNames, Pod, PodAddress, Protection, SERVICE_ACCOUNT, Shield};

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
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum NoticeChoice {
    Spot,
    Rebalance,
    ScaleIn,
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
                    let names = GroupNames { instance: self.instance.clone(), group: self.scaling_group.clone() };
                    let group = Group::find(network, &names);
                    Box::new(group.map_err(|error| Exit::configuration(&error.context("--protect instance")))?)
                }
            });
        }
        Ok(Protection::start(shields)?)
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

    /// Looks for the notices that were asked for, and asks `stop` at the first.
    pub(super) fn watch(&self, outside: &Outside, stop: &Stop) -> Result<Option<Watch>, Exit> {
        let heeded = |(choice, notice)| self.notices.contains(&choice).then_some(notice);
        let all = [
            (NoticeChoice::Spot, Notice::Spot),
            (NoticeChoice::Rebalance, Notice::Rebalance),
            (NoticeChoice::ScaleIn, Notice::ScaleIn),
        ];
        let notices: Vec<Notice> = all.into_iter().filter_map(heeded).collect();
        if notices.is_empty() {
            return Ok(None);
        }
        let (instance, stop) = (Instance::new(outside.network()?)?, stop.clone());
        let given = move |notice| {
            tracing::warn!(%notice, "asked to stop; giving back what is held");
            stop.request();
        };
        Ok(Some(Watch::start(notices, move |path| instance.get(path), given)?))
    }
}
