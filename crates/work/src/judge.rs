//! Whether a video was decoded whole: pure judgements on what the decoder reported.

use engine::{Error, Result};

use crate::media::{DecodeReport, Probe};
use crate::result::Damage;
use crate::segment::Outline;
use crate::task::Task;

/// Whether what was decoded is good enough for `task`. `span_s` are the times of the first and of the last frame,
/// `declared` how many frames the file says it has and how long they last.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput), with what is wrong with the video and what to do about it.
pub(crate) fn judge(
    task: &Task,
    decode: &DecodeReport,
    span_s: Option<(f64, f64)>,
    declared: Option<(u64, f64)>,
) -> Result<Damage> {
    let (input, tolerance) = (task.shown_input(), task.damage_tolerance);
    let DecodeReport { frames, damage_count: errors, first_damage, .. } = decode;
    let said = first_damage.as_deref().unwrap_or("the decoder gave no reason");
    let Some(span_s) = span_s else {
        return Err(Error::invalid(format!("video '{input}' has no frame that can be decoded ({said})")));
    };
    // Counts of frames are far below the 2^53 that a double holds exactly.
    // A slice may be complained about in several lines, so that one alone may come to more than one error a frame: who
    // puts up with everything is not asked how much it is.
    if *errors as f64 / *frames as f64 > tolerance && tolerance < 1.0 {
        return Err(Error::invalid(format!(
            "{errors} decoding errors in {frames} frames of video '{input}' (first: {said}); re-encode the file, e.g. \
             ffmpeg -i IN -c:v libx264 OUT, or submit with --tolerate-damage PERCENT"
        )));
    }
    let missing = missing_at_end(*frames, span_s, declared);
    let declared = frames.saturating_add(missing);
    if missing as f64 / declared as f64 > tolerance {
        return Err(Error::invalid(format!(
            "video '{input}' is cut off: it ends after {frames} of the {declared} frames that it declares; upload it \
             again, or submit with --tolerate-damage PERCENT"
        )));
    }
    Ok(Damage { errors: *errors, first: first_damage.clone(), frames_missing: missing, tolerance })
}

/// The error of a video in which the decoder met an error, `said`, and none is put up with.
pub(crate) fn damaged(task: &Task, said: &str) -> Error {
    Error::invalid(format!(
        "there are decoding errors in video '{}' (first: {said}); re-encode the file, e.g. ffmpeg -i IN -c:v libx264 OUT, or \
         submit with --tolerate-damage PERCENT",
        task.shown_input()
    ))
}

/// Frames that the file declares beyond its end. Some containers lose their tail without an error, yet fewer frames
/// than declared are not enough to tell: still pictures may be stored as nothing at all, and edits may hide frames.
/// Only a video that also ends early in time is cut off.
fn missing_at_end(frames: u64, span_s: (f64, f64), declared: Option<(u64, f64)>) -> u64 {
    let Some((declared, duration_s)) = declared else {
        return 0;
    };
    let frame_s = duration_s / declared.max(1) as f64;
    let missing_s = duration_s - (span_s.1 - span_s.0 + frame_s);
    // Half a frame more than one, since the first may have been shown late and the times are rounded.
    match missing_s > 1.5 * frame_s {
        true => declared.saturating_sub(frames),
        false => 0,
    }
}

