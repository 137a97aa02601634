//! What no artefact may do: a TensorFlow graph is a program, and some operations read or write the files of the machine
//! that runs it, run Python or talk to others. A SavedModel in which such an operation can run is refused before any
//! runtime sees it.

use std::collections::{HashMap, HashSet};

use engine::{Error, Result};
use proto::tensorflow::attr_value::Value;
use proto::tensorflow::collection_def::Kind;
use proto::tensorflow::tensor_info::Encoding;
use proto::tensorflow::{MetaGraphDef, NodeDef, SignatureDef};

use super::INIT;

/// Parts of names of operations (tensorflow/core/ops) that reach outside the graph. Several stand for whole families.
const REFUSED: [&str; 31] = [
    "ReadFile",
    "WriteFile",
    "MatchingFiles",
    "ImmutableConst",
    "PyFunc",
    "LineReader",
    "LengthRecordReader",
    "RecordReader",
    "WholeFileReader",
    "LMDB",
    "BigQuery",
    "Bigtable",
    "TextLineDataset",
    "RecordDataset",
    "SqlDataset",
    "CSVDataset",
    "SaveDataset",
    "LoadDataset",
    "SnapshotDataset",
    "CacheDataset",
    "DataService",
    "PrintV2",
    "GenerateVocabRemapping",
    "LoadAndRemapMatrix",
    "SummaryFileWriter",
    "SummaryDbWriter",
    "FileSystem",
    "MergeV2Checkpoints",
    "DebugNumericSummary",
    "DebugIdentity",
    "Rpc",
];

/// The same, of which a model's own restoring needs some: `SaveV2`, `RestoreV2` and their older forms.
const CHECKPOINTS: [&str; 2] = ["Save", "Restore"];

/// Operations that TensorFlow 1 names as those to run once the variables are restored (signature_constants.h, constants.h).
const MAIN_OPERATIONS: [&str; 2] = ["saved_model_main_op", "legacy_init_op"];

/// Checks everything that loading `meta` and answering `signature` may run.
///
/// # Errors
/// [`Unsupported`](engine::ErrorKind::Unsupported), naming the operation.
pub(super) fn check(meta: &MetaGraphDef, signature: &SignatureDef) -> Result<()> {
    let graph = meta.graph_def.clone().unwrap_or_default();
    let functions: HashMap<&str, &[NodeDef]> = graph
        .library
        .iter()
        .flat_map(|library| &library.function)
        .filter_map(|function| Some((function.signature.as_ref()?.name.as_str(), function.node_def.as_slice())))
        .collect();
    let nodes: HashMap<&str, &NodeDef> = graph.node.iter().map(|node| (node.name.as_str(), node)).collect();
    let walk =
        |roots: Vec<&str>, restoring: bool| Walk { nodes: &nodes, functions: &functions, restoring }.check(roots);

    let of = |signature: &SignatureDef| -> Vec<String> {
        let name = |encoding: &Option<Encoding>| encoding.as_ref().map(|Encoding::Name(name)| name.clone());
        signature.outputs.values().filter_map(|info| name(&info.encoding)).collect()
    };
    let mut roots = of(signature);
    roots.extend(meta.signature_def.get(INIT).map(of).unwrap_or_default());
    for collection in MAIN_OPERATIONS.iter().filter_map(|name| meta.collection_def.get(*name)) {
        if let Some(Kind::NodeList(list)) = &collection.kind {
            roots.extend(list.value.iter().cloned());
        }
    }
    walk(roots.iter().map(String::as_str).collect(), false)?;
    let restore = meta.saver_def.as_ref().map(|saver| saver.restore_op_name.as_str());
    walk(restore.into_iter().collect(), true)
}

/// The part of a graph that runs when some of its tensors are asked for.
struct Walk<'a> {
    nodes: &'a HashMap<&'a str, &'a NodeDef>,
    functions: &'a HashMap<&'a str, &'a [NodeDef]>,
    /// Whether this is the model's own reading of its variables.
    restoring: bool,
}

impl Walk<'_> {
    fn check(&self, roots: Vec<&str>) -> Result<()> {
        let (mut seen, mut called) = (HashSet::new(), HashSet::new());
        let mut waiting: Vec<&str> = roots.into_iter().map(operation).collect();
        let mut functions: Vec<&str> = Vec::new();
        while let Some(name) = waiting.pop() {
            if let Some(node) = self.nodes.get(name).filter(|_| seen.insert(name.to_owned())) {
                self.allowed(node)?;
                functions.extend(calls(node));
                waiting.extend(node.input.iter().map(|input| operation(input)));
            }
        }
        // All of a function's nodes are looked at: which of them run is decided when it is called.
        while let Some(name) = functions.pop() {
            if let Some(nodes) = self.functions.get(name).filter(|_| called.insert(name.to_owned())) {
                for node in *nodes {
                    self.allowed(node)?;
                    functions.extend(calls(node));
                }
            }
        }
        Ok(())
    }

    fn allowed(&self, node: &NodeDef) -> Result<()> {
        let names = |parts: &[&str]| parts.iter().any(|part| node.op.contains(part));
        // A name of a function is anybody's choice; its nodes are what is looked at.
        let is_function = self.functions.contains_key(node.op.as_str());
        if is_function
            || !(names(&REFUSED) || !self.restoring && CHECKPOINTS.iter().any(|part| node.op.starts_with(part)))
        {
            return Ok(());
        }
        Err(Error::unsupported(format!(
            "its graph holds a {} ('{}'), which reaches outside the model, to files or other programs; save the model \
             without it",
            node.op, node.name
        )))
    }
}

/// The functions that `node` may call: its operation, where that is one, and those in its attributes.
fn calls(node: &NodeDef) -> impl Iterator<Item = &str> {
    let named = node.attr.values().filter_map(|attr| attr.value.as_ref()).flat_map(|value| match value {
        Value::Func(function) => std::slice::from_ref(function),
        Value::List(list) => list.func.as_slice(),
        Value::B(_) | Value::Tensor(_) => &[],
    });
    std::iter::once(node.op.as_str()).chain(named.map(|function| function.name.as_str()))
}

/// The operation of an input or a tensor: `^NODE`, `NODE:INDEX` or `NODE`.
pub(super) fn operation(input: &str) -> &str {
    let input = input.strip_prefix('^').unwrap_or(input);
    input.split_once(':').map_or(input, |(node, _)| node)
}
