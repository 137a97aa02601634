//! A run of requests for several models: through the trunk that these share all at once, and through each one's head.

use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::{Error, ErrorKind, Result, Tensor};

use super::{CpuClock, Lane, joined_inputs};
use crate::InferResponse;
use crate::batch::split;
use crate::job::Job;
use crate::model::Model;
use crate::padding::Filled;
use crate::residency::Trunk;
use crate::stats::RunTimes;

/// The models of `jobs`, of which those of one model are next to each other.
pub(super) fn models(jobs: &[Job]) -> Vec<Arc<Model>> {
    by_model(jobs).map(|jobs| Arc::clone(&jobs[0].model)).collect()
}

/// What each of `models` had of a run of `jobs` that took `cost`, by its items: the first, and the others. All of it is the
/// first's when there are none.
pub(super) fn shares(models: &[Arc<Model>], jobs: &[Job], cost: Duration) -> (Duration, Vec<(Arc<Model>, Duration)>) {
    let Some((first, others)) = models.split_first() else { return (cost, Vec::new()) };
    let all: usize = jobs.iter().map(Job::items).sum();
    let share = |model: &Arc<Model>| {
        let items: usize = jobs.iter().filter(|job| Arc::ptr_eq(&job.model, model)).map(Job::items).sum();
        cost.mul_f64(items as f64 / all.max(1) as f64)
    };
    (share(first), others.iter().map(|model| (Arc::clone(model), share(model))).collect())
}

fn by_model(jobs: &[Job]) -> impl Iterator<Item = &[Job]> {
    jobs.chunk_by(|one, other| Arc::ptr_eq(&one.model, &other.model))
}

impl Lane<'_> {
    /// The answer of each of `jobs`. When running them together fails, each model's are run by themselves.
    pub(super) fn answers_of_several(&self, jobs: &[Job], trunk: &Trunk) -> Vec<Result<InferResponse>> {
        if let [_, _, ..] = jobs {
            match self.guarded(|| self.through(trunk, jobs)) {
                Ok(answers) => return answers.into_iter().map(Ok).collect(),
                // What is mapped may be no more what it was; it is made again of what is there.
                Err(error) if error.kind == ErrorKind::Corrupt => self.model.slot().give_up_trunk(trunk),
                Err(_) => {}
            }
        }
        by_model(jobs).flat_map(|jobs| Lane { model: &jobs[0].model, ..*self }.answers(jobs)).collect()
    }

    fn through(&self, trunk: &Trunk, jobs: &[Job]) -> Result<Vec<InferResponse>> {
        let (begun, clock) = (Instant::now(), CpuClock::start(jobs));
        let filled = Filled::of(self.model.padding(), jobs);
        let inputs = joined_inputs(filled.as_ref(), jobs)?;
        let groups = by_model(jobs).map(|jobs| {
            let head = jobs[0].model.bound().and_then(|ready| ready.head(trunk));
            // It went since they were put together, and the model runs by itself.
            let head = head.ok_or_else(|| Error::internal("a model is without its head"))?;
            Ok((jobs.iter().map(Job::items).sum::<usize>(), head))
        });
        let groups = groups.collect::<Result<Vec<_>>>()?;
        let joined = Instant::now();
        let answers = trunk.run(self.lane, &inputs, &groups, &jobs[0].outputs)?;
        let computed = Instant::now();
        let apart = |(at, &output): (usize, &usize)| {
            let parts = by_model(jobs)
                .zip(&answers)
                .map(|(jobs, outputs)| split(&outputs[at], &jobs.iter().map(Job::items).collect::<Vec<_>>()));
            let parts: Vec<Tensor> = parts.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
            let parts = if let Some(filled) = &filled { filled.cut(output, parts)? } else { parts };
            Ok(parts.into_iter())
        };
        let mut parts: Vec<_> = jobs[0].outputs.iter().enumerate().map(apart).collect::<Result<_>>()?;
        let cpu_each = clock.elapsed() / u32::try_from(jobs.len()).unwrap_or(u32::MAX);
        let response = |job: &Job| {
            let tensors = parts.iter_mut().filter_map(Iterator::next).collect();
            Lane { model: &job.model, ..*self }.response(job, tensors, cpu_each)
        };
        let responses = jobs.iter().map(response).collect::<Result<Vec<_>>>()?;
        self.ran_together(
            jobs,
            RunTimes { input: joined - begun, infer: computed - joined, output: computed.elapsed() },
        );
        Ok(responses)
    }

    /// A run for several models is over; each has had its part of it.
    fn ran_together(&self, jobs: &[Job], times: RunTimes) {
        let items: usize = jobs.iter().map(Job::items).sum();
        self.learn(items, jobs.iter().map(|job| job.length).max().flatten(), times);
        self.scheduler.metrics().ran_together(jobs.len());
        for jobs in by_model(jobs) {
            let own: usize = jobs.iter().map(Job::items).sum();
            let part = |time: Duration| time.mul_f64(own as f64 / items.max(1) as f64);
            let RunTimes { input, infer, output } = times;
            let times = RunTimes { input: part(input), infer: part(infer), output: part(output) };
            jobs[0].model.recorder().ran(jobs.len() as u64, own as u64, times);
            jobs[0].model.heat().ran(&jobs[0].inputs, &jobs[0].outputs);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::tests::{batched, job};

    #[test]
    fn each_model_is_charged_for_its_items() {
        let models = [1, 2, 3].map(|id| batched(id, 8));
        let of = |model: &Arc<Model>, items: usize| {
            let x = Tensor::from_f32(vec![items, 1], vec![0.0; items]).unwrap();
            Job { inputs: vec![x], ..job(model) }
        };
        let cost = Duration::from_millis(8);
        // Whatever the second had asked for is not wanted any more.
        let jobs = [of(&models[0], 1), of(&models[0], 2), of(&models[2], 1)];
        assert_eq!(super::models(&jobs).iter().map(|model| model.id()).collect::<Vec<_>>(), [1, 3]);
        let (own, others) = shares(&models, &jobs, cost);
        let others: Vec<_> = others.into_iter().map(|(model, cost)| (model.id(), cost)).collect();
        assert_eq!((own, others), (cost / 4 * 3, vec![(2, Duration::ZERO), (3, cost / 4)]));
        // Of a run for one model, all is its own.
        let (own, others) = shares(&[], &jobs, cost);
        assert!(own == cost && others.is_empty());
    }
}