/// How many frames the file declares, and how long they would last, when its container does not have as many. An AVI's
/// duration is no help, since the demuxer works it out from what is there of the file, but its frames all last equally
/// long; anywhere else it is the duration that counts, since frames may be of any length or hidden by edits. Matroska
/// declares a duration alone, which may be that of a longer sound, so that it counts only where the demuxer was the
/// `first` to complain, as it is of a file that lacks its end; its frames are reckoned from those that are there.
pub(crate) fn declared(probe: &Probe, outline: &Outline, first: Option<&str>) -> Option<(u64, f64)> {
    let by_duration = || {
        let span_s = outline.span.map(|(first, last)| probe.seconds(last) - probe.seconds(first));
        let rate = outline.frames.saturating_sub(1) as f64 / span_s.filter(|span_s| *span_s > 0.0)?;
        // A cast from a float saturates.
        first.filter(|said| said.starts_with("matroska")).and(Some((probe.duration_s? * rate).round() as u64))
    };
    let declared = probe.frames_declared.or_else(by_duration);
    let declared = declared.filter(|&declared| declared > outline.frames + outline.hidden)?;
    match probe.container.as_str() {
        "avi" => Some((declared, declared as f64 / probe.frame_rate?)),
        _ => Some((declared, probe.duration_s?)),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use engine::ErrorKind;

    use super::*;

    #[test]
    fn damage_and_missing_ends() {
        type Decoded = (u64, u64, f64);
        let check = |decoded: Decoded, declared: Option<u64>, tolerance, want: std::result::Result<u64, &str>| {
            let (frames, errors, last_s) = decoded;
            let task = Task { damage_tolerance: tolerance, ..Task::new(Path::new("/v/a.avi"), "m").unwrap() };
            let first_damage = (errors > 0).then(|| "bad slice".to_owned());
            let decode = DecodeReport { frames, damage_count: errors, first_damage, ..DecodeReport::default() };
            let span_s = (frames > 0).then_some((0.0, last_s));
            match (judge(&task, &decode, span_s, declared.map(|frames| (frames, 10.0))), want) {
                (Ok(damage), Ok(missing)) => assert_eq!((damage.errors, damage.frames_missing), (errors, missing)),
                (Err(error), Err(part)) => {
                    assert_eq!(error.kind, ErrorKind::InvalidInput);
                    assert!(error.message.contains(part), "'{error}' does not say '{part}'");
                }
                (got, want) => panic!("{decoded:?}: {got:?}, not {want:?}"),
            }
        };
        check((100, 0, 9.9), Some(100), 0.0, Ok(0));
        check((100, 0, 9.9), None, 0.0, Ok(0));
        check((99, 0, 9.8), Some(100), 0.0, Ok(0));
        check((23, 0, 9.9), Some(100), 0.0, Ok(0));
        check((50, 0, 4.9), None, 0.0, Ok(0));
        check((50, 0, 4.9), Some(100), 0.0, Err("cut off: it ends after 50 of the 100 frames"));
        check((50, 0, 4.9), Some(100), 0.5, Ok(50));
        check(
            (100, 3, 9.9),
            Some(100),
            0.0,
            Err("3 decoding errors in 100 frames of video '/v/a.avi' (first: bad slice)"),
        );
        check((100, 3, 9.9), Some(100), 0.02, Err("--tolerate-damage"));
        check((100, 3, 9.9), Some(100), 0.03, Ok(0));
        check((0, 0, 0.0), Some(100), 1.0, Err("no frame that can be decoded (the decoder gave no reason)"));
        check((0, 2, 0.0), Some(100), 1.0, Err("no frame that can be decoded (bad slice)"));
    }

    #[test]
    fn what_a_file_declares_beyond_what_it_holds() {
        const CUT: Option<&str> = Some("matroska,webm: File ended prematurely");
        let outline = Outline { frames: 101, hidden: 5, span: Some((0, 100)), ..Outline::default() };
        for (container, frames_declared, first, want) in [
            ("mov,mp4,m4a,3gp,3g2,mj2", Some(250), None, Some((250, 10.0))),
            ("mov,mp4,m4a,3gp,3g2,mj2", Some(106), Some("h264: no frame!"), None),
            ("mov,mp4,m4a,3gp,3g2,mj2", None, Some("h264: no frame!"), None),
            ("matroska,webm", None, CUT, Some((200, 10.0))),
            ("matroska,webm", None, Some("h264: no frame!"), None),
            ("matroska,webm", None, None, None),
            ("avi", Some(250), None, Some((250, 10.0))),
        ] {
            let container = container.to_owned();
            let probe =
                Probe { container, frames_declared, frame_rate: Some(25.0), tick_s: (1, 20), ..Probe::example() };
            assert_eq!(declared(&probe, &outline, first), want, "{probe:?} {first:?}");
        }
    }
}
