//! What stays in memory, over hours of traffic and in virtual time: the choice by value as it is, beside dropping what was
//! longest not asked for (LRU). What docs/decisions/016-what-stays-in-memory.md claims is shown here.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::popularity::Popularity;
use super::value::{Holding, that_go};
use crate::simulation::Chance;

/// Models that are asked for again and again.
const MODELS: usize = 400;
/// Models that a scan asks for once each, and comes back to only much later.
const SCANNED: usize = 4000;
const REQUESTS: usize = 24_000;
const REQUESTS_PER_S: f64 = 100.0;
/// The share of the models' bytes that memory holds.
const HELD: f64 = 0.25;
/// So much more than is wanted is freed at a time.
const BATCH: u64 = 64;
/// What bringing a model back takes beside reading its bytes, and what a millisecond reads.
const BACK: (f64, f64) = (1.0, 500_000.0);

/// Who decides what goes.
#[derive(Clone, Copy, PartialEq)]
enum Policy {
    Value,
    LongestNotAskedFor,
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
struct Outcome {
    /// The share of the requests that found their model in memory.
    hits: f64,
    /// What all requests waited for models.
    waited_ms: f64,
}

/// A model's bytes: from a megabyte to a hundred, small ones more often; the same for the same model.
fn bytes_of(model: usize) -> u64 {
    (1e6 * 100f64.powf(Chance(model as u64 * 7919 + 17).unit())) as u64
}

fn cost_ms(bytes: u64) -> f64 {
    BACK.0 + bytes as f64 / BACK.1
}

/// Plays `requests`, models by number, through a memory that starts empty.
fn play(policy: Policy, requests: &[usize]) -> Outcome {
    let begin = Instant::now();
    let capacity = (HELD * (0..MODELS).map(bytes_of).sum::<u64>() as f64) as u64;
    let mut popularities = vec![Popularity::default(); MODELS + SCANNED];
    let (mut held, mut held_bytes) = (HashMap::<usize, Instant>::new(), 0);
    let (mut hits, mut waited_ms) = (0, 0.0);
    for (at, &model) in requests.iter().enumerate() {
        let now = begin + Duration::from_secs_f64(at as f64 / REQUESTS_PER_S);
        popularities[model].asked(1, now);
        if held.insert(model, now).is_some() {
            hits += 1;
            continue;
        }
        waited_ms += cost_ms(bytes_of(model));
        held_bytes += bytes_of(model);
        if held_bytes <= capacity {
            continue;
        }
        let wanted = held_bytes - capacity + capacity / BATCH;
        for gone in choose(policy, wanted, model, &held, |model| popularities[model].rate_hz(now)) {
            held.remove(&gone);
            held_bytes -= bytes_of(gone);
        }
        assert!(held_bytes <= capacity);
    }
    Outcome { hits: f64::from(hits) / requests.len() as f64, waited_ms }
}

fn choose(
    policy: Policy,
    wanted: u64,
    in_use: usize,
    held: &HashMap<usize, Instant>,
    rate_hz: impl Fn(usize) -> f64,
) -> Vec<usize> {
    match policy {
        Policy::Value => {
            let holding = |&key: &usize| {
                let (rate_hz, bytes, in_use) = (rate_hz(key), bytes_of(key), key == in_use);
                Holding { key, rate_hz, cost_ms: cost_ms(bytes), bytes, pinned: false, in_use, spare: false }
            };
            let holdings: Vec<_> = held.keys().map(holding).collect();
            that_go(&holdings, wanted).into_iter().map(|holding| holding.key).collect()
        }
        Policy::LongestNotAskedFor => {
            let mut order: Vec<(Instant, usize)> = held.iter().map(|(&model, &at)| (at, model)).collect();
            order.retain(|&(_, model)| model != in_use);
            order.sort_unstable();
            let mut freed = 0;
            let before = order.into_iter().take_while(|&(_, model)| {
                let enough = freed >= wanted;
                freed += bytes_of(model);
                !enough
            });
            before.map(|(_, model)| model).collect()
        }
    }
}

/// Numbers from 0 on, smaller ones more often: the n-th is asked for 1/n as often as the first.
struct Zipf(Vec<f64>);

impl Zipf {
    fn new() -> Self {
        let mut sum = 0.0;
        let sums: Vec<f64> = (1..=MODELS).map(|rank| (sum += 1.0 / rank as f64, sum).1).collect();
        Self(sums.iter().map(|part| part / sum).collect())
    }

