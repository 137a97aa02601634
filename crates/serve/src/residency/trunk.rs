//! Trunks: what models of one program share of their weights, when each has a head of its own, as fine-tunes do. Requests for
//! different models are then run through the trunk together. Both parts of the program are made on the promoter's thread,
//! once enough is asked of such models, and used if they answer as the whole does. Nobody waits for them, and they go
//! before anything else when memory is short.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use engine::{Error, ErrorKind, Result, Tensor, Weights};
use store::{Example, Group, Halves};

use super::Residency;
use super::budget::{Charge, MemoryKind};
use super::files::AtHand;
use super::program::Slot;
use super::ready::Ready;
use super::room::models;
use crate::model::Model;

/// Models of one program are looked at for what they share when so much is asked of all of them, in requests a second.
const RATE_MIN_HZ: f64 = 1.0;
/// So many of them are looked at, those that are asked for most.
const LOOKED_AT_MAX: usize = 16;
/// The part of the weights' bytes that a trunk has at the least.
const SHARE_MIN: f64 = 0.5;
/// Models that share too little are looked at again after so long, and a program that cannot be cut after so long.
const SOON: Duration = Duration::from_secs(10);
const LATE: Duration = Duration::from_secs(600);

/// A program in two parts, and the weights of the first. Whoever holds it can run it.
pub(crate) struct Trunk {
    /// By lane.
    halves: Vec<Halves>,
    weights: Arc<dyn Weights>,
    /// Where in memory each of these lies, by its place among the program's weights.
    lies: Vec<(usize, usize)>,
    /// Places of the head's weights.
    of_head: Vec<usize>,
    charge: Charge,
    /// What is mapped stays in the cache that it was mapped from.
    _files: AtHand,
}

impl Trunk {
    /// Runs the items of all `groups` through the trunk on `lane`, and each group through its head.
    ///
    /// # Errors
    /// As [`Halves::run`].
    pub(crate) fn run(
        &self,
        lane: usize,
        inputs: &[Tensor],
        groups: &[(usize, Arc<Head>)],
        outputs: &[usize],
    ) -> Result<Vec<Vec<Tensor>>> {
        let groups = groups.iter().map(|(items, head)| Group { items: *items, head: head.weights.as_ref() });
        let groups: Vec<Group<'_>> = groups.collect();
        self.halves[lane % self.halves.len().max(1)].run(self.weights.as_ref(), inputs, &groups, outputs)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.charge.bytes()
    }

    /// Whether a model with these `weights` has them.
    fn is_of(&self, weights: &[Tensor]) -> bool {
        self.lies.iter().all(|&(place, at)| weights.get(place).is_some_and(|weight| lies(weight) == at))
    }
}

/// What a model has of its own beside a trunk.
pub(crate) struct Head {
    weights: Arc<dyn Weights>,
    charge: Charge,
}

impl Head {
    pub(super) fn bytes(&self) -> u64 {
        self.charge.bytes()
    }
}

/// What was found out of a model's weights and the trunk of its program.
pub(crate) struct Beside {
    trunk: Weak<Trunk>,
    /// `None` when it is not its trunk.
    head: Option<Arc<Head>>,
}

impl Beside {
    /// Whether it is about `trunk`.
    fn is_about(&self, trunk: &Trunk) -> bool {
        std::ptr::eq(self.trunk.as_ptr(), trunk)
    }

    pub(super) fn any_head(&self) -> Option<&Arc<Head>> {
        self.head.as_ref()
    }

    /// The head that goes with `trunk`.
    pub(super) fn head(&self, trunk: &Trunk) -> Option<&Arc<Head>> {
        self.head.as_ref().filter(|_| self.is_about(trunk))
    }
}

/// Where `weight` lies in memory. Models that share a weight have it in one place, because a file is mapped once.
fn lies(weight: &Tensor) -> usize {
    weight.data().as_ptr().addr()
}

/// What several models share, given where each has its weights: which places are some model's own, and which two models
/// share all others. `None` when there are no two.
fn shared(models: &[Vec<usize>]) -> Option<(Vec<bool>, [usize; 2])> {
    let count = models.first()?.len();
    let common: Vec<Option<usize>> = (0..count)
        .map(|place| {
            let mut times: HashMap<usize, usize> = HashMap::new();
            models.iter().filter_map(|model| model.get(place)).for_each(|&at| *times.entry(at).or_default() += 1);
            let (at, times) = times.into_iter().max_by_key(|&(at, times)| (times, at))?;
            (times >= 2 && 2 * times >= models.len()).then_some(at)
        })
        .collect();
    let has =
        |model: &&Vec<usize>| model.iter().zip(&common).all(|(at, common)| common.is_none_or(|common| common == *at));
    let mut having = models.iter().enumerate().filter(|(_, model)| has(model)).map(|(index, _)| index);
    let two = [having.next()?, having.next()?];
    Some((common.iter().map(Option::is_none).collect(), two))
}

