//! Looking at an endpoint before it is asked: is it there, is its model of our shape, and does it answer as ours does.

use std::sync::Weak;
use std::time::Duration;

use engine::Tensor;
use futures_util::future::join_all;

use crate::attachment::{Admitted, Attachment, chance};
use crate::failure::{Failure, FailureKind};
use crate::fit::{self, Names};
use crate::wire::{Asked, Peer, Target};

/// What came of a look that did not end well, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It cannot be told, not now.
    Absent(String),
    /// It is another model than ours.
    Mismatch(String),
}

impl Attachment {
    /// Looks at every endpoint once, side by side, and goes on with those that did not do well.
    pub(crate) async fn look_around(&self) {
        join_all((0..self.shared.endpoints.len()).map(|endpoint| async move {
            if let Some(pause) = self.look(endpoint).await {
                self.watch(endpoint, pause);
            }
        }))
        .await;
    }

    /// Looks at an endpoint from time to time, until it does well or nobody needs it any more.
    pub(crate) fn watch(&self, endpoint: usize, first: Duration) {
        let me = Weak::clone(&self.me);
        self.runtime.spawn(async move {
            let mut pause = first;
            loop {
                tokio::time::sleep(pause).await;
                let Some(me) = me.upgrade() else { return };
                match me.look(endpoint).await {
                    Some(next) => pause = next,
                    None => return,
                }
            }
        });
    }

    /// Looks at an endpoint that is out; how long until the next look, unless it is in now.
    async fn look(&self, endpoint: usize) -> Option<Duration> {
        let limit = self.shared.settings.look;
        let looked = tokio::time::timeout(limit, self.examine(endpoint)).await;
        let slow = |_| {
            let text = format!("no answer within {} s", limit.as_secs_f64());
            Err(Refusal::Absent(text))
        };
        let looked = looked.unwrap_or_else(slow);
        let (model, address) = (&self.model.name, self.address(endpoint));
        let well = match looked {
            Ok(admitted) => {
                let (there, version) = (&admitted.target.model, &admitted.version);
                tracing::info!(%address, model, there, version, "an endpoint answers as the model here does, and is asked");
                self.refused(endpoint, None);
                self.admit(endpoint, Some(admitted));
                true
            }
            Err(refusal) => {
                // Told once, however often it is looked at.
                if self.refused(endpoint, Some(refusal.clone())) {
                    match refusal {
                        Refusal::Mismatch(why) => {
                            tracing::warn!(%address, model, why, "an endpoint is not what it was taken for, and is not asked");
                        }
                        Refusal::Absent(why) => {
                            tracing::info!(%address, model, why, "an endpoint does not answer, and is looked for");
                        }
                    }
                }
                false
            }
        };
        self.policy().probed(endpoint, well, chance())
    }

    async fn examine(&self, endpoint: usize) -> Result<Admitted, Refusal> {
        let absent = || Refusal::Absent("there is no such endpoint".to_owned());
        let (address, peer) = self.shared.endpoints.get(endpoint).ok_or_else(absent)?;
        let model = address.model.clone().unwrap_or_else(|| self.model.name.clone());
        let mut target = Target { model, version: address.version };
        let offer = peer.offer(&target).await.map_err(refusal)?;
        let names = fit::names(&self.model.signature, &offer).map_err(Refusal::Mismatch)?;
        // What was looked at is what is asked.
        target.version = target.version.or_else(|| offer.version.parse().ok());
        let (version, theirs) = self.try_out(peer, &target, &names).await.map_err(refusal)?;
        let tolerance = self.shared.settings.tolerance;
        let near = tolerance.check(&self.model.signature, &self.model.answer, &theirs);
        near.map_err(Refusal::Mismatch)?;
        Ok(Admitted { target, names, version })
    }

    async fn try_out(&self, peer: &Peer, target: &Target, names: &Names) -> Result<(String, Vec<Tensor>), Failure> {
        let (signature, inputs) = (&self.model.signature, &self.model.sample[..]);
        let reply = peer.infer(Asked { target, signature, names, inputs, within: self.shared.settings.look }).await?;
        Ok((reply.version, fit::outputs(signature, names, reply.outputs)?))
    }
}

fn refusal(failure: Failure) -> Refusal {
    match failure.kind {
        FailureKind::Wrong => Refusal::Mismatch(failure.message),
        FailureKind::Lost | FailureKind::Busy | FailureKind::Slow | FailureKind::Broken => {
            Refusal::Absent(failure.message)
        }
    }
}
