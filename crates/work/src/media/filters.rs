//! What the decoder's filters do with a frame: keep it or not, bring it to size, and say when it is to be shown.

use pipeline::{Placement, Resample};

use super::{Between, Choice, Decode, Probe, Span};

/// What the mark says of a frame that is given out, and of one before it is clear whether it will be.
pub(super) const KEPT: &str = "kept";
pub(super) const SEEN: &str = "seen";
/// Writes a frame's time and its mark; `direct` flushes every line.
const PRINT: &str = "metadata=print:key=packhorse:direct=1:file='pipe\\:0'";

/// The filters that let only the chosen frames through, each with a comma behind it. They speak of all others as well, so
/// that those are counted.
fn choose(choice: &Choice) -> String {
    match choice {
        Choice::All | Choice::References | Choice::KeyFrames | Choice::IndexedKeys(_) => String::new(),
        Choice::Where(expression) => format!(
            "metadata=add:key=packhorse:value={SEEN},{PRINT},select='{expression}',\
             metadata=modify:key=packhorse:value={KEPT},"
        ),
    }
}

/// Keep what is of the span, scale, turn upright, place, arrange the bytes, and write `frame:N pts:MICROSECONDS ...` and
/// `packhorse=MARK` for every frame to standard input's descriptor. Behind that frames are only counted: ffmpeg's output
/// would complain of times that do not rise, as if the decoder had, and they are no error.
pub(super) fn filters(probe: &Probe, decode: &Decode) -> String {
    let placement = &decode.placement;
    let flags = match decode.resample {
        Resample::Nearest => "neighbor",
        // Of four pixels are made here and not by ffmpeg, which is asked for frames as they are.
        Resample::Bilinear | Resample::Asymmetric | Resample::HalfPixel => "bilinear",
        Resample::Bicubic => "bicubic",
        Resample::Lanczos => "lanczos",
    };
    let orientation = probe.orientation.unwrap_or_default();
    let (width, height) = placement.scaled_px;
    // A small picture is turned faster than a large one.
    let (width, height) = if orientation.is_sideways() { (height, width) } else { (width, height) };
    // What a frame says of its colours is heeded by itself.
    let matrix = probe.matrix_assumed().map(|matrix| format!(":in_color_matrix={matrix}")).unwrap_or_default();
    let (span, turn, place) = (keep(&decode.span), orientation.filters(), place(placement));
    let choice = choose(&decode.choice);
    // To colours that lie apart ffmpeg converts every pixel with its own chroma and rounds; its ways to pixels in one
    // piece are off by a level or two in the mean and by dozens at edges, and to red first they take longer as well.
    //
    // The printing filter only speaks of frames that carry metadata, hence the mark; it stays what it is where there is one.
    format!(
        "settb=AVTB,{span}{choice}scale={width}:{height}:flags={flags}{matrix},format=gbrp,{turn}{place}\
         metadata=add:key=packhorse:value={KEPT},{PRINT},setpts=N"
    )
}

/// The filters that let only frames of `span` through, each with a comma behind it. They stand first, so that the other
/// frames cost no more than their decoding.
fn keep(span: &Span) -> String {
    let mut filters = match &span.keep[..] {
        [] | [Between { from_us: None, before_us: None }] => String::new(),
        [one] => {
            let bound = |name: &str, bound_us: Option<i64>| bound_us.map(|bound_us| format!("{name}={bound_us}"));
            let bounds = [bound("start_pts", one.from_us), bound("end_pts", one.before_us)];
            format!("trim={},", bounds.into_iter().flatten().collect::<Vec<_>>().join(":"))
        }
        several => format!("select='{}',", several.iter().map(within).collect::<Vec<_>>().join("+")),
    };
    let skip = (span.skip > 0).then(|| format!("start_frame={}", span.skip));
    let most = span.most.map(|most| format!("end_frame={most}"));
    if skip.is_some() || most.is_some() {
        filters += &format!("trim={},", skip.into_iter().chain(most).collect::<Vec<_>>().join(":"));
    }
    filters
}

/// Whether a frame is shown in a time, as an expression.
fn within(between: &Between) -> String {
    let from = between.from_us.map(|from_us| format!("gte(pts,{from_us})"));
    let before = between.before_us.map(|before_us| format!("lt(pts,{before_us})"));
    from.into_iter().chain(before).collect::<Vec<_>>().join("*")
}

/// The filters that bring a scaled frame onto its canvas, each with a comma behind it. They come after the conversion to
/// bytes of colours, in which what is filled has its exact value.
fn place(placement: &Placement) -> String {
    let ((width, height), (across, down)) = (placement.scaled_px, placement.canvas_px);
    let (left, top) = placement.at_px;
    let cut = (left.min(0).unsigned_abs(), top.min(0).unsigned_abs());
    let seen = (width.saturating_sub(cut.0).min(across), height.saturating_sub(cut.1).min(down));
    let mut filters = String::new();
    if seen != placement.scaled_px {
        filters += &format!("crop={}:{}:{}:{}:exact=1,", seen.0, seen.1, cut.0, cut.1);
    }
    if seen != placement.canvas_px {
        let fill = placement.fill;
        filters +=
            &format!("pad={across}:{down}:{}:{}:color=0x{fill:02x}{fill:02x}{fill:02x},", left.max(0), top.max(0));
    }
    filters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept() {
        let between = |from_us, before_us| Between { from_us, before_us };
        let table = [
            (vec![], 0, ""),
            (vec![between(None, None)], 3, "trim=start_frame=3,"),
            (vec![between(Some(-5), None)], 0, "trim=start_pts=-5,"),
            (vec![between(None, Some(7))], 0, "trim=end_pts=7,"),
            (vec![between(Some(5), Some(7))], 2, "trim=start_pts=5:end_pts=7,trim=start_frame=2,"),
            (
                vec![between(None, Some(7)), between(Some(9), Some(11)), between(Some(12), None)],
                0,
                "select='lt(pts,7)+gte(pts,9)*lt(pts,11)+gte(pts,12)',",
            ),
        ];
        for (keep_us, skip, want) in table {
            let span = Span { seek_us: None, keep: keep_us, skip, most: None };
            assert_eq!(keep(&span), want);
        }
        for (skip, want) in [(0, "trim=end_frame=7,"), (2, "trim=start_frame=2:end_frame=7,")] {
            assert_eq!(keep(&Span { skip, most: Some(7), ..Span::default() }), want);
        }
    }
}
