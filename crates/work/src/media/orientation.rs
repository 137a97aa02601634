//! Which way up a video is stored: the display matrix of its container, as far as it is one of the eight ways in which a
//! rectangle can be laid on itself.

use serde::{Deserialize, Serialize};

/// What has to be done to a stored picture so that it is upright: first mirrored, left to right, then turned clockwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orientation {
    /// Whether left and right change places.
    pub mirrored: bool,
    /// 0, 90, 180 or 270.
    pub clockwise_degrees: u16,
}

impl Orientation {
    /// The orientation that the numbers of a display matrix say, in ffmpeg's order: a source pixel (p, q) is shown at
    /// (a p + c q, b p + d q), whatever the scale. `None` when it is none of the eight.
    pub(super) fn of_matrix(numbers: &[i64]) -> Option<Self> {
        let &[a, b, _, c, d, ..] = numbers else { return None };
        // What is left of a quarter turn by rounding, and what somebody who is not quite upright holds in hand, is told
        // apart at two hundredths.
        let small = |this: i64, that: i64| this.unsigned_abs() <= that.unsigned_abs() / 50;
        let straight = small(b, a) && small(c, d) && a != 0 && d != 0;
        let across = small(a, b) && small(d, c) && b != 0 && c != 0;
        let (mirrored, clockwise_degrees) = match (straight, across) {
            (true, _) => match (a > 0, d > 0) {
                (true, true) => (false, 0),
                (false, false) => (false, 180),
                (false, true) => (true, 0),
                (true, false) => (true, 180),
            },
            (_, true) => match (b > 0, c > 0) {
                (true, false) => (false, 90),
                (false, true) => (false, 270),
                (false, false) => (true, 90),
                (true, true) => (true, 270),
            },
            (false, false) => return None,
        };
        Some(Self { mirrored, clockwise_degrees })
    }

    /// Whether width and height change places.
    pub fn is_sideways(self) -> bool {
        self.clockwise_degrees % 180 == 90
    }

    /// The filters that turn a stored picture upright, each with a comma behind it.
    pub(super) fn filters(self) -> &'static str {
        match (self.mirrored, self.clockwise_degrees) {
            (false, 90) => "transpose=clock,",
            (false, 180) => "hflip,vflip,",
            (false, 270) => "transpose=cclock,",
            (true, 0) => "hflip,",
            (true, 90) => "transpose=clock_flip,",
            (true, 180) => "vflip,",
            (true, 270) => "transpose=cclock_flip,",
            _ => "",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_is_one_of_eight_or_none() {
        let one = 65_536;
        let table = [
            ([one, 0, 0, one], Some((false, 0))),
            ([0, one, -one, 0], Some((false, 90))),
            ([-one, 0, 0, -one], Some((false, 180))),
            ([0, -one, one, 0], Some((false, 270))),
            ([-one, 0, 0, one], Some((true, 0))),
            ([0, -one, -one, 0], Some((true, 90))),
            ([one, 0, 0, -one], Some((true, 180))),
            ([0, one, one, 0], Some((true, 270))),
            // Scaled, and rounded.
            ([3 * one, 7, -7, one], Some((false, 0))),
            ([2, one - 1, 1 - one, -2], Some((false, 90))),
            // Turned by 45 degrees, sheared, and nothing.
            ([46_341, 46_341, -46_341, 46_341], None),
            ([one, one, 0, one], None),
            ([0, 0, 0, 0], None),
            ([i64::MIN, i64::MIN, i64::MIN, i64::MIN], None),
        ];
        for ([a, b, c, d], want) in table {
            let got = Orientation::of_matrix(&[a, b, 0, c, d, 0, 0, 0, 1 << 30]);
            assert_eq!(got.map(|way| (way.mirrored, way.clockwise_degrees)), want, "{a} {b} {c} {d}");
        }
        assert_eq!(Orientation::of_matrix(&[]), None);
    }
}
