//! A task: what to do, as the JSON body that travels through a queue.

use std::borrow::Cow;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use engine::{Error, ErrorKind, Result};
use objects::Address;
use serde::{Deserialize, Serialize};

use crate::output::Form;
use crate::reply::ReplyForm;
use crate::sampling::Sampling;
use crate::track::{self, Line, Zone};

/// The body format this build writes, and the only one it reads.
pub const FORMAT: u32 = 1;

/// The largest body a queue takes, in bytes: what every SQS queue and tool is sure to accept.
pub const BODY_BYTES_MAX: usize = 256 * 1024;

/// The score below which a detection is not reported, unless the task says otherwise.
pub const THRESHOLD_DEFAULT: f32 = 0.4;

/// One video to work through one detector, every frame of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// [`FORMAT`] at the time of writing.
    pub format: u32,
    /// Unique, sortable by time of submission, and one safe path segment; names the folder of the results.
    pub id: String,
    /// An absolute file path, or the URL of an object: `file://`, `s3://`, `gs://`, `az://`, `http://` and the like.
    pub input: String,
    /// The model's name; the newest version answers.
    pub model: String,
    /// Detections below this score are not reported; 0 to 1.
    #[serde(default = "threshold_default")]
    pub threshold: f32,
    /// Decoding errors per frame that are put up with; 0 (none) to 1.
    #[serde(default)]
    pub damage_tolerance: f64,
    /// Which frames are looked at.
    #[serde(default, skip_serializing_if = "is_all")]
    pub sampling: Sampling,
    /// Whether objects are followed from frame to frame; they are for lines, too.
    #[serde(default, skip_serializing_if = "is_false")]
    pub track: bool,
    /// Parts of the picture whose visitors are counted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<Zone>,
    /// Lines across the picture; what crosses them is counted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<Line>,
    /// Forms of the results besides `results.jsonl`, each once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<Form>,
    /// The content that the input had when the task was made, as HTTP's entity tag without quotes. When it has another by
    /// the time it is read, somebody replaced it, whose own task it is, and this one has nothing left to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_etag: Option<String>,
    /// The queue that is told when this has ended: one of those that its worker was started with, by address or name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// What it is told; without it, what the worker's settings say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_form: Option<ReplyForm>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
fn is_false(flag: &bool) -> bool {
    !flag
}

fn is_all(sampling: &Sampling) -> bool {
    *sampling == Sampling::All
}

/// What a task is made of where a body says no more than which video it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    /// See [`Task::model`]; without one, such a body is refused.
    pub model: Option<String>,
    /// See [`Task::threshold`].
    pub threshold: f32,
    /// See [`Task::damage_tolerance`].
    pub damage_tolerance: f64,
    /// See [`Task::sampling`].
    pub sampling: Sampling,
    /// See [`Task::track`].
    pub track: bool,
    /// See [`Task::zones`].
    pub zones: Vec<Zone>,
    /// See [`Task::lines`].
    pub lines: Vec<Line>,
    /// See [`Task::outputs`].
    pub outputs: Vec<Form>,
}

impl Default for Template {
    fn default() -> Self {
        Self {
            model: None,
            threshold: THRESHOLD_DEFAULT,
            damage_tolerance: 0.0,
            sampling: Sampling::All,
            track: false,
            zones: Vec::new(),
            lines: Vec::new(),
            outputs: Vec::new(),
        }
    }
}

impl Template {
    /// The task called `id` for the video at `input`.
    ///
    /// # Errors
    /// [`FailedPrecondition`](engine::ErrorKind::FailedPrecondition) without a model,
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) when it would be no task.
    pub fn task(&self, id: &str, input: &str) -> Result<Task> {
        let Some(model) = &self.model else {
            return Err(Error::new(
                ErrorKind::FailedPrecondition,
                "the body names no model, and neither does the worker: start it with --model",
            ));
        };
        let task = Task {
            format: FORMAT,
            id: id.to_owned(),
            input: input.to_owned(),
            model: model.clone(),
            threshold: self.threshold,
            damage_tolerance: self.damage_tolerance,
            sampling: self.sampling,
            track: self.track,
            zones: self.zones.clone(),
            lines: self.lines.clone(),
            outputs: self.outputs.clone(),
            input_etag: None,
            reply_to: None,
            reply_form: None,
        };
        task.check()?;
        Ok(task)
    }
}

