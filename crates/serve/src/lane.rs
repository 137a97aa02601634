//! Lanes and the loader: the threads that carry out what the scheduler decides.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use engine::{Error, Result, cpu};
use rustix::process::{Pid, setpriority_process};

use crate::queue::Job;
use crate::scheduler::Scheduler;
use crate::{InferResponse, Timing};

/// The life of a lane: pinned to `core`, it runs one job after the other to completion.
pub(crate) fn run(scheduler: &Scheduler, lane: usize, core: usize) {
    if !cpu::pin_to(core) {
        tracing::warn!(lane, core, "not pinned: the system refused; the lane runs wherever there is room");
    }
    while let Some(job) = scheduler.next_job() {
        let started = Instant::now();
        let model = std::sync::Arc::clone(&job.model);
        match scheduler.overdue(&job, started) {
            Some(error) => {
                scheduler.metrics().refused(error.kind);
                job.reply.send(Err(error));
                scheduler.finished(&model, Duration::ZERO);
            }
            None => {
                let answer = answer(scheduler, lane, &job, started);
                let cost = started.elapsed();
                scheduler.metrics().answered(answer.as_ref().map(|response| response.timing), cost);
                // Counted before it is sent, so that whoever has the answer finds it in the metrics.
                scheduler.finished(&model, cost);
                job.reply.send(answer);
            }
        }
    }
}

fn answer(scheduler: &Scheduler, lane: usize, job: &Job, started: Instant) -> Result<InferResponse> {
    let cpu_before = cpu::thread_cpu();
    let run = || {
        let model = &job.model;
        let weights = scheduler.residency().weights(model)?;
        let program = model.program().ok_or_else(|| Error::internal("a job reached a lane before its program"))?;
        program.session(lane).run(weights.as_ref(), &job.inputs, &job.outputs)
    };
    // A panic in a runtime's binding costs this request, not the lane.
    let tensors = catch_unwind(AssertUnwindSafe(run))
        .unwrap_or_else(|_| Err(Error::internal("the runtime panicked on this request")))?;
    let manifest = job.model.manifest();
    let outputs = job.outputs.iter().map(|&index| job.model.signature().outputs[index].name.clone());
    Ok(InferResponse {
        model: manifest.name.clone(),
        version: manifest.version,
        outputs: outputs.zip(tensors).collect(),
        timing: Timing {
            queue: started.saturating_duration_since(job.submitted),
            compute: started.elapsed(),
            compute_cpu: cpu::thread_cpu().saturating_sub(cpu_before),
        },
    })
}

/// The life of the loader: it builds programs that somebody waits for, and yields the cores to whoever computes.
pub(crate) fn load(scheduler: &Scheduler) {
    // On Linux a thread's id stands for the thread alone here. A refusal costs other models a little time, no more.
    const NICE: i32 = 10;
    let thread: Pid = rustix::thread::gettid();
    let _ = setpriority_process(Some(thread), NICE);
    while let Some(model) = scheduler.next_load() {
        let started = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| scheduler.residency().load(&model)))
            .unwrap_or_else(|_| Err(Error::internal("the runtime panicked while it loaded the program")));
        let manifest = model.manifest();
        match &outcome {
            Ok(()) => {
                let ms = started.elapsed().as_millis();
                tracing::info!(model = %manifest.name, version = manifest.version, ms, "program ready");
            }
            Err(error) => tracing::warn!(model = %manifest.name, version = manifest.version, %error, "not loaded"),
        }
        scheduler.metrics().loaded(outcome.is_ok(), started.elapsed());
        scheduler.loaded(&model, outcome);
    }
}
