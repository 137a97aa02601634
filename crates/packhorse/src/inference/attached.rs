//! Other machines in front of the lanes of this process: they are asked first, and what none of them answers is worked
//! here. The model is the one of the store either way: it says what goes in and what comes out, an endpoint is held
//! against it before it is asked, and the lanes know it when the endpoint is lost.

use std::collections::BTreeMap;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use engine::{Error, ErrorKind, Result, Tensor};
use pipeline::{detect, recognise};
use remote::{Answered, Attachment, Model, Remote, Unanswered, Used};
use serve::{OtherMetric, OtherSource};
use store::Manifest;
use work::cost;
use work::{Answer, Inference, Pending};

use super::{InProcess, ToWorker};

/// Models that are attached at a time; a worker that meets more begins anew with all of them.
const MODELS_MAX: usize = 64;

/// What becomes of a frame that no endpoint answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Otherwise {
    /// It is worked here
    Local,
    /// It waits, for 20 s at most; then its task is given back
    Wait,
}

/// Inference on other machines, and otherwise here.
pub(crate) struct Attached {
    here: Arc<InProcess>,
    remote: Remote,
    otherwise: Otherwise,
    /// Of all frames; added to at each one's end.
    used: Arc<Mutex<cost::Remote>>,
    /// By name and version. Held while an endpoint is looked at, so that two videos of a model look once.
    models: Mutex<BTreeMap<(String, u64), Known>>,
}

#[derive(Clone)]
struct Known {
    manifest: Arc<Manifest>,
    attachment: Arc<Attachment>,
}

impl Attached {
    pub(crate) fn new(here: InProcess, remote: Remote, otherwise: Otherwise) -> Self {
        Self { here: Arc::new(here), remote, otherwise, used: Arc::default(), models: Mutex::default() }
    }

    /// Looks at every endpoint for the model called `name`.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound), naming the model; [`FailedPrecondition`](ErrorKind::FailedPrecondition) when an
    /// endpoint is there and has another model, saying what differs. One that is not there is no error.
    pub(crate) fn check(&self, name: &str) -> Result<()> {
        let manifest = self.here.model(name)?;
        let attachment = self.known(&manifest)?.attachment;
        if let Some((address, why)) = attachment.mismatches().first() {
            let message = format!("{address} cannot stand in for model '{name}': {why}");
            return Err(Error::new(ErrorKind::FailedPrecondition, message));
        }
        if !attachment.anybody_in() {
            tracing::warn!(model = name, "no endpoint answers yet for this model");
        }
        Ok(())
    }

    /// What all frames took so far.
    pub(crate) fn used(&self) -> cost::Remote {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self, manifest: &Arc<Manifest>) -> Result<Known> {
        let key = (manifest.name.clone(), manifest.version);
        let mut models = self.models.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = models.get(&key) {
            return Ok(known.clone());
        }
        let detector = detect::for_model(manifest)?;
        let (fitted, _) = detector.fit(&recognise::somebody()?)?;
        let sample = detector.prepare(&fitted)?;
        let answer = self.here.submit(manifest, sample.clone())?.wait()?.outputs;
        let signature = manifest.signature()?;
        let attachment = self.remote.attach(Model { name: manifest.name.clone(), signature, sample, answer })?;
        let known = Known { manifest: Arc::clone(manifest), attachment };
        if models.len() >= MODELS_MAX {
            models.clear();
        }
        models.insert(key, known.clone());
        Ok(known)
    }
}

