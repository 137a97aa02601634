//! What Pillow makes of the same files (`scripts/make_picture_fixtures.py`), and files that are no pictures any more.

use std::path::{Path, PathBuf};

use engine::{Error, ErrorKind};
use proptest::prelude::*;
use store::picture::{Fit, Lies, Resample};

use super::{Bounds, Picture, Placement, Planes, decode, fit, fit_planes};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pictures")
}

/// Every file that is a picture, by name.
fn files() -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|ending| ending != "rgb")).collect();
    files.sort();
    files
        .iter()
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(path).unwrap()))
        .collect()
}

/// What Pillow made of `name`.
fn pillow(name: &str) -> Picture {
    let bytes = std::fs::read(folder().join(name).with_extension("rgb")).unwrap();
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    Picture { width: number(0), height: number(4), pixels: bytes[8..].to_vec() }
}

fn decoded(file: &[u8]) -> engine::Result<Picture> {
    decode(file, &Bounds::default(), &mut |_| Ok(()))
}

/// The largest difference of a byte, and the mean.
#[track_caller]
fn difference(name: &str, got: &Picture, want: &Picture) -> (u8, f64) {
    assert_eq!((got.width, got.height, got.pixels.len()), (want.width, want.height, want.pixels.len()), "{name}");
    let apart = got.pixels.iter().zip(&want.pixels).map(|(got, want)| got.abs_diff(*want));
    let mean = apart.clone().map(f64::from).sum::<f64>() / got.pixels.len() as f64;
    (apart.max().unwrap(), mean)
}

#[test]
fn pictures_are_decoded_as_pillow_decodes_them() {
    let files = files();
    assert!(files.len() >= 28, "{}", files.len());
    for (name, file) in files {
        // JPEG and lossy WebP leave a decoder some rounding, and how halved colours are widened; all else is exact.
        let (most, mean_most) = match &name[..] {
            name if name.ends_with(".jpg") => (6, 0.6),
            _ => (0, 0.0),
        };
        let (largest, mean) = difference(&name, &decoded(&file).unwrap(), &pillow(&name));
        assert!(largest <= most && mean <= mean_most, "{name}: off by {largest}, {mean} in the mean");
    }
}

#[test]
fn pictures_are_scaled_as_pillow_scales_them() {
    let source = pillow("source");
    for (name, resample) in [
        ("nearest", Resample::Nearest),
        ("bilinear", Resample::Bilinear),
        ("bicubic", Resample::Bicubic),
        ("lanczos", Resample::Lanczos),
    ] {
        for (width, height) in [(40, 23), (131, 17), (60, 61)] {
            let placement = Placement::of(Fit::Exact { width, height }, (source.width, source.height)).unwrap();
            let got = fit(&source, &placement, resample).unwrap();
            let (largest, mean) = difference(name, &got, &pillow(&format!("scaled-{name}-{width}x{height}")));
            assert!(largest <= 1 && mean < 0.02, "{name} {width}x{height}: off by {largest}, {mean} in the mean");
        }
    }
}

#[test]
fn pictures_are_put_in_their_place() {
    // Two pixels across: 1 and 2; three down.
    let pixels = [1, 2, 1, 2, 1, 2].iter().flat_map(|&value| [value; 3]).collect();
    let picture = Picture { width: 2, height: 3, pixels };
    let box_of = |lies| Fit::Letterbox { width: 6, height: 3, fill: 9, lies };
    for (shape, want) in [
        (Fit::Source, "12/12/12"),
        (box_of(Lies::Centre), "991299/991299/991299"),
        (box_of(Lies::Corner), "129999/129999/129999"),
        (Fit::Crop { short: 2, width: 2, height: 1 }, "12"),
        (Fit::Crop { short: 2, width: 1, height: 5 }, "0/1/1/1/0"),
        (Fit::Crop { short: 2, width: 4, height: 1 }, "0120"),
    ] {
        let placement = Placement::of(shape, (2, 3)).unwrap();
        let got = fit(&picture, &placement, Resample::Bilinear).unwrap();
        let row = |row: &[u8]| row.chunks(3).map(|pixel| char::from(b'0' + pixel[0])).collect::<String>();
        let shown: Vec<String> = got.pixels.chunks(got.width as usize * 3).map(row).collect();
        assert_eq!(shown.join("/"), want, "{shape:?}");
    }
    let other = Placement::of(Fit::Source, (3, 2)).unwrap();
    assert_eq!(fit(&picture, &other, Resample::Bilinear).unwrap_err().kind, ErrorKind::InvalidInput);
}

