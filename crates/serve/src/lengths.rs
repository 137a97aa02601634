//! What runs of a padded model cost by how many tokens they are over, and which requests are worth running together: a
//! short one beside a long one pays for the long one's length.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What so many runs ago counts half as much as the newest: 0.5 = FORGETS ^ 34.
const FORGETS: f64 = 0.98;
/// How far, in shares of the mean, lengths must differ before what was seen outweighs the guess below.
const SPREAD: f64 = 0.02;
/// Of a model of whose runs nothing is known but one length, this share is taken to be spent whatever the length: enough for
/// other lengths to be tried.
const GUESS: f64 = 0.5;
/// A request has to save this share of its own cost when it runs with others.
const WORTHWHILE: f64 = 0.05;
/// A batch grows up to so many times what a run costs by itself: past it, twice as many would save less than that share.
const RUNS_MAX: f64 = 10.0;
/// A run that takes so many times longer than expected counts as that, for most likely something else had the core; one that
/// is so many times shorter shows that those before were of a cold model, and they are forgotten.
const OUTLIER: f64 = 4.0;

/// What runs cost by their tokens, padding among them. Lanes write, the scheduler reads; the lock is held for nanoseconds.
#[derive(Debug, Default)]
pub(crate) struct Lengths(Mutex<Seen>);

/// Sums over the runs so far, of which older ones count less. A run of `n` tokens that takes `t` is seen as `t / n` over
/// `1 / n`, so that each counts by its relative error: the slope is what every run costs, the rest what a token costs.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    runs: f64,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
}

/// A run of `n` tokens takes `run_s + n * token_s`, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Line {
    run_s: f64,
    token_s: f64,
}

impl Lengths {
    /// A run over `tokens` took `time`.
    pub(crate) fn learn(&self, tokens: usize, time: Duration) {
        let seen = &mut *self.lock();
        let mut time_s = time.as_secs_f64();
        if let Some(expected_s) = seen.line().map(|line| line.cost(tokens)) {
            if time_s * OUTLIER < expected_s {
                *seen = Seen::default();
            } else {
                time_s = time_s.min(expected_s * OUTLIER);
            }
        }
        let x = 1.0 / tokens.max(1) as f64;
        let y = time_s * x;
        for (sum, value) in
            [(&mut seen.runs, 1.0), (&mut seen.x, x), (&mut seen.y, y), (&mut seen.xx, x * x), (&mut seen.xy, x * y)]
        {
            *sum = *sum * FORGETS + value;
        }
    }

    /// What is known now; `None` before the first run.
    pub(crate) fn line(&self) -> Option<Line> {
        self.lock().line()
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        // Only sums change under the lock, so a poisoned one still holds them.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn line(&self) -> Option<Line> {
        let Self { runs, x, y, xx, xy } = *self;
        if runs == 0.0 {
            return None;
        }
        let (x, y) = (x / runs, y / runs);
        let (spread, together) = (xx / runs - x * x, xy / runs - x * y);
        let (weight, guess) = (SPREAD * x * x, GUESS * y / x);
        let run_s = ((together + weight * guess) / (spread + weight)).max(0.0).min(y / x);
        Some(Line { run_s, token_s: y - run_s * x })
    }
}

impl Line {
    /// Of a run over so many tokens, in seconds.
    fn cost(&self, tokens: usize) -> f64 {
        self.run_s + tokens as f64 * self.token_s
    }

    /// What is saved past what is worthwhile when `row` joins `batch` and not runs alone, in seconds; less than nothing
    /// when it should.
    fn saved(&self, batch: Row, row: Row, joined: Row) -> f64 {
        let [batch_s, alone_s, joined_s] = [batch, row, joined].map(|row| self.cost(row.items * row.length));
        if joined_s > RUNS_MAX * self.run_s {
            return f64::MIN;
        }
        alone_s * (1.0 - WORTHWHILE) - (joined_s - batch_s)
    }
}

/// A request as a row of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) items: usize,
    /// Tokens of each of its items.
    pub(crate) length: usize,
}

/// What a batch may not exceed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    pub(crate) items: usize,
    /// With padding.
    pub(crate) tokens: usize,
}

