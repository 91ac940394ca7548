//! `cargo xtask compare-ipyparallel`: runs the rows of `python/compare/` with Furlong and with
//! ipyparallel, which is installed into an environment of its own, and writes the page of the guide
//! that says what came out.

use anyhow::Context;

use crate::python;
use crate::workspace::{Workspace, check, works};

/// Compares. Needs a network the first time.
pub fn compare(workspace: &Workspace) -> anyhow::Result<()> {
    let python = python::ensure(workspace)?;
    python::install_package(workspace, &python)?;
    let folder = workspace.target().join("ipyparallel");
    let peer = folder.join("bin/python");
    if !works(workspace.program(&peer).args(["-c", "import ipyparallel, numpy"])) {
        check(workspace.program("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
        let mut install = workspace.program(&peer);
        install
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
            .args(PACKAGES);
        check(&mut install).context("ipyparallel could not be installed (is there a network?)")?;
    }
    let mut compare = workspace.program(&python);
    compare.args(["python/compare/compare.py", "--write", PAGE, "--peer"]).arg(&peer);
    check(&mut compare)
}

const PACKAGES: [&str; 3] = ["ipyparallel==9.*", "numpy", "cloudpickle"];
const PAGE: &str = "docs/guide/compared-with-ipyparallel.md";
