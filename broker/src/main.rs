//! The `broker` program.

use std::process::ExitCode;

use clap::Parser;

/// The controller of a Furlong cluster: engines and clients connect to it
#[derive(Parser)]
#[command(name = "broker", version, after_help = "Example: broker --cluster lab --port 7077")]
struct Cli {
    #[command(flatten)]
    args: furlong_broker::BrokerArgs,
}

/// A task is a handful of small allocations in each program on its way: with the system's allocator
/// they were a sixth of its processor time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match furlong_broker::run(&Cli::parse().args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("broker: {}", furlong_host::printable::line(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}