/// Which of `others` run together with `first`: those nearest to it in length, one after the other, as long as each is
/// cheaper there than alone. Without a `line` nothing is known, and one is tried. Gives their indices.
pub(crate) fn company(first: Row, others: &[Row], room: Room, line: Option<&Line>) -> Vec<usize> {
    let mut order: Vec<usize> = (0..others.len()).collect();
    // Of equal length the first in line go first.
    order.sort_by_key(|&index| (others[index].length, index));
    let longer = order.partition_point(|&index| others[index].length <= first.length);
    let (shorter, longer) = order.split_at(longer);
    // Those of the very same length are a group whose first comes first; it lies at the end of the shorter ones.
    let same = shorter.partition_point(|&index| others[index].length < first.length);
    let mut down = shorter[same..].iter().chain(shorter[..same].iter().rev()).copied().peekable();
    let mut up = longer.iter().copied().peekable();
    let (mut batch, mut chosen) = (first, Vec::new());
    loop {
        let gain = |index: Option<&usize>| {
            let row = others[*index?];
            let joined = Row { items: batch.items + row.items, length: batch.length.max(row.length) };
            let fits = joined.items <= room.items && joined.items.saturating_mul(joined.length) <= room.tokens;
            let saved = line.map_or(f64::MAX, |line| line.saved(batch, row, joined));
            (fits && saved > 0.0).then_some((saved, joined))
        };
        let (below, above) = (gain(down.peek()), gain(up.peek()));
        let (index, joined) = match (below, above) {
            (Some((down_saves, joined)), Some((up_saves, _))) if down_saves >= up_saves => (down.next(), joined),
            (Some((_, joined)), None) => (down.next(), joined),
            (_, Some((_, joined))) => (up.next(), joined),
            (None, None) => return chosen,
        };
        batch = joined;
        chosen.extend(index);
        if line.is_none() {
            return chosen;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn learnt(runs: &[(usize, f64)]) -> Lengths {
        let lengths = Lengths::default();
        for &(tokens, ms) in runs {
            lengths.learn(tokens, Duration::from_secs_f64(ms / 1e3));
        }
        lengths
    }

    #[test]
    fn costs_by_length_are_a_line_that_is_learnt() {
        assert_eq!(Lengths::default().line(), None);
        // BERT-base on one core, as measured: the ends of the line are within a few per cent.
        let runs = [(8, 38.0), (16, 41.0), (32, 62.0), (128, 147.0), (384, 406.0)];
        let line = learnt(&runs.repeat(8)).line().unwrap();
        for (tokens, ms) in runs {
            let off = line.cost(tokens) * 1e3 / ms - 1.0;
            assert!(off.abs() < 0.12, "{tokens} tokens: {:.1} ms, not {ms}", line.cost(tokens) * 1e3);
        }
        // Of a single length half is a guess.
        let line = learnt(&[(100, 10.0); 50]).line().unwrap();
        assert!((line.cost(100) - 10e-3).abs() < 1e-9 && (line.run_s - 5e-3).abs() < 1e-9, "{line:?}");
        // A run that costs nothing by itself.
        let line = learnt(&[(10, 1.0), (100, 10.0)].repeat(8)).line().unwrap();
        assert!(line.run_s < 0.1e-3, "{line:?}");
    }

    #[track_caller]
    fn check(line: (f64, f64), first: usize, others: &[usize], want: &[usize]) {
        let line = Line { run_s: line.0 / 1e3, token_s: line.1 / 1e3 };
        let rows: Vec<Row> = others.iter().map(|&length| Row { items: 1, length }).collect();
        let room = Room { items: 8, tokens: 4096 };
        let mut got: Vec<usize> = company(Row { items: 1, length: first }, &rows, room, Some(&line))
            .iter()
            .map(|&index| others[index])
            .collect();
        got.sort_unstable();
        assert_eq!(got, want, "{first} among {others:?}");
    }

    #[test]
    fn lengths_that_are_alike_go_together() {
        let bert = (30.0, 1.0);
        check(bert, 10, &[500, 12, 9, 480, 30, 14], &[9, 12, 14]);
        check(bert, 200, &[10, 12, 190], &[]);
        check(bert, 60, &[10, 12, 58, 59, 61, 400], &[58, 59, 61]);
        check(bert, 10, &[500], &[]);
        check(bert, 20, &[20; 12], &[20; 7]);
        check((0.0, 1.0), 20, &[20, 20], &[]);
        check((1000.0, 1.0), 10, &[500], &[500]);
    }

    #[test]
    fn what_was_never_run_is_tried_with_one_more() {
        let rows = [Row { items: 1, length: 500 }, Row { items: 1, length: 20 }, Row { items: 1, length: 12 }];
        let first = Row { items: 1, length: 12 };
        assert_eq!(company(first, &rows, Room { items: 8, tokens: 4096 }, None), [2]);
        assert_eq!(company(first, &rows, Room { items: 8, tokens: 20 }, None), [0usize; 0]);
        assert_eq!(company(first, &rows, Room { items: 1, tokens: 4096 }, None), [0usize; 0]);
    }

    proptest! {
        #[test]
        fn company_never_costs_more_than_running_alone(
            first in 1usize..600,
            lengths in prop::collection::vec(1usize..600, 0..40),
            run_ms in 0.0f64..50.0,
            token_ms in 0.001f64..2.0,
        ) {
            let line = Line { run_s: run_ms / 1e3, token_s: token_ms / 1e3 };
            let rows: Vec<Row> = lengths.iter().map(|&length| Row { items: 1, length }).collect();
            let room = Room { items: 32, tokens: 8192 };
            let chosen = company(Row { items: 1, length: first }, &rows, room, Some(&line));
            let mut unique = chosen.clone();
            unique.sort_unstable();
            unique.dedup();
            prop_assert_eq!(unique.len(), chosen.len());
            let longest = chosen.iter().map(|&index| lengths[index]).fold(first, usize::max);
            prop_assert!(chosen.len() < 32 && longest * (chosen.len() + 1) <= 8192);
            let together = line.cost(longest * (chosen.len() + 1));
            let alone: f64 = line.cost(first) + chosen.iter().map(|&index| line.cost(lengths[index])).sum::<f64>();
            prop_assert!(together <= alone + 1e-12, "{} together, {} alone", together, alone);
        }
    }
}
