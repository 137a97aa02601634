//! Nobody is told what is run here.
//!
//! The official builds of ONNX Runtime for Linux write a device id into the home folder and send the names and hashes
//! of models to their maker, from release 1.29 on. Only an environment variable that is there before the library is
//! loaded turns all of that off (<https://github.com/microsoft/onnxruntime/pull/29843>).

use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::Outcome;
use crate::exit::Exit;

const VARIABLE: &str = "ORT_DISABLE_TELEMETRY";

/// Starts this program again, as the same process, with telemetry off, unless the environment says something about it
/// already: the environment of a running process cannot be changed safely.
pub(crate) fn turn_off() -> Outcome {
    if std::env::var_os(VARIABLE).is_some() {
        return Ok(());
    }
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| "packhorse".into());
    let failed = match std::env::current_exe() {
        Ok(program) => Command::new(program).arg0(name).args(arguments).env(VARIABLE, "1").exec(),
        Err(error) => error,
    };
    let reason = format!("the runtime's telemetry cannot be turned off ({failed}); set {VARIABLE}=1");
    Err(Exit::Configuration(reason))
}
