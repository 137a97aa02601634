//! Hot models: what is asked for so much that a session of its own pays, over weights that the runtime has laid out for
//! this CPU. Nobody ever waits for one. It is made on a thread of a low priority, tried on what clients sent beside the
//! session that all models of the program share, and kept if it answers the same in less time. It goes before anything
//! else when memory is short, and when its model is asked for no more.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use engine::{Error, ErrorKind, Result, Session, Tensor, Weights, cpu, memory};

use super::Residency;
use super::budget::{Charge, MemoryKind};
use super::room::models;
use crate::metrics::Promoted;
use crate::model::Model;
use crate::scheduler::Scheduler;

/// Between two looks for what has become hot; requests of so long are what it is tried on.
const LOOK: Duration = Duration::from_secs(1);
/// Runs that a session is tried on, and the most bytes of inputs that one of them has: what is larger takes so long that
/// laying out weights would not be noticed.
const SAMPLES: usize = 4;
const SAMPLE_BYTES_MAX: usize = 1 << 20;
/// The runtime lays out so many bytes of weights a second, writes them and maps them.
const BUILT_BYTES_PER_S: f64 = 250e6;
/// What a session of its own is expected to save of a run, before it is tried, and has to save then.
const GAIN_EXPECTED: f64 = 0.1;
const GAIN_MIN: f64 = 0.03;
/// A model is expected to stay as busy as it is for so long, the memory of [`popularity`](super::popularity).
const STAYS_S: f64 = 600.0;
/// The part of a lane that a model's runs take at the least before it is looked at, and below which it is hot no more.
const BUSY_MIN: f64 = 0.02;
const BUSY_LEFT: f64 = 0.005;
/// For each byte of weights so many are needed while a session is made, of private memory and of mapped pages: what is laid
/// out lies beside what is not. And of the disk, where all of it may have to be moved.
const TIMES_PRIVATE: u64 = 2;
const TIMES_MAPPED: u64 = 2;
const TIMES_ON_DISK: u64 = 2 * TIMES_MAPPED;
/// A program whose models gain nothing, or could not be laid out, is left alone for so long.
const AGAIN_AFTER: Duration = Duration::from_secs(600);
/// Answers may be off by so much of the largest number in them, as sums in another order are.
const OFF_MAX: f32 = 1e-4;

/// A session with a model's weights inside. Whoever holds it can run it.
pub(crate) struct Hot {
    session: Box<dyn Session>,
    /// None: they are inside.
    weights: Arc<dyn Weights>,
    charge: Charge,
    mapped_bytes: u64,
    /// Ranges of files that it has mapped, at the most.
    maps: u64,
    /// What a run of it takes less, in milliseconds.
    saves_ms: f64,
}

impl Hot {
    /// As [`Session::run`].
    pub(crate) fn run(&self, inputs: &[Tensor], outputs: &[usize]) -> Result<Vec<Tensor>> {
        self.session.run(self.weights.as_ref(), inputs, outputs)
    }

    pub(super) fn private_bytes(&self) -> u64 {
        self.charge.bytes()
    }

    pub(super) fn mapped_bytes(&self) -> u64 {
        self.mapped_bytes
    }

    pub(super) fn maps(&self) -> u64 {
        self.maps
    }

    pub(super) fn saves_ms(&self) -> f64 {
        self.saves_ms
    }
}

/// A run as it was.
struct Sample {
    inputs: Vec<Tensor>,
    outputs: Vec<usize>,
}

/// What of a model is hot, and what it takes to find out whether it should be.
#[derive(Default)]
pub(crate) struct Heat {
    /// Put there and taken away by residency; read by lanes.
    hot: ArcSwapOption<Hot>,
    /// How many runs are still to be put aside. Set by residency, counted down by lanes.
    wanted: AtomicUsize,
    samples: Mutex<Vec<Sample>>,
}

impl Heat {
    /// The model's own session, when it is hot.
    pub(crate) fn hot(&self) -> Option<Arc<Hot>> {
        self.hot.load_full()
    }

    pub(super) fn is_hot(&self) -> bool {
        self.hot.load().is_some()
    }

    /// It is hot no more; runs in progress keep the session.
    pub(super) fn take(&self) -> Option<Arc<Hot>> {
        self.hot.swap(None)
    }

