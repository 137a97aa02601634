//! What it costs a request that weights come at run time, and what eight bits save: packed forms of a model beside a plain
//! session of its file, in turns, on one thread.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bench::table;
use engine::{Engine, ErrorKind, Load, Session, Signature, Tensor, Weights};
use store::accuracy::Accuracy;
use store::pack::{Request, Targets, pack};
use store::{Manifest, Precision, Store};

use super::Bench;
use crate::commands::say;
use crate::exit::Exit;

/// Runs of each form at each size; the least counts, since noise only adds.
const RUNS: usize = 8;

/// A model and the sizes of its inputs: the batch and what else varies.
struct Case {
    file: PathBuf,
    sizes: &'static [(usize, usize)],
}

/// Something that runs, with the weights it runs on.
struct Form {
    session: Box<dyn Session>,
    weights: Arc<dyn Weights>,
}

impl Form {
    fn packed(bench: &Bench, store: &Store, manifest: &Manifest) -> Result<Self, Exit> {
        let onnx = bench.runtimes.onnx();
        let session = onnx.session(&store.program(&manifest.program)?, manifest.weights.len(), Load::AsIs)?;
        Ok(Self { session, weights: onnx.bind(store.weights(manifest)?)? })
    }

    /// The form of `manifest`'s model that is its own, where it has one, whose files are in `folder`.
    fn hot(bench: &Bench, store: &Store, manifest: &Manifest, folder: &Path) -> Result<Option<Self>, Exit> {
        let (onnx, joined) = (bench.runtimes.onnx(), store.joined(manifest, store.weights(manifest)?));
        let joined = match joined {
            Err(error) if error.kind == ErrorKind::Unsupported => return Ok(None),
            joined => joined?,
        };
        let session = joined.session(onnx.as_ref(), folder)?.session;
        Ok(Some(Self { session, weights: onnx.bind(Vec::new())? }))
    }

    /// The CPU time of one run.
    fn time(&mut self, inputs: &[Tensor]) -> Result<Duration, Exit> {
        let outputs: Vec<usize> = (0..self.session.signature().outputs.len()).collect();
        let before = engine::cpu::thread_cpu();
        self.session.run(self.weights.as_ref(), inputs, &outputs)?;
        Ok(engine::cpu::thread_cpu().saturating_sub(before))
    }
}

/// Inputs of `batch` items: ids within any vocabulary, and whatever else a model takes.
fn inputs(signature: &Signature, (batch, size): (usize, usize)) -> Result<Vec<Tensor>, Exit> {
    let dim = |(axis, &dim): (usize, &i64)| usize::try_from(dim).unwrap_or(if axis == 0 { batch } else { size });
    let of = |spec: &engine::TensorSpec| {
        let shape: Vec<usize> = spec.shape.iter().enumerate().map(dim).collect();
        bench::input(spec, Some(&shape))
    };
    Ok(signature.inputs.iter().map(of).collect::<engine::Result<_>>()?)
}

/// The least time of each of `forms` on `inputs`, in milliseconds, taken in turns.
fn least(forms: &mut [Form], inputs: &[Tensor], rounds: u32) -> Result<Vec<f64>, Exit> {
    let mut least = vec![f64::INFINITY; forms.len()];
    for _ in 0..rounds as usize * RUNS {
        for (form, least) in forms.iter_mut().zip(&mut least) {
            *least = least.min(form.time(inputs)?.as_secs_f64() * 1e3);
        }
    }
    Ok(least)
}

