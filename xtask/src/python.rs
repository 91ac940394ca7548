//! The Python side: an environment of its own under the target folder, the package in it, ruff,
//! mypy and pytest.

use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::workspace::{Workspace, apt_install, check, works};

/// Makes sure that the environment has what `tests/requirements.txt` pins, and returns its
/// interpreter.
///
/// Once done it needs no network: a copy of the requirements in the environment says what was
/// installed.
pub fn ensure(workspace: &Workspace) -> anyhow::Result<PathBuf> {
    ensure_environment(workspace, "venv", "tests/requirements.txt")
}

/// The same for another environment of the target folder, with other requirements.
pub fn ensure_environment(
    workspace: &Workspace,
    name: &str,
    requirements: &str,
) -> anyhow::Result<PathBuf> {
    let folder = workspace.target().join(name);
    let python = folder.join("bin/python");
    let requirements = workspace.root().join(requirements);
    let wanted = std::fs::read(&requirements)
        .with_context(|| format!("cannot read {}", requirements.display()))?;
    let stamp = folder.join(STAMP);
    let is_installed = std::fs::read(&stamp).is_ok_and(|installed| installed == wanted);
    // A system's new Python can leave an environment without its interpreter.
    if is_installed && works(workspace.program(&python).args(["-c", ""])) {
        return Ok(python);
    }
    create(workspace, &folder)?;
    let mut install = workspace.program(&python);
    install.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--requirement",
    ]);
    check(install.arg(&requirements))
        .context("the Python packages could not be installed (is there a network?)")?;
    // Last, so that an interrupted installation is begun again.
    std::fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))?;
    Ok(python)
}

/// ruff's rules and formatting over all Python files that git does not ignore.
pub fn lint(workspace: &Workspace) -> anyhow::Result<()> {
    let ruff = environment(workspace).join("bin/ruff");
    for words in [&["check"][..], &["format", "--check"]] {
        let mut command = workspace.program(&ruff);
        command.args(words).arg(".").env("RUFF_CACHE_DIR", workspace.target().join("ruff"));
        check(&mut command)?;
    }
    Ok(())
}

/// The wheel that maturin has made in this folder, which was empty before.
pub fn made_wheel(folder: &Path) -> anyhow::Result<PathBuf> {
    let mut made = std::fs::read_dir(folder).context("maturin has left no folder of wheels")?;
    Ok(made.next().context("maturin has left no wheel")??.path())
}

/// Builds the package `furlong`, and installs it into the environment.
///
/// In the profile of the other steps, so that maturin finds what cargo has compiled for them: the
/// release profile takes minutes. What the package needs is among the requirements.
pub fn install_package(workspace: &Workspace, python: &Path) -> anyhow::Result<()> {
    let wheels = workspace.target().join("wheels");
    // An older version's would be taken for this one's.
    let _ = std::fs::remove_dir_all(&wheels);
    let mut build = workspace.program(environment(workspace).join("bin/maturin"));
    build.args(["build", "--quiet", "--manifest-path", "python/Cargo.toml", "--profile", "dev"]);
    build
        .args(["--compression-method", "stored", "--interpreter"])
        .arg(python)
        .arg("--out")
        .arg(&wheels);
    check(&mut build)?;
    let wheel = made_wheel(&wheels)?;
    let mut install = workspace.program(python);
    install.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-index",
        "--no-deps",
    ]);
    check(install.arg("--force-reinstall").arg(wheel))
}

/// mypy over the package.
pub fn check_types(workspace: &Workspace, python: &Path) -> anyhow::Result<()> {
    let mut mypy = workspace.program(python);
    mypy.args(["-m", "mypy", "--strict", "--cache-dir"]).arg(workspace.target().join("mypy"));
    check(mypy.arg("python/furlong"))
}

/// pytest over those folders of tests that there are.
pub fn test(workspace: &Workspace, python: &Path) -> anyhow::Result<()> {
    let folders = ["python/tests", "tests/python"]
        .into_iter()
        .filter(|folder| workspace.root().join(folder).is_dir());
    let mut pytest = workspace.program(python);
    pytest.args(["-m", "pytest", "-p", "no:cacheprovider", "--numprocesses", "2"]).args(folders);
    pytest.env("FURLONG_TEST_BIN_DIR", workspace.bin_dir()).env("FURLONG_TEST_PYTHON", python);
    check(pytest.env("PYTHONDONTWRITEBYTECODE", "1"))
}

/// A new, empty environment. Debian splits `venv` off Python, in a package that only root can add.
fn create(workspace: &Workspace, folder: &Path) -> anyhow::Result<()> {
    if !works(workspace.program("python3").args(["-c", "import ensurepip, venv"])) {
        apt_install(&["python3", "python3-venv"], "`python3 -m venv` does not work")?;
    }
    check(workspace.program("python3").args(["-m", "venv", "--clear"]).arg(folder))
}

fn environment(workspace: &Workspace) -> PathBuf {
    workspace.target().join("venv")
}

/// The copy of the requirements that are installed.
const STAMP: &str = "furlong-requirements.txt";
