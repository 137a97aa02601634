//! The files of a task's results while they are written: every form at once, each with its size and its checksum.

use engine::Result;
use serde::{Deserialize, Serialize};

use super::{About, Form, Seen, Writer, lines, writer};
use crate::object::{ObjectStore, ObjectWriter};
use crate::policy::{Failure, placed};
use crate::result::lines_key;

/// A file of results, as the summary tells of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// Its name in the folder of the task.
    pub file: String,
    /// Its size.
    pub bytes: u64,
    /// BLAKE3 of all of it.
    pub blake3: String,
}

/// A file that is whole but for its commit.
pub(crate) struct Whole {
    pub(crate) written: Written,
    pub(crate) object: Box<dyn ObjectWriter>,
}

/// A file on its way to the place.
pub(crate) struct Growing {
    file: String,
    object: Box<dyn ObjectWriter>,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl Growing {
    /// Begins the object `key`.
    pub(crate) fn begin(objects: &dyn ObjectStore, key: &str) -> Result<Self> {
        let file = key.rsplit('/').next().unwrap_or(key).to_owned();
        Ok(Self { file, object: objects.create(key)?, hasher: blake3::Hasher::new(), bytes: 0 })
    }

    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        self.object.append(bytes)
    }

    pub(crate) fn whole(self) -> Whole {
        let Self { file, object, hasher, bytes } = self;
        Whole { written: Written { file, bytes, blake3: hasher.finalize().to_hex().to_string() }, object }
    }
}

/// All files of a task that are written as its frames go by.
pub(crate) struct Files<'a> {
    about: About<'a>,
    growing: Vec<(Box<dyn Writer>, Growing)>,
    /// One frame of one form.
    piece: Vec<u8>,
}

impl<'a> Files<'a> {
    /// Begins `results.jsonl` and what else the task wants.
    pub(crate) fn begin(about: About<'a>, objects: &dyn ObjectStore) -> std::result::Result<Self, Failure> {
        let task = about.task;
        let mut growing = vec![(lines(&about), Growing::begin(objects, &lines_key(&task.id)).map_err(placed)?)];
        for form in task.outputs.iter().copied() {
            let Some(writer) = writer(form) else { continue };
            growing.push((writer, Growing::begin(objects, &key(&task.id, form)).map_err(placed)?));
        }
        let mut files = Self { about, growing, piece: Vec::new() };
        files.each(|writer, about, piece| writer.begin(about, piece))?;
        Ok(files)
    }

    /// Writes a frame down, in every form.
    pub(crate) fn frame(&mut self, seen: &Seen<'_>) -> std::result::Result<(), Failure> {
        self.each(|writer, about, piece| writer.frame(about, seen, piece))
    }

    fn each(
        &mut self,
        mut write: impl FnMut(&mut dyn Writer, &About<'_>, &mut Vec<u8>) -> Result<()>,
    ) -> std::result::Result<(), Failure> {
        for (writer, file) in &mut self.growing {
            self.piece.clear();
            write(writer.as_mut(), &self.about, &mut self.piece).map_err(Failure::Task)?;
            file.append(&self.piece).map_err(placed)?;
        }
        Ok(())
    }

    /// Ends them all.
    pub(crate) fn end(self) -> std::result::Result<Vec<Whole>, Failure> {
        let about = self.about;
        let ended = self.growing.into_iter().map(|(mut writer, mut file)| {
            // Which of the two failed decides who is to blame.
            let mut refused = None;
            let ended =
                writer.end(&about, &mut |piece| file.append(piece).inspect_err(|error| refused = Some(error.clone())));
            match (ended, refused) {
                (Err(_), Some(error)) => Err(placed(error)),
                (Err(error), None) => Err(Failure::Task(error)),
                (Ok(()), _) => Ok(file.whole()),
            }
        });
        ended.collect()
    }
}

/// The object of a task's results in `form`.
pub(crate) fn key(task_id: &str, form: Form) -> String {
    format!("{task_id}/{}", form.file())
}
