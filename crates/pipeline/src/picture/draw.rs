//! Boxes and labels on a picture, in plain code: a mark must be readable, not beautiful.

use font8x8::{BASIC_FONTS, LATIN_FONTS, UnicodeFonts};

/// Pixels of a letter's side before it is enlarged.
pub const GLYPH_PX: i64 = 8;
/// Thickness of a box's lines.
const LINE_PX: i64 = 2;
/// Room around the letters of a label.
const PADDING_PX: i64 = 2;

/// Something to point out in a frame.
#[derive(Clone, Debug, PartialEq)]
pub struct Mark {
    /// Left, top, right, bottom in pixels of the source; what lies outside the frame is not drawn.
    pub box_px: [f32; 4],
    /// The label, for example `person 0.83`.
    pub text: String,
    /// Decides the colour.
    pub class: u32,
}

/// A line through corners, with a name.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// Its corners, each across and down, in pixels of the source; what lies outside the frame is not drawn.
    pub points_px: Vec<[f32; 2]>,
    /// Whether the last corner is joined to the first.
    pub closed: bool,
    /// Stands at the first corner.
    pub text: String,
}

/// Of figures, which are no class's.
const FIGURE_COLOUR: Rgb = [255, 255, 255];

/// Red, green, blue.
pub type Rgb = [u8; 3];

/// A picture to draw on: three bytes a pixel, no padding.
pub struct Canvas<'a> {
    pixels: &'a mut [u8],
    width: i64,
    height: i64,
}

impl<'a> Canvas<'a> {
    /// A canvas over `pixels`, which are `3 * width * height` bytes; rows that are missing are not drawn.
    pub fn new(pixels: &'a mut [u8], width: usize, height: usize) -> Self {
        let height = height.min(pixels.len() / (3 * width.max(1)));
        // No picture in memory has a side that does not fit; signed sides make the clipping plain.
        let side = |pixels: usize| i64::try_from(pixels).unwrap_or(0);
        Self { pixels, width: side(width), height: side(height) }
    }

    /// Draws `marks`, whose places are multiplied by `scale`, with letters of `zoom` times [`GLYPH_PX`]. Labels come
    /// after all boxes, so that none is crossed out by its neighbour's line, and the first mark's label comes last, so
    /// that where labels meet it is whole.
    pub fn marks(&mut self, marks: &[Mark], scale: [f32; 2], zoom: i64) {
        // A cast from a float saturates, and what is no number becomes 0: the clipping does the rest.
        let corners = |mark: &Mark| {
            let [left, top, right, bottom] = mark.box_px;
            [left * scale[0], top * scale[1], right * scale[0], bottom * scale[1]].map(|side| side.round() as i64)
        };
        for mark in marks {
            self.outline(corners(mark), colour(mark.class));
        }
        for mark in marks.iter().rev() {
            self.label(corners(mark), &mark.text, colour(mark.class), zoom);
        }
    }

    /// Draws `figures`, whose places are multiplied by `scale`, with letters of `zoom` times [`GLYPH_PX`].
    pub fn figures(&mut self, figures: &[Figure], scale: [f32; 2], zoom: i64) {
        for figure in figures {
            let points: Vec<[f32; 2]> = figure.points_px.iter().map(|[x, y]| [x * scale[0], y * scale[1]]).collect();
            let last = if figure.closed { points.last() } else { None };
            last.into_iter().chain(&points).zip(points.iter().skip(usize::from(!figure.closed))).for_each(
                |(from, to)| {
                    self.line(*from, *to, FIGURE_COLOUR);
                },
            );
            if let Some([x, y]) = points.first() {
                let [x, y] = [x, y].map(|side| side.round() as i64);
                self.label([x, y, x, y], &figure.text, FIGURE_COLOUR, zoom);
            }
        }
    }

    /// A straight line as thick as a box's.
    fn line(&mut self, from: [f32; 2], to: [f32; 2], colour: Rgb) {
        // As far as a little beyond the picture; a cast from what is no number is 0.
        let near = |value: f32, side: i64| f64::from(value).clamp(-1.0, side as f64 + 1.0);
        let [from, to] = [from, to].map(|[x, y]| [near(x, self.width), near(y, self.height)]);
        let steps = (to[0] - from[0]).abs().max((to[1] - from[1]).abs()).ceil().max(1.0);
        for step in 0..=steps as i64 {
            let share = step as f64 / steps;
            let [x, y] = [0, 1].map(|axis| (from[axis] + (to[axis] - from[axis]) * share).round() as i64);
            self.fill([x, y, x + LINE_PX, y + LINE_PX], colour);
        }
    }