fn threshold_default() -> f32 {
    THRESHOLD_DEFAULT
}

impl Task {
    /// A task with a fresh id for the video at `input`, which is made absolute if it is a relative path.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) when the path is empty or is not UTF-8.
    pub fn new(input: &Path, model: &str) -> Result<Self> {
        let Some(text) = input.to_str() else {
            return Err(Error::invalid(format!(
                "input path {} is not UTF-8, which a task's JSON body needs: rename the file",
                input.display()
            )));
        };
        let input = match text.contains("://") {
            true => text.to_owned(),
            false => std::path::absolute(text)
                .map_err(|e| Error::invalid(format!("input path '{text}' cannot be made absolute: {e}")))?
                .to_string_lossy()
                .into_owned(),
        };
        Template { model: Some(model.to_owned()), ..Template::default() }.task(&new_id(), &input)
    }

    /// The task in `body`.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) naming the field, or
    /// [`Unsupported`](engine::ErrorKind::Unsupported) when the format is newer than this build.
    pub fn from_json(body: &str) -> Result<Self> {
        /// Read first, so that a newer body is called newer instead of wrong in its unknown fields.
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let wrong = |e: serde_json::Error| Error::invalid(format!("the task's body is not a task: {e}"));
        let Version { format } = serde_json::from_str(body).map_err(wrong)?;
        if format != FORMAT {
            return Err(Error::unsupported(format!(
                "the task's body has format {format}, but this build reads format {FORMAT}: update the worker"
            )));
        }
        let task: Self = serde_json::from_str(body).map_err(|error| match field_at_fault(body) {
            Some((field, error)) => Error::invalid(format!("field '{field}': {error}")),
            None => wrong(error),
        })?;
        task.check()?;
        Ok(task)
    }

    /// The video that `body` speaks of, for others to see, where it says so much, whatever else is wrong with it.
    pub(crate) fn shown_input_of(body: &str) -> Option<String> {
        let value: serde_json::Value = serde_json::from_str(body).ok()?;
        value.get("input")?.as_str().map(|input| shown(input).into_owned())
    }

    /// The body that carries this task.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) when a field is out of its range, or the body is longer than
    /// [`BODY_BYTES_MAX`].
    pub fn to_json(&self) -> Result<String> {
        self.check()?;
        let body =
            serde_json::to_string(self).map_err(|e| Error::internal(format!("a task does not serialise: {e}")))?;
        if body.len() > BODY_BYTES_MAX {
            return Err(Error::invalid(format!(
                "the task's body takes {} bytes, but a queue takes at most {BODY_BYTES_MAX}: shorten its input path",
                body.len()
            )));
        }
        Ok(body)
    }

    /// Whether objects are followed.
    pub fn is_tracking(&self) -> bool {
        self.track || !self.lines.is_empty()
    }

    /// What its zones and lines hash to, if it has any.
    pub fn places_hash(&self) -> Option<String> {
        let (zones, lines) = (&self.zones, &self.lines);
        let hash = || blake3::hash(serde_json::json!([zones, lines]).to_string().as_bytes()).to_hex()[..32].to_owned();
        (!zones.is_empty() || !lines.is_empty()).then(hash)
    }

    /// The score below which a detection is of no use: following needs more than is reported.
    pub fn threshold_of_use(&self) -> f32 {
        if self.is_tracking() { self.threshold.min(track::LOW_SCORE) } else { self.threshold }
    }