    /// A run on `inputs` is over, and may be put aside for a trial.
    pub(crate) fn ran(&self, inputs: &[Tensor], outputs: &[usize]) {
        if self.wanted.load(Ordering::Relaxed) == 0 {
            return;
        }
        let bytes: usize = inputs.iter().map(|input| input.data().len()).sum();
        if bytes > SAMPLE_BYTES_MAX {
            return;
        }
        // One fewer is wanted, unless another lane had the last.
        let one = self.wanted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |wanted| wanted.checked_sub(1));
        if one.is_ok() {
            self.samples().push(Sample { inputs: inputs.to_vec(), outputs: outputs.to_vec() });
        }
    }

    fn begin_sampling(&self) {
        self.wanted.store(SAMPLES, Ordering::Relaxed);
    }

    fn end_sampling(&self) -> Vec<Sample> {
        self.wanted.store(0, Ordering::Relaxed);
        std::mem::take(&mut self.samples())
    }

    fn samples(&self) -> std::sync::MutexGuard<'_, Vec<Sample>> {
        // Whole whatever panicked.
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the time that a session of its own would save pays for making one: of weights of so many bytes, for a model
/// whose runs take the part `busy` of a lane.
fn pays(busy: f64, bytes: u64) -> bool {
    busy >= BUSY_MIN.max(bytes as f64 / BUILT_BYTES_PER_S / (GAIN_EXPECTED * STAYS_S))
}

/// Whether a session fits into what is free of the memory while it is made and afterwards, without anything else going.
fn fits(bytes: u64, free_bytes: u64) -> bool {
    free_bytes / (TIMES_PRIVATE + TIMES_MAPPED) >= bytes
}

/// What became of a model that looked hot.
enum Outcome {
    Hot(Hot),
    /// It would save this part of a run.
    Gains(f64),
    /// It answers something else.
    Differs,
    /// The server stops.
    GivenUp,
}

/// The life of the promoter.
pub(crate) fn promote(scheduler: &Scheduler) {
    cpu::step_back();
    let residency = scheduler.residency();
    let mut heats = residency.heats();
    while scheduler.sleep(LOOK) {
        residency.see_to_trunks(&|| !scheduler.is_stopped());
        if !heats {
            continue;
        }
        residency.cool();
        let Some(model) = residency.next_hot() else { continue };
        if let Err(error) = residency.hot.as_ref().map_or(Ok(()), |scratch| scratch.open().map(drop)) {
            tracing::info!(%error, "no model is made hot; give a folder that can be written as --hot-cache");
            heats = false;
            continue;
        }
        model.heat().begin_sampling();
        let goes_on = scheduler.sleep(LOOK);
        let samples = model.heat().end_sampling();
        if goes_on && !samples.is_empty() {
            residency.try_hot(&model, &samples);
        }
    }
}

impl Residency {
    /// Whether models are ever hot.
    pub(crate) fn heats(&self) -> bool {
        self.hot.is_some()
    }

    /// Nothing more is made; what is mapped stays until it is used no more.
    pub(crate) fn stop_heating(&self) {
        if let Some(scratch) = &self.hot {
            scratch.give_up();
        }
    }

    /// The part of a lane that the runs of `model` take, as far as it is worth counting.
    fn busy(&self, model: &Model, now: Instant) -> f64 {
        let rate_hz = model.traffic().rate_hz(now);
        // What is asked for so rarely is never hot, and counting its runs would cost more.
        if rate_hz < 0.1 {
            return 0.0;
        }
        rate_hz * model.recorder().lane_s_a_request()
    }

    /// The busiest model that could be hot and is not, if a session of its own would pay.
    pub(super) fn next_hot(&self) -> Option<Arc<Model>> {
        let now = Instant::now();
        let figures = self.budget.figures();
        let free_bytes = figures.limit_bytes.saturating_sub(figures.private_bytes() + figures.mapped_bytes);
        let catalog = self.catalog();
        // Most of ten thousand models were never asked for.
        let asked = models(&catalog).filter(|model| model.traffic().requests() > 0);
        let could = asked.filter(|model| {
            let bytes = model.manifest().weights.bytes;
            let free = !model.is_whole() && bytes > 0 && !model.heat().is_hot() && !model.slot().is_left_alone(now);
            free && model.program().is_some() && fits(bytes, free_bytes)
        });
        let busy = could.map(|model| (self.busy(model, now), model));
        let paying = busy.filter(|(busy, model)| pays(*busy, model.manifest().weights.bytes));
        paying.max_by(|(one, _), (other, _)| one.total_cmp(other)).map(|(_, model)| Arc::clone(model))
    }

