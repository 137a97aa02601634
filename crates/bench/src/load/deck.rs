//! Many requests, of which some are sent more often than others.

use bytes::Bytes;
use engine::{Error, Result};

/// Requests, each a whole HTTP/1.1 message, and how often each is drawn.
#[derive(Debug)]
pub struct Deck {
    requests: Vec<Bytes>,
    /// For each request the sum of its weight and those before it.
    sums: Vec<f64>,
}

impl Deck {
    /// `requests` by popularity: the one at position `k`, counted from 1, is drawn in proportion to `1 / k^exponent`
    /// (Zipf's law). With an exponent of 0 all are alike.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) for no requests, and an exponent that is negative or none.
    pub fn zipf(requests: Vec<Bytes>, exponent: f64) -> Result<Self> {
        if requests.is_empty() || !(exponent >= 0.0 && exponent.is_finite()) {
            return Err(Error::invalid("give at least one request, and an exponent of 0 or more"));
        }
        let mut sum = 0.0;
        let sums = (1..=requests.len()).map(|rank| {
            sum += (rank as f64).powf(-exponent);
            sum
        });
        Ok(Self { sums: sums.collect(), requests })
    }

    /// The next request of a caller whose draws `state` tells apart from others'; equal states draw alike.
    pub(super) fn draw(&self, state: &mut u64) -> Bytes {
        let whole = self.sums.last().copied().unwrap_or(0.0);
        let drawn = unit(state) * whole;
        let at = self.sums.partition_point(|&sum| sum <= drawn);
        self.requests[at.min(self.requests.len() - 1)].clone()
    }
}

/// A number from 0 up to 1: SplitMix64 (Steele, Lea and Flood, 2014), whose streams do not run in step for small seeds.
fn unit(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_drawn_as_often_as_their_rank_says() {
        const DRAWS: u32 = 200_000;
        for (exponent, want) in [(0.0, [0.25, 0.25, 0.25, 0.25]), (1.0, [0.48, 0.24, 0.16, 0.12])] {
            let deck = Deck::zipf((0..4u8).map(|id| Bytes::from(vec![id])).collect(), exponent).unwrap();
            let (mut drawn, mut state) = ([0u32; 4], 7);
            for _ in 0..DRAWS {
                drawn[usize::from(deck.draw(&mut state)[0])] += 1;
            }
            for (drawn, want) in drawn.iter().zip(want) {
                assert!((f64::from(*drawn) / f64::from(DRAWS) - want).abs() < 0.01, "{exponent}: {drawn} of {DRAWS}");
            }
        }
    }

    #[test]
    fn what_cannot_be_drawn_from_is_refused() {
        for (requests, exponent) in [(0, 1.0), (1, -1.0), (1, f64::NAN), (1, f64::INFINITY)] {
            assert!(Deck::zipf(vec![Bytes::new(); requests], exponent).is_err(), "{requests} {exponent}");
        }
    }
}
