//! What runtimes read of the environment when they are loaded: nobody is told what is run here, and nobody's log is written
//! into ours.
//!
//! The official builds of ONNX Runtime for Linux write a device id into the home folder and send the names and hashes
//! of models to their maker, from release 1.29 on. Only an environment variable that is there before the library is
//! loaded turns all of that off (<https://github.com/microsoft/onnxruntime/pull/29843>). TensorFlow writes each step of a
//! load to standard error, unless a variable of its own says which lines are wanted; 2 wants errors. OpenBLAS, which libtorch
//! may compute with, starts a thread for each core when it is loaded; here the thread that calls is the one that computes.

use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::Outcome;
use crate::exit::Exit;

const VARIABLES: [(&str, &str); 3] =
    [("ORT_DISABLE_TELEMETRY", "1"), ("TF_CPP_MIN_LOG_LEVEL", "2"), ("OPENBLAS_NUM_THREADS", "1")];

/// Starts this program again, as the same process, with the variables that the environment says nothing about: the
/// environment of a running process cannot be changed safely.
pub(crate) fn settle() -> Outcome {
    let unset: Vec<_> = VARIABLES.into_iter().filter(|(name, _)| std::env::var_os(name).is_none()).collect();
    if unset.is_empty() {
        return Ok(());
    }
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| "packhorse".into());
    let failed = match std::env::current_exe() {
        Ok(program) => Command::new(program).arg0(name).args(arguments).envs(unset.iter().copied()).exec(),
        Err(error) => error,
    };
    let wanted: Vec<_> = unset.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let reason = format!("what runtimes read cannot be set ({failed}); set {}", wanted.join(" "));
    Err(Exit::Configuration(reason))
}