/// What ONNX's `Resize` (version 19, mode `linear`) answers for a row of these numbers, to a level.
#[test]
fn pixels_are_made_of_four_where_graphs_do_that() {
    let row = |numbers: &[u8]| numbers.iter().flat_map(|&number| [number; 3]).collect::<Vec<u8>>();
    for (resample, from, want) in [
        (Resample::Asymmetric, &[0, 10, 20, 30][..], &[0, 13, 27][..]),
        (Resample::HalfPixel, &[0, 10, 20, 30], &[2, 15, 28]),
        // None of those between is looked at.
        (Resample::Asymmetric, &[7, 200, 200, 200, 200, 200, 9, 200], &[7, 200]),
        (Resample::HalfPixel, &[7, 200, 200, 200, 200, 200, 9, 200], &[200, 104]),
        (Resample::Asymmetric, &[0, 100], &[0, 50, 100, 100]),
        (Resample::HalfPixel, &[0, 100], &[0, 25, 75, 100]),
        (Resample::Asymmetric, &[9], &[9, 9]),
        (Resample::HalfPixel, &[1, 2, 3], &[1, 2, 3]),
    ] {
        let (width, scaled) = (from.len() as u32, want.len() as u32);
        let across = Picture { width, height: 1, pixels: row(from) };
        let placement = Placement::of(Fit::Exact { width: scaled, height: 1 }, (width, 1)).unwrap();
        assert_eq!(fit(&across, &placement, resample).unwrap().pixels, row(want), "{resample:?} {from:?}");
        let down = Picture { width: 1, height: width, pixels: row(from) };
        let placement = Placement::of(Fit::Exact { width: 1, height: scaled }, (1, width)).unwrap();
        assert_eq!(fit(&down, &placement, resample).unwrap().pixels, row(want), "{resample:?} {from:?}");
    }
}

proptest! {
    #[test]
    fn planes_are_fitted_as_pictures_are(
        source_px in (1u32..40, 1u32..40),
        shape in prop::sample::select(vec![
            Fit::Source,
            Fit::Exact { width: 7, height: 13 },
            Fit::Letterbox { width: 24, height: 16, fill: 114, lies: Lies::Centre },
            Fit::Crop { short: 20, width: 12, height: 24 },
        ]),
        resample in prop::sample::select(vec![Resample::Asymmetric, Resample::HalfPixel]),
        seed in any::<u32>(),
    ) {
        let (width, height) = source_px;
        let noise = |at: u32| (at ^ seed).wrapping_mul(0x9e37_79b9).to_be_bytes()[0];
        let planes = Planes { width, height, bytes: (0..width * height * 3).map(noise).collect() };
        let placement = Placement::of(shape, source_px).unwrap();
        let fitted = fit_planes(&planes.bytes, &placement, resample, vec![1, 2, 3]).unwrap();
        prop_assert_eq!(fitted.to_picture(), fit(&planes.to_picture(), &placement, resample).unwrap());
        prop_assert!(fit_planes(&planes.bytes[1..], &placement, resample, Vec::new()).is_err());
    }
}

/// A PNG file whose header says `width` and `height`, and has no more.
fn header_of(width: u32, height: u32) -> Vec<u8> {
    let mut file = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
    file.extend(width.to_be_bytes());
    file.extend(height.to_be_bytes());
    file.extend([8, 2, 0, 0, 0]);
    let mut crc = u32::MAX;
    for byte in &file[12..] {
        crc ^= u32::from(*byte);
        (0..8).for_each(|_| crc = crc >> 1 ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 });
    }
    file.extend((!crc).to_be_bytes());
    file
}

