//! Which way a picture is up: what its Exif block says, and the turning.

use super::Picture;

/// The numbers of a TIFF header's byte order and of the entry that says the orientation (Exif 2.32, 4.6.4).
const ORIENTATION: u16 = 0x0112;
const SHORT: u16 = 3;

/// Pixels of a tile's side when a picture is transposed: rows and columns of one are both in the nearest cache.
const TILE_PX: usize = 32;

/// How a picture is stored: what has to be done so that it is upright.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Orientation {
    /// Rows and columns change places first.
    transposed: bool,
    /// Then left and right.
    mirrored: bool,
    /// Then top and bottom.
    upside_down: bool,
}

/// What `exif`, from its TIFF header on, says; `None` when the picture is upright or nothing is said.
pub(super) fn orientation(exif: &[u8]) -> Option<Orientation> {
    // WebP files and some others repeat the mark that stands before the block in a JPEG.
    let exif = exif.strip_prefix(b"Exif\0\0").unwrap_or(exif);
    let big_endian = match exif.first_chunk::<4>()? {
        [b'I', b'I', 42, 0] => false,
        [b'M', b'M', 0, 42] => true,
        _ => return None,
    };
    let bytes = |at: usize, count: usize| exif.get(at..at.checked_add(count)?);
    let number = |at: usize, count: usize| {
        let digits = bytes(at, count)?.iter();
        let shift = |number: usize, &byte: &u8| number << 8 | usize::from(byte);
        Some(if big_endian { digits.fold(0, shift) } else { digits.rev().fold(0, shift) })
    };
    let directory = number(4, 4)?;
    let entries = number(directory, 2)?;
    let is_wanted =
        |&at: &usize| number(at, 2) == Some(usize::from(ORIENTATION)) && number(at + 2, 2) == Some(usize::from(SHORT));
    let entry = (0..entries).map(|index| directory + 2 + 12 * index).find(is_wanted)?;
    let (transposed, mirrored, upside_down) = match number(entry + 8, 2)? {
        2 => (false, true, false),
        3 => (false, true, true),
        4 => (false, false, true),
        5 => (true, false, false),
        6 => (true, true, false),
        7 => (true, true, true),
        8 => (true, false, true),
        _ => return None,
    };
    Some(Orientation { transposed, mirrored, upside_down })
}

/// `picture`, upright.
pub(super) fn turn(picture: Picture, orientation: Orientation) -> Picture {
    let mut picture = if orientation.transposed { transpose(&picture) } else { picture };
    let row_bytes = picture.width as usize * 3;
    if orientation.mirrored {
        for row in picture.pixels.chunks_exact_mut(row_bytes) {
            row.as_chunks_mut::<3>().0.reverse();
        }
    }
    if orientation.upside_down {
        let half = picture.height as usize / 2 * row_bytes;
        let (upper, rest) = picture.pixels.split_at_mut(half);
        let lower = rest.chunks_exact_mut(row_bytes).rev();
        upper.chunks_exact_mut(row_bytes).zip(lower).for_each(|(upper, lower)| upper.swap_with_slice(lower));
    }
    picture
}

/// Rows become columns.
fn transpose(picture: &Picture) -> Picture {
    let (width, height) = (picture.width as usize, picture.height as usize);
    let (from, _) = picture.pixels.as_chunks::<3>();
    let mut pixels = vec![0; picture.pixels.len()];
    let (to, _) = pixels.as_chunks_mut::<3>();
    for top in (0..height).step_by(TILE_PX) {
        for left in (0..width).step_by(TILE_PX) {
            for y in top..height.min(top + TILE_PX) {
                for x in left..width.min(left + TILE_PX) {
                    to[x * height + y] = from[y * width + x];
                }
            }
        }
    }
    Picture { width: picture.height, height: picture.width, pixels }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn exif(big_endian: bool, entries: &[(u16, u16, u16)]) -> Vec<u8> {
        let two = |number: u16| if big_endian { number.to_be_bytes() } else { number.to_le_bytes() };
        let four = |number: u32| if big_endian { number.to_be_bytes() } else { number.to_le_bytes() };
        let mut bytes = if big_endian { b"MM\0\x2a".to_vec() } else { b"II\x2a\0".to_vec() };
        bytes.extend(four(8));
        bytes.extend(two(entries.len() as u16));
        for &(tag, kind, value) in entries {
            bytes.extend([two(tag), two(kind)].concat());
            bytes.extend(four(1));
            bytes.extend([two(value), [0, 0]].concat());
        }
        bytes
    }

    /// A picture of 2x3 pixels, `ab`, `cd`, `ef`, turned as `value` says.
    fn turned(value: u16) -> String {
        let pixels = b"abcdef".iter().flat_map(|&letter| [letter; 3]).collect();
        let picture = Picture { width: 2, height: 3, pixels };
        let block = exif(value.is_multiple_of(2), &[(0x010f, 2, 7), (ORIENTATION, SHORT, value)]);
        let picture = match orientation(&block) {
            Some(orientation) => turn(picture, orientation),
            None => picture,
        };
        let row = |row: &[u8]| row.iter().step_by(3).map(|&letter| char::from(letter)).collect::<String>();
        picture.pixels.chunks(picture.width as usize * 3).map(row).collect::<Vec<_>>().join("/")
    }

    #[test]
    fn pictures_are_turned_as_exif_says() {
        // As Pillow's ImageOps.exif_transpose turns the same picture.
        let table = [
            (0, "ab/cd/ef"),
            (1, "ab/cd/ef"),
            (2, "ba/dc/fe"),
            (3, "fe/dc/ba"),
            (4, "ef/cd/ab"),
            (5, "ace/bdf"),
            (6, "eca/fdb"),
            (7, "fdb/eca"),
            (8, "bdf/ace"),
            (9, "ab/cd/ef"),
        ];
        for (value, want) in table {
            assert_eq!(turned(value), want, "{value}");
        }
    }

    #[test]
    fn large_pictures_are_transposed_whole() {
        let (width, height) = (70, 45);
        let pixels: Vec<u8> = (0..width * height * 3).map(|i| (i % 251) as u8).collect();
        let picture = Picture { width, height, pixels };
        let there = transpose(&picture);
        assert_eq!((there.width, there.height), (45, 70));
        assert_eq!(transpose(&there), picture);
    }

    proptest! {
        #[test]
        fn hostile_blocks_are_no_orientation_and_no_panic(mut bytes: Vec<u8>, at in 0usize..64, byte: u8) {
            let _ = orientation(&bytes);
            bytes = exif(true, &[(ORIENTATION, SHORT, 6)]);
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
            let _ = orientation(&bytes);
            let _ = orientation(&bytes[..at.min(bytes.len())]);
        }
    }
}
