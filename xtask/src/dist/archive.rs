//! The archive of a target: the program under its three names, completions, manual pages, licences.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use crate::workspace::{Workspace, check, output};

/// Packs `NAME.tar.gz`, with everything in a folder of that name, and checks that it has all that
/// it is to have. The same files make the same archive. `beside` are documents about what is
/// compiled in.
pub fn pack(
    workspace: &Workspace,
    name: &str,
    program: &Path,
    beside: &[PathBuf],
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
    for document in beside {
        copy(document, &folder.join(document.file_name().context("a document has a name")?))?;
    }
    describe(workspace, &folder)?;
    let archive = out.join(format!("{name}.tar.gz"));
    let mut tar = workspace.program("tar");
    tar.args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mtime=@0"]);
    tar.env("GZIP", "-n").arg("--gzip").arg("--create").arg("--file");
    check(tar.arg(&archive).arg("--directory").arg(&parent).arg(name))?;
    let listed = output(workspace.program("tar").arg("--list").arg("--file").arg(&archive))?;
    let missing = missing(name, &listed);
    ensure!(missing.is_empty(), "{} lacks {}", archive.display(), missing.join(", "));
    Ok(())
}

/// The parts that a listed archive lacks.
fn missing(name: &str, listed: &str) -> Vec<&'static str> {
    let has = |part: &str| listed.lines().any(|line| line == format!("{name}/{part}"));
    PARTS.iter().copied().filter(|part| !has(part)).collect()
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

/// Parts that every archive has.
const PARTS: &[&str] = &[
    "furlong",
    "broker",
    "engine",
    "README.md",
    "CHANGELOG.md",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "THIRD-PARTY-LICENCES.txt",
    "furlong.cdx.json",
    "completions/bash/furlong",
    "completions/zsh/_furlong",
    "completions/fish/furlong.fish",
    "man/man1/furlong.1",
];

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_archive_lacks_is_named() {
        let whole = format!("furlong-1/{}\n", PARTS.join("\nfurlong-1/"));
        assert_eq!(missing("furlong-1", &whole), [""; 0]);
        let without = whole.replace("furlong-1/engine\n", "furlong-1/engines\n");
        assert_eq!(missing("furlong-1", &without), ["engine"]);
        assert_eq!(missing("furlong-2", &whole).len(), PARTS.len());
    }
}
