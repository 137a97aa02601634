//! The repository's own chores, as programs rather than habits: `cargo run -p xtask -- codegen [--check] | tidy`.
//!
//! Exit codes: 0 done, 1 something is out of order, 2 wrong usage.

mod codegen;
mod source;
mod tidy;

use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo run -p xtask -- <task>

  codegen            write crates/proto/src/generated from crates/proto/proto
  codegen --check    write nothing; fail if what is committed differs
  tidy               check the conventions that the compiler does not";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match args[..] {
        ["codegen"] => codegen::run(root(), codegen::Mode::Write),
        ["codegen", "--check"] => codegen::run(root(), codegen::Mode::Check),
        ["tidy"] => tidy::run(root()),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The repository: the folder above this package, wherever the command is called from.
fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}
