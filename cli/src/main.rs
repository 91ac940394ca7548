//! The `furlong` program.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use furlong_cli::{ExitCode, Program, run};

/// A task is a handful of small allocations in each program on its way: with the system's allocator
/// they were a sixth of its processor time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let called = args.next().unwrap_or_default();
    run(role(&called).into_iter().chain(args), &Program::Executable)
}

/// The command that a link to this program names: as `broker` it is `furlong broker`, and as
/// `engine` `furlong engine`, so that one file is all three programs.
fn role(called: &OsStr) -> Option<OsString> {
    let name = Path::new(called).file_name()?;
    ["broker", "engine"].iter().any(|role| name == *role).then(|| name.to_owned())
}