    /// Has go what is hot and asked for no more.
    pub(super) fn cool(&self) {
        let now = Instant::now();
        for model in models(&self.catalog()).filter(|model| model.heat().is_hot()) {
            if self.busy(model, now) < BUSY_LEFT && model.heat().take().is_some() {
                self.count(|metrics| metrics.promoted(Promoted::Cooled));
                tracing::info!(model = %model.manifest().name, version = model.manifest().version, "hot no more");
            }
        }
    }

    /// Makes `model` hot if that makes `samples` of its runs quicker.
    fn try_hot(&self, model: &Model, samples: &[Sample]) {
        let manifest = model.manifest();
        let (name, version) = (&manifest.name, manifest.version);
        let started = Instant::now();
        let outcome = self.make_hot(model, samples);
        // What laying out took is free again, and the heap keeps it.
        memory::trim_heap();
        let ms = started.elapsed().as_millis();
        let told = match outcome {
            Ok(Outcome::Hot(hot)) => {
                let (mapped_bytes, private_bytes) = (hot.mapped_bytes, hot.private_bytes());
                tracing::info!(model = %name, version, ms, saves_ms = hot.saves_ms, mapped_bytes, private_bytes, "hot");
                model.heat().hot.store(Some(Arc::new(hot)));
                if model.failed() {
                    // What it was made of was found damaged meanwhile.
                    drop(model.heat().take());
                    return;
                }
                Promoted::Kept
            }
            Ok(Outcome::Gains(gain)) => {
                tracing::info!(model = %name, version, ms, gain, "a session of its own gains too little");
                Promoted::NoGain
            }
            Ok(Outcome::Differs) => {
                tracing::warn!(model = %name, version, "a session of its own answers something else; it is not used");
                Promoted::Differs
            }
            Ok(Outcome::GivenUp) => return,
            Err(error) if error.kind == ErrorKind::Unsupported => {
                tracing::debug!(model = %name, version, %error, "not made hot");
                Promoted::Unsuited
            }
            Err(error) => {
                tracing::warn!(model = %name, version, %error, "not made hot");
                Promoted::Failed
            }
        };
        if told != Promoted::Kept {
            model.slot().leave_alone(Instant::now() + AGAIN_AFTER);
        }
        self.count(|metrics| metrics.promoted(told));
    }

    fn make_hot(&self, model: &Model, samples: &[Sample]) -> Result<Outcome> {
        let (store, manifest) = (self.repository.store()?, model.manifest());
        let Some(scratch) = &self.hot else { return Err(Error::internal("there is no place for hot models")) };
        let bytes = manifest.weights.bytes;
        // Nothing goes for what is only quicker.
        let charge = self.budget.charge(MemoryKind::Hot, TIMES_PRIVATE * bytes);
        let mut charge = charge.map_err(|_| self.no_room(manifest, TIMES_PRIVATE * bytes, bytes))?;
        let _files = model.files().held();
        let joined = store.joined(manifest, self.weights(manifest)?)?;
        // Gone when the session has mapped what is in it; then the disk has it until nobody does.
        let folder = scratch.folder(TIMES_ON_DISK * bytes)?;
        let build = || joined.session(self.engine.as_ref(), folder.path());
        let (private_bytes, built) = self.weighed(build)?;
        charge.set(private_bytes);
        if scratch.is_given_up() {
            return Ok(Outcome::GivenUp);
        }
        let weights = self.engine.bind(Vec::new())?;
        let (session, mapped_bytes) = (built.session, built.mapped_bytes);
        // Each weight as it was, and laid out.
        let maps = 2 * joined.weights.len() as u64;
        let hot = Hot { session, weights, charge, mapped_bytes, maps, saves_ms: 0.0 };
        self.try_out(model, hot, samples)
    }