    fn outline(&mut self, [left, top, right, bottom]: [i64; 4], colour: Rgb) {
        let (left_in, right_in) = (left.saturating_add(LINE_PX), right.saturating_sub(LINE_PX));
        let (top_in, bottom_in) = (top.saturating_add(LINE_PX), bottom.saturating_sub(LINE_PX));
        self.fill([left, top, right, top_in], colour);
        self.fill([left, bottom_in, right, bottom], colour);
        self.fill([left, top, left_in, bottom], colour);
        self.fill([right_in, top, right, bottom], colour);
    }

    /// A filled tag on the box's upper edge, moved where it would leave the picture.
    fn label(&mut self, [left, top, _, _]: [i64; 4], text: &str, colour: Rgb, zoom: i64) {
        let letter = GLYPH_PX * zoom.max(1);
        let letters = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
        let width = letters.saturating_mul(letter).saturating_add(2 * PADDING_PX);
        let height = letter + 2 * PADDING_PX;
        let x = left.min(self.width.saturating_sub(width)).max(0);
        let y = if top >= height { top - height } else { top.max(0) };
        let y = y.min(self.height - height).max(0);
        self.fill([x, y, x.saturating_add(width), y + height], colour);
        let [r, g, b] = colour.map(u32::from);
        // Black on what looks bright, white on the rest; the weights are those of luma in BT.601.
        let ink = if 299 * r + 587 * g + 114 * b > 140_000 { [0; 3] } else { [255; 3] };
        self.text(x + PADDING_PX, y + PADDING_PX, text, ink, zoom);
    }

    /// Writes `text` with its upper left corner at `x`, `y`.
    pub fn text(&mut self, x: i64, y: i64, text: &str, ink: Rgb, zoom: i64) {
        let zoom = zoom.max(1);
        let mut x = x;
        for letter in text.chars() {
            if x >= self.width {
                return;
            }
            let rows = BASIC_FONTS.get(letter).or_else(|| LATIN_FONTS.get(letter)).or_else(|| BASIC_FONTS.get('?'));
            for (row, bits) in (0i64..).zip(rows.unwrap_or_default()) {
                // The lowest bit is the leftmost dot.
                for column in (0..8i64).filter(|column| bits >> column & 1 == 1) {
                    let (left, top) = (x + column * zoom, y + row * zoom);
                    self.fill([left, top, left + zoom, top + zoom], ink);
                }
            }
            x += GLYPH_PX * zoom;
        }
    }

    /// Fills the part of a rectangle that is on the canvas; right and bottom are outside it.
    pub fn fill(&mut self, [left, top, right, bottom]: [i64; 4], colour: Rgb) {
        let clip = |value: i64, limit: i64| usize::try_from(value.min(limit)).unwrap_or(0);
        let (left, right) = (clip(left, self.width), clip(right, self.width));
        let (top, bottom) = (clip(top, self.height), clip(bottom, self.height));
        if left >= right {
            return;
        }
        let line_bytes = clip(self.width, self.width) * 3;
        for row in self.pixels.chunks_exact_mut(line_bytes).take(bottom).skip(top) {
            let row = &mut row[left * 3..right * 3];
            for pixel in row.chunks_exact_mut(3) {
                pixel.copy_from_slice(&colour);
            }
        }
    }
}

/// Letters are enlarged so that they keep their share of the picture.
pub fn zoom_for(width: u32, height: u32) -> i64 {
    const PICTURE_PX_PER_ZOOM: u32 = 540;
    i64::from(width.min(height) / PICTURE_PX_PER_ZOOM).max(1)
}

