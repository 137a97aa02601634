//! An instance of an Auto Scaling group, which is not scaled in while it is protected.

use std::sync::Arc;
use std::time::Duration;

use engine::{Error, ErrorKind, Result};
use objects::Network;
use objects::aws::{Instance, Query, Service};

use super::Shield;

const AUTO_SCALING: Service = Service { id: "Auto Scaling", name: "autoscaling", version: "2011-01-01" };

/// All that one request may take.
pub(super) const CALL: Duration = Duration::from_secs(5);

/// What is known of the instance without asking it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupNames {
    /// The instance's id.
    pub instance: Option<String>,
    /// The group's name.
    pub group: Option<String>,
}

/// The instance that this process runs on, as a member of its group.
pub struct Group {
    pub(super) query: Query,
    pub(super) instance: String,
    pub(super) group: String,
}

impl Group {
    /// Asks the instance's metadata for what `names` leaves open.
    ///
    /// # Errors
    /// [`FailedPrecondition`](ErrorKind::FailedPrecondition) when that does not tell either; the metadata's own.
    pub fn find(network: &Arc<Network>, names: &GroupNames) -> Result<Self> {
        let metadata = Instance::new(network)?;
        let told = |given: &Option<String>, path: &str, fix: &str| match given {
            Some(given) => Ok(given.clone()),
            None => metadata
                .get(path)
                .map_err(|error| Error::new(error.kind, format!("{}; {fix}", error.message)))?
                .ok_or_else(|| {
                    Error::new(ErrorKind::FailedPrecondition, format!("the instance's metadata has no {path}; {fix}"))
                }),
        };
        let instance = told(&names.instance, "meta-data/instance-id", "give its id with --instance")?;
        let group = told(
            &names.group,
            "meta-data/tags/instance/aws:autoscaling:groupName",
            "give its group with --scaling-group, or allow tags in the instance's metadata",
        )?;
        let region = match network.aws()?.region() {
            Some(_) => None,
            None => Some(told(&None, "meta-data/placement/region", "set AWS_REGION")?),
        };
        let query = Query::new(network, AUTO_SCALING, region.as_deref())?;
        Ok(Self { query, instance, group })
    }
}

impl Shield for Group {
    fn name(&self) -> String {
        format!("instance {} of {}", self.instance, self.group)
    }

    fn set(&self, on: bool) -> Result<()> {
        let fields = [
            ("AutoScalingGroupName", &*self.group),
            ("InstanceIds.member.1", &self.instance),
            ("ProtectedFromScaleIn", if on { "true" } else { "false" }),
        ];
        self.query.ask("SetInstanceProtection", &fields, CALL).map(drop)
    }
}
