//! The worker's ways to inference: the in-process scheduler, and other machines in front of it.

mod attached;
pub(crate) use attached::{Attached, Otherwise};

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};

use engine::{ErrorKind, Result, Tensor};
use serve::{InferRequest, InferResponse, Origin, Reply, Scheduler};
use store::Manifest;
use work::cost::Remote;
use work::{Answer, Inference, Pending};

/// Inference on the lanes of this process.
pub(crate) struct InProcess(pub(crate) Arc<Scheduler>);

impl Inference for InProcess {
    fn model(&self, name: &str) -> Result<Arc<Manifest>> {
        let residency = self.0.residency();
        // One that came into the store since it was last looked at is as good as one that was there.
        if residency.index_of(name).is_empty()
            && let Err(error) = residency.look_for(name)
            && error.kind != ErrorKind::NotFound
        {
            return Err(error);
        }
        Ok(Arc::clone(residency.model(name, None)?.manifest()))
    }

    fn submit(&self, model: &Manifest, inputs: Vec<Tensor>) -> Result<Pending> {
        let (sender, receiver) = sync_channel(1);
        self.submit_to(model, inputs, ToWorker { sender, remote: None })?;
        Ok(Pending(receiver))
    }

    fn lanes(&self) -> usize {
        self.0.lanes()
    }
}

impl InProcess {
    /// As [`submit`](Inference::submit), for somebody who waits already.
    fn submit_to(&self, model: &Manifest, inputs: Vec<Tensor>, reply: ToWorker) -> Result<()> {
        let names = model.inputs.iter().map(|input| input.name.clone());
        let request = InferRequest {
            model: model.name.clone(),
            version: Some(model.version),
            inputs: names.zip(inputs).collect(),
            outputs: Vec::new(),
            priority: 0,
            deadline: None,
            origin: Origin::default(),
        };
        self.0.submit(request, Box::new(reply)).map(drop)
    }
}

struct ToWorker {
    sender: SyncSender<Result<Answer>>,
    /// What was asked of other machines before.
    remote: Option<Remote>,
}

impl Reply for ToWorker {
    fn gone(&self) -> bool {
        // A worker that no longer waits drops the receiver; the send below then fails, which costs one frame.
        false
    }

    fn wants_cpu_time(&self) -> bool {
        true
    }

    fn send(self: Box<Self>, answer: Result<InferResponse>) {
        let answer = answer.map(|response| Answer {
            outputs: response.outputs.into_iter().map(|(_, tensor)| tensor).collect(),
            cpu: response.timing.compute_cpu,
            remote: self.remote,
        });
        let _ = self.sender.send(answer);
    }
}