/// A colour for each class: steps of the golden section around the colour circle, so that neighbours differ.
fn colour(class: u32) -> Rgb {
    const GOLDEN: f64 = 0.618_033_988_749_895;
    let hue = (f64::from(class) * GOLDEN + 0.33).fract() * 6.0;
    let channel = |offset: f64| {
        let distance = ((hue + offset).rem_euclid(6.0) - 3.0).abs() - 1.0;
        (55.0 + 200.0 * distance.clamp(0.0, 1.0)) as u8
    };
    [channel(0.0), channel(4.0), channel(2.0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The picture as text: `.` where nothing was drawn.
    fn shown(width: usize, height: usize, draw: impl FnOnce(&mut Canvas<'_>)) -> Vec<String> {
        let mut pixels = vec![0; width * height * 3];
        draw(&mut Canvas::new(&mut pixels, width, height));
        let dot = |pixel: &[u8]| if pixel == [0; 3] { '.' } else { '#' };
        pixels.chunks(width * 3).map(|row| row.chunks(3).map(dot).collect()).collect()
    }

    #[test]
    fn a_box_is_an_outline_within_the_picture() {
        let table: [([i64; 4], [&str; 6]); 4] = [
            ([1, 0, 7, 6], [".######.", ".######.", ".##..##.", ".##..##.", ".######.", ".######."]),
            ([-9, -9, 3, 3], [".##.....", "###.....", "###.....", "........", "........", "........"]),
            ([i64::MIN, i64::MIN, i64::MAX, i64::MAX], ["........"; 6]),
            ([5, 5, 1, 1], ["........"; 6]),
        ];
        for (corners, want) in table {
            assert_eq!(shown(8, 6, |canvas| canvas.outline(corners, [9; 3])), want, "{corners:?}");
        }
    }

    #[test]
    fn figures_are_lines_from_corner_to_corner() {
        let lit = |points: &[[f32; 2]], closed| {
            let figure = Figure { points_px: points.to_vec(), closed, text: "?".to_owned() };
            let rows = shown(40, 40, |canvas| canvas.figures(&[figure], [2.0, 1.0], 1));
            move |x: usize, y: usize| rows[y].as_bytes()[x] == b'#'
        };
        let corners = [[0.0, 2.0], [19.0, 2.0], [19.0, 38.0]];
        for closed in [false, true] {
            let lit = lit(&corners, closed);
            assert!(lit(30, 2) && lit(38, 20) && !lit(30, 8), "{closed}");
            assert_eq!(lit(19, 20), closed, "the last corner is joined to the first where it is closed");
        }
        let want = ["........", "........", "........", "........", "##......", "##......"];
        assert_eq!(shown(8, 6, |canvas| canvas.line([0.0, 4.0], [0.0, 9.0], [9; 3])), want);
        let want = ["##......", "###.....", ".###....", "..###...", "...###..", "....###."];
        assert_eq!(shown(8, 6, |canvas| canvas.line([0.0, 0.0], [7.0, 7.0], [9; 3]))[..3], want[..3]);
    }

    #[test]
    fn letters_are_readable() {
        let want = ["#######.", ".##...#.", ".##.#...", ".####...", ".##.#...", ".##...#.", "#######.", "........"];
        assert_eq!(shown(8, 8, |canvas| canvas.text(0, 0, "E", [9; 3], 1)), want);
    }

    #[test]
    fn hostile_marks_are_drawn_without_harm() {
        let sides = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1e30, 1e30, 0.0, 4.0];
        for a in sides {
            for b in sides {
                let mark = Mark { box_px: [a, b, b, a], text: "\u{1F600}\0".repeat(50), class: u32::MAX };
                shown(8, 6, |canvas| canvas.marks(std::slice::from_ref(&mark), [1.0, 2.0], 3));
                Canvas::new(&mut [], 0, 0).marks(&[mark], [1.0, 1.0], 1);
                let figure = Figure { points_px: vec![[a, b], [b, a]], closed: true, text: "\0".to_owned() };
                shown(8, 6, |canvas| canvas.figures(std::slice::from_ref(&figure), [1.0, 2.0], 3));
            }
        }
        Canvas::new(&mut [0; 10], 3, usize::MAX).fill([0, 0, 9, 9], [1; 3]);
    }

    #[test]
    fn the_first_classes_have_colours_of_their_own() {
        let colours: Vec<Rgb> = (0..80).map(colour).collect();
        let far = |a: &Rgb, b: &Rgb| a.iter().zip(b).any(|(a, b)| a.abs_diff(*b) >= 40);
        for pair in colours.windows(2) {
            assert!(far(&pair[0], &pair[1]), "{pair:?}");
        }
    }
}
