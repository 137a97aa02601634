//! What a video file says of itself and of each of its compressed frames: when it is to be shown, and where a decoder may
//! begin. An MP4 has it in its index; of others an ffprobe reads all from one end to the other. Nothing is decoded for it.

use std::ops::ControlFlow;
use std::process::Command;
use std::time::Duration;

use engine::{Error, ErrorKind, Result};

use super::ffprobe::{ANSWER_BYTES_MAX, ffprobe, listen, too_large};
use super::headers::understand;
use super::probe::first_headers;
use super::{Input, Probe, Tools, probe};
use crate::ranges::View;
use crate::segment::{Outline, Packet};

/// A line of a packet is four values; more than this of it is not looked at.
const LINE_BYTES_MAX: usize = 300;

/// What is told of a video while it is surveyed.
#[derive(Clone, Copy, Debug)]
pub enum Told<'a> {
    /// What it says of itself before its frames are looked at; not told of one that says nothing before.
    Headers(&'a Probe),
    /// The next of its packets, in the order in which they lie in the file.
    Packet(&'a Packet),
}

/// Reads the headers of a video and the list of its packets, as far as `hear` wants to hear of them. What is returned are
/// the headers once all was read.
///
/// # Errors
/// As [`probe`](super::probe()); [`InvalidInput`](engine::ErrorKind::InvalidInput) when ffprobe says nothing for
/// `stall_limit`, [`Cancelled`](engine::ErrorKind::Cancelled) when `hear` has enough.
pub fn survey(
    tools: &Tools,
    input: impl Into<Input>,
    stall_limit: Duration,
    hear: &mut dyn FnMut(Told<'_>) -> ControlFlow<()>,
) -> Result<Probe> {
    let input = input.into();
    input.check()?;
    let is_mp4 = input.is_mp4()?;
    let first = before_the_list(tools, &input, is_mp4)?;
    if first.as_ref().is_some_and(|first| hear(Told::Headers(first)).is_break()) {
        return Err(given_up(&input));
    }
    let in_fragments = first.as_ref().is_some_and(|first| first.in_fragments);
    let indexed = first.filter(|first| is_mp4 && first.has_index());
    // Without a parser, nothing of it hangs on what is in a frame; without a look at all fragments, the first comes first.
    let flags = match (indexed.is_some(), in_fragments) {
        (true, true) => &["-fflags", "noparse+ignidx"][..],
        (true, false) => &["-fflags", "noparse"],
        (false, true) => &["-fflags", "+ignidx"],
        (false, false) => &[],
    };
    let (what, view) = match indexed {
        Some(_) => ("packet=pts,size,pos,flags", View::Hollow),
        None => ("packet=pts,size,pos,flags:stream:format", View::List),
    };
    let show = [flags, &["-show_entries", what, "-of", "json=compact=1"]].concat();
    let headers = read(&mut ffprobe(tools, &input, &show), (tools, &input, view), stall_limit, hear)?;
    match indexed {
        _ if in_fragments => probe(tools, &input),
        Some(first) => Ok(first),
        None => understand(&headers, &input),
    }
}

/// What a video says of itself before its frames are looked at, if that is worth a process of its own.
fn before_the_list(tools: &Tools, input: &Input, is_mp4: bool) -> Result<Option<Probe>> {
    // What is listed at once is begun no sooner for it.
    if !is_mp4 && input.is_short() {
        return Ok(None);
    }
    match first_headers(tools, input) {
        // Some say enough of themselves only as they are read on.
        Err(error) if !is_mp4 && error.kind == ErrorKind::InvalidInput => Ok(None),
        first => first.map(Some),
    }
}

/// What a video says of itself, and the outline of all of its packets, each of which `each` hears of.
///
/// # Errors
/// As [`survey`].
pub(crate) fn outlined(
    tools: &Tools,
    input: impl Into<Input>,
    stall_limit: Duration,
    each: &mut dyn FnMut(&Packet),
) -> Result<(Probe, Outline)> {
    let mut outline = Outline::default();
    let mut hear = |told: Told<'_>| {
        if let Told::Packet(packet) = told {
            each(packet);
            outline.add(*packet);
        }
        ControlFlow::Continue(())
    };
    Ok((survey(tools, input, stall_limit, &mut hear)?, outline))
}

fn given_up(input: &Input) -> Error {
    Error::new(ErrorKind::Cancelled, format!("listing the frames of '{input}' was given up"))
}

/// Has ffprobe speak of packets, and returns what else it says.
fn read(
    command: &mut Command,
    (tools, input, view): (&Tools, &Input, View),
    stall_limit: Duration,
    hear: &mut dyn FnMut(Told<'_>) -> ControlFlow<()>,
) -> Result<Vec<u8>> {
    let (mut reading, mut flow) = (Reading::default(), ControlFlow::Continue(()));
    let mut take = |piece: &[u8]| {
        for &byte in piece {
            if let Some(packet) = reading.push(byte)
                && flow.is_continue()
            {
                flow = hear(Told::Packet(&packet));
            }
        }
        if reading.headers.len() > ANSWER_BYTES_MAX { ControlFlow::Break(()) } else { flow }
    };
    listen(command, (tools, input, view), stall_limit, &mut take)?;
    match reading.headers.len() > ANSWER_BYTES_MAX {
        true => Err(too_large(input)),
        false if flow.is_break() => Err(given_up(input)),
        false => Ok(reading.headers),
    }
}

/// ffprobe's answer, as it comes in: what is said of packets is taken in and dropped, the rest kept.
#[derive(Default)]
struct Reading {
    line: Vec<u8>,
    among_packets: bool,
    headers: Vec<u8>,
}

impl Reading {
    /// Takes the next byte in; the packet whose line ends with it.
    fn push(&mut self, byte: u8) -> Option<Packet> {
        if byte != b'\n' {
            // Of a header nothing may be missing, and how much there is of them is bounded by the caller.
            if self.line.len() < LINE_BYTES_MAX || !self.among_packets && self.line.len() < ANSWER_BYTES_MAX {
                self.line.push(byte);
            }
            return None;
        }
        let mut told = None;
        match (self.among_packets, self.line.as_slice()) {
            (false, b"    \"packets\": [") => self.among_packets = true,
            // Lists within a packet end further to the right.
            (true, b"    ],") => self.among_packets = false,
            (true, line) => told = std::str::from_utf8(line).ok().and_then(packet),
            (false, line) => {
                self.headers.extend_from_slice(line);
                self.headers.push(b'\n');
            }
        }
        self.line.clear();
        told
    }
}

/// The packet in `{ "pts": 1024, "size": "18196", "pos": "48", "flags": "__" },`, in which a time that there is not is left out.
fn packet(line: &str) -> Option<Packet> {
    let line = line.strip_prefix("        { \"")?;
    let value = |name: &str| {
        let behind = line.split_once(name)?.1.strip_prefix("\": ")?.trim_start_matches('"');
        behind.split(['"', ',', ' ']).next()
    };
    let flags = value("flags")?;
    Some(Packet {
        pts: value("pts").and_then(|pts| pts.parse().ok()),
        bytes: value("size")?.parse().ok()?,
        at: value("pos").and_then(|at| at.parse().ok()),
        key: flags.contains('K'),
        hidden: flags.contains('D'),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets() {
        let packet_of = |pts, bytes, key, hidden| Some(Packet { pts, bytes, at: None, key, hidden });
        let table = [
            (r#"        { "pts": 2, "size": "31", "flags": "K_" },"#, packet_of(Some(2), 31, true, false)),
            (
                r#"        { "pts": 2, "size": "31", "pos": "48", "flags": "K_" },"#,
                Some(Packet { pts: Some(2), bytes: 31, at: Some(48), key: true, hidden: false }),
            ),
            (r#"        { "size": "31", "flags": "__" }"#, packet_of(None, 31, false, false)),
            (r#"        { "pts": -2, "size": "7", "flags": "KD" },"#, packet_of(Some(-2), 7, true, true)),
            (r#"        { "pts": 5, "size": "7", "flags": "__","#, packet_of(Some(5), 7, false, false)),
            (r#"                { "side_data_type": "MPEGTS Stream ID" }"#, None),
            (r#"            "side_data_list": ["#, None),
            ("            ] },", None),
            (r#"        { "pts": 5, "size": "much", "flags": "__" },"#, None),
            ("", None),
        ];
        for (line, want) in table {
            assert_eq!(packet(line), want, "{line}");
        }
    }

    #[test]
    fn headers_are_what_is_left() {
        let answer = "{\n    \"packets\": [\n        { \"pts\": 0, \"size\": \"3\", \"flags\": \"K_\",\n            \
            \"side_data_list\": [\n                { \"side_data_type\": \"x\" }\n            ] },\n        \
            { \"pts\": 1, \"size\": \"4\", \"flags\": \"__\" }\n    ],\n    \"streams\": [\n\n    ]\n}\n";
        let mut reading = Reading::default();
        let told: Vec<Packet> = answer.bytes().filter_map(|byte| reading.push(byte)).collect();
        assert_eq!(
            told.iter().map(|packet| (packet.pts, packet.bytes)).collect::<Vec<_>>(),
            [(Some(0), 3), (Some(1), 4)]
        );
        assert_eq!(String::from_utf8(reading.headers).unwrap(), "{\n    \"streams\": [\n\n    ]\n}\n");
    }
}
