//! The steps of `cargo xtask test`, in their order. The cheap ones come first.

use std::process::Command;

use anyhow::bail;

use crate::python;
use crate::workspace::{Workspace, apt_install, check, works};

/// One thing that must hold.
#[derive(Debug)]
pub struct Step {
    /// As `--step` takes it.
    pub name: &'static str,
    /// The purpose of the step, for the heading and `--list`.
    pub what: &'static str,
    /// Does it. An error is the reason of the failure, in one line.
    pub run: fn(&Workspace) -> anyhow::Result<()>,
}

/// All of them.
pub const STEPS: &[Step] = &[
    Step { name: "fmt", what: "every Rust file is formatted", run: fmt },
    Step { name: "clippy", what: "no warning of the compiler or of clippy", run: clippy },
    Step {
        name: "venv",
        what: "a Python environment with the packages of tests/requirements.txt",
        run: venv,
    },
    Step { name: "rust", what: "all Rust tests, against the programs as built", run: rust },
    Step {
        name: "chaos",
        what: "a short history in which everything breaks at random",
        run: chaos,
    },
    Step { name: "portable", what: "furlong-wire with the pure-Rust cipher", run: portable },
    Step { name: "doc", what: "the documentation builds without a warning", run: doc },
    Step {
        name: "python",
        what: "the Python package, ruff, mypy, and the Python tests",
        run: python,
    },
];

fn fmt(workspace: &Workspace) -> anyhow::Result<()> {
    require_component(workspace, "fmt", "rustfmt")?;
    check(&mut workspace.cargo("fmt --all --check"))?;
    // Outside the workspace, so that no step needs a C++ compiler.
    check(&mut workspace.cargo("fmt --check --manifest-path fuzz/libfuzzer/Cargo.toml"))
}

fn clippy(workspace: &Workspace) -> anyhow::Result<()> {
    require_component(workspace, "clippy", "clippy")?;
    require_c_compiler(workspace)?;
    check(&mut workspace.cargo("clippy --workspace --all-targets --locked -- -D warnings"))
}

fn venv(workspace: &Workspace) -> anyhow::Result<()> {
    python::ensure(workspace).map(|_| ())
}

/// Builds the programs first, since cargo builds a package's programs only for that package's own
/// tests. The independent peer of the interop tests is a Python program, therefore the environment.
fn rust(workspace: &Workspace) -> anyhow::Result<()> {
    require_c_compiler(workspace)?;
    let python = python::ensure(workspace)?;
    want(workspace, "mpirun", "openmpi-bin", "The test of engines under MPI");
    want(workspace, "valgrind", "valgrind", "The count of a no-op's instructions");
    want_browser(workspace);
    want_slurm();
    want_grid_engine();
    build_programs(workspace)?;
    let mut test = workspace.cargo("test --workspace --locked");
    check(test.env("FURLONG_TEST_BIN_DIR", workspace.bin_dir()).env("FURLONG_TEST_PYTHON", python))
}

/// Some 20 s, most of which what broke last needs to come to its end: an engine that is gone is
/// waited for. The seed's plan has no fault that it takes as long again to find.
fn chaos(workspace: &Workspace) -> anyhow::Result<()> {
    let python = python::ensure(workspace)?;
    build_programs(workspace)?;
    let mut chaos = workspace.program(workspace.bin_dir().join("furlong-chaos"));
    chaos.args([
        "--minutes",
        "0.03",
        "--seed",
        "749312015",
        "--lasts-at-most",
        "0.5",
        "--pauses-at-most",
        "0.3",
    ]);
    check(chaos.arg("--python").arg(python).arg("--folder").arg(workspace.target().join("chaos")))
}

/// Chaos with the programs of the release build, for as long as the arguments say.
pub fn long_chaos(workspace: &Workspace, args: &[String]) -> anyhow::Result<()> {
    require_c_compiler(workspace)?;
    let python = python::ensure(workspace)?;
    check(&mut workspace.cargo("build --workspace --bins --release --locked"))?;
    let mut chaos = workspace.program(workspace.target().join("release/furlong-chaos"));
    chaos.arg("--python").arg(python).arg("--folder").arg(workspace.target().join("chaos"));
    check(chaos.args(args))
}