/// The busiest of `models`.
fn busiest<'a>(models: &[&'a Arc<Model>], now: Instant) -> Vec<&'a Arc<Model>> {
    let mut rates: Vec<(f64, &Arc<Model>)> =
        models.iter().map(|&model| (model.traffic().rate_hz(now), model)).collect();
    if rates.iter().map(|(rate, _)| rate).sum::<f64>() < RATE_MIN_HZ {
        return Vec::new();
    }
    rates.sort_by(|(one, _), (other, _)| other.total_cmp(one));
    rates.into_iter().take(LOOKED_AT_MAX).map(|(_, model)| model).collect()
}

/// How many of `models` have the trunk of their program.
fn having<'a>(models: impl IntoIterator<Item = &'a &'a Arc<Model>>) -> usize {
    models.into_iter().filter(|model| model.trunk().is_some()).count()
}

impl Residency {
    /// Makes and removes trunks as models come and go, as long as it `goes_on`.
    pub(super) fn see_to_trunks(&self, goes_on: &dyn Fn() -> bool) {
        let now = Instant::now();
        let catalog = self.catalog();
        let mut programs: HashMap<*const Slot, Vec<&Arc<Model>>> = HashMap::new();
        for model in
            models(&catalog).filter(|model| model.is_bound() && !model.is_whole() && model.max_batch_size() > 1)
        {
            programs.entry(Arc::as_ptr(model.slot())).or_default().push(model);
        }
        for slot in self.every_slot() {
            let models = programs.remove(&Arc::as_ptr(&slot)).unwrap_or_default();
            if let Some(trunk) = slot.trunk() {
                models.iter().take_while(|_| goes_on()).for_each(|model| self.attach(model, &trunk));
                let having_it = having(&models);
                // There may be another now that more have.
                let is_few = 2 * having_it < models.len() && !slot.is_left_in_one(now) && {
                    let busiest = busiest(&models, now);
                    2 * having(&busiest) < busiest.len()
                };
                if having_it < 2 || is_few {
                    slot.give_up_trunk(&trunk);
                }
            } else if models.len() >= 2 && !slot.is_left_in_one(now) {
                let busiest = busiest(&models, now);
                if busiest.len() >= 2 && goes_on() {
                    self.try_trunk(&slot, &busiest, goes_on);
                }
            }
        }
    }

    /// Makes the trunk of `models`, which have one program, if they share one.
    fn try_trunk(&self, slot: &Slot, models: &[&Arc<Model>], goes_on: &dyn Fn() -> bool) {
        let (started, program) = (Instant::now(), slot.hash());
        let made = catch_unwind(AssertUnwindSafe(|| self.make_trunk(models, goes_on)));
        let again = match made.unwrap_or_else(|_| Err(Error::internal("cutting it panicked"))) {
            Ok(Made::Trunk(trunk)) => {
                let (ms, bytes) = (started.elapsed().as_millis(), trunk.bytes());
                tracing::info!(program, ms, bytes, "requests for models that share a trunk run together");
                slot.put_trunk(Arc::new(trunk));
                SOON
            }
            Ok(Made::NothingShared) => SOON,
            Ok(Made::Differs(why)) => {
                tracing::warn!(program, why, "models that share a trunk run one by one");
                LATE
            }
            Err(error) => {
                tracing::debug!(program, %error, "models of this program run one by one");
                if error.kind == ErrorKind::Exhausted { SOON } else { LATE }
            }
        };
        slot.leave_in_one(Instant::now() + again);
    }

    fn make_trunk(&self, models: &[&Arc<Model>], goes_on: &dyn Fn() -> bool) -> Result<Made> {
        let store = self.repository.store()?;
        // One that cannot be read any more is no reason against the others.
        let readable = models.iter().filter_map(|&model| Some((model, self.weights(model.manifest()).ok()?)));
        let (models, weights): (Vec<_>, Vec<_>) = readable.unzip();
        let places: Vec<Vec<usize>> = weights.iter().map(|weights| weights.iter().map(lies).collect()).collect();
        let Some((own, two)) = shared(&places) else { return Ok(Made::NothingShared) };
        let [(model, of_one), (_, of_other)] = two.map(|index| (models[index], &weights[index]));
        let bytes = |places: &mut dyn Iterator<Item = usize>| -> f64 {
            places.map(|place| of_one[place].data().len() as f64).sum()
        };
        let enough = SHARE_MIN * bytes(&mut (0..of_one.len()));
        if !own.contains(&true) || bytes(&mut (0..own.len()).filter(|&place| !own[place])) < enough {
            return Ok(Made::NothingShared);
        }
        let cut = store.cut(model.manifest(), &own)?;
        if bytes(&mut cut.trunk_weights.iter().copied()) < enough {
            return Ok(Made::NothingShared);
        }
        let one = || cut.halves(self.engine.as_ref());
        let (each_bytes, first) = self.weighed(one)?;
        // What is freed elsewhere meanwhile is in it too.
        let taken_bytes = each_bytes.max(cut.encoded_bytes()).saturating_mul(self.lanes as u64);
        // Nothing goes for what is only quicker.
        let charge = self.budget.charge(MemoryKind::Programs, taken_bytes);
        let charge = charge.map_err(|missing| self.no_room(model.manifest(), taken_bytes, missing))?;
        let mut halves = vec![first];
        while halves.len() < self.lanes && goes_on() {
            halves.push(one()?);
        }
        let bind = |weights: &[Tensor], places: &[usize]| {
            self.engine.bind(places.iter().map(|&place| weights[place].clone()).collect())
        };
        let trunk = bind(of_one, &cut.trunk_weights)?;
        let heads = [bind(of_one, &cut.head_weights)?, bind(of_other, &cut.head_weights)?];
        let ready = [self.ready(models[two[0]])?, self.ready(models[two[1]])?];
        let program = self.load(model)?;
        let example = |at: usize| Example { whole: ready[at].weights(), head: heads[at].as_ref() };
        let checked =
            halves.first().map(|halves| halves.check(trunk.as_ref(), program.session(0), [example(0), example(1)]));
        if let Some(Err(why)) = checked {
            return Ok(Made::Differs(why));
        }
        let lies = cut.trunk_weights.iter().map(|&place| (place, places[two[0]][place])).collect();
        let files = model.files().held().unwrap_or_default();
        Ok(Made::Trunk(Trunk { halves, weights: trunk, lies, of_head: cut.head_weights, charge, _files: files }))
    }

