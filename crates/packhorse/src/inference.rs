//! The in-process scheduler as the worker's way to inference.

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};

use engine::{Result, Tensor};
use serve::{InferRequest, InferResponse, Origin, Reply, Scheduler};
use store::Manifest;
use work::{Answer, Inference, Pending};

/// Inference on the lanes of this process.
pub(crate) struct InProcess(pub(crate) Arc<Scheduler>);

impl Inference for InProcess {
    fn model(&self, name: &str) -> Result<Arc<Manifest>> {
        Ok(Arc::clone(self.0.residency().model(name, None)?.manifest()))
    }

    fn submit(&self, model: &Manifest, inputs: Vec<Tensor>) -> Result<Pending> {
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
        let (sender, receiver) = sync_channel(1);
        self.0.submit(request, Box::new(ToWorker(sender)))?;
        Ok(Pending(receiver))
    }

    fn lanes(&self) -> usize {
        self.0.lanes()
    }
}

struct ToWorker(SyncSender<Result<Answer>>);

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
        });
        let _ = self.0.send(answer);
    }
}
