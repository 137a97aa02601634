//! What the tests of all edges share: a server without a socket whose models give back what they get, and any tensor.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use engine::{DataType, Engine, Load, Result, Session, Signature, Tensor, Weights, strings_to_wire};
use proptest::prelude::*;
use serde_json::{Value, json};
use store::Store;

use crate::{Control, LogLevels, LogSwitch, Metrics, QueueLimits, Residency, Scheduler};

/// A runtime whose sessions answer with their inputs, in their order.
pub(crate) struct Echo(Signature);

impl Echo {
    pub(crate) fn new() -> Self {
        Self(Signature::default())
    }
}

impl Engine for Echo {
    fn description(&self) -> String {
        "echo".to_owned()
    }

    fn session(&self, _: &[u8], _: usize, _: Load) -> Result<Box<dyn Session>> {
        Ok(Box::new(Echo::new()))
    }

    fn bind(&self, weights: Vec<Tensor>) -> Result<Arc<dyn Weights>> {
        Ok(Arc::new(Kept(weights)))
    }
}

/// Weights that are looked at by nobody.
struct Kept(Vec<Tensor>);

impl Weights for Kept {
    fn mapped_bytes(&self) -> u64 {
        self.0.iter().map(|weight| weight.data().len() as u64).sum()
    }

    fn private_bytes(&self) -> u64 {
        0
    }
}

impl Session for Echo {
    fn signature(&self) -> &Signature {
        &self.0
    }

    fn run(&self, _: &dyn Weights, inputs: &[Tensor], outputs: &[usize]) -> Result<Vec<Tensor>> {
        Ok(outputs.iter().map(|&index| inputs[index].clone()).collect())
    }
}

/// What holds up a [gated](gated) runtime, and what it tells.
pub(crate) struct Gate {
    /// Something waits.
    pub(crate) entered: Receiver<()>,
    /// Lets one through.
    pub(crate) open: SyncSender<()>,
    /// Whether loading waits as well.
    pub(crate) loading: Arc<AtomicBool>,
}

/// A runtime as [`Echo`] that waits at a gate where a run's first input is empty, or when a model is loaded.
pub(crate) fn gated() -> (Gated, Gate) {
    let ((told, entered), (open, gate)) = (sync_channel(4), sync_channel(4));
    let (gate, loading) = (Arc::new(Mutex::new(gate)), Arc::new(AtomicBool::new(false)));
    (Gated { told, gate, loading: Arc::clone(&loading) }, Gate { entered, open, loading })
}

#[derive(Clone)]
pub(crate) struct Gated {
    told: SyncSender<()>,
    /// One waits at a time.
    gate: Arc<Mutex<Receiver<()>>>,
    loading: Arc<AtomicBool>,
}

impl Gated {
    fn wait(&self) {
        self.told.send(()).unwrap();
        self.gate.lock().unwrap().recv().unwrap();
    }
}

impl Engine for Gated {
    fn description(&self) -> String {
        "gated".to_owned()
    }

    fn session(&self, _: &[u8], _: usize, _: Load) -> Result<Box<dyn Session>> {
        Ok(Box::new(GatedSession(self.clone(), Signature::default())))
    }

    fn bind(&self, _: Vec<Tensor>) -> Result<Arc<dyn Weights>> {
        if self.loading.load(Ordering::Relaxed) {
            self.wait();
        }
        Ok(Arc::new(Unused))
    }
}

struct GatedSession(Gated, Signature);

impl Session for GatedSession {
    fn signature(&self) -> &Signature {
        &self.1
    }

    fn run(&self, _: &dyn Weights, inputs: &[Tensor], outputs: &[usize]) -> Result<Vec<Tensor>> {
        if inputs[0].is_empty() {
            self.0.wait();
        }
        Ok(outputs.iter().map(|&index| inputs[index].clone()).collect())
    }
}

/// A log that only remembers what it was told.
pub(crate) struct Log(Mutex<LogLevels>);

impl Default for Log {
    fn default() -> Self {
        Self(LogLevels { error: true, warning: true, info: true, verbose: 0 }.into())
    }
}

impl LogSwitch for Log {
    fn levels(&self) -> LogLevels {
        *self.0.lock().unwrap()
    }

    fn set(&self, levels: LogLevels) -> Result<()> {
        *self.0.lock().unwrap() = levels;
        Ok(())
    }
}

/// The weights of models that have none.
pub(crate) struct Unused;

