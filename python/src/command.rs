//! The `furlong` command in a Python process.

use std::ffi::OsString;

use furlong_cli::Program;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// Runs the `furlong` command with these arguments, those after the program's name, and returns its
/// exit code.
///
/// `program` is how this process is started again: the interpreter, and what is between it and the
/// arguments. The command takes the process for itself: call it in the main thread, and end with
/// what it returns.
#[pyfunction]
pub fn run_command(py: Python<'_>, argv: Vec<OsString>, program: Vec<OsString>) -> PyResult<u8> {
    let mut words = program.into_iter();
    let interpreter =
        words.next().ok_or_else(|| PyValueError::new_err("program has no words"))?.into();
    let program = Program::Python { interpreter, words: words.collect() };
    restore_signals(py)?;
    // Without the lock: nothing of the command is in Python.
    Ok(py.detach(|| furlong_cli::run(argv, &program)).into())
}

/// Gives back to the system the signals that Python has taken for itself, as they are for any other
/// program.
///
/// A command that does not listen to SIGINT ends with it. SIGXFSZ is ignored by Python, and what
/// ignores a signal hands that down to the programs that it starts. SIGPIPE stays ignored: the
/// standard library of Rust does the same, and gives the programs that it starts the default.
fn restore_signals(py: Python<'_>) -> PyResult<()> {
    // What the module `signal` wraps. It is part of the interpreter, and needs nothing to be
    // imported.
    let signals = py.import("_signal")?;
    let default = signals.getattr("SIG_DFL")?;
    let interrupt = signals.getattr("SIGINT")?;
    // Whoever has started this process so that it ignores Ctrl-C, as a shell does with `&`, is
    // obeyed.
    let handler = signals.call_method1("getsignal", (&interrupt,))?;
    if handler.is(&signals.getattr("default_int_handler")?) {
        signals.call_method1("signal", (interrupt, &default))?;
    }
    signals.call_method1("signal", (signals.getattr("SIGXFSZ")?, default))?;
    Ok(())
}
