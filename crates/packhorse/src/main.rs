//! The one binary: a thin file per subcommand, and the place where serve, work and bench are joined.

mod commands;
mod config;
mod environment;
mod exit;
mod inference;
mod migration;
mod node;
mod places;
mod signal;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::exit::Exit;

/// Serves thousands of models on cheap compute, and drains queues of video through the same engine.
#[derive(Parser)]
#[command(version, about, max_term_width = 120)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Turn a model into a pack: optimised once, its weights shared and mapped
    Pack(commands::pack::Args),
    /// List the models of a store
    Models(commands::models::Args),
    /// Bring models of a store in a folder to one in a bucket
    Push(commands::push::Args),
    /// Bring models of a store in a bucket to one in a folder
    Pull(commands::pull::Args),
    /// Remove a model from a store, or one of its versions
    Remove(commands::remove::Args),
    /// Free what no model of a store needs any more
    Gc(commands::gc::Args),
    /// Check every byte that the models of a store need
    Verify(commands::verify::Args),
    /// Gather scattered weights and leave dead ones behind
    Compact(commands::compact::Args),
    /// Ask one model, here and now
    Predict(commands::predict::Args),
    /// Serve the models of a store
    Serve(commands::serve::Args),
    /// Put videos into a queue
    Submit(commands::submit::Args),
    /// Look into a queue, and put dead letters back
    Queue(commands::queue::Args),
    /// Take videos from a queue and detect objects on every frame
    Work(Box<commands::work::Args>),
    /// Look at a video and a model before relying on them: every check, one frame, and what it would take
    Doctor(commands::doctor::Args),
    /// Show the whole thing on the bundled street clip
    Demo(commands::demo::Args),
    /// Measure this machine: packed and served against the bare runtime
    Bench(commands::bench::Args),
    /// Put load on a server, of many models if asked, and tell what became of the requests
    Load(commands::load::Args),
}

fn main() -> ExitCode {
    if let Err(exit) = environment::settle() {
        return exit.report();
    }
    if let Err(error) = signal::outlive_file_limits() {
        return Exit::from(error).report();
    }
    let cli = Cli::parse();
    // Serving starts its log itself, when it knows what the log should be like.
    if !matches!(cli.command, Command::Serve(_)) {
        config::logging::start_plain();
    }
    let outcome = match cli.command {
        Command::Pack(args) => commands::pack::run(&args),
        Command::Models(args) => commands::models::run(&args),
        Command::Push(args) => commands::push::run(&args),
        Command::Pull(args) => commands::pull::run(&args),
        Command::Remove(args) => commands::remove::run(&args),
        Command::Gc(args) => commands::gc::run(&args),
        Command::Verify(args) => commands::verify::run(&args),
        Command::Compact(args) => commands::compact::run(&args),
        Command::Predict(args) => commands::predict::run(&args),
        Command::Serve(args) => commands::serve::run(&args),
        Command::Submit(args) => commands::submit::run(&args),
        Command::Queue(args) => commands::queue::run(&args),
        Command::Work(args) => commands::work::run(&args),
        Command::Doctor(args) => commands::doctor::run(&args),
        Command::Demo(args) => commands::demo::run(&args),
        Command::Bench(args) => commands::bench::run(&args),
        Command::Load(args) => commands::load::run(&args),
    };
    node::tidy();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => exit.report(),
    }
}

/// The result of a subcommand.
type Outcome = Result<(), Exit>;
