//! Whether what is looked at is what was filmed: the right way up, with the right shape and the right colours.

use std::path::{Path, PathBuf};

use pipeline::Fit;

use super::clips::{Clips, STALL_LIMIT, decode, tools};
use super::*;

/// The picture's four quarters, from the upper left one on in reading order: red, green, blue, white.
const QUARTERS: [[u8; 3]; 4] = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]];

/// A video of [`QUARTERS`], 64x48.
fn quarters(clips: &Clips, name: &str, filters: Option<&str>) -> PathBuf {
    let quarter = |colour: &str| format!("-f lavfi -i color={colour}:s=32x24:r=5:d=1");
    let inputs = ["0xff0000", "0x00ff00", "0x0000ff", "0xffffff"].map(quarter).join(" ");
    let stack =
        "-filter_complex [0][1]hstack[a];[2][3]hstack[b];[a][b]vstack,scale=out_color_matrix=bt709,format=yuv444p";
    let line = format!("{inputs} {stack}{} -c:v libx264 -qp 0 -colorspace bt709", filters.unwrap_or_default());
    clips.make(&line, name)
}

/// The colour in the middle of the quarter at the left or right, above or below.
fn quarter(picture: &pipeline::Picture, right: bool, below: bool) -> [u8; 3] {
    let at = |side: u32, far: bool| (if far { side * 3 / 4 } else { side / 4 }) as usize;
    let place = (at(picture.height, below) * picture.width as usize + at(picture.width, right)) * 3;
    *picture.pixels[place..].first_chunk().unwrap()
}

#[track_caller]
fn assert_close(got: [u8; 3], want: [u8; 3], most: u8, case: &str) {
    assert!(got.iter().zip(want).all(|(got, want)| got.abs_diff(want) <= most), "{case}: {got:?}, not {want:?}");
}