    /// The input for others to see, in results, reasons and logs: without a URL's query and user, which may be secrets.
    pub fn shown_input(&self) -> Cow<'_, str> {
        shown(&self.input)
    }

    /// Whether the input is elsewhere than on this machine.
    pub fn is_remote(&self) -> bool {
        self.input.split_once("://").is_some_and(|(scheme, _)| scheme != "file")
    }

    /// The input as a path on this machine.
    ///
    /// # Errors
    /// [`Unsupported`](engine::ErrorKind::Unsupported) for a URL of another scheme,
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) for a relative path.
    pub fn input_path(&self) -> Result<PathBuf> {
        let path = match self.input.split_once("://") {
            None => PathBuf::from(&self.input),
            Some(("file", path)) => PathBuf::from(percent_decoded(path)?),
            Some((scheme, _)) => {
                return Err(Error::unsupported(format!(
                    "field 'input': this build reads no {scheme}:// videos: give a file path"
                )));
            }
        };
        match path.is_absolute() {
            true => Ok(path),
            false => Err(Error::invalid(format!(
                "field 'input': '{}' is a relative path, which is another file to each worker: give the absolute path",
                self.input
            ))),
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        check_segment("field 'id'", &self.id)?;
        if self.input.is_empty() || self.input.contains('\0') {
            return Err(Error::invalid("field 'input': is empty or has a NUL byte: give the path of a video"));
        }
        match self.is_remote() {
            true => drop(Address::parse_object(&self.input).map_err(|error| error.context("field 'input'"))?),
            false => drop(self.input_path()?),
        }
        if self.model.is_empty() {
            return Err(Error::invalid("field 'model': is empty: give the name of a packed model"));
        }
        // Written so that a NaN is refused as well.
        if !(0.0..=1.0).contains(&self.threshold) {
            return Err(Error::invalid(format!("field 'threshold': {} is not within 0 to 1", self.threshold)));
        }
        if !(0.0..=1.0).contains(&self.damage_tolerance) {
            return Err(Error::invalid(format!(
                "field 'damage_tolerance': {} is not within 0 to 1",
                self.damage_tolerance
            )));
        }
        track::check(&self.zones, &self.lines)?;
        let twice = self.outputs.iter().enumerate().find(|(place, form)| self.outputs[..*place].contains(form));
        if let Some((_, form)) = twice {
            return Err(Error::invalid(format!("field 'outputs': names '{form}' twice")));
        }
        Ok(())
    }
}

/// See [`Task::shown_input`].
fn shown(input: &str) -> Cow<'_, str> {
    let url = input.split_once("://").filter(|(scheme, _)| scheme.to_ascii_lowercase().starts_with("http"));
    let Some((scheme, rest)) = url else { return Cow::Borrowed(input) };
    let shown = rest.split('?').next().unwrap_or_default();
    let (host, path) = shown.split_at(shown.find('/').unwrap_or(shown.len()));
    match host.rsplit_once('@') {
        Some((_, host)) => Cow::Owned(format!("{scheme}://{host}{path}")),
        None => Cow::Borrowed(&input[..input.len() - rest.len() + shown.len()]),
    }
}

/// A field of `body` that a task cannot have so, and why, which the parser tells by its column alone: each is tried in a
/// task that is right but for it.
fn field_at_fault(body: &str) -> Option<(String, serde_json::Error)> {
    let fields: serde_json::Map<String, serde_json::Value> = serde_json::from_str(body).ok()?;
    let right = serde_json::json!({"format": FORMAT, "id": "id", "input": "/input", "model": "model"});
    fields.into_iter().find_map(|(name, value)| {
        let mut task = right.clone();
        task[&name] = value;
        serde_json::from_value::<Task>(task).err().map(|error| (name, error))
    })
}

/// An id that sorts by the time it was made and that no other process makes.
fn new_id() -> String {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let time_ns = u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX);
    format!("{time_ns:016x}-{:016x}", nonce())
}

