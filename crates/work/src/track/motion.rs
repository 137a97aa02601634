//! How a box moves: a Kalman filter for its centre, its shape and its height, each with a speed.
//!
//! As in ByteTrack, noise is told in shares of the height, and none of it ties two of the numbers together: the filter of
//! eight numbers falls apart into four of two. Time is continuous, so that one long step is as good as several short ones.

/// ByteTrack's unit of time: its noise is that of a thirtieth of a second.
const FRAME_US: f64 = 1e6 / 30.0;
/// Noise of places and of speeds, in shares of the height.
const PLACE: f64 = 1.0 / 20.0;
const SPEED: f64 = 1.0 / 160.0;
/// Noise of the shape, which has no unit: of itself, of its speed, of a measurement.
const SHAPE: (f64, f64, f64) = (1e-2, 1e-5, 1e-1);

/// A number that moves at a speed, and how sure both are.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Moving {
    value: f64,
    speed: f64,
    /// Variances of the value and of the speed, and what they vary together.
    variance: [f64; 2],
    covariance: f64,
}

impl Moving {
    /// At `value` and at rest, with deviations of the value and of the speed.
    fn at(value: f64, deviations: [f64; 2]) -> Self {
        Self { value, speed: 0.0, variance: deviations.map(|deviation| deviation * deviation), covariance: 0.0 }
    }

    /// Goes on for so many frames, each of which adds noise of these deviations.
    fn predict(&mut self, frames: f64, deviations: [f64; 2]) {
        let [q, r] = deviations.map(|deviation| deviation * deviation);
        let [value, speed] = self.variance;
        self.value += self.speed * frames;
        let spread = 2.0 * frames * self.covariance + frames * frames * speed;
        self.variance = [value + spread + q * frames + r * frames.powi(3) / 3.0, speed + r * frames];
        self.covariance += frames * speed + r * frames * frames / 2.0;
    }

    /// Heeds a measurement of the value with such a deviation.
    fn correct(&mut self, measured: f64, deviation: f64) {
        let total = self.variance[0] + deviation * deviation;
        let gains = [self.variance[0] / total, self.covariance / total];
        let off = measured - self.value;
        self.value += gains[0] * off;
        self.speed += gains[1] * off;
        self.variance[1] -= gains[1] * self.covariance;
        self.covariance *= 1.0 - gains[0];
        self.variance[0] *= 1.0 - gains[0];
    }
}

/// A box that moves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Motion {
    x: Moving,
    y: Moving,
    /// Width by height.
    shape: Moving,
    height: Moving,
}

/// Centre, shape and height of a box.
fn measure(box_px: [f32; 4]) -> [f64; 4] {
    let [left, top, right, bottom] = box_px.map(f64::from);
    let height = (bottom - top).max(1e-3);
    [left.midpoint(right), top.midpoint(bottom), (right - left).max(1e-3) / height, height]
}

impl Motion {
    /// Of a box that is seen for the first time.
    pub(super) fn new(box_px: [f32; 4]) -> Self {
        let [x, y, shape, height] = measure(box_px);
        let place = [2.0 * PLACE * height, 10.0 * SPEED * height];
        Self {
            x: Moving::at(x, place),
            y: Moving::at(y, place),
            shape: Moving::at(shape, [SHAPE.0, SHAPE.1]),
            height: Moving::at(height, place),
        }
    }

    /// Goes on for `passed_us`. What was lost from sight keeps its size.
    pub(super) fn predict(&mut self, passed_us: i64, is_seen: bool) {
        let frames = passed_us as f64 / FRAME_US;
        if !is_seen {
            self.height.speed = 0.0;
        }
        let noise = [PLACE, SPEED].map(|share| share * self.height.value.abs());
        self.x.predict(frames, noise);
        self.y.predict(frames, noise);
        self.shape.predict(frames, [SHAPE.0, SHAPE.1]);
        self.height.predict(frames, noise);
    }

    /// Heeds where the box is seen.
    pub(super) fn correct(&mut self, box_px: [f32; 4]) {
        let [x, y, shape, height] = measure(box_px);
        let noise = PLACE * self.height.value.abs().max(1e-3);
        self.x.correct(x, noise);
        self.y.correct(y, noise);
        self.shape.correct(shape, SHAPE.2);
        self.height.correct(height, noise);
    }

    /// Left, top, right and bottom of where it is taken to be.
    pub(super) fn box_px(&self) -> [f32; 4] {
        let (height, width) = (self.height.value, self.shape.value * self.height.value);
        let (x, y) = (self.x.value, self.y.value);
        [x - width / 2.0, y - height / 2.0, x + width / 2.0, y + height / 2.0].map(|side| side as f32)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-9 * (1.0 + a.abs().max(b.abs()))
    }

    proptest! {
        #[test]
        fn one_long_step_is_as_good_as_two_short_ones(
            speed in -50.0..50.0f64, first in 0.0..40.0f64, second in 0.0..40.0f64, noise in 0.01..5.0f64,
        ) {
            let start = Moving { speed, ..Moving::at(100.0, [noise, noise / 7.0]) };
            let (mut once, mut twice) = (start, start);
            once.predict(first + second, [noise, noise / 9.0]);
            twice.predict(first, [noise, noise / 9.0]);
            twice.predict(second, [noise, noise / 9.0]);
            prop_assert!(close(once.value, twice.value) && close(once.covariance, twice.covariance), "{once:?} {twice:?}");
            prop_assert!(once.variance.iter().zip(twice.variance).all(|(&a, b)| close(a, b)), "{once:?} {twice:?}");
        }

        #[test]
        fn a_steady_speed_is_learnt_whatever_the_times(
            steps in prop::collection::vec(5_000i64..150_000, 30..60), px_per_s in -400.0..400.0f64,
        ) {
            let place = |time_us: i64| {
                let x = 1000.0 + px_per_s * time_us as f64 / 1e6;
                [x - 20.0, 100.0, x + 20.0, 180.0].map(|side| side as f32)
            };
            let (mut motion, mut time_us) = (Motion::new(place(0)), 0);
            for step_us in steps {
                time_us += step_us;
                motion.predict(step_us, true);
                motion.correct(place(time_us));
            }
            time_us += 200_000;
            motion.predict(200_000, false);
            let (got, want) = (motion.box_px(), place(time_us));
            prop_assert!(got.iter().zip(want).all(|(got, want)| (got - want).abs() < 8.0), "{got:?} {want:?}");
        }
    }
}
