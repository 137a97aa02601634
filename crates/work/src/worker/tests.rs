//! The whole worker on real videos and the real queue and folder, with a model that is a line of arithmetic. What can
//! go wrong is made to go wrong at the seams: the queue, the place and the inference are wrapped, and a wrapper may
//! fail, wait or die before it forwards a call.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Condvar, LazyLock, Mutex};
use std::time::Instant;

use engine::{DataType, Tensor};
use store::Manifest;

use super::*;
use crate::inference::{Answer, Pending};
use crate::job::Checkpoint;
use crate::object::{FolderStore, Head, ObjectWriter, Stored};
use crate::policy::{Patience, Verdict};
use crate::queue::{DeadLetter, Depth, Options, Phase, SqliteQueue, TaskState, lease_lost};
use crate::result::lines_key;
use crate::segment::Lengths;

mod elsewhere;
mod ends;
mod replied;
mod resume;
mod sampled;
mod truth;

/// Frames of [`Yard::video`]; each is brighter than the one before, and from the sixth on the score is above 0.4.
const FRAMES: u64 = 12;
const FRAMES_FOUND: u64 = 7;

/// Runs before a call is forwarded, and may fail it; the text names the call.
type Hook = Box<dyn Fn(&str) -> Result<()> + Send + Sync>;

fn no_hook() -> Hook {
    Box::new(|_| Ok(()))
}

/// Finds one object as large as the frame, with a score that the frame decides on.
struct Brightness {
    submitted: AtomicU64,
    hook: Hook,
    score: fn(&[u8]) -> f32,
}

impl Brightness {
    fn new(hook: Hook) -> Self {
        Self { submitted: AtomicU64::new(0), hook, score: brightness }
    }
}

/// The frame's brightness, from 0 to 1.
fn brightness(bytes: &[u8]) -> f32 {
    let sum: u64 = bytes.iter().map(|&byte| u64::from(byte)).sum();
    sum as f32 / bytes.len() as f32 / 255.0
}

impl Inference for Brightness {
    fn model(&self, name: &str) -> Result<Arc<Manifest>> {
        match name {
            "brightness" => Ok(Arc::new(manifest())),
            _ => Err(Error::not_found(format!("no model is called '{name}'"))),
        }
    }

    fn submit(&self, _: &Manifest, inputs: Vec<Tensor>) -> Result<Pending> {
        (self.hook)("submit")?;
        self.submitted.fetch_add(1, Ordering::SeqCst);
        let score = (self.score)(inputs[0].data());
        let tensor = |shape: &[usize], values: Vec<f32>| Tensor::from_f32(shape.to_vec(), values);
        let outputs = vec![
            tensor(&[1, 1, 4], vec![0.0, 0.0, 1.0, 1.0])?,
            tensor(&[1, 1], vec![score])?,
            tensor(&[1, 1], vec![1.0])?,
            tensor(&[1], vec![1.0])?,
        ];
        let (sender, receiver) = sync_channel(1);
        sender.send(Ok(Answer { outputs, cpu: Duration::from_millis(1), remote: None })).unwrap();
        Ok(Pending(receiver))
    }

    fn lanes(&self) -> usize {
        2
    }
}

fn manifest() -> Manifest {
    let io = |name: &str, datatype: DataType, shape: &[i64]| serde_json::json!({"name": name, "datatype": datatype.name(), "shape": shape});
    let manifest = serde_json::json!({
        "format": store::manifest::FORMAT, "name": "brightness", "version": 3,
        "source": {"format": "onnx", "hash": "s", "bytes": 1},
        "program": {"hash": "p", "kind": "whole", "target": "portable"},
        "inputs": [io("image", DataType::U8, &[-1, -1, -1, 3])],
        "outputs": [
            io("boxes", DataType::F32, &[-1, 1, 4]), io("scores", DataType::F32, &[-1, 1]),
            io("classes", DataType::F32, &[-1, 1]), io("count", DataType::F32, &[-1])
        ],
        "task": {"task": "object-detection", "head": "odapi",
            "boxes": "boxes", "scores": "scores", "classes": "classes", "count": "count"},
        "labels": {"1": "light"}
    });
    serde_json::from_value(manifest).unwrap()
}

/// A queue that may fail before it forwards.
struct HookedQueue(Arc<SqliteQueue>, Hook);

