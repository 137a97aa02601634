//! Where a picture comes to lie in what a model sees. All of it is decided here, so that whoever scales, a library or an
//! ffmpeg, does the same, and boxes find their way back exactly.

use engine::{Error, Result};
use store::picture::{Fit, Lies};

/// The longest side of what a model sees, and the most pixels; keeps every product of sizes far from overflow.
const SIDE_PX_MAX: u32 = 32_768;
const PIXELS_MAX: u64 = 64 << 20;

/// Where a picture lies: scaled to a size, and with its upper left corner at a place of a canvas, of which it may cover
/// a part or reach beyond all sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Width and height of the picture as it was given.
    pub source_px: (u32, u32),
    /// What it is scaled to.
    pub scaled_px: (u32, u32),
    /// Where on the canvas its upper left corner lies; negative where it is cut.
    pub at_px: (i32, i32),
    /// Width and height of what the model sees.
    pub canvas_px: (u32, u32),
    /// The value of every channel of what the picture does not cover.
    pub fill: u8,
}

impl Placement {
    /// Where `fit` puts a picture of `source_px`.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) when a size is zero or beyond reason.
    pub fn of(fit: Fit, source_px: (u32, u32)) -> Result<Self> {
        let (width, height) = source_px;
        let plain = |scaled_px| Self { source_px, scaled_px, at_px: (0, 0), canvas_px: scaled_px, fill: 0 };
        let placement = match fit {
            Fit::Source => plain(source_px),
            Fit::Exact { width, height } => plain((width, height)),
            Fit::Letterbox { width: across, height: down, fill, lies } => {
                let scale = (ratio(across, width)).min(ratio(down, height));
                let side = |pixels: u32, most: u32| {
                    let side = f64::from(pixels) * scale;
                    // As the two families' own tools round.
                    let side = if lies == Lies::Centre { side.round_ties_even() } else { side.trunc() };
                    (side as u32).clamp(1, most.max(1))
                };
                let scaled_px = (side(width, across), side(height, down));
                let at =
                    |most: u32, side: u32| if lies == Lies::Centre { signed(most.saturating_sub(side)) / 2 } else { 0 };
                let at_px = (at(across, scaled_px.0), at(down, scaled_px.1));
                Self { source_px, scaled_px, at_px, canvas_px: (across, down), fill }
            }
            Fit::Crop { short, width: across, height: down } => {
                let scaled_px = with_shorter(source_px, f64::from(short));
                let at = |most: u32, side: u32| (signed(most) - signed(side) + i32::from(side > most)).div_euclid(2);
                let at_px = (at(across, scaled_px.0), at(down, scaled_px.1));
                Self { source_px, scaled_px, at_px, canvas_px: (across, down), fill: 0 }
            }
            Fit::Within { short, long } => {
                let longest = f64::from(width.max(height)) / f64::from(width.min(height).max(1)) * f64::from(short);
                let most = f64::from(long) * ratio(width.min(height), width.max(height));
                plain(with_shorter(source_px, if longest > f64::from(long) { most } else { f64::from(short) }))
            }
        };
        placement.check()
    }

    fn check(self) -> Result<Self> {
        let is_fine = |(width, height): (u32, u32)| {
            let side = 1..=SIDE_PX_MAX;
            side.contains(&width) && side.contains(&height) && u64::from(width) * u64::from(height) <= PIXELS_MAX
        };
        if ![self.source_px, self.scaled_px, self.canvas_px].into_iter().all(is_fine) {
            let ((width, height), (across, down)) = (self.source_px, self.canvas_px);
            return Err(Error::invalid(format!(
                "a picture of {width}x{height} pixels cannot be fitted to {across}x{down}"
            )));
        }
        Ok(self)
    }

    /// Whether the scaled picture is all there is on the canvas.
    pub(super) fn is_all(&self) -> bool {
        self.scaled_px == self.canvas_px && self.at_px == (0, 0)
    }

    /// The box on the picture as it was given whose left, top, right and bottom are `box_px` on the canvas, cut at the
    /// picture's edges; `None` when nothing is left or it is no number.
    pub fn undo(&self, box_px: [f32; 4]) -> Option<[f32; 4]> {
        let back = |value: f32, at: i32, source: u32, scaled: u32| {
            let side = (f64::from(value) - f64::from(at)) * f64::from(source) / f64::from(scaled);
            side.clamp(0.0, f64::from(source)) as f32
        };
        let x = |value| back(value, self.at_px.0, self.source_px.0, self.scaled_px.0);
        let y = |value| back(value, self.at_px.1, self.source_px.1, self.scaled_px.1);
        let [left, top, right, bottom] = box_px;
        let whole = box_px.iter().all(|side| side.is_finite());
        let undone = [x(left), y(top), x(right), y(bottom)];
        (whole && undone[0] < undone[2] && undone[1] < undone[3]).then_some(undone)
    }
}

/// `a` as a multiple of `b`, which is taken for one when it is zero: the check afterwards refuses it.
fn ratio(a: u32, b: u32) -> f64 {
    f64::from(a) / f64::from(b.max(1))
}

fn signed(pixels: u32) -> i32 {
    i32::try_from(pixels).unwrap_or(i32::MAX)
}

