//! The `engine` program.

use std::process::ExitCode;

use clap::Parser;

/// Engines of a Furlong cluster: they run Python and Rust functions
#[derive(Parser)]
#[command(name = "engine", version, after_help = "Example: engine --cap engine.cap.json -n 8")]
struct Cli {
    #[command(flatten)]
    args: furlong_engine::EngineArgs,
}

fn main() -> ExitCode {
    match furlong_engine::run(Cli::parse().args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("engine: {error:#}");
            ExitCode::FAILURE
        }
    }
}
