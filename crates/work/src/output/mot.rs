//! `mot.txt`: a row for every object in every frame, `frame,id,left,top,width,height,score,-1,-1,-1`, as the MOT
//! challenge's tools read it. Frames count from 1; an object that is not followed has the id -1.

use std::io::Write;

use engine::Result;

use super::{About, Seen, Writer, check_finite, unwritable};

pub(super) struct Mot;

impl Writer for Mot {
    fn begin(&mut self, _about: &About<'_>, _out: &mut Vec<u8>) -> Result<()> {
        Ok(())
    }

    fn frame(&mut self, _about: &About<'_>, seen: &Seen<'_>, out: &mut Vec<u8>) -> Result<()> {
        check_finite(seen)?;
        for one in seen.sightings {
            let [left, top, right, bottom] = one.box_px;
            let (frame, width, height) = (seen.index + 1, right - left, bottom - top);
            let id = one.track.map_or_else(|| "-1".to_owned(), |track| track.to_string());
            writeln!(out, "{frame},{id},{left:.2},{top:.2},{width:.2},{height:.2},{:.4},-1,-1,-1", one.score)
                .map_err(unwritable)?;
        }
        Ok(())
    }

    fn end(&mut self, _about: &About<'_>, _give: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        Ok(())
    }
}