impl TaskQueue for HookedQueue {
    fn send(&self, task: &Task) -> Result<()> {
        self.0.send(task)
    }
    fn receive(&self, visibility: Duration) -> Result<Received> {
        (self.1)("receive").and_then(|()| self.0.receive(visibility))
    }
    fn extend(&self, lease: &Lease, visibility: Duration) -> Result<()> {
        (self.1)("extend").and_then(|()| self.0.extend(lease, visibility))
    }
    fn complete(&self, lease: &Lease) -> Result<()> {
        (self.1)("complete").and_then(|()| self.0.complete(lease))
    }
    fn release(&self, lease: &Lease, delay: Duration, reason: &str, count_failure: bool) -> Result<()> {
        (self.1)("release").and_then(|()| self.0.release(lease, delay, reason, count_failure))
    }
    fn dead_letter(&self, lease: &Lease, reason: &str) -> Result<()> {
        (self.1)("dead_letter").and_then(|()| self.0.dead_letter(lease, reason))
    }
    fn depth(&self) -> Result<Depth> {
        self.0.depth()
    }
    fn keeps_tasks(&self) -> bool {
        self.0.keeps_tasks()
    }
    fn state(&self, id: &str) -> Result<TaskState> {
        self.0.state(id)
    }
    fn dead_letters(&self, count_max: usize) -> Result<Vec<DeadLetter>> {
        self.0.dead_letters(count_max)
    }
    fn redrive(&self, wanted: &dyn Fn(&str) -> bool) -> Result<u64> {
        self.0.redrive(wanted)
    }
}

/// A place that may fail before it forwards.
struct HookedStore(FolderStore, Arc<Hook>);

impl ObjectStore for HookedStore {
    fn url(&self, key: &str) -> String {
        self.0.url(key)
    }
    fn put(&self, key: &str, bytes: &[u8], put: Put) -> Result<Stored> {
        (self.1)(&format!("put {}", short(key))).and_then(|()| self.0.put(key, bytes, put))
    }
    fn create(&self, key: &str) -> Result<Box<dyn ObjectWriter>> {
        (self.1)("create")?;
        Ok(Box::new(HookedWriter(self.0.create(key)?, Arc::clone(&self.1), short(key).to_owned())))
    }
    fn head(&self, key: &str) -> Result<Option<Head>> {
        self.0.head(key)
    }
    fn open(&self, key: &str) -> Result<Box<dyn Read + Send>> {
        (self.1)(&format!("open {}", short(key))).and_then(|()| self.0.open(key))
    }
    fn list(&self, folder: &str) -> Result<Vec<String>> {
        self.0.list(folder)
    }
    fn delete(&self, key: &str) -> Result<()> {
        (self.1)(&format!("delete {}", short(key))).and_then(|()| self.0.delete(key))
    }
    fn sweep(&self, folder: &str) -> Result<()> {
        self.0.sweep(folder)
    }
}

/// The last segment of a key; all parts are called alike.
fn short(key: &str) -> &str {
    match key.rsplit('/').next() {
        Some(name) if !key.contains("/parts/") => name,
        _ => "part",
    }
}

struct HookedWriter(Box<dyn ObjectWriter>, Arc<Hook>, String);

impl ObjectWriter for HookedWriter {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        (self.1)(&format!("append {}", self.2)).and_then(|()| self.0.append(bytes))
    }
    fn commit(self: Box<Self>, put: Put) -> Result<Stored> {
        (self.1)(&format!("commit {}", self.2)).and_then(|()| self.0.commit(put))
    }
}

/// A lossless clip in which the brightness rises by 0.082 a frame; made once, since that is what takes time.
static CLIP: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("video.avi");
    let source = format!("color=black:size=64x48:rate=10,geq=lum='16+18*N':cb=128:cr=128,trim=end_frame={FRAMES}");
    let arguments = ["-v", "error", "-f", "lavfi", "-i", &source, "-c:v", "ffv1", "-pix_fmt", "yuv420p"];
    let made = Command::new("ffmpeg").args(arguments).arg(&path).stdin(Stdio::null()).status().unwrap();
    assert!(made.success());
    std::fs::read(path).unwrap()
});

/// A folder with a video, a queue whose clock is turned by hand, and a place for results.
struct Yard {
    folder: tempfile::TempDir,
    now_ms: Arc<AtomicI64>,
    queue: Arc<SqliteQueue>,
    objects: FolderStore,
}

