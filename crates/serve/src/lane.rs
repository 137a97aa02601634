//! Lanes, the poller and the packer: threads that carry out what is decided elsewhere.

mod company;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use engine::{Error, ErrorKind, Result, Tensor, cpu};
use store::repository::Pruned;

use crate::batch::split;
use crate::job::Job;
use crate::model::Model;
use crate::padding::Filled;
use crate::residency::Program;
use crate::scheduler::Scheduler;
use crate::stats::RunTimes;
use crate::waiting::Batch;
use crate::{InferResponse, Timing};

/// The life of a lane: pinned to `core`, it runs one batch after the other to completion.
pub(crate) fn run(scheduler: &Scheduler, lane: usize, core: usize) {
    if !cpu::pin_to(core) {
        tracing::warn!(lane, core, "not pinned: the system refused; the lane runs wherever there is room");
    }
    while let Some(batch) = scheduler.next_batch(lane) {
        carry_out(scheduler, lane, batch);
    }
}

/// Runs `batch` on `lane`, which is the caller's own or lent to it, and answers it.
pub(crate) fn carry_out(scheduler: &Scheduler, lane: usize, batch: Batch) {
    let Batch { jobs, program, files, shared } = batch;
    let started = Instant::now();
    let Some(model) = jobs.first().map(|job| Arc::clone(&job.model)) else { return };
    // Of a batch for one model there is nothing to be found out.
    let models = if shared.is_some() { company::models(&jobs) } else { Vec::new() };
    let (due, overdue): (Vec<_>, Vec<_>) =
        jobs.into_iter().map(|job| (scheduler.overdue(&job, started), job)).partition(|(overdue, _)| overdue.is_none());
    for (error, job) in overdue {
        let error = error.unwrap_or_else(|| Error::internal("overdue for no reason"));
        scheduler.refuse(job, error, started);
    }
    let jobs: Vec<Job> = due.into_iter().map(|(_, job)| job).collect();
    let lane = Lane { scheduler, model: &model, program: &program, lane, started };
    if shared.is_none() && jobs.iter().any(|job| !job.was_put_back) && lane.has_to_wait() {
        scheduler.put_back(Batch { jobs, program: Arc::clone(&program), files, shared }, &model, started.elapsed());
        return;
    }
    let answers = match &shared {
        Some(shared) => lane.answers_of_several(&jobs, &shared.trunk),
        None => lane.answers(&jobs),
    };
    let cost = if jobs.is_empty() { Duration::ZERO } else { started.elapsed() };
    // Counted before it is sent, so that whoever has the answer finds it in the metrics.
    for (job, answer) in jobs.iter().zip(&answers) {
        scheduler.metrics().answered(answer.as_ref().map(|response| response.timing));
        job.model.recorder().answered(answer.is_ok(), queued(job, started), job.submitted.elapsed());
    }
    let (own, others) = company::shares(&models, &jobs, cost);
    scheduler.finished(&model, own, &others);
    for (job, answer) in jobs.into_iter().zip(answers) {
        job.into_reply().send(answer);
    }
}

/// A lane with requests for one model before it.
#[derive(Clone, Copy)]
struct Lane<'a> {
    scheduler: &'a Scheduler,
    model: &'a Model,
    program: &'a Program,
    lane: usize,
    started: Instant,
}