impl OtherSource for Attached {
    fn told(&self) -> Vec<OtherMetric> {
        let used = self.used();
        let counter = |name, help, samples| OtherMetric { name, help, is_counter: true, samples };
        let plain = |value: u64| vec![(None, value as f64)];
        let models = self.models.try_lock().map(|models| models.values().cloned().collect::<Vec<_>>());
        // While an endpoint is looked at, nobody knows.
        let standing = models.unwrap_or_default().into_iter().map(|known| known.attachment.in_and_out());
        let (ins, outs) = standing.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1));
        let at = |place| Some(("at", place));
        let state = |state| Some(("state", state));
        vec![
            counter(
                "worker_frames",
                "Frames that a worker had inferred on other machines, and here for want of them",
                vec![(at("remote"), used.frames_remote as f64), (at("local"), used.frames_local as f64)],
            ),
            counter("remote_calls", "Calls to other machines, all of them", plain(used.calls)),
            counter("remote_retries", "Calls that were sent again because one before had failed", plain(used.retries)),
            counter("remote_hedges", "Calls to a second machine because the first took long", plain(used.hedges)),
            counter("remote_sent_bytes", "Bytes of the questions that were answered", plain(used.sent_bytes)),
            counter("remote_received_bytes", "Bytes of the answers", plain(used.received_bytes)),
            counter("remote_wait_seconds", "From question to answer, of all questions", vec![(None, used.wait_s)]),
            OtherMetric {
                name: "remote_endpoints",
                help: "Endpoints that can be asked for a model, and that cannot, of all models together",
                is_counter: false,
                samples: vec![(state("in"), ins as f64), (state("out"), outs as f64)],
            },
        ]
    }
}

impl Inference for Attached {
    fn model(&self, name: &str) -> Result<Arc<Manifest>> {
        let manifest = self.here.model(name)?;
        self.known(&manifest)?;
        Ok(manifest)
    }

    fn submit(&self, model: &Manifest, inputs: Vec<Tensor>) -> Result<Pending> {
        let key = (model.name.clone(), model.version);
        let known = self.models.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        let known = known.map_or_else(|| self.known(&Arc::new(model.clone())), Ok)?;
        let (sender, receiver) = sync_channel(1);
        let (here, otherwise) = (Arc::clone(&self.here), self.otherwise);
        if otherwise == Otherwise::Local && !known.attachment.anybody_in() {
            let remote = cost::Remote { frames_local: 1, ..cost::Remote::default() };
            here.submit_to(model, inputs, ToWorker { sender, remote: Some(remote) })?;
            add(&self.used, remote);
            return Ok(Pending(receiver));
        }
        let (manifest, used) = (known.manifest, Arc::clone(&self.used));
        known.attachment.ask(inputs, move |asked| {
            let took = told(match &asked {
                Ok(answered) => answered.used,
                Err(unanswered) => unanswered.used,
            });
            let remote = match &asked {
                Ok(_) => cost::Remote { frames_remote: 1, ..took },
                Err(_) if otherwise == Otherwise::Local => cost::Remote { frames_local: 1, ..took },
                Err(_) => took,
            };
            add(&used, remote);
            let reply = ToWorker { sender: sender.clone(), remote: Some(remote) };
            let ended = match asked {
                Ok(Answered { outputs, .. }) => Err(Ok(Answer { outputs, cpu: Duration::ZERO, remote: Some(remote) })),
                Err(unanswered) if otherwise == Otherwise::Wait => Err(Err(refused(&unanswered))),
                Err(unanswered) => here.submit_to(&manifest, unanswered.inputs, reply).map_err(Err),
            };
            if let Err(answer) = ended {
                // Nobody waits for it once its job has ended.
                let _ = sender.send(answer);
            }
        });
        Ok(Pending(receiver))
    }

    fn lanes(&self) -> usize {
        // Twice as many frames are under way, so that every call has one.
        self.here.lanes().max(self.remote.settings().in_flight.div_ceil(2))
    }

    fn tolerance(&self) -> Option<f64> {
        Some(self.remote.settings().tolerance.0).filter(|tolerance| *tolerance > 0.0)
    }
}

fn add(all: &Mutex<cost::Remote>, used: cost::Remote) {
    // Plain numbers: no panic leaves them half written.
    *all.lock().unwrap_or_else(PoisonError::into_inner) += used;
}

fn refused(unanswered: &Unanswered) -> Error {
    let why = unanswered.failure.as_ref().map_or_else(|| "all of them are out".to_owned(), ToString::to_string);
    Error::unavailable(format!("no endpoint of --infer answers: {why}"))
}

fn told(used: Used) -> cost::Remote {
    let Used { calls, retries, hedges, sent_bytes, received_bytes, wait } = used;
    let wait_s = wait.as_secs_f64();
    cost::Remote { calls, retries, hedges, sent_bytes, received_bytes, wait_s, ..cost::Remote::default() }
}