/// The table of what lifting costs.
pub(super) fn run(bench: &Bench) -> Result<String, Exit> {
    const TEXT: &[(usize, usize)] = &[(1, 8), (1, 16), (1, 32), (1, 128), (1, 384)];
    const PICTURE: &[(usize, usize)] = &[(1, 224)];
    let (assets, models) = (&bench.assets, &bench.models);
    let cases = [
        Case { file: models.join("bert_base_qa.onnx"), sizes: TEXT },
        Case { file: assets.join("bert_tiny_qa.onnx"), sizes: &[(1, 8), (1, 32), (1, 128)] },
        Case { file: models.join("resnet18.onnx"), sizes: PICTURE },
        Case { file: assets.join("nanodet_g_coco80.onnx"), sizes: &[(1, 416)] },
    ];
    let store = bench.store("lifting")?;
    let onnx = bench.runtimes.onnx();
    let mut rows = Vec::new();
    for Case { file, sizes } in cases {
        say(format_args!("{}: plain, ready, hot, and in its portable form", file.display()));
        let request = Request { path: file.clone(), targets: Targets::Both, ..Request::default() };
        let native = pack(&store, &bench.runtimes, &request)?.manifest;
        let portable = native.clone().on("any other")?;
        let plain = Form { session: onnx.session_from_file(&file)?, weights: onnx.bind(Vec::new())? };
        let folder = store.root().join(format!("hot-{}", native.name));
        std::fs::create_dir_all(&folder).map_err(|source| Exit::Failed(format!("{}: {source}", folder.display())))?;
        let hot = Form::hot(bench, &store, &native, &folder)?;
        let other = portable.program != native.program;
        let portable = other.then(|| Form::packed(bench, &store, &portable)).transpose()?;
        // Where each of them is among those that run.
        let columns = [Some(1), hot.as_ref().map(|_| 2), portable.as_ref().map(|_| 2 + usize::from(hot.is_some()))];
        let ready = Form::packed(bench, &store, &native)?;
        let mut forms: Vec<_> = [plain, ready].into_iter().chain(hot).chain(portable).collect();
        let signature = native.signature()?;
        for &(batch, size) in sizes {
            let times = least(&mut forms, &inputs(&signature, (batch, size))?, bench.rounds)?;
            let of = |at: Option<usize>| at.map_or_else(String::new, |at| format!("{:.2}", times[at]));
            let ratio = |at: Option<usize>| at.map_or_else(String::new, |at| format!("{:.2}", times[at] / times[0]));
            let name = [native.name.clone(), format!("{batch} x {size}"), of(Some(0))];
            rows.push(name.into_iter().chain(columns.into_iter().flat_map(|at| [of(at), ratio(at)])).collect());
        }
    }
    let header =
        ["model", "input", "plain ms", "ready ms", "of plain", "hot ms", "of plain ", "portable ms", "of plain  "];
    Ok(table(&header, &rows))
}

/// The table of what eight bits save, and cost.
pub(super) fn precision(bench: &Bench) -> Result<String, Exit> {
    const SIZES: [(usize, usize); 4] = [(1, 8), (1, 32), (1, 128), (1, 384)];
    const FORMS: [(&str, Precision); 3] =
        [("float", Precision::Float), ("int8", Precision::Int8), ("int8-weights", Precision::Int8Weights)];
    let minilm = bench.models.with_file_name("all-minilm-l6-v2");
    let store = bench.store("precision")?;
    let mut rows = Vec::new();
    for path in [bench.models.join("bert_base_qa.onnx"), minilm].into_iter().filter(|path| path.exists()) {
        let (mut forms, mut told) = (Vec::new(), Vec::new());
        for (name, precision) in FORMS {
            say(format_args!("{} as {name}", path.display()));
            let request = Request { path: path.clone(), precision, copy: true, ..Request::default() };
            let packed = pack(&store, &bench.runtimes, &request)?;
            let accuracy = Accuracy::of(&store, &packed.manifest)?;
            forms.push(Form::packed(bench, &store, &packed.manifest)?);
            let worst = accuracy.as_ref().and_then(Accuracy::worst);
            let text = |of: fn(&store::accuracy::OutputAccuracy) -> String| worst.map_or_else(String::new, of);
            told.push(vec![
                format!("{} {name}", packed.manifest.name),
                format!("{:.1}", packed.weight_bytes as f64 / 1e6),
                text(|output| format!("{:.2}%", output.relative_error * 100.0)),
                text(|output| format!("{:.5}", output.cosine)),
                text(|output| output.agreement.map_or_else(String::new, |part| format!("{:.1}%", part * 100.0))),
                accuracy.map_or_else(String::new, |accuracy| accuracy.floats.len().to_string()),
            ]);
        }
        let signature = forms[0].session.signature().clone();
        let times = SIZES
            .into_iter()
            .map(|size| least(&mut forms, &inputs(&signature, size)?, bench.rounds))
            .collect::<Result<Vec<_>, Exit>>()?;
        for (at, mut row) in told.into_iter().enumerate() {
            row.extend(times.iter().map(|times| format!("{:.2}", times[at])));
            rows.push(row);
        }
    }
    let header = [
        "model",
        "weights MB",
        "off by",
        "cosine",
        "same first",
        "left as floats",
        "ms at 8",
        "at 32",
        "at 128",
        "at 384",
    ];
    Ok(table(&header, &rows))
}