impl Yard {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let now_ms = Arc::new(AtomicI64::new(1_700_000_000_000));
        let turned = Arc::clone(&now_ms);
        let clock: crate::queue::Clock = Arc::new(move || turned.load(Ordering::SeqCst));
        let options = Options { clock, ..Options::default() };
        let queue = Arc::new(SqliteQueue::open(&folder.path().join("queue.db"), options).unwrap());
        let objects = FolderStore::open(&folder.path().join("out")).unwrap();
        Self { folder, now_ms, queue, objects }
    }

    fn video(&self) -> PathBuf {
        let path = self.folder.path().join("video.avi");
        if !path.exists() {
            std::fs::write(&path, &*CLIP).unwrap();
        }
        path
    }

    /// The clip without its second half: six frames of the twelve that it declares.
    fn cut_off(&self) -> PathBuf {
        let whole = std::fs::read(self.video()).unwrap();
        let frames = whole.windows(4).enumerate().filter(|(_, name)| name == b"00dc").map(|(place, _)| place);
        // The name comes once in the header, then before each frame.
        self.file("cut.avi", &whole[..frames.take(8).last().unwrap()])
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn submit(&self, id: &str, input: &Path) -> Task {
        let task = Task { id: id.to_owned(), ..Task::new(input, "brightness").unwrap() };
        self.queue.send(&task).unwrap();
        task
    }

    fn advance(&self, time: Duration) {
        self.now_ms.fetch_add(i64::try_from(time.as_millis()).unwrap(), Ordering::SeqCst);
    }

    fn worker(&self) -> Worker {
        self.hooked(no_hook(), no_hook(), no_hook())
    }

    fn hooked(&self, queue: Hook, objects: Hook, inference: Hook) -> Worker {
        Worker {
            queue: Arc::new(HookedQueue(Arc::clone(&self.queue), queue)),
            objects: Arc::new(HookedStore(self.objects.clone(), Arc::new(objects))),
            inference: Arc::new(Brightness::new(inference)),
            tools: Tools::from_env(),
            spool: None,
            replies: Replies::none(),
            protection: Protection::none(),
            // The clock stands still, so a delay would never end.
            config: Config {
                patience: Patience { delays: vec![Duration::ZERO], ..Patience::default() },
                videos_max: 1,
                ..Config::default()
            },
        }
    }

    fn state(&self, id: &str) -> TaskState {
        self.queue.state(id).unwrap()
    }

    /// Everything in the place; an empty folder has a slash behind it.
    fn left(&self) -> Vec<String> {
        fn below(folder: &Path, name: &str, names: &mut Vec<String>) {
            let before = names.len();
            for entry in std::fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                let name = format!("{name}{}", entry.file_name().display());
                match entry.path().is_dir() {
                    true => below(&entry.path(), &format!("{name}/"), names),
                    false => names.push(name),
                }
            }
            if names.len() == before && !name.is_empty() {
                names.push(name.to_owned());
            }
        }
        let mut names = Vec::new();
        below(self.objects.root(), "", &mut names);
        names.sort_unstable();
        names
    }

    /// What a whole result of the task consists of.
    fn whole(id: &str) -> [String; 3] {
        [cost_key(id), lines_key(id), summary_key(id)]
    }

    /// Checks that the task has its whole result and nothing else.
    fn assert_whole(&self, id: &str) {
        assert_eq!(self.state(id).phase, Phase::Done);
        let mine: Vec<_> = self.left().into_iter().filter(|name| name.starts_with(&format!("{id}/"))).collect();
        assert_eq!(mine, Self::whole(id));
        let lines = String::from_utf8(self.objects.read(&lines_key(id)).unwrap()).unwrap();
        assert_eq!(lines.lines().count() as u64, FRAMES);
        for (index, line) in lines.lines().enumerate() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(line["frame"], index);
            assert!((line["pts_s"].as_f64().unwrap() - index as f64 / 10.0).abs() < 1e-6);
            let found = line["detections"].as_array().unwrap();
            assert_eq!(found.len(), usize::from(index >= 5), "{line}");
            for found in found {
                assert!((found["score"].as_f64().unwrap() - 0.0822 * index as f64).abs() < 0.005, "{line}");
                assert_eq!((&found["label"], &found["class"]), (&"light".into(), &1.into()));
                assert_eq!(found["box_px"], serde_json::json!([0.0, 0.0, 64.0, 48.0]));
            }
        }
    }
}

fn run(worker: &Worker, mode: Mode) -> Result<Report> {
    worker.run(mode, &Stop::new(), &Silent)
}

fn works_again(worker: &Worker, yard: &Yard) -> bool {
    // A second worker on the same queue must find nothing to do; what it would submit is counted by its own model.
    let counting = Arc::new(Brightness::new(no_hook()));
    let inference: Arc<dyn Inference> = Arc::clone(&counting) as _;
    let again = Worker {
        queue: Arc::clone(&yard.queue) as _,
        objects: Arc::new(yard.objects.clone()),
        inference,
        tools: worker.tools.clone(),
        spool: None,
        replies: Replies::none(),
        protection: Protection::none(),
        config: worker.config.clone(),
    };
    assert_eq!(run(&again, Mode::DrainOnce).unwrap(), Report { completed: 1, ..Report::default() });
    counting.submitted.load(Ordering::SeqCst) > 0
}

struct Silent;
impl Observer for Silent {}

#[derive(Default)]
struct Recorder(Mutex<Vec<String>>);

impl Observer for Recorder {
    fn started(&self, task: &Task, delivery: u32) {
        self.0.lock().unwrap().push(format!("{} started {delivery}", task.id));
    }
    fn progress(&self, task: &Task, frames: u64, declared: Option<u64>) {
        if Some(frames) == declared {
            self.0.lock().unwrap().push(format!("{} all {frames}", task.id));
        }
    }
    fn finished(&self, task: &Task, summary: &Summary, _: Option<&Cost>) {
        self.0.lock().unwrap().push(format!("{} finished {}", task.id, summary.detections));
    }
    fn failed(&self, task: &Task, verdict: &Verdict) {
        self.0.lock().unwrap().push(format!("{} {verdict:?}", task.id));
    }
    fn discarded(&self, id: &str, _: &str) {
        self.0.lock().unwrap().push(format!("{id} discarded"));
    }
}
