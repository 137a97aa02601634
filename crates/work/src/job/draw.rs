//! What is drawn on the video's own pictures, in a second pass over it: the frames come from a decoder, what is drawn on
//! them from the parts.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use engine::{Error, ErrorKind};
use pipeline::picture::draw::Mark;

use super::Running;
use super::listing::Video;
use super::walk::{Told, Walk};
use crate::media::{Annotate, SheetPlan, annotate};
use crate::object::ObjectStore;
use crate::output::files::{Growing, Whole, key};
use crate::output::{About, Form};
use crate::policy::{Failure, placed};
use crate::segment::Ledger;

/// Bytes that go to the place at a time.
const PIECE_BYTES: usize = 256 << 10;

/// Draws what the task wants drawn of a video of so many `frames`.
pub(super) fn draw(
    (running, listed): (&Running<'_>, &Video),
    ledger: &Ledger,
    about: &About<'_>,
    frames: u64,
) -> Result<Vec<Whole>, Failure> {
    let job = running.job;
    let wanted = |form| job.task.outputs.contains(&form);
    if !job.task.outputs.iter().any(|form| form.is_drawn()) {
        return Ok(Vec::new());
    }
    let _turn = running.shared.decoders.enter(&|| running.is_halted()).ok_or(Failure::Stopped)?;
    let folder = tempfile::tempdir().map_err(|error| Failure::Task(scratch(&error)))?;
    let [video, sheet] = [Form::Annotated, Form::ContactSheet].map(|form| folder.path().join(form.file()));
    let plan = SheetPlan { path: sheet.clone(), frames };
    let annotating = Annotate {
        tools: job.tools,
        source: running.setup.source.input.clone(),
        probe: &listed.probe,
        figures: &about.figures(),
        video: wanted(Form::Annotated).then_some(&*video),
        sheet: wanted(Form::ContactSheet).then_some(&plan),
    };
    let mut marks = Marks::new(Walk::new(job, listed, ledger))?;
    // What stops the walk is told instead of what annotating makes of it.
    let mut stopped = None;
    let mut of_frame = |frame| {
        let marks = if running.is_halted() { Err(Failure::Stopped) } else { marks.at(frame, about) };
        marks.map_err(|failure| {
            stopped = Some(failure);
            Error::new(ErrorKind::Cancelled, "what is to be drawn is not to be had")
        })
    };
    let drawn = annotate(&annotating, &mut of_frame, &mut |_| ());
    match (drawn, stopped) {
        (_, Some(failure)) => return Err(failure),
        (Err(error), None) => return Err(Failure::Task(error)),
        (Ok(_), None) => {}
    }
    let files = [(Form::Annotated, video), (Form::ContactSheet, sheet)];
    files
        .iter()
        .filter(|(form, _)| wanted(*form))
        .map(|(form, path)| copy(job.objects, path, &key(&job.task.id, *form)))
        .collect()
}

/// What is drawn, frame by frame: until a frame is looked at, what was seen in the one before.
struct Marks<'a> {
    walk: Walk<'a>,
    next: Option<Told>,
    now: Vec<Mark>,
}

impl<'a> Marks<'a> {
    fn new(mut walk: Walk<'a>) -> Result<Self, Failure> {
        let next = walk.next()?;
        Ok(Self { walk, next, now: Vec::new() })
    }

    fn at(&mut self, frame: u64, about: &About<'_>) -> Result<Vec<Mark>, Failure> {
        while let Some(told) = self.next.take_if(|told| told.index <= frame) {
            self.now = told.sightings.iter().map(|one| about.mark(one)).collect();
            self.next = self.walk.next()?;
        }
        Ok(self.now.clone())
    }
}

/// Brings the file at `path` to the place, as `key`.
fn copy(objects: &dyn ObjectStore, path: &Path, key: &str) -> Result<Whole, Failure> {
    let failed = |error: std::io::Error| Failure::Task(scratch(&error));
    let mut file = File::open(path).map_err(failed)?;
    let mut growing = Growing::begin(objects, key).map_err(placed)?;
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match file.read(&mut piece).map_err(failed)? {
            0 => return Ok(growing.whole()),
            count => growing.append(&piece[..count]).map_err(placed)?,
        }
    }
}

fn scratch(error: &std::io::Error) -> Error {
    Error::unavailable(format!("no picture can be kept in the folder for temporary files (TMPDIR): {error}"))
}
