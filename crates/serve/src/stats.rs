//! What a model has done: counts and nanoseconds, as Triton's statistics extension tells them.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How often something happened, and how long it took in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Times.
    pub count: u64,
    /// Nanoseconds.
    pub ns: u64,
}

impl Spent {
    fn add(&mut self, count: u64, time: Duration) {
        self.count += count;
        self.ns = self.ns.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }
}

/// A model's statistics since it was loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// End of the last run, in milliseconds since 1970; 0 before the first.
    pub last_inference_ms: u64,
    /// Batch items computed: a request of batch three counts three.
    pub inference_count: u64,
    /// Runs on a lane.
    pub execution_count: u64,
    /// Requests answered with outputs, and their time from submission to answer.
    pub success: Spent,
    /// Requests answered with an error after they were queued.
    pub fail: Spent,
    /// Requests that reached a lane, and their wait for it.
    pub queue: Spent,
    /// Requests, and the time to put their tensors together.
    pub compute_input: Spent,
    /// Requests, and the time in the runtime.
    pub compute_infer: Spent,
    /// Requests, and the time to take the outputs apart.
    pub compute_output: Spent,
    /// By number of items in the run, ascending.
    pub batches: Vec<BatchStatistics>,
}

/// Runs of one batch size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchStatistics {
    /// Items in the run.
    pub batch_size: u64,
    /// Runs, and the time to put their tensors together.
    pub compute_input: Spent,
    /// Runs, and the time in the runtime.
    pub compute_infer: Spent,
    /// Runs, and the time to take the outputs apart.
    pub compute_output: Spent,
}

/// The times of one run on a lane.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RunTimes {
    pub(crate) input: Duration,
    pub(crate) infer: Duration,
    pub(crate) output: Duration,
}

/// Statistics that lanes add to and APIs read. A lock per model, held for nanoseconds.
#[derive(Debug, Default)]
pub(crate) struct Recorder(Mutex<Statistics>);

impl Recorder {
    /// A run of `items` for `requests` requests ended well.
    pub(crate) fn ran(&self, requests: u64, items: u64, times: RunTimes) {
        let mut held = self.lock();
        let statistics = &mut *held;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        statistics.last_inference_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        statistics.inference_count += items;
        statistics.execution_count += 1;
        let times_requests = u32::try_from(requests).unwrap_or(u32::MAX);
        statistics.compute_input.add(requests, times.input * times_requests);
        statistics.compute_infer.add(requests, times.infer * times_requests);
        statistics.compute_output.add(requests, times.output * times_requests);
        let place = statistics.batches.binary_search_by_key(&items, |batch| batch.batch_size).unwrap_or_else(|place| {
            statistics.batches.insert(place, BatchStatistics { batch_size: items, ..BatchStatistics::default() });
            place
        });
        let batch = &mut statistics.batches[place];
        batch.compute_input.add(1, times.input);
        batch.compute_infer.add(1, times.infer);
        batch.compute_output.add(1, times.output);
    }

    /// A request that waited `queued` was answered `total` after its submission.
    pub(crate) fn answered(&self, succeeded: bool, queued: Duration, total: Duration) {
        let mut held = self.lock();
        let statistics = &mut *held;
        statistics.queue.add(1, queued);
        if succeeded { statistics.success.add(1, total) } else { statistics.fail.add(1, total) }
    }

    /// The time on a lane that a request takes on average, in seconds; 0 before the first.
    pub(crate) fn lane_s_a_request(&self) -> f64 {
        let held = self.lock();
        let ns: u64 = held.batches.iter().map(|batch| batch.compute_infer.ns).sum();
        ns as f64 / 1e9 / held.compute_infer.count.max(1) as f64
    }

    /// The statistics as they stand.
    pub(crate) fn snapshot(&self) -> Statistics {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Statistics> {
        // Only additions happen under the lock, so a poisoned one still holds sums.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_counted_once_and_requests_each() {
        let recorder = Recorder::default();
        let ms = Duration::from_millis;
        let times = RunTimes { input: ms(1), infer: ms(10), output: ms(2) };
        recorder.ran(3, 4, times);
        recorder.ran(1, 1, times);
        recorder.ran(2, 4, times);
        recorder.answered(true, ms(5), ms(18));
        recorder.answered(false, ms(6), ms(7));
        let statistics = recorder.snapshot();
        assert_eq!((statistics.inference_count, statistics.execution_count), (9, 3));
        assert_eq!(statistics.compute_infer, Spent { count: 6, ns: 60_000_000 });
        let sizes: Vec<_> =
            statistics.batches.iter().map(|batch| (batch.batch_size, batch.compute_infer.count)).collect();
        assert_eq!(sizes, [(1, 1), (4, 2)]);
        assert_eq!(statistics.success, Spent { count: 1, ns: 18_000_000 });
        assert_eq!(statistics.fail, Spent { count: 1, ns: 7_000_000 });
        assert_eq!(statistics.queue, Spent { count: 2, ns: 11_000_000 });
    }
}
