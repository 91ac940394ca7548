//! The end of a command.

use std::process::Termination;

/// An exit code. Unlike the standard library's it can be read, by who has no `main` to return it
/// from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExitCode(u8);

impl ExitCode {
    /// 0.
    pub const SUCCESS: Self = Self(0);
    /// 1: an error, of which something was printed.
    pub const FAILURE: Self = Self(1);
    /// 3: all succeeded, but not all of the output could be printed.
    pub const INCOMPLETE: Self = Self(3);
}

impl From<u8> for ExitCode {
    fn from(code: u8) -> Self {
        Self(code)
    }
}

impl From<ExitCode> for u8 {
    fn from(code: ExitCode) -> Self {
        code.0
    }
}

impl Termination for ExitCode {
    fn report(self) -> std::process::ExitCode {
        self.0.into()
    }
}
