//! The choice of the Python to run: found without running anything, then resolved once to a real
//! interpreter.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::fs::{Access, access};
use tokio::process::Command;
use tokio::time::timeout;

use super::PythonError;

/// Finds the interpreter to use: the one that was asked for, else the active virtual environment's,
/// else `python3`.
///
/// A name without a slash is looked up in `PATH`. Nothing is run.
///
/// # Errors
/// [`PythonError::NotExecutable`] and [`PythonError::NotFound`], each with what to do about it.
pub fn find_interpreter(explicit: Option<&Path>) -> Result<PathBuf, PythonError> {
    if let Some(path) = explicit {
        if path.components().count() == 1 && !path.is_absolute() && !path.exists() {
            return find_in_path(path.as_os_str())
                .ok_or_else(|| PythonError::NotFound { name: path.into() });
        }
        return if is_executable(path) {
            Ok(path.into())
        } else {
            Err(PythonError::NotExecutable { path: path.into() })
        };
    }
    if let Some(environment) = env::var_os("VIRTUAL_ENV").filter(|value| !value.is_empty()) {
        let path = Path::new(&environment).join("bin/python");
        return if is_executable(&path) {
            Ok(path)
        } else {
            Err(PythonError::NotExecutable { path })
        };
    }
    find_in_path(OsStr::new("python3"))
        .ok_or_else(|| PythonError::NotFound { name: "python3".into() })
}

fn find_in_path(name: &OsStr) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && access(path, Access::EXEC_OK).is_ok()
}

/// A real interpreter: what `sys.executable` says, behind any shim.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResolvedInterpreter {
    /// Its path.
    pub executable: PathBuf,
    /// Its version, as `3.11.7`.
    pub version: String,
}

impl ResolvedInterpreter {
    /// Asks the interpreter for its name and version.
    pub(super) async fn resolve(
        interpreter: &Path,
        env: &[(OsString, OsString)],
    ) -> Result<Self, PythonError> {
        let unusable = |why: String| PythonError::Unusable { path: interpreter.into(), why };
        let output = Command::new(interpreter)
            .args(["-S", "-c", PROBE])
            .envs(env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = match timeout(PROBE_TIMEOUT, output).await {
            Ok(Ok(output)) => output,
            Ok(Err(error)) => return Err(unusable(error.to_string())),
            Err(_) => {
                return Err(unusable(format!(
                    "it gave no answer within {} s",
                    PROBE_TIMEOUT.as_secs()
                )));
            }
        };
        if output.status.signal().is_some() {
            return Err(PythonError::KilledAtStart {
                path: interpreter.into(),
                why: output.status.to_string(),
            });
        }
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            let last = stderr
                .lines()
                .rfind(|line| !line.trim().is_empty())
                .unwrap_or("no message")
                .to_owned();
            return Err(unusable(format!("{}: {last}", output.status)));
        }
        let mut lines = output.stdout.splitn(2, |byte| *byte == b'\n');
        let version = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
        if !is_supported(&version) {
            return Err(unusable(format!(
                "its version is {version:?}, and 3.8 is the oldest that works"
            )));
        }
        let executable =
            PathBuf::from(OsString::from_vec(lines.next().unwrap_or_default().to_vec()));
        let executable = if is_executable(&executable) { executable } else { interpreter.into() };
        Ok(Self { executable, version })
    }

    /// The first two numbers of its version, as `3.11`.
    pub(super) fn major_minor(&self) -> &str {
        let minor = self.version.find('.').map_or(0, |dot| dot + 1);
        self.version[minor..].find('.').map_or(&self.version, |dot| &self.version[..minor + dot])
    }
}

fn is_supported(version: &str) -> bool {
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (3, 8)
}

/// Runs in any Python, so that an old one can say its version.
const PROBE: &str = "import os, sys; os.write(1, ('%d.%d.%d\\n' % sys.version_info[:3]).encode() \
                     + getattr(os, 'fsencode', str)(sys.executable or ''))";
/// A first start from a cold network file system takes many seconds.
const PROBE_TIMEOUT: Duration = Duration::from_mins(1);
