//! A lifecycle hook of an Auto Scaling group: an instance that the group takes out waits for it, and is let go as soon as
//! nothing is held any more.

use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::Result;
use objects::Network;
use objects::aws::Instance;

use super::group::{CALL, Group, GroupNames};
use crate::notice::Notice;

/// The longest that a worker which ends tries to complete its hook: behind that, the group waits for the hook's own limit.
const TRYING_MAX: Duration = Duration::from_secs(8);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(500);

/// A hook for instances that their group takes out, and the instance that this process runs on.
pub struct Hook {
    group: Group,
    metadata: Instance,
    name: String,
}

impl Hook {
    /// The hook called `name` of the group that [`Group::find`] finds.
    ///
    /// # Errors
    /// As [`Group::find`].
    pub fn find(network: &Arc<Network>, names: &GroupNames, name: &str) -> Result<Self> {
        let (group, metadata) = (Group::find(network, names)?, Instance::new(network)?);
        Ok(Self { group, metadata, name: name.to_owned() })
    }

    /// What it is, for people.
    pub fn name(&self) -> String {
        format!("hook {} of {} for instance {}", self.name, self.group.group, self.group.instance)
    }

    /// Lets the instance go if its group takes it out, which is what is returned. What fails is tried again for a few
    /// seconds: an instance that is on its way to where it waits does not wait yet.
    ///
    /// # Errors
    /// The metadata's, or the service's.
    pub fn complete(&self) -> Result<bool> {
        let end = Instant::now() + TRYING_MAX;
        loop {
            match self.try_to_complete() {
                Err(error) if Instant::now() + PAUSE < end => {
                    tracing::debug!(name = self.name(), %error, "a hook cannot be completed yet");
                    std::thread::sleep(PAUSE);
                }
                done => return done,
            }
        }
    }

    fn try_to_complete(&self) -> Result<bool> {
        let state = self.metadata.get(Notice::ScaleIn.path())?;
        if state.and_then(|state| Notice::ScaleIn.read(&state)).is_none() {
            return Ok(false);
        }
        let fields = [
            ("AutoScalingGroupName", &*self.group.group),
            ("LifecycleHookName", &self.name),
            ("InstanceId", &self.group.instance),
            ("LifecycleActionResult", "CONTINUE"),
        ];
        self.group.query.ask("CompleteLifecycleAction", &fields, CALL).map(|_| true)
    }
}
