//! The locations of things, and how a program is run there.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

/// The repository and its target folder.
pub struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

impl Workspace {
    /// Finds both from any folder of the repository.
    pub fn find() -> anyhow::Result<Self> {
        let here = std::env::current_dir().context("cannot tell the current folder")?;
        // `cargo run` names xtask's own folder; without cargo, the current folder is asked.
        let start = std::env::var_os("CARGO_MANIFEST_DIR").map_or(here, PathBuf::from);
        let root = start
            .ancestors()
            .find(|folder| folder.join("Cargo.lock").is_file() && folder.join("xtask").is_dir())
            .with_context(|| format!("{} is not in Furlong's repository", start.display()))?
            .to_path_buf();
        let target = target_dir(&root)?;
        Ok(Self { root, target })
    }

    /// The repository's top folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Cargo's target folder.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// The folder in which `cargo build` puts the three programs.
    pub fn bin_dir(&self) -> PathBuf {
        self.target.join("debug")
    }

    /// `cargo` with these words, separated by spaces.
    pub fn cargo(&self, words: &str) -> Command {
        let mut command = self.program("cargo");
        command.args(words.split_whitespace());
        command
    }

    /// A program, run in the repository's top folder with the environment that the user has.
    ///
    /// `cargo run` adds its `CARGO_MANIFEST_DIR`, `CARGO_PKG_*` and so on. Build scripts (ring's)
    /// watch them, and would run again each time that cargo is called here and then by hand.
    pub fn program(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root);
        for (name, _) in std::env::vars_os() {
            let name_text = name.to_string_lossy();
            if name_text.starts_with("CARGO_PKG_") || name_text.starts_with("CARGO_MANIFEST_") {
                command.env_remove(name);
            }
        }
        // A relative one is relative to where the user called from.
        command.env("CARGO_TARGET_DIR", &self.target);
        command
    }
}

/// `CARGO_TARGET_DIR`, else the folder in which cargo put this very program (`build.target-dir` of
/// a configuration file may have chosen it), else `target`.
fn target_dir(root: &Path) -> anyhow::Result<PathBuf> {
    if let Some(named) = std::env::var_os("CARGO_TARGET_DIR").filter(|named| !named.is_empty()) {
        return std::path::absolute(&named).context("CARGO_TARGET_DIR is no path");
    }
    let executable = std::env::current_exe().context("cannot tell which executable this is")?;
    let marked = executable.ancestors().find(|folder| folder.join("CACHEDIR.TAG").is_file());
    Ok(marked.map_or_else(|| root.join("target"), Path::to_path_buf))
}

/// Runs the program with this program's output, and fails with its name if it fails.
pub fn check(command: &mut Command) -> anyhow::Result<()> {
    let line = shown(command);
    println!("$ {line}");
    let status = command.status().with_context(|| format!("cannot start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` ended with {status}");
    }
    Ok(())
}

/// Runs the program and returns what it prints. What it complains of is passed on.
pub fn output(command: &mut Command) -> anyhow::Result<String> {
    let line = shown(command);
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start `{line}`"))?;
    if !output.status.success() {
        bail!("`{line}` ended with {}", output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{line}` prints no text"))
}

/// Returns true if the program exists and succeeds. Its output is dropped.
pub fn works(command: &mut Command) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

/// Installs Debian packages when we may; `why` is what is missing without them.
pub fn apt_install(packages: &[&str], why: &str) -> anyhow::Result<()> {
    let wanted = packages.join(" ");
    if !is_root() || !works(Command::new("apt-get").arg("--version")) {
        bail!("{why}; install it, on Debian or Ubuntu: sudo apt-get install {wanted}");
    }
    println!("{why}: installing {wanted}");
    check(Command::new("apt-get").arg("update").env("DEBIAN_FRONTEND", "noninteractive"))?;
    let mut install = Command::new("apt-get");
    check(install.args(["install", "-y"]).args(packages).env("DEBIAN_FRONTEND", "noninteractive"))
}

/// By `id`, because the standard library does not tell the user's number.
fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output();
    output.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

/// The command as one would type it, without the folders before the program's name.
fn shown(command: &Command) -> String {
    let program =
        Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy();
    let args = command.get_args().map(|arg| arg.to_string_lossy());
    std::iter::once(program).chain(args).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_one_would_type_it() {
        assert_eq!(shown(Command::new("bin/ruff").args(["check", "."])), "ruff check .");
    }

    #[test]
    fn a_failing_or_missing_program_does_not_work() {
        assert!(works(&mut Command::new("true")));
        assert!(!works(&mut Command::new("false")));
        assert!(!works(&mut Command::new("no-such-program-of-furlong")));
    }
}