    /// Finds out whether `trunk` is that of `model`, unless that is known.
    fn attach(&self, model: &Model, trunk: &Arc<Trunk>) {
        let Some(ready) = model.bound() else { return };
        if ready.beside().is_some_and(|known| known.is_about(trunk)) {
            return;
        }
        // What cannot be read any more tells the next request.
        if let Ok(weights) = self.weights(model.manifest()) {
            self.put_beside(&ready, &weights, trunk);
        }
    }

    /// The same for `ready`, which has these `weights`.
    pub(super) fn put_beside(&self, ready: &Ready, weights: &[Tensor], trunk: &Arc<Trunk>) {
        let head = || {
            let own = trunk.of_head.iter().map(|&place| weights.get(place).cloned()).collect::<Option<Vec<_>>>()?;
            let weights = self.engine.bind(own).ok()?;
            // Without room for a few numbers it runs as it does without a trunk.
            let charge = self.budget.charge(MemoryKind::Weights, weights.private_bytes()).ok()?;
            Some(Arc::new(Head { weights, charge }))
        };
        let head = if trunk.is_of(weights) { head() } else { None };
        ready.set_beside(Beside { trunk: Arc::downgrade(trunk), head });
    }
}

/// Has `models` share a trunk that nobody can run, and makes them ready.
#[cfg(test)]
pub(crate) fn share(models: &[Arc<Model>]) -> Arc<Trunk> {
    struct Nothing;
    impl Weights for Nothing {
        fn mapped_bytes(&self) -> u64 {
            0
        }
        fn private_bytes(&self) -> u64 {
            0
        }
    }
    let charge = || super::Budget::new(1 << 20).charge(MemoryKind::Weights, 0).unwrap();
    let (weights, files) = (Arc::new(Nothing), AtHand::default());
    let (halves, lies, of_head) = Default::default();
    let trunk = Arc::new(Trunk { halves, weights, lies, of_head, charge: charge(), _files: files });
    for model in models {
        let ready = model.ready_or(|| Ok(Ready::of(Arc::new(Nothing), charge()))).unwrap();
        let head = Some(Arc::new(Head { weights: Arc::new(Nothing), charge: charge() }));
        ready.set_beside(Beside { trunk: Arc::downgrade(&trunk), head });
        model.slot().put_trunk(Arc::clone(&trunk));
    }
    trunk
}

/// What became of models that could share a trunk.
enum Made {
    Trunk(Trunk),
    NothingShared,
    /// The two parts answer something else than the whole, or could not be held against it.
    Differs(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_most_models_have_in_one_place_is_shared() {
        let check = |models: &[&[usize]], want: Option<(&[bool], [usize; 2])>| {
            let models: Vec<Vec<usize>> = models.iter().map(|model| model.to_vec()).collect();
            let want = want.map(|(own, two)| (own.to_vec(), two));
            assert_eq!(shared(&models), want, "{models:?}");
        };
        check(&[], None);
        check(&[&[1, 2, 3]], None);
        check(&[&[1, 2, 3], &[1, 2, 4]], Some((&[false, false, true], [0, 1])));
        check(&[&[1, 2], &[1, 2]], Some((&[false, false], [0, 1])));
        check(&[&[1, 2], &[3, 4]], Some((&[true, true], [0, 1])));
        // One that is another family's is no reason against it, and not one of the two.
        check(&[&[9, 8, 7], &[1, 2, 3], &[1, 2, 4], &[1, 2, 5]], Some((&[false, false, true], [1, 2])));
        // What fewer than half have is nobody's trunk.
        check(&[&[1], &[1], &[2], &[3], &[4]], Some((&[true], [0, 1])));
    }
}