impl Lane<'_> {
    /// Whether the model's weights are on disk alone.
    fn has_to_wait(&self) -> bool {
        let is_away = || Ok(self.model.heat().hot().is_none() && self.scheduler.residency().is_away(self.model));
        // What else is wrong with them is told to those who run on them.
        self.guarded(is_away).unwrap_or(false)
    }

    /// The answer of each of `jobs`. When a batch fails, each of its requests is run alone, so that one that the model
    /// cannot take fails by itself.
    fn answers(&self, jobs: &[Job]) -> Vec<Result<InferResponse>> {
        if let [_, _, ..] = jobs
            && let Ok(answers) = self.guarded(|| self.together(jobs))
        {
            return answers.into_iter().map(Ok).collect();
        }
        jobs.iter().map(|job| self.guarded(|| self.alone(job))).collect()
    }

    /// A panic in a runtime's binding costs these requests, not the lane.
    fn guarded<T>(&self, run: impl FnOnce() -> Result<T>) -> Result<T> {
        catch_unwind(AssertUnwindSafe(run))
            .unwrap_or_else(|_| Err(Error::internal("the runtime panicked on this request")))
    }

    fn alone(&self, job: &Job) -> Result<InferResponse> {
        let (begun, clock) = (Instant::now(), CpuClock::start(std::slice::from_ref(job)));
        let tensors = self.compute(&job.inputs, &job.outputs)?;
        let times = RunTimes { infer: begun.elapsed(), ..RunTimes::default() };
        self.ran(1, job.items(), job.length, times);
        self.response(job, tensors, clock.elapsed())
    }

    fn together(&self, jobs: &[Job]) -> Result<Vec<InferResponse>> {
        let (begun, clock) = (Instant::now(), CpuClock::start(jobs));
        let filled = Filled::of(self.model.padding(), jobs);
        let inputs = joined_inputs(filled.as_ref(), jobs)?;
        let joined = Instant::now();
        let outputs = self.compute(&inputs, &jobs[0].outputs)?;
        let computed = Instant::now();
        let items: Vec<usize> = jobs.iter().map(Job::items).collect();
        let apart = |(output, &index): (&Tensor, &usize)| {
            let parts = split(output, &items)?;
            let parts = if let Some(filled) = &filled { filled.cut(index, parts)? } else { parts };
            Ok(parts.into_iter())
        };
        let mut parts: Vec<_> = outputs.iter().zip(&jobs[0].outputs).map(apart).collect::<Result<_>>()?;
        let cpu_each = clock.elapsed() / u32::try_from(jobs.len()).unwrap_or(u32::MAX);
        let answers = jobs
            .iter()
            .map(|job| self.response(job, parts.iter_mut().filter_map(Iterator::next).collect(), cpu_each))
            .collect::<Result<_>>()?;
        let times = RunTimes { input: joined - begun, infer: computed - joined, output: computed.elapsed() };
        let longest = jobs.iter().map(|job| job.length).max().flatten();
        self.ran(jobs.len(), items.iter().sum(), longest, times);
        Ok(answers)
    }

    fn compute(&self, inputs: &[Tensor], outputs: &[usize]) -> Result<Vec<Tensor>> {
        if let Some(hot) = self.model.heat().hot() {
            return hot.run(inputs, outputs);
        }
        let computed = self.compute_shared(inputs, outputs).or_else(|error| {
            if error.kind != ErrorKind::Corrupt {
                return Err(error);
            }
            // What is mapped may be no more what it was. Mapped anew it is that, or it is told what is wrong with which file.
            drop(self.model.take_ready());
            self.compute_shared(inputs, outputs)
        })?;
        self.model.heat().ran(inputs, outputs);
        Ok(computed)
    }

    /// On what the model shares with others.
    fn compute_shared(&self, inputs: &[Tensor], outputs: &[usize]) -> Result<Vec<Tensor>> {
        let (residency, session) = (self.scheduler.residency(), self.program.session(self.lane));
        let ready = residency.ready(self.model)?;
        residency.fits(self.model, &ready, session)?;
        session.run(ready.weights(), inputs, outputs)
    }

    /// A run of so many requests and items is over; of texts, each is `length` tokens with its padding.
    fn ran(&self, requests: usize, items: usize, length: Option<usize>, times: RunTimes) {
        self.model.recorder().ran(requests as u64, items as u64, times);
        self.learn(items, length, times);
    }

    /// What a run of so many items takes, the longest of such a length: of one model or of several of one program.
    fn learn(&self, items: usize, length: Option<usize>, times: RunTimes) {
        let all = times.input + times.infer + times.output;
        self.scheduler.metrics().ran(self.lane, items, all);
        self.model.costs().learn(items as u64, all);
        if let Some(length) = length {
            self.model.lengths().learn(items.saturating_mul(length), all);
        }
    }

    fn response(&self, job: &Job, tensors: Vec<Tensor>, compute_cpu: Duration) -> Result<InferResponse> {
        let (manifest, specs) = (self.model.manifest(), &self.model.signature().outputs);
        let output = |(&index, tensor): (&usize, Tensor)| {
            Ok((specs[index].name.clone(), self.model.reshapes().given(index, tensor)?))
        };
        Ok(InferResponse {
            model: manifest.name.clone(),
            version: manifest.version,
            outputs: job.outputs.iter().zip(tensors).map(output).collect::<Result<_>>()?,
            timing: Timing { queue: queued(job, self.started), compute: self.started.elapsed(), compute_cpu },
        })
    }
}