/// Writes the display matrix of the first track over: ISO 14496-12, 8.3.2.
fn set_matrix(path: &Path, [a, b, c, d]: [i32; 4]) {
    const ONE: i32 = 1 << 16;
    let mut bytes = std::fs::read(path).unwrap();
    let header = bytes.windows(4).position(|window| window == b"tkhd").unwrap();
    let matrix = [a * ONE, b * ONE, 0, c * ONE, d * ONE, 0, 0, 0, 1 << 30];
    for (number, place) in matrix.iter().zip((header + 44..).step_by(4)) {
        bytes[place..place + 4].copy_from_slice(&number.to_be_bytes());
    }
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn every_orientation_is_upright() {
    let clips = Clips::new();
    let path = quarters(&clips, "quarters.mp4", None);
    let ways = [
        [1, 0, 0, 1],
        [0, 1, -1, 0],
        [-1, 0, 0, -1],
        [0, -1, 1, 0],
        [-1, 0, 0, 1],
        [0, -1, -1, 0],
        [1, 0, 0, -1],
        [0, 1, 1, 0],
    ];
    for way in ways {
        set_matrix(&path, way);
        let described = probe(&tools(), &path).unwrap();
        let sideways = way[0] == 0;
        let size = if sideways { (48, 64) } else { (64, 48) };
        assert_eq!((described.width, described.height), size, "{way:?}");
        for fit in [Fit::Source, Fit::Exact { width: 40, height: 20 }] {
            let (frames, report) = decode(&path, fit).unwrap();
            assert_eq!((frames.len(), report.damage_count), (5, 0), "{way:?}");
            for (index, colour) in QUARTERS.into_iter().enumerate() {
                // Where the matrix puts the quarter, told from the picture's middle.
                let (p, q) = ([-1, 1][index % 2], [-1, 1][index / 2]);
                let [a, b, c, d] = way;
                let (x, y) = (a * p + c * q, b * p + d * q);
                let got = quarter(&frames[2].planes.to_picture(), x > 0, y > 0);
                assert_close(got, colour, 3, &format!("{way:?} {fit:?} quarter {index}"));
            }
        }
    }
    // What is none of the eight is shown as it is stored.
    set_matrix(&path, [1, 1, 0, 1]);
    let described = probe(&tools(), &path).unwrap();
    assert_eq!((described.orientation, described.width, described.height), (None, 64, 48));
    let (frames, _) = decode(&path, Fit::Source).unwrap();
    assert_close(quarter(&frames[0].planes.to_picture(), true, false), QUARTERS[1], 3, "no quarter turn");
}

#[test]
fn pixels_are_square() {
    let clips = Clips::new();
    for (name, aspect, size) in
        [("wide.mp4", "3/2", (96, 48)), ("narrow.mkv", "1/2", (32, 48)), ("old.avi", "1/1", (64, 48))]
    {
        let path = quarters(&clips, name, Some(&format!(",setsar={aspect}")));
        let described = probe(&tools(), &path).unwrap();
        assert_eq!((described.width, described.height), size, "{name}");
        let (frames, _) = decode(&path, Fit::Source).unwrap();
        let picture = &frames[0].planes.to_picture();
        assert_eq!((picture.width, picture.height), size, "{name}");
        for (index, colour) in QUARTERS.into_iter().enumerate() {
            assert_close(quarter(picture, index % 2 == 1, index / 2 == 1), colour, 3, name);
        }
    }
    // Turned as well: what was wide is high.
    let path = quarters(&clips, "turned.mp4", Some(",setsar=3/2"));
    set_matrix(&path, [0, 1, -1, 0]);
    let described = probe(&tools(), &path).unwrap();
    assert_eq!((described.width, described.height), (48, 96));
    assert_eq!(decode(&path, Fit::Source).unwrap().0[0].planes.height, 96);
}

/// Luma and chroma of a colour, by the matrices of ITU-R BT.601, BT.709 and BT.2020 and their two ranges.
fn luma_chroma([r, g, b]: [u8; 3], (kr, kb): (f64, f64), full: bool) -> [u8; 3] {
    let [r, g, b] = [r, g, b].map(|value| f64::from(value) / 255.0);
    let y = kr * r + (1.0 - kr - kb) * g + kb * b;
    let (u, v) = ((b - y) / (2.0 * (1.0 - kb)), (r - y) / (2.0 * (1.0 - kr)));
    let (black, white, chroma) = if full { (0.0, 255.0, 255.0) } else { (16.0, 219.0, 224.0) };
    [black + white * y, 128.0 + chroma * u, 128.0 + chroma * v].map(|value| value.round().clamp(0.0, 255.0) as u8)
}

#[test]
fn colours_are_those_of_the_standards() {
    let (bt601, bt709, bt2020) = ((0.299, 0.114), (0.2126, 0.0722), (0.2627, 0.0593));
    let clips = Clips::new();
    let colours =
        [[200, 40, 40], [40, 200, 40], [40, 40, 200], [128, 128, 128], [255, 255, 255], [0, 0, 0], [230, 200, 20]];
    let table = [
        ("64x48", "-colorspace smpte170m -color_range tv", bt601, false),
        ("64x48", "-colorspace bt470bg -color_range pc", bt601, true),
        ("64x48", "-colorspace bt709 -color_range tv", bt709, false),
        ("64x48", "-colorspace bt709 -color_range pc", bt709, true),
        ("64x48", "-colorspace bt2020nc -color_range tv", bt2020, false),
        ("64x48", "-colorspace bt2020nc -color_range pc", bt2020, true),
        // Nothing said: by size, and with room at both ends.
        ("720x576", "", bt601, false),
        ("1280x720", "", bt709, false),
    ];
    for (size, tags, matrix, full) in table {
        let (width, height) = size.split_once('x').unwrap();
        let pixels = width.parse::<usize>().unwrap() * height.parse::<usize>().unwrap();
        // Written as bytes, a frame for each colour, so that nobody but the decoder converts anything.
        let frame = |colour| {
            let [y, u, v] = luma_chroma(colour, matrix, full);
            [vec![y; pixels], vec![u; pixels / 4], vec![v; pixels / 4]].concat()
        };
        clips.write("raw.yuv", &colours.map(frame).concat());
        let encode =
            format!("-f rawvideo -pix_fmt yuv420p -s {size} -i raw.yuv -c:v libx264 -qp 0 -preset ultrafast {tags}");
        let path = clips.make(encode.trim_end(), "colour.mkv");
        let (frames, _) = decode(&path, Fit::Exact { width: 40, height: 40 }).unwrap();
        assert_eq!(frames.len(), colours.len());
        for (frame, colour) in frames.iter().zip(colours) {
            assert_close(quarter(&frame.planes.to_picture(), true, true), colour, 2, &format!("{size} {tags}"));
        }
    }
}

#[test]
fn a_picture_that_changes_its_size_keeps_its_place() {
    let clips = Clips::new();
    let small_one = quarters(&clips, "a.ts", None);
    let large_one = clips.make(&format!("-i {} -vf scale=128:96 -c:v libx264 -qp 0", small_one.display()), "b.ts");
    let both = [std::fs::read(&small_one).unwrap(), std::fs::read(&large_one).unwrap()].concat();
    let path = clips.write("both.ts", &both);
    let described = probe(&tools(), &path).unwrap();
    let (frames, _) = decode(&path, Fit::Source).unwrap();
    assert_eq!(frames.len(), 10);
    for frame in &frames {
        assert_eq!((frame.planes.width, frame.planes.height), (described.width, described.height));
        for (index, colour) in QUARTERS.into_iter().enumerate() {
            assert_close(
                quarter(&frame.planes.to_picture(), index % 2 == 1, index / 2 == 1),
                colour,
                20,
                &frame.index.to_string(),
            );
        }
    }
}

#[test]
fn what_an_edit_list_hides_is_not_shown() {
    let clips = Clips::new();
    let whole = clips.make("-f lavfi -i testsrc=s=64x48:r=10:d=3 -c:v libx264 -g 10", "whole.mp4");
    // Cut off within a group of pictures: what is before is kept in the file, for the decoder, and hidden.
    let edited = clips.make(&format!("-ss 1.45 -i {} -c copy", whole.display()), "edited.mp4");
    let (all, _) = decode(&whole, Fit::Source).unwrap();
    let (shown, report) = decode(&edited, Fit::Source).unwrap();
    let (_, outline) = outlined(&tools(), &edited, STALL_LIMIT, &mut |_| ()).unwrap();
    assert!(outline.hidden > 0, "{outline:?}");
    assert_eq!(shown.len() as u64, outline.frames);
    assert_eq!(report.damage_count, 0);
    let first = all.iter().position(|frame| frame.planes == shown[0].planes).unwrap();
    assert!((14..=15).contains(&first), "{first}");
    assert!(all[first..].iter().zip(&shown).all(|(all, shown)| all.planes == shown.planes));
}

#[test]
fn decoders_that_nobody_needs_are_not_used() {
    let clips = Clips::new();
    let path = clips.make("-f lavfi -i testsrc=s=64x48:r=10:d=1 -c:v asv1", "old.avi");
    let error = probe(&tools(), &path).unwrap_err();
    assert!(error.kind == engine::ErrorKind::Unsupported && error.message.contains("asv1"), "{error}");
}