fn portable(workspace: &Workspace) -> anyhow::Result<()> {
    check(
        &mut workspace
            .cargo("test -p furlong-wire --no-default-features --features portable --locked"),
    )
}

fn doc(workspace: &Workspace) -> anyhow::Result<()> {
    require_c_compiler(workspace)?;
    let mut doc = workspace.cargo("doc --workspace --no-deps --locked");
    check(doc.env("RUSTDOCFLAGS", "-D warnings"))
}

fn python(workspace: &Workspace) -> anyhow::Result<()> {
    let python = python::ensure(workspace)?;
    python::lint(workspace)?;
    require_c_compiler(workspace)?;
    build_programs(workspace)?;
    python::install_package(workspace, &python)?;
    python::check_types(workspace, &python)?;
    python::test(workspace, &python)
}

fn build_programs(workspace: &Workspace) -> anyhow::Result<()> {
    check(&mut workspace.cargo("build --workspace --bins --locked"))
}

fn require_component(
    workspace: &Workspace,
    subcommand: &str,
    component: &str,
) -> anyhow::Result<()> {
    if !works(workspace.cargo(subcommand).arg("--version")) {
        bail!("`cargo {subcommand}` is missing; install it: rustup component add {component}");
    }
    Ok(())
}

/// A test leaves itself out where its program is missing and we may not install it.
fn want(workspace: &Workspace, program: &str, package: &str, what: &str) {
    if !works(workspace.program(program).arg("--version"))
        && let Err(error) = apt_install(&[package], &format!("there is no `{program}`"))
    {
        println!("{error}. {what} is left out.");
    }
}

/// The tests of the farm's page take any browser of this kind, and are skipped without one.
fn want_browser(workspace: &Workspace) {
    let is_there = |name: &&str| works(workspace.program(name).arg("--version"));
    if !["chromium-browser", "google-chrome"].iter().any(is_there) {
        want(workspace, "chromium", "chromium", "The farm's page in a browser");
    }
}

/// The tests of engines in jobs and on hosts start a Slurm and an OpenSSH server of their own,
/// which only root can.
fn want_slurm() {
    let programs = ["munged", "slurmctld", "slurmd", "sbatch", "sshd"];
    let is_there = |name: &str| {
        let mut asked = Command::new("sh");
        asked.args(["-c", &format!("PATH=$PATH:/usr/sbin:/sbin command -v {name}")]);
        works(&mut asked)
    };
    let packages = [
        "--no-install-recommends",
        "munge",
        "slurmctld",
        "slurmd",
        "slurm-client",
        "slurm-wlm-basic-plugins",
        "openssh-server",
    ];
    if !programs.into_iter().all(is_there)
        && let Err(error) = apt_install(&packages, "there is no Slurm, or no sshd")
    {
        println!("{error}. The tests of engines in jobs and on hosts are skipped.");
    }
}

/// The tests of engines in Grid Engine's jobs start one of their own, as those in Slurm's do.
fn want_grid_engine() {
    let packages =
        ["--no-install-recommends", "gridengine-master", "gridengine-exec", "gridengine-client"];
    if !std::path::Path::new("/usr/lib/gridengine/sge_qmaster").is_file()
        && let Err(error) = apt_install(&packages, "there is no Grid Engine")
    {
        println!("{error}. The tests of engines in its jobs are skipped.");
    }
}

/// ring compiles C and assembly. A compiler named by `CC` is taken as it is.
fn require_c_compiler(workspace: &Workspace) -> anyhow::Result<()> {
    if std::env::var_os("CC").is_some() || works(workspace.program("cc").arg("--version")) {
        return Ok(());
    }
    apt_install(&["gcc", "libc6-dev"], "there is no C compiler (`cc`), which ring needs")
}
