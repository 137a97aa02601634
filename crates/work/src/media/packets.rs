//! The compressed frames of a video as its container lists them, by ffprobe: when each is to be shown, and where a decoder
//! may begin. Nothing is decoded for it.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use engine::Result;

use super::probe::{ffprobe, listen};
use super::{Probe, Tools};
use crate::segment::Packet;

/// A line is four numbers; more than this is none of ffprobe's.
const LINE_BYTES_MAX: usize = 200;

/// Shows `see` every packet of the video at `path`, in the order of decoding.
///
/// # Errors
/// As [`probe`](super::probe()); [`InvalidInput`](engine::ErrorKind::InvalidInput) when ffprobe says nothing for
/// `stall_limit`.
pub fn packets(
    tools: &Tools,
    path: &Path,
    probe: &Probe,
    stall_limit: Duration,
    see: &mut dyn FnMut(Packet),
) -> Result<()> {
    let mut command = ffprobe(tools, path);
    command.args(["-show_entries", "packet=pts,size,flags", "-of", "csv=p=0"]);
    let mut line = Vec::new();
    let mut take = |piece: &[u8]| {
        for &byte in piece {
            match byte {
                b'\n' => {
                    if let Some(packet) = std::str::from_utf8(&line).ok().and_then(|line| read(line, probe.tick_s)) {
                        see(packet);
                    }
                    line.clear();
                }
                _ if line.len() < LINE_BYTES_MAX => line.push(byte),
                _ => {}
            }
        }
        ControlFlow::Continue(())
    };
    listen(&mut command, path, stall_limit, &mut take)
}

/// The packet in `PTS,BYTES,FLAGS`, in which a time that there is not is called `N/A`.
fn read(line: &str, tick_s: (i64, i64)) -> Option<Packet> {
    let mut fields = line.split(',');
    let (pts, bytes, flags) = (fields.next()?, fields.next()?, fields.next()?);
    Some(Packet {
        pts_us: pts.parse().ok().and_then(|ticks| microseconds(ticks, tick_s)),
        bytes: bytes.parse().ok()?,
        key: flags.contains('K'),
        hidden: flags.contains('D'),
    })
}

/// `ticks` as ffmpeg's `settb=AVTB` says them: to the nearest microsecond, and half of one away from zero
/// (`av_rescale_q` in libavutil/mathematics.c).
fn microseconds(ticks: i64, (above, below): (i64, i64)) -> Option<i64> {
    let (product, below) = (i128::from(ticks) * i128::from(above), i128::from(below));
    let product = product.checked_mul(1_000_000)?;
    let half = if product < 0 { -(below / 2) } else { below / 2 };
    i64::try_from((product + half) / below).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_that_ffmpeg_reckons() {
        let table = [
            (0, (1, 25), 0),
            (1, (1, 25), 40_000),
            (1, (1001, 30_000), 33_367),
            (2, (1001, 30_000), 66_733),
            (-1, (1001, 30_000), -33_367),
            (1, (1, 90_000), 11),
            (1, (1, 2_000_000), 1),
            (-1, (1, 2_000_000), -1),
        ];
        for (ticks, tick_s, want) in table {
            assert_eq!(microseconds(ticks, tick_s), Some(want), "{ticks} {tick_s:?}");
        }
        assert_eq!(microseconds(i64::MAX, (i64::MAX, 1)), None);
    }

    #[test]
    fn lines() {
        let packet = |pts_us, bytes, key, hidden| Some(Packet { pts_us, bytes, key, hidden });
        let table = [
            ("2,31,K_", packet(Some(2000), 31, true, false)),
            ("N/A,31,__", packet(None, 31, false, false)),
            ("-2,7,KD", packet(Some(-2000), 7, true, true)),
            // Side data makes further columns.
            ("5,7,__,", packet(Some(5000), 7, false, false)),
            ("5", None),
            ("", None),
            ("a,b,c", None),
        ];
        for (line, want) in table {
            assert_eq!(read(line, (1, 1000)), want, "{line}");
        }
    }
}
