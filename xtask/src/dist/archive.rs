//! The archive of a target: the program under its three names, completions, manual pages, licences.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::Context;

use crate::workspace::{Workspace, check, output};

/// Packs `NAME.tar.gz`, with everything in a folder of that name. The same files make the same
/// archive.
pub fn pack(
    workspace: &Workspace,
    name: &str,
    program: &Path,
    licences: &Path,
    out: &Path,
) -> anyhow::Result<()> {
    let parent = workspace.target().join("dist-archive");
    let folder = parent.join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    copy(program, &folder.join("furlong"))?;
    for link in ["broker", "engine"] {
        symlink("furlong", folder.join(link)).with_context(|| format!("cannot link {link}"))?;
    }
    for document in ["README.md", "CHANGELOG.md", "LICENSE-APACHE", "LICENSE-MIT"] {
        copy(&workspace.root().join(document), &folder.join(document))?;
    }
    copy(licences, &folder.join("THIRD-PARTY-LICENCES.txt"))?;
    describe(workspace, &folder)?;
    let mut tar = workspace.program("tar");
    tar.args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mtime=@0"]);
    tar.env("GZIP", "-n").arg("--gzip").arg("--create").arg("--file");
    check(tar.arg(out.join(format!("{name}.tar.gz"))).arg("--directory").arg(&parent).arg(name))
}

/// Completions and manual pages, by the program as it was built for this machine.
fn describe(workspace: &Workspace, folder: &Path) -> anyhow::Result<()> {
    let program = workspace.bin_dir().join("furlong");
    let completions = folder.join("completions");
    fs::create_dir_all(&completions).context("cannot create the folder of completions")?;
    for (shell, file) in [("bash", "furlong"), ("zsh", "_furlong"), ("fish", "furlong.fish")] {
        let script = output(workspace.program(&program).args(["completions", shell]))?;
        fs::create_dir_all(completions.join(shell)).context("cannot create a folder")?;
        fs::write(completions.join(shell).join(file), script)
            .with_context(|| format!("cannot write completions for {shell}"))?;
    }
    check(workspace.program(&program).arg("man").arg(folder.join("man/man1")))
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    Ok(())
}