/// The inputs of all `jobs`, one after the other.
fn joined_inputs(filled: Option<&Filled<'_>>, jobs: &[Job]) -> Result<Vec<Tensor>> {
    let join = |index| {
        let parts: Vec<&Tensor> = jobs.iter().map(|job| &job.inputs[index]).collect();
        filled.map_or_else(|| Tensor::joined(&parts), |filled| filled.join(index, &parts))
    };
    (0..jobs[0].inputs.len()).map(join).collect()
}

/// The lane's CPU time, for a batch in which somebody wants it.
struct CpuClock(Option<Duration>);

impl CpuClock {
    fn start(jobs: &[Job]) -> Self {
        Self(jobs.iter().any(|job| job.reply.wants_cpu_time()).then(cpu::thread_cpu))
    }

    fn elapsed(&self) -> Duration {
        self.0.map_or(Duration::ZERO, |before| cpu::thread_cpu().saturating_sub(before))
    }
}

fn queued(job: &Job, started: Instant) -> Duration {
    started.saturating_duration_since(job.submitted)
}

/// The life of the poller: it looks for versions that came or went, and makes the new ones warm.
pub(crate) fn poll(scheduler: &Scheduler, interval: Duration) {
    cpu::step_back();
    while scheduler.sleep(interval) {
        match scheduler.residency().poll() {
            Ok(0) => {}
            Ok(changed) => tracing::info!(changed, "the store changed"),
            Err(error) => tracing::warn!(%error, "the store cannot be looked at; everything stays as it is"),
        }
    }
}

/// The life of the packer: it packs what has to be before it can be served, until nothing is left, and then looks after the
/// cache of packs, where there is one.
pub(crate) fn settle(scheduler: &Scheduler) {
    cpu::step_back();
    let residency = scheduler.residency();
    let models = residency.unsettled();
    if models > 0 {
        tracing::info!(models, "packing what the repository holds; each model is served when it is packed");
        while !scheduler.is_leaving() && residency.settle_next() {}
        if residency.is_settled() {
            tracing::info!("every model is served or refused");
        }
    }
    let Some(every) = residency.upkeep_every() else { return };
    while !scheduler.is_leaving() {
        match residency.upkeep() {
            Ok(Pruned { packs: 0, bytes: 0 }) => {}
            Ok(Pruned { packs, bytes }) => tracing::info!(packs, bytes, "packs went that no repository names"),
            Err(error) => tracing::warn!(%error, "the cache of packs is not looked after"),
        }
        if !scheduler.sleep(every) {
            return;
        }
    }
}

/// A thread called `name`.
///
/// # Errors
/// [`Internal`](engine::ErrorKind::Internal) when the system gives no more.
pub(crate) fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map_err(|source| Error::internal(format!("thread '{name}' cannot be started: {source}")))
}

#[cfg(test)]
mod tests;
