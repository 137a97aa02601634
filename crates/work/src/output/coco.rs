//! `coco.json`: a data set in COCO's form, with scores. Its images are the frames that were looked at, by their number in
//! the video; its categories are the model's own classes.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};

use engine::{Error, ErrorKind, Result};

use super::{About, Seen, Writer, check_finite, quoted, unwritable};

/// Bytes of annotations that wait before they go to the file.
const SPOOL_BYTES: usize = 64 << 10;

/// Images come before annotations, and both as the frames go by: annotations wait in a file without a name.
#[derive(Default)]
pub(super) struct Coco {
    images: u64,
    annotations: u64,
    waiting: Vec<u8>,
    spool: Option<File>,
}

impl Coco {
    fn spool(&mut self) -> Result<()> {
        let file = match &mut self.spool {
            Some(file) => file,
            none => none.insert(tempfile::tempfile().map_err(|error| disk(&error))?),
        };
        file.write_all(&self.waiting).map_err(|error| disk(&error))?;
        self.waiting.clear();
        Ok(())
    }
}

fn disk(error: &std::io::Error) -> Error {
    let kind = match error.kind() {
        std::io::ErrorKind::StorageFull => ErrorKind::Exhausted,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, format!("annotations cannot be kept in the folder for temporary files (TMPDIR): {error}"))
}

impl Writer for Coco {
    fn begin(&mut self, about: &About<'_>, out: &mut Vec<u8>) -> Result<()> {
        let (name, version) = about.model;
        let described = quoted(&format!("{} as {name} version {version} sees it", about.task.shown_input()));
        let mut write = || {
            write!(out, r#"{{"info":{{"description":{described}}},"licenses":[],"categories":["#)?;
            for (place, (class, name)) in about.labels.iter().enumerate() {
                let comma = if place == 0 { "" } else { "," };
                write!(out, r#"{comma}{{"id":{class},"name":{},"supercategory":""}}"#, quoted(name))?;
            }
            out.write_all(b"],\"images\":[\n")
        };
        write().map_err(unwritable)
    }

    fn frame(&mut self, about: &About<'_>, seen: &Seen<'_>, out: &mut Vec<u8>) -> Result<()> {
        check_finite(seen)?;
        let comma = if self.images == 0 { "" } else { ",\n" };
        let (index, width, height) = (seen.index, about.probe.width, about.probe.height);
        let name = format!("frame-{index:09}.jpg");
        self.images += 1;
        write!(out, r#"{comma}{{"id":{index},"file_name":"{name}","width":{width},"height":{height},"#)
            .and_then(|()| write!(out, r#""pts_s":{:.6}}}"#, seen.pts_s()))
            .map_err(unwritable)?;
        for one in seen.sightings {
            let comma = if self.annotations == 0 { "" } else { ",\n" };
            self.annotations += 1;
            let [left, top, right, bottom] = one.box_px;
            let (id, class, score, width, height) =
                (self.annotations, one.class, one.score, right - left, bottom - top);
            let track = one.track.map(|track| format!(r#","track_id":{track}"#)).unwrap_or_default();
            let waiting = &mut self.waiting;
            write!(waiting, r#"{comma}{{"id":{id},"image_id":{index},"category_id":{class},"#)
                .and_then(|()| write!(waiting, r#""bbox":[{left:.2},{top:.2},{width:.2},{height:.2}],"#))
                .and_then(|()| {
                    write!(waiting, r#""area":{:.2},"iscrowd":0,"score":{score:.4}{track}}}"#, width * height)
                })
                .map_err(unwritable)?;
        }
        if self.waiting.len() >= SPOOL_BYTES { self.spool() } else { Ok(()) }
    }

    fn end(&mut self, _about: &About<'_>, give: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        give(b"\n],\"annotations\":[\n")?;
        if let Some(file) = &mut self.spool {
            file.seek(SeekFrom::Start(0)).map_err(|error| disk(&error))?;
            let mut piece = vec![0; SPOOL_BYTES];
            loop {
                match file.read(&mut piece).map_err(|error| disk(&error))? {
                    0 => break,
                    count => give(&piece[..count])?,
                }
            }
        }
        give(&self.waiting)?;
        give(b"\n]}\n")
    }
}