    /// Runs `hot` and what the model runs on at present in turns, on `samples`.
    fn try_out(&self, model: &Model, hot: Hot, samples: &[Sample]) -> Result<Outcome> {
        let program = self.load(model)?;
        let ready = self.ready(model)?;
        let (mut shared, mut own) = (Duration::ZERO, Duration::ZERO);
        for Sample { inputs, outputs } in samples {
            let run_shared = || program.session(0).run(ready.weights(), inputs, outputs);
            let run_own = || hot.run(inputs, outputs);
            if !run_shared()?.iter().zip(&run_own()?).all(|(want, got)| is_same(want, got)) {
                return Ok(Outcome::Differs);
            }
            let (one, other) = least(&run_shared, &run_own)?;
            (shared, own) = (shared + one, own + other);
        }
        let gain = 1.0 - own.as_secs_f64() / shared.as_secs_f64().max(1e-9);
        if gain < GAIN_MIN {
            return Ok(Outcome::Gains(gain));
        }
        let saves_ms = (shared.saturating_sub(own)).as_secs_f64() * 1e3 / samples.len().max(1) as f64;
        Ok(Outcome::Hot(Hot { saves_ms, ..hot }))
    }
}

/// The least CPU time of both, taken in turns: of what is brief, that of many runs.
fn least<T>(one: &dyn Fn() -> Result<T>, other: &dyn Fn() -> Result<T>) -> Result<(Duration, Duration)> {
    const ROUNDS: u32 = 3;
    const ROUND: Duration = Duration::from_millis(2);
    let time = |run: &dyn Fn() -> Result<T>, times: u32| -> Result<Duration> {
        let before = cpu::thread_cpu();
        for _ in 0..times {
            run()?;
        }
        Ok(cpu::thread_cpu().saturating_sub(before) / times)
    };
    let once = time(one, 1)?.max(Duration::from_micros(1));
    let times = u32::try_from(ROUND.as_micros() / once.as_micros()).unwrap_or(1).max(1);
    let mut least = (Duration::MAX, Duration::MAX);
    for _ in 0..ROUNDS {
        least = (least.0.min(time(one, times)?), least.1.min(time(other, times)?));
    }
    Ok(least)
}

/// Whether `got` is `want`: to the bit, or in single precision as near as sums in another order are.
fn is_same(want: &Tensor, got: &Tensor) -> bool {
    if want.dtype() != got.dtype() || want.shape() != got.shape() {
        return false;
    }
    if want.data() == got.data() {
        return true;
    }
    if want.dtype() != engine::DataType::F32 {
        return false;
    }
    let number = |bytes: &[u8]| bytes.try_into().map_or(f32::NAN, f32::from_le_bytes);
    let numbers = |tensor: &Tensor| tensor.data().chunks_exact(4).map(number).collect::<Vec<f32>>();
    let (want, got) = (numbers(want), numbers(got));
    let largest = want.iter().filter(|number| number.is_finite()).fold(0.0f32, |most, number| most.max(number.abs()));
    want.iter().zip(&got).all(|(want, got)| {
        want.to_bits() == got.to_bits() || want.is_nan() && got.is_nan() || (want - got).abs() <= OFF_MAX * largest
    })
}

#[cfg(test)]
mod tests {
    use super::super::room::Measure;
    use super::super::tests::{lifted, model, within};
    use super::*;
    use crate::fixture::Echo;
    use crate::stats::RunTimes;

    /// `name`, ready, and with a session of its own of so many bytes.
    fn heated(residency: &Residency, name: &str, bytes: u64) -> Arc<Model> {
        let model = model(residency, name);
        residency.load(&model).unwrap();
        residency.ready(&model).unwrap();
        let charge = residency.budget.charge(MemoryKind::Hot, bytes).unwrap();
        let weights = residency.engine.bind(Vec::new()).unwrap();
        let session = Box::new(Echo::new());
        let hot = Hot { session, weights, charge, mapped_bytes: bytes, maps: 2, saves_ms: 1.0 };
        model.heat().hot.store(Some(Arc::new(hot)));
        model
    }

    /// `model` was asked `times` times, and each run took a lane so long.
    fn asked(model: &Model, times: u64, each: Duration) {
        (0..times).for_each(|_| model.traffic().asked());
        model.recorder().ran(1, 1, RunTimes { infer: each, ..RunTimes::default() });
    }

