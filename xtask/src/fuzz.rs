//! `cargo xtask fuzz`: a fuzz target (`fuzz/`) with libFuzzer, on the stable toolchain.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::workspace::{Workspace, apt_install, check, works};

/// The target to fuzz, and for how long. Without a target, all are listed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fuzzing {
    target: Option<String>,
    seconds: u64,
}

impl Fuzzing {
    /// Reads the target and the options.
    pub fn parse(mut args: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let mut fuzzing = Self { target: None, seconds: 60 };
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--seconds" => {
                    let value = args.next().context("--seconds needs a number")?;
                    fuzzing.seconds = value
                        .parse()
                        .with_context(|| format!("--seconds needs a number, not `{value}`"))?;
                }
                option if option.starts_with('-') => {
                    bail!("no option `{option}`; there is --seconds")
                }
                _ if fuzzing.target.is_some() => {
                    bail!("one target at a time, and `{arg}` is a second one")
                }
                _ => fuzzing.target = Some(arg),
            }
        }
        Ok(fuzzing)
    }
}

/// Builds the targets, and fuzzes one.
pub fn run(workspace: &Workspace, fuzzing: &Fuzzing) -> anyhow::Result<()> {
    let list = list(workspace)?;
    let Some(name) = &fuzzing.target else {
        print!("{list}");
        return Ok(());
    };
    if !list.lines().any(|line| line.split_whitespace().next() == Some(name)) {
        bail!("no fuzz target `{name}`; `cargo xtask fuzz` lists them");
    }
    require_cxx_compiler()?;
    let program = build(workspace)?;
    let folder = workspace.target().join("fuzz").join(name);
    let [found, seeds, artifacts] = ["corpus", "seeds", "artifacts"].map(|part| folder.join(part));
    // Those of an older version would be left among this one's.
    let _ = std::fs::remove_dir_all(&seeds);
    for folder in [&found, &seeds, &artifacts] {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let mut fuzz = workspace.program(program);
    fuzz.env("FURLONG_FUZZ_TARGET", name).env("FURLONG_FUZZ_SEEDS", &seeds);
    fuzz.arg(format!("-max_total_time={}", fuzzing.seconds)).args(LIMITS);
    // It is a prefix, not a folder.
    fuzz.arg(format!("-artifact_prefix={}/", artifacts.display())).arg(&found).arg(&seeds);
    let kept = workspace.root().join("fuzz/corpus").join(name);
    fuzz.args(Some(kept).filter(|folder| folder.is_dir()));
    let before = files(&artifacts);
    check(&mut fuzz).with_context(|| finding(name, &artifacts, &before))
}

/// The targets with what they are, one in each line. A test compares them with the code.
fn list(workspace: &Workspace) -> anyhow::Result<String> {
    std::fs::read_to_string(workspace.root().join("fuzz/targets.txt"))
        .context("cannot read fuzz/targets.txt")
}

/// Builds the program with the instrumentation that libFuzzer reads, in a target folder of its own,
/// and gives its path.
///
/// The flags are those of cargo-fuzz, which needs a nightly toolchain only for its sanitizers. A
/// `--target` keeps them from build scripts and macros, which are not linked with libFuzzer. Not
/// `--locked`: a dependency that the workspace has got since is then added to this lock file, too.
fn build(workspace: &Workspace) -> anyhow::Result<PathBuf> {
    let host = host(workspace)?;
    let folder = workspace.target().join("fuzz/build");
    let mut cargo = workspace.cargo("build --release --manifest-path fuzz/libfuzzer/Cargo.toml");
    cargo.args(["--target", &host]).env("CARGO_TARGET_DIR", &folder);
    check(cargo.env_remove("CARGO_ENCODED_RUSTFLAGS").env("RUSTFLAGS", FLAGS.join(" ")))?;
    Ok(folder.join(host).join("release/furlong-libfuzzer"))
}

/// The machine for which `rustc` compiles.
fn host(workspace: &Workspace) -> anyhow::Result<String> {
    let output = workspace.program("rustc").arg("-vV").output().context("cannot start `rustc`")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .context("`rustc -vV` names no host")?;
    Ok(host.to_owned())
}

/// Describes what was found, and how it becomes a test.
fn finding(name: &str, artifacts: &Path, before: &[PathBuf]) -> String {
    match files(artifacts).into_iter().find(|file| !before.contains(file)) {
        Some(file) => {
            let file = file.display();
            format!(
                "`{name}` does not hold for the input {file}; mend it, and keep the input in fuzz/corpus/{name}/"
            )
        }
        None => format!("`{name}` could not be fuzzed"),
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// libFuzzer is compiled with the program. A compiler named by `CXX` is taken as it is.
fn require_cxx_compiler() -> anyhow::Result<()> {
    if std::env::var_os("CXX").is_some() || works(Command::new("c++").arg("--version")) {
        return Ok(());
    }
    apt_install(&["g++"], "there is no C++ compiler (`c++`), which libFuzzer needs")
}

const FLAGS: [&str; 7] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
    "--cfg=fuzzing",
];

/// Inputs that run for long or take much memory are findings, too.
const LIMITS: [&str; 4] =
    ["-max_len=4096", "-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1"];

#[cfg(test)]
mod tests {
    use super::Fuzzing;

    #[test]
    fn a_target_and_seconds_are_read_in_any_order() {
        let parse = |line: &str| Fuzzing::parse(line.split_whitespace().map(str::to_owned));
        let expected = Fuzzing { target: Some("zmtp".into()), seconds: 7 };
        assert_eq!(parse("zmtp --seconds 7").unwrap(), expected);
        assert_eq!(parse("--seconds 7 zmtp").unwrap(), expected);
        assert_eq!(parse("").unwrap().target, None);
        for bad in ["zmtp token", "--second 7", "--seconds", "--seconds many"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