/// A number that is hard to meet twice. The standard library keys every hasher with fresh randomness of the operating
/// system, which is all that is needed here and saves a dependency.
pub(crate) fn nonce() -> u64 {
    RandomState::new().hash_one((std::process::id(), SystemTime::now()))
}

/// Checks that `text` is one path segment that is safe to use as the name of a file or folder.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput), beginning with `what`.
pub(crate) fn check_segment(what: &str, text: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if text.is_empty() || text.len() > 128 || text.starts_with('.') || !text.chars().all(plain) {
        let shown: String = text.chars().take(40).collect();
        return Err(Error::invalid(format!(
            "{what}: {shown:?} is not one plain path segment: use 1 to 128 letters, digits, '-', '_' and '.', not beginning with '.'"
        )));
    }
    Ok(())
}

fn percent_decoded(path: &str) -> Result<String> {
    let wrong = || Error::invalid(format!("field 'input': file://{path} is not percent-encoded UTF-8"));
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let (digits, tail) = rest.split_first_chunk::<2>().ok_or_else(wrong)?;
        let value = digits.iter().try_fold(0, |value, &digit| Some(value * 16 + char::from(digit).to_digit(16)?));
        bytes.push(value.and_then(|value| u8::try_from(value).ok()).ok_or_else(wrong)?);
        rest = tail;
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use engine::ErrorKind;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn secrets_of_a_url_are_not_shown() {
        for (input, shown) in [
            ("/a/b?c.mp4", "/a/b?c.mp4"),
            ("/a/http://me:word@host?b.mp4", "/a/http://me:word@host?b.mp4"),
            ("s3://bucket/b?c@d.mp4", "s3://bucket/b?c@d.mp4"),
            ("https://host/a/b.mp4", "https://host/a/b.mp4"),
            ("https://host/a@b.mp4?X-Sig=c/d@e", "https://host/a@b.mp4"),
            ("HTTP://me:w@rd@host:81/b.mp4?sig", "HTTP://host:81/b.mp4"),
            ("http://me@host", "http://host"),
        ] {
            let task = Task { input: input.to_owned(), ..Task::new(Path::new("/any"), "m").unwrap() };
            assert_eq!(task.shown_input(), shown);
        }
    }

    fn check(body: &str, want: std::result::Result<&str, (ErrorKind, &str)>) {
        match (Task::from_json(body).and_then(|task| task.input_path()), want) {
            (Ok(path), Ok(want)) => assert_eq!(path, Path::new(want), "{body}"),
            (Err(error), Err((kind, part))) => {
                assert_eq!(error.kind, kind, "{body}: {error}");
                assert!(error.message.contains(part), "{body}: '{error}' does not say '{part}'");
            }
            (got, want) => panic!("{body}: got {got:?}, want {want:?}"),
        }
    }

    fn wrong(part: &str) -> std::result::Result<&str, (ErrorKind, &str)> {
        Err((ErrorKind::InvalidInput, part))
    }

    #[test]
    fn inputs_are_files_of_this_machine() {
        check(r#"{"format":1,"id":"a-1","input":"/v/a.mp4","model":"m"}"#, Ok("/v/a.mp4"));
        check(r#"{"format":1,"id":"a-1","input":"file:///v/a%20b%C3%A9.mp4","model":"m"}"#, Ok("/v/a bé.mp4"));
        check(r#"{"format":1,"id":"a","input":"file:///v/%zz","model":"m"}"#, wrong("percent-encoded"));
        check(r#"{"format":1,"id":"a","input":"file:///v/%f","model":"m"}"#, wrong("percent-encoded"));
        check(r#"{"format":1,"id":"a","input":"file:///v/%ff","model":"m"}"#, wrong("UTF-8"));
    }

    #[test]
    fn a_body_that_is_no_task_is_refused_by_its_field() {
        check("", wrong("not a task"));
        check("[1, 2]", wrong("not a task"));
        check(r#"{"bucket":"b","object":"o"}"#, wrong("missing field `format`"));
        check(r#"{"format":2,"id":"a","frames":[]}"#, Err((ErrorKind::Unsupported, "format 2")));
        check(r#"{"format":1,"input":"/v","model":"m"}"#, wrong("missing field `id`"));
        check(r#"{"format":1,"id":"a","input":"/v","model":"m","colour":1}"#, wrong("unknown field `colour`"));
        check(r#"{"format":1,"id":"a","input":"/v","model":7}"#, wrong("field 'model': invalid type: integer `7`"));
        let with = |field: &str| format!(r#"{{"format":1,"id":"a","input":"/v","model":"m",{field}}}"#);
        for (field, says) in [
            (r#""threshold":"x""#, "field 'threshold': invalid type"),
            (r#""track":"yes","threshold":0.5"#, "field 'track': invalid type"),
            (r#""sampling":"often""#, "field 'sampling': 'often' does not say which frames"),
            (r#""sampling":{"every":2}"#, "field 'sampling': invalid type"),
            (r#""zones":[{"name":"a"}]"#, "field 'zones': missing field `polygon`"),
            (r#""outputs":["x"]"#, "field 'outputs': unknown variant `x`"),
            (r#""reply_form":"xml""#, "field 'reply_form': unknown variant `xml`"),
            (r#""track":true,"colour":[]"#, "unknown field `colour`"),
        ] {
            check(&with(field), wrong(says));
        }
        check(r#"{"format":1,"id":"../etc","input":"/v","model":"m"}"#, wrong("field 'id'"));
        check(r#"{"format":1,"id":".hidden","input":"/v","model":"m"}"#, wrong("field 'id'"));
        check(r#"{"format":1,"id":"","input":"/v","model":"m"}"#, wrong("field 'id'"));
        check(r#"{"format":1,"id":"a","input":"","model":"m"}"#, wrong("field 'input'"));
        check(r#"{"format":1,"id":"a","input":"v/a.mp4","model":"m"}"#, wrong("relative"));
        check(r#"{"format":1,"id":"a","input":"s3://b","model":"m"}"#, wrong("names no object"));
        check(r#"{"format":1,"id":"a","input":"ftp://b/a","model":"m"}"#, wrong("there is no ftp://"));
        check(r#"{"format":1,"id":"a","input":"/v","model":""}"#, wrong("field 'model'"));
        check(r#"{"format":1,"id":"a","input":"/v","model":"m","threshold":1.5}"#, wrong("field 'threshold'"));
        check(
            r#"{"format":1,"id":"a","input":"/v","model":"m","damage_tolerance":-1}"#,
            wrong("field 'damage_tolerance'"),
        );
    }

    #[test]
    fn a_new_task_is_absolute_survives_its_body_and_sorts_after_the_one_before() {
        let first = Task::new(Path::new("clip.mp4"), "m").unwrap();
        let second = Task::new(Path::new("clip.mp4"), "m").unwrap();
        assert!(first.input_path().unwrap().ends_with("clip.mp4"));
        assert_eq!(Task::from_json(&first.to_json().unwrap()).unwrap(), first);
        assert!(first.id[..16] <= second.id[..16] && first.id != second.id);
        let long = Task { model: "m".repeat(BODY_BYTES_MAX), ..first };
        assert_eq!(long.to_json().unwrap_err().kind, ErrorKind::InvalidInput);
    }

    proptest! {
        #[test]
        fn no_body_panics_and_no_id_leaves_its_folder(id in ".{0,20}", rest in ".{0,20}") {
            let body = serde_json::json!({"format": 1, "id": id, "input": format!("/{rest}"), "model": "m"}).to_string();
            if Task::from_json(&body).is_ok() {
                prop_assert_eq!(Path::new(&id).components().count(), 1);
                prop_assert!(Path::new("/place").join(&id).starts_with("/place/") && !id.starts_with('.'));
            }
            let _ = Task::from_json(&rest);
        }
    }
}