#[test]
fn what_is_no_picture_is_refused_with_the_reason() {
    let of = |name: &str| std::fs::read(folder().join(name)).unwrap();
    let cut = |name: &str, share: f64| {
        let file = of(name);
        file[..(file.len() as f64 * share) as usize].to_vec()
    };
    // The size of a JPEG stands in its frame's header: here, 65,500 pixels each way.
    let mut wide = of("colour.jpg");
    let frame = wide.windows(2).position(|bytes| bytes == [0xff, 0xc0]).unwrap();
    wide[frame + 5..frame + 9].copy_from_slice(&[0xff, 0xdc, 0xff, 0xdc]);
    let mut large = of("palette-gif.gif");
    large[6..10].copy_from_slice(&[0xff; 4]);
    for (file, says) in [
        (Vec::new(), "no bytes"),
        (b"%PDF-1.7 and so on".to_vec(), "JPEG, PNG, WebP or GIF"),
        (header_of(50_000, 50_000), "50000x50000 pixels, but at most 32768 a side and 67108864 in all"),
        (header_of(20_000, 20_000), "20000x20000"),
        (header_of(100, 100), "PNG picture cannot be decoded"),
        (header_of(0, 100), "PNG picture cannot be decoded"),
        (wide, "65500x65500"),
        (large, "65535x65535"),
        (cut("colour.jpg", 0.8), "cut off"),
        (cut("progressive.jpg", 0.8), "cut off"),
        (cut("colour.jpg", 0.1), "JPEG picture"),
        (cut("colour-png.png", 0.8), "PNG picture"),
        (cut("lossy-webp.webp", 0.8), "WebP picture"),
        (cut("lossless-webp.webp", 0.8), "WebP picture"),
        (cut("palette-gif.gif", 0.8), "GIF picture"),
    ] {
        let error = decoded(&file).unwrap_err();
        assert!(error.kind == ErrorKind::InvalidInput && error.message.contains(says), "{error}; wanted: {says}");
    }
}

#[test]
fn memory_is_asked_for_before_it_is_taken() {
    for (name, file) in files() {
        let mut asked = Vec::new();
        let refused = decode(&file, &Bounds::default(), &mut |bytes| {
            asked.push(bytes);
            Err(Error::new(ErrorKind::Exhausted, "there is no room"))
        });
        let error = refused.unwrap_err();
        assert!(error.kind == ErrorKind::Exhausted && error.message.ends_with("there is no room"), "{name}: {error}");
        let picture = pillow(&name);
        assert!(asked.len() == 1 && asked[0] >= picture.pixels.len(), "{name}: {asked:?}");
    }
    let (_, file) = files().swap_remove(0);
    let tight = Bounds { pixels_max: 10, side_px_max: 9 };
    assert!(decode(&file, &tight, &mut |_| Ok(())).unwrap_err().message.contains("at most 9 a side and 10 in all"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn hostile_files_are_refused_or_decoded_within_their_bounds(
        index in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        length in 0.0f64..1.2,
    ) {
        let files = files();
        let (name, mut file) = index.get(&files).clone();
        for (place, byte) in changes {
            let place = place.index(file.len());
            file[place] = byte;
        }
        file.truncate((file.len() as f64 * length) as usize);
        let bounds = Bounds { pixels_max: 1 << 16, side_px_max: 1024 };
        match decode(&file, &bounds, &mut |_| Ok(())) {
            Ok(picture) => {
                let pixels = u64::from(picture.width) * u64::from(picture.height);
                prop_assert!(pixels <= bounds.pixels_max && picture.pixels.len() as u64 == pixels * 3, "{}", name);
            }
            Err(error) => {
                prop_assert_eq!(error.kind, ErrorKind::InvalidInput, "{}: {}", name, &error);
                prop_assert!(!error.message.contains("astray"), "{}: the decoder panicked", name);
            }
        }
    }
}
