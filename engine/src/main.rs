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

/// A task is a handful of small allocations in each program on its way: with the system's allocator
/// they were a sixth of its processor time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match furlong_engine::run(Cli::parse().args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("engine: {}", furlong_host::printable::line(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}