impl Weights for Unused {
    fn mapped_bytes(&self) -> u64 {
        0
    }

    fn private_bytes(&self) -> u64 {
        0
    }
}

/// A running scheduler; its store goes with it.
pub(crate) struct Served {
    pub(crate) scheduler: Arc<Scheduler>,
    _store: tempfile::TempDir,
}

/// The program of every model here: BLAKE3 of `portable`, a zero byte and `echo`.
const PROGRAM: &str = "a0e326fdb14b5d21e4051581cf155f53937d86798e03c7e1d21d6fc4d9504049";

/// Versions 2 and 10 of `pixels` (`x:0` to `y:0`, UINT8 of two dimensions), and version 1 of `two` (`a` FP32 `[n, 2]` and
/// `b` FP32 `[n]` to `scores` and `value`; class 1 is `cat`), of `words` (`word` to `word_bytes`, strings) and of
/// `uneven` (`p` FP32 `[n]` and `q` FP32 `[m]` to the same).
pub(crate) fn served(control: Control) -> Served {
    let (folder, store) = store();
    let io = |name: &str, datatype: &str, shape: &[i64]| json!({"name": name, "datatype": datatype, "shape": shape});
    let pixels = |name: &str| json!([io(name, "UINT8", &[-1, -1])]);
    let two = |a: &str, b: &str| json!([io(a, "FP32", &[-1, 2]), io(b, "FP32", &[-1])]);
    let word = |name: &str| json!([io(name, "BYTES", &[-1])]);
    let uneven = || json!([io("p", "FP32", &[-1]), io("q", "FP32", &[-1])]);
    add(&store, "pixels", 2, pixels("x:0"), pixels("y:0"));
    add(&store, "pixels", 10, pixels("x:0"), pixels("y:0"));
    add(&store, "two", 1, two("a", "b"), two("scores", "value"));
    add(&store, "words", 1, word("word"), word("word_bytes"));
    add(&store, "uneven", 1, uneven(), uneven());
    let residency = Residency::open(store, Arc::new(Echo::new()), 1, control).unwrap();
    let limits = QueueLimits::default();
    let scheduler = Scheduler::start(Arc::new(residency), &[0], limits, Arc::new(Metrics::default())).unwrap();
    Served { scheduler, _store: folder }
}

/// A store without models, in a folder that goes with the first.
pub(crate) fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::create(folder.path().to_str().unwrap()).unwrap();
    std::fs::write(store.root().join(format!("programs/{PROGRAM}.onnx")), "echo").unwrap();
    (folder, store)
}

/// Adds a model that gives back what it gets; class 1 is `cat`.
#[allow(clippy::needless_pass_by_value, reason = "made for the one call")]
pub(crate) fn add(store: &Store, name: &str, version: u64, inputs: Value, outputs: Value) {
    let manifest = json!({
        "format": 1, "name": name, "version": version,
        "source": {"format": "onnx", "hash": "", "bytes": 4},
        "program": {"hash": PROGRAM, "kind": "whole", "target": "portable"},
        "inputs": inputs, "outputs": outputs, "labels": {"1": "cat"},
    });
    let folder = store.root().join("models").join(name);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(format!("{version}.json")), manifest.to_string()).unwrap();
}

impl Drop for Served {
    fn drop(&mut self) {
        self.scheduler.drain(std::time::Duration::from_secs(10));
    }
}

/// A small tensor of any datatype and shape, with strings that are UTF-8 or not.
pub(crate) fn any_tensor() -> impl Strategy<Value = Tensor> {
    let string = prop_oneof![".{0,6}".prop_map(String::into_bytes), prop::collection::vec(any::<u8>(), 0..5)];
    let strings = prop::collection::vec(string, 64);
    let shape = prop::collection::vec(0usize..5, 0..4);
    let bytes = prop::collection::vec(any::<u8>(), 64 * 8);
    (prop::sample::select(&DataType::ALL[..]), shape, bytes, strings).prop_map(|(dtype, shape, mut bytes, strings)| {
        let count: usize = shape.iter().product();
        if dtype == DataType::Bool {
            bytes.iter_mut().for_each(|byte| *byte &= 1);
        }
        let data = match dtype.size_bytes() {
            Some(size) => bytes[..count * size].to_vec(),
            None => strings_to_wire(strings[..count].iter().map(Vec::as_slice)),
        };
        Tensor::new(dtype, shape, data.into()).unwrap()
    })
}
