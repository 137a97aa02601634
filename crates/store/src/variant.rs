//! Variants: one model laid out for several kinds of CPU.

use engine::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::manifest::{Manifest, ProgramRef, WeightRef};

/// The target of a program that runs anywhere.
pub const PORTABLE: &str = "portable";

/// A model as another kind of CPU runs it than the one that its manifest names first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// The graph, and the CPU that it is for.
    pub program: ProgramRef,
    /// The segments that `weights` point into, by content hash.
    pub segments: Vec<String>,
    /// One entry for each weight input of the program, in its order.
    pub weights: Vec<WeightRef>,
}

impl Manifest {
    /// The targets that the model was packed for, the first one first.
    pub fn targets(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.program)
            .chain(self.others.iter().map(|other| &other.program))
            .map(|program| &*program.target)
    }

    /// The manifest as a node of `target` uses it: its own program if there is one, else the one for any CPU.
    ///
    /// # Errors
    /// [`Unsupported`](engine::ErrorKind::Unsupported) when there is neither: a program laid out for another CPU
    /// computes nonsense, so it is refused before it runs.
    pub fn on(mut self, target: &str) -> Result<Self> {
        let find = |wanted: &str| self.targets().position(|target| target == wanted);
        let Some(found) = find(target).or_else(|| find(PORTABLE)) else {
            let packed: Vec<_> = self.targets().collect();
            return Err(Error::unsupported(format!(
                "it was packed for {}, and this node is {target}; pack it again on such a node or with --portable",
                packed.join(" and ")
            )));
        };
        if let Some(other) = found.checked_sub(1).map(|index| self.others.swap_remove(index)) {
            (self.program, self.segments, self.weights) = (other.program, other.segments, other.weights);
        }
        self.others.clear();
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(targets: &[&str]) -> Manifest {
        let program = |target: &str| format!(r#"{{"hash":"{target}'s","kind":"lifted","target":"{target}"}}"#);
        let others: Vec<_> = targets[1..]
            .iter()
            .map(|target| format!(r#"{{"program":{},"segments":["{target}"],"weights":[]}}"#, program(target)))
            .collect();
        let text = format!(
            r#"{{"format":1,"name":"m","version":1,"source":{{"format":"onnx","hash":"","bytes":0}},"program":{},
                "inputs":[],"outputs":[],"segments":["{}"],"others":[{}]}}"#,
            program(targets[0]),
            targets[0],
            others.join(",")
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_node_runs_its_own_program_or_the_one_for_any() {
        for (packed, node, want) in [
            (&["portable"][..], "a", Some("portable")),
            (&["a"], "a", Some("a")),
            (&["a"], "b", None),
            (&["a", "portable"], "a", Some("a")),
            (&["a", "portable"], "b", Some("portable")),
            (&["a", "portable", "b"], "b", Some("b")),
        ] {
            let chosen = manifest(packed).on(node).map(|chosen| (chosen.program, chosen.segments, chosen.others));
            match want {
                Some(want) => {
                    let (program, segments, others) = chosen.unwrap();
                    assert_eq!(program.target, want, "{packed:?} on {node}");
                    assert_eq!(segments, [want]);
                    assert!(others.is_empty());
                }
                None => assert!(chosen.unwrap_err().message.contains("packed for a, and this node is b")),
            }
        }
    }
}