    #[test]
    fn what_is_hot_goes_before_anything_that_somebody_would_wait_for() {
        let (_folder, store) = lifted(2, 4096);
        let residency = within(store, 1 << 30, 1, &["large1"]);
        let models = [heated(&residency, "large0", 1000), heated(&residency, "large1", 1000)];
        // The one is asked for so much more that its weights are worth more than all of the other.
        asked(&models[0], 1000, Duration::from_millis(1));
        asked(&models[1], 10, Duration::from_millis(1));
        let state = || models.each_ref().map(|model| (model.is_bound(), model.heat().is_hot()));
        let held = models[1].heat().hot();
        assert!(residency.relieve(1, Measure::Private));
        assert_eq!(state(), [(true, true), (true, false)], "whatever is pinned, the weights alone are");
        assert_eq!(residency.budget.figures().charged_bytes[MemoryKind::Hot as usize], 2000, "a run goes on");
        drop(held);
        assert_eq!(residency.budget.figures().charged_bytes[MemoryKind::Hot as usize], 1000);
        assert!(residency.relieve(2000, Measure::Everything));
        assert_eq!(state(), [(true, false), (true, false)]);
        assert!(residency.relieve(4096, Measure::Everything));
        assert_eq!(state(), [(false, false), (true, false)]);
    }

    #[test]
    fn what_is_asked_for_no_more_cools() {
        let (_folder, store) = lifted(3, 4096);
        let residency = within(store, 1 << 30, 1, &[]);
        let models = ["large0", "large1", "large2"].map(|name| heated(&residency, name, 1000));
        asked(&models[0], 300, Duration::from_millis(1));
        asked(&models[1], 300, Duration::from_micros(100));
        residency.cool();
        assert_eq!(models.each_ref().map(|model| model.heat().is_hot()), [true, false, false]);
        // Only what is not hot, runs already and pays may become it.
        assert!(residency.next_hot().is_none());
        asked(&models[1], 3000, Duration::from_millis(1));
        asked(&models[2], 6000, Duration::from_millis(1));
        assert!(Arc::ptr_eq(&residency.next_hot().unwrap(), &models[2]));
        models[0].slot().leave_alone(Instant::now() + AGAIN_AFTER);
        assert!(residency.next_hot().is_none(), "all three have one program");
    }

    #[test]
    fn what_saves_more_than_it_takes_pays() {
        for (busy, bytes, want) in [
            (0.0, 0, false),
            (0.019, 1000, false),
            (0.02, 1000, true),
            (0.02, 430 << 20, false),
            (0.04, 430 << 20, true),
            (0.5, 100 << 30, false),
            (2.0, 4 << 30, true),
        ] {
            assert_eq!(pays(busy, bytes), want, "{busy} of a lane, {bytes} bytes");
        }
        assert!(fits(25, 100) && !fits(26, 100) && fits(0, 0));
    }

    #[test]
    fn answers_are_the_same_or_as_near_as_sums_are() {
        let of = |values: &[f32]| Tensor::from_f32(vec![values.len()], values.to_vec()).unwrap();
        let whole =
            |value: i32| Tensor::new(engine::DataType::I32, vec![1], value.to_le_bytes().to_vec().into()).unwrap();
        for (want, got, same) in [
            (of(&[1.0, 100.0]), of(&[1.0, 100.0]), true),
            (of(&[1.0, 100.0]), of(&[1.009, 100.0]), true),
            (of(&[1.0, 100.0]), of(&[1.02, 100.0]), false),
            (of(&[f32::NAN, f32::INFINITY]), of(&[-f32::NAN, f32::INFINITY]), true),
            (of(&[1.0]), of(&[f32::NAN]), false),
            (of(&[f32::INFINITY]), of(&[1.0]), false),
            (of(&[0.0]), of(&[1e-9]), false),
            (of(&[1.0]), of(&[1.0, 1.0]), false),
            (whole(7), whole(7), true),
            (whole(70_000), whole(70_001), false),
            (whole(0), of(&[0.0]), false),
        ] {
            assert_eq!(is_same(&want, &got), same, "{want:?} {got:?}");
        }
    }

    #[test]
    fn a_trial_takes_no_more_runs_than_it_wants() {
        let heat = Heat::default();
        let input = |bytes: usize| vec![Tensor::new(engine::DataType::U8, vec![bytes], vec![0; bytes].into()).unwrap()];
        heat.ran(&input(1), &[0]);
        assert!(heat.end_sampling().is_empty(), "nobody asked");
        heat.begin_sampling();
        heat.ran(&input(SAMPLE_BYTES_MAX + 1), &[0]);
        (0..SAMPLES + 3).for_each(|_| heat.ran(&input(1), &[0]));
        assert_eq!(heat.end_sampling().len(), SAMPLES);
        heat.ran(&input(1), &[0]);
        assert!(heat.end_sampling().is_empty(), "it is over");
    }
}
