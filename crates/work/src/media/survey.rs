//! What a video file says of itself and of each of its compressed frames: when it is to be shown, and where a decoder may
//! begin. An MP4 has it in its index; of others an ffprobe reads all from one end to the other. Nothing is decoded for it.

use std::ops::ControlFlow;
use std::process::Command;
use std::time::Duration;

use engine::Result;

use super::ffprobe::{ANSWER_BYTES_MAX, ffprobe, listen, too_large};
use super::headers::understand;
use super::{Input, Probe, Tools, probe};
use crate::ranges::View;
use crate::segment::{Outline, Packet};

/// A line of a packet is four values; more than this of it is not looked at.
const LINE_BYTES_MAX: usize = 300;

/// Reads the headers of a video and the list of its packets, each of which is told to `each` in the order in which they lie
/// in the file.
///
/// # Errors
/// As [`probe`](super::probe()); [`InvalidInput`](engine::ErrorKind::InvalidInput) when ffprobe says nothing for
/// `stall_limit`.
pub fn survey(
    tools: &Tools,
    input: impl Into<Input>,
    stall_limit: Duration,
    each: &mut dyn FnMut(&Packet),
) -> Result<(Probe, Outline)> {
    let input = input.into();
    input.check()?;
    if input.is_mp4()? {
        let probe = probe(tools, &input)?;
        if probe.has_index() {
            // Without a parser, nothing of it hangs on what is in a frame.
            let show = ["-fflags", "noparse", "-show_entries", "packet=pts,size,pos,flags", "-of", "json=compact=1"];
            let mut command = ffprobe(tools, &input, &show);
            let reading = read(&mut command, (tools, &input, View::Hollow), stall_limit, each)?;
            return Ok((probe, reading.outline));
        }
    }
    let show = ["-show_entries", "packet=pts,size,pos,flags:stream:format", "-of", "json=compact=1"];
    let reading = read(&mut ffprobe(tools, &input, &show), (tools, &input, View::Whole), stall_limit, each)?;
    Ok((understand(&reading.headers, &input)?, reading.outline))
}

fn read(
    command: &mut Command,
    (tools, input, view): (&Tools, &Input, View),
    stall_limit: Duration,
    each: &mut dyn FnMut(&Packet),
) -> Result<Reading> {
    let mut reading = Reading::default();
    let mut take = |piece: &[u8]| {
        piece.iter().for_each(|&byte| reading.push(byte, each));
        if reading.headers.len() > ANSWER_BYTES_MAX { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    listen(command, (tools, input, view), stall_limit, &mut take)?;
    match reading.headers.len() > ANSWER_BYTES_MAX {
        true => Err(too_large(input)),
        false => Ok(reading),
    }
}

/// ffprobe's answer, as it comes in: what is said of packets is taken in and dropped, the rest kept.
#[derive(Default)]
struct Reading {
    line: Vec<u8>,
    among_packets: bool,
    outline: Outline,
    headers: Vec<u8>,
}

impl Reading {
    fn push(&mut self, byte: u8, each: &mut dyn FnMut(&Packet)) {
        if byte != b'\n' {
            // Of a header nothing may be missing, and how much there is of them is bounded by the caller.
            if self.line.len() < LINE_BYTES_MAX || !self.among_packets && self.line.len() < ANSWER_BYTES_MAX {
                self.line.push(byte);
            }
            return;
        }
        match (self.among_packets, self.line.as_slice()) {
            (false, b"    \"packets\": [") => self.among_packets = true,
            // Lists within a packet end further to the right.
            (true, b"    ],") => self.among_packets = false,
            (true, line) => {
                if let Some(packet) = std::str::from_utf8(line).ok().and_then(packet) {
                    each(&packet);
                    self.outline.add(packet);
                }
            }
            (false, line) => {
                self.headers.extend_from_slice(line);
                self.headers.push(b'\n');
            }
        }
        self.line.clear();
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
        let (mut reading, mut told) = (Reading::default(), Vec::new());
        answer.bytes().for_each(|byte| reading.push(byte, &mut |packet| told.push(packet.pts)));
        assert_eq!(told, [Some(0), Some(1)]);
        assert_eq!(String::from_utf8(reading.headers).unwrap(), "{\n    \"streams\": [\n\n    ]\n}\n");
        assert_eq!((reading.outline.frames, reading.outline.bytes), (2, 7));
    }
}