    fn next(&self, chance: &mut Chance) -> usize {
        let unit = chance.unit();
        self.0.partition_point(|&sum| sum < unit).min(MODELS - 1)
    }
}

/// Requests by Zipf's law over models in an order that `change` changes as time goes by.
fn zipf(seed: u64, mut change: impl FnMut(usize, &mut Vec<usize>, &mut Chance)) -> Vec<usize> {
    let (law, mut chance) = (Zipf::new(), Chance(seed));
    // Which model is how popular has nothing to do with how large it is.
    let mut order: Vec<usize> = (0..MODELS).collect();
    let mut next = |at| {
        change(at, &mut order, &mut chance);
        order[law.next(&mut chance)]
    };
    (0..REQUESTS).map(&mut next).collect()
}

fn swap_at(every: usize) -> impl FnMut(usize, &mut Vec<usize>, &mut Chance) {
    move |at, order, chance| {
        if at.is_multiple_of(every) {
            let mut place = || (chance.unit() * MODELS as f64) as usize;
            let (one, other) = (place(), place());
            order.swap(one, other);
        }
    }
}

fn turn_at(every: usize) -> impl FnMut(usize, &mut Vec<usize>, &mut Chance) {
    move |at, order, _| order.rotate_right(if at.is_multiple_of(every) { MODELS / 3 } else { 0 })
}

/// Every other request, during every other minute, asks for the next of thousands of models that nobody asks for again.
fn scanned(mut requests: Vec<usize>) -> Vec<usize> {
    let minute = (60.0 * REQUESTS_PER_S) as usize;
    for (place, at) in (0..requests.len()).filter(|at| (at / minute) % 2 == 1 && at.is_multiple_of(2)).enumerate() {
        requests[at] = MODELS + place % SCANNED;
    }
    requests
}

#[test]
fn by_value_less_is_waited_for_than_by_age() {
    let uniform = {
        let mut chance = Chance(5);
        (0..REQUESTS).map(|_| (chance.unit() * MODELS as f64) as usize).collect()
    };
    // The most that is waited by value, of what is waited by age.
    for (what, requests, at_most) in [
        ("Zipf", zipf(1, |_, _, _| ()), 0.78),
        ("uniform", uniform, 1.00),
        ("Zipf, and scans", scanned(zipf(2, |_, _, _| ())), 0.85),
        ("Zipf, drifting", zipf(3, swap_at(30)), 0.88),
        ("Zipf, another order every two minutes", zipf(4, turn_at(12_000)), 0.85),
    ] {
        let (value, age) = (play(Policy::Value, &requests), play(Policy::LongestNotAskedFor, &requests));
        let ratio = value.waited_ms / age.waited_ms;
        assert!(ratio <= at_most && value.hits >= age.hits, "{what}: {ratio:.3} of the waiting, {value:?} {age:?}");
    }
}

/// However often thousands of models come by that are asked for once, those that are asked for all day stay.
#[test]
fn a_scan_takes_little_from_those_who_do_not_scan() {
    let regular = zipf(6, |_, _, _| ());
    let requests = scanned(regular.clone());
    let others = |policy| {
        // What a scan asks for is never there, so it takes part in what is waited and not in what is found.
        let scans = requests.iter().filter(|&&model| model >= MODELS).count();
        play(policy, &requests).hits * requests.len() as f64 / (requests.len() - scans) as f64
    };
    let undisturbed = play(Policy::Value, &regular).hits;
    let (value, age) = (others(Policy::Value), others(Policy::LongestNotAskedFor));
    assert!(
        value > undisturbed - 0.05 && value > age + 0.05,
        "{undisturbed} undisturbed, {value} by value, {age} by age"
    );
}