/// The size in the proportions of `size_px` whose shorter side is `shorter`, rounded, and whose longer one is cut to
/// whole pixels, as torchvision's and transformers' resizing by the shorter side does.
fn with_shorter((width, height): (u32, u32), shorter: f64) -> (u32, u32) {
    let longer = |long: u32, short: u32| ((shorter * f64::from(long) / f64::from(short.max(1))) as u32).max(1);
    let shorter_px = (shorter.round_ties_even() as u32).max(1);
    if width <= height { (shorter_px, longer(height, width)) } else { (longer(width, height), shorter_px) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LETTERBOX: Fit = Fit::Letterbox { width: 640, height: 640, fill: 114, lies: Lies::Centre };
    const CORNER: Fit = Fit::Letterbox { width: 416, height: 416, fill: 114, lies: Lies::Corner };
    const CROP: Fit = Fit::Crop { short: 256, width: 224, height: 224 };
    const WITHIN: Fit = Fit::Within { short: 800, long: 1333 };

    #[test]
    fn pictures_lie_where_the_families_own_tools_put_them() {
        type Row = (Fit, (u32, u32), (u32, u32), (i32, i32), (u32, u32));
        let table: [Row; 14] = [
            (Fit::Source, (7, 5), (7, 5), (0, 0), (7, 5)),
            (Fit::Exact { width: 4, height: 9 }, (7, 5), (4, 9), (0, 0), (4, 9)),
            (LETTERBOX, (640, 640), (640, 640), (0, 0), (640, 640)),
            (LETTERBOX, (1280, 720), (640, 360), (0, 140), (640, 640)),
            (LETTERBOX, (741, 500), (640, 432), (0, 104), (640, 640)),
            // 427 pixels: of the odd one the larger half lies below.
            (LETTERBOX, (600, 400), (640, 427), (0, 106), (640, 640)),
            (LETTERBOX, (1, 5000), (1, 640), (319, 0), (640, 640)),
            (CORNER, (600, 400), (416, 277), (0, 0), (416, 416)),
            (CROP, (451, 300), (384, 256), (-80, -16), (224, 224)),
            (CROP, (300, 451), (256, 384), (-16, -80), (224, 224)),
            // 341 pixels, of which 117 go: the smaller half on the left.
            (CROP, (512, 384), (341, 256), (-58, -16), (224, 224)),
            (Fit::Crop { short: 100, width: 224, height: 224 }, (300, 300), (100, 100), (62, 62), (224, 224)),
            (WITHIN, (640, 480), (1066, 800), (0, 0), (1066, 800)),
            (WITHIN, (4000, 1000), (1333, 333), (0, 0), (1333, 333)),
        ];
        for (fit, source_px, scaled_px, at_px, canvas_px) in table {
            let got = Placement::of(fit, source_px).unwrap();
            assert_eq!(
                (got.scaled_px, got.at_px, got.canvas_px),
                (scaled_px, at_px, canvas_px),
                "{fit:?} {source_px:?}"
            );
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (fit, source_px) in [
            (Fit::Source, (0, 5)),
            (Fit::Source, (5, SIDE_PX_MAX + 1)),
            (Fit::Exact { width: 0, height: 4 }, (5, 5)),
            (Fit::Exact { width: 4, height: u32::MAX }, (5, 5)),
            (LETTERBOX, (0, 0)),
            (Fit::Letterbox { width: 0, height: 0, fill: 0, lies: Lies::Centre }, (5, 5)),
            (CROP, (1, 30_000)),
            (Fit::Crop { short: u32::MAX, width: 4, height: 4 }, (5, 5)),
            (Fit::Within { short: 0, long: u32::MAX }, (0, 7)),
        ] {
            assert!(Placement::of(fit, source_px).is_err(), "{fit:?} {source_px:?}");
        }
    }

    #[test]
    fn boxes_are_cut_at_the_edges_or_gone() {
        let placement = Placement::of(LETTERBOX, (1280, 720)).unwrap();
        for (box_px, want) in [
            ([0.0, 140.0, 640.0, 500.0], Some([0.0, 0.0, 1280.0, 720.0])),
            ([-50.0, 0.0, 320.0, 320.0], Some([0.0, 0.0, 640.0, 360.0])),
            ([10.0, 0.0, 20.0, 140.0], None),
            ([20.0, 200.0, 10.0, 300.0], None),
            ([f32::NAN, 200.0, 10.0, 300.0], None),
            ([0.0, 200.0, f32::INFINITY, 300.0], None),
        ] {
            assert_eq!(placement.undo(box_px), want, "{box_px:?}");
        }
    }

    proptest! {
        #[test]
        fn boxes_find_their_way_back(
            source_px in (1u32..5000, 1u32..5000),
            fit in prop::sample::select(vec![Fit::Source, Fit::Exact { width: 416, height: 320 }, LETTERBOX, CORNER]),
            corners in prop::array::uniform4(0.0f32..1.0),
        ) {
            let placement = Placement::of(fit, source_px).unwrap();
            let [a, b, c, d] = corners;
            let sides = [a.min(c) * source_px.0 as f32, b.min(d) * source_px.1 as f32, a.max(c) * source_px.0 as f32, b.max(d) * source_px.1 as f32];
            let there = |value: f32, source: u32, scaled: u32, at: i32| value / source as f32 * scaled as f32 + at as f32;
            let x = |value| there(value, source_px.0, placement.scaled_px.0, placement.at_px.0);
            let y = |value| there(value, source_px.1, placement.scaled_px.1, placement.at_px.1);
            let on_canvas = [x(sides[0]), y(sides[1]), x(sides[2]), y(sides[3])];
            if let Some(back) = placement.undo(on_canvas) {
                let most = source_px.0.max(source_px.1) as f32;
                for (got, want) in back.iter().zip(sides) {
                    prop_assert!((got - want).abs() <= most * 1e-4, "{back:?} {sides:?}");
                }
            }
        }
    }
}
