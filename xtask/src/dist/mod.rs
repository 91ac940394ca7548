//! `cargo xtask dist`: what a release hands out, in `target/distribution`. For each target a wheel
//! of the Python package and an archive with the program; and the dependencies as a bill of
//! materials and with their licences, and the checksums of it all.
//!
//! The tools come from `PyPI` into an environment of their own. zig links against the glibc of
//! manylinux2014, so that it does not matter how new the system is on which this runs.

mod archive;
mod dependencies;
mod glibc;
mod licences;
mod sbom;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

use crate::dist::dependencies::Dependencies;
use crate::python;
use crate::workspace::{Workspace, check, output};

/// The targets, as the command line names them.
#[derive(Debug, PartialEq, Eq)]
pub struct Distribution {
    architectures: Vec<&'static str>,
}

impl Distribution {
    /// Without arguments both architectures; `--arch` chooses one.
    pub fn parse(mut args: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let mut architectures = Vec::new();
        while let Some(arg) = args.next() {
            ensure!(arg == "--arch", "no option `{arg}`; `cargo xtask dist` takes --arch");
            let named = args.next().unwrap_or_default();
            let Some(known) = ARCHITECTURES.iter().find(|known| **known == named) else {
                bail!("no architecture `{named}`; there are {}", ARCHITECTURES.join(" and "));
            };
            architectures.push(*known);
        }
        if architectures.is_empty() {
            architectures = ARCHITECTURES.to_vec();
        }
        Ok(Self { architectures })
    }
}

/// Makes it all. The folder is emptied first: what an earlier version left has no place in the
/// checksums.
pub fn make(workspace: &Workspace, distribution: &Distribution) -> anyhow::Result<()> {
    let out = workspace.target().join("distribution");
    let _ = fs::remove_dir_all(&out);
    fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;
    let tools = python::ensure_environment(workspace, "dist-venv", "xtask/requirements-dist.txt")?;
    let tools = Tools { bin: tools.parent().context("an interpreter has a folder")?.to_owned() };
    let dependencies = Dependencies::read(workspace)?;
    let version = dependencies.version();
    let beside = ["furlong.cdx.json", "THIRD-PARTY-LICENCES.txt"].map(|name| out.join(name));
    write(&beside[0], &sbom::text(&dependencies)?)?;
    write(&beside[1], &licences::text(&dependencies)?)?;
    // The pages and completions are printed by a program that runs here, whatever it is made for.
    check(&mut workspace.cargo("build --package furlong --bin furlong --locked"))?;
    for architecture in &distribution.architectures {
        let target = format!("{architecture}-unknown-linux-gnu");
        require_target(workspace, &target)?;
        build_wheel(workspace, &tools, &target, &out)?;
        let program = build_program(workspace, &tools, &target)?;
        if *architecture == std::env::consts::ARCH {
            check_version(workspace, &program, version)?;
        }
        let name = format!("furlong-{version}-{architecture}-linux");
        archive::pack(workspace, &name, &program, &beside, &out)?;
    }
    sum(workspace, &out)?;
    println!("{}", out.display());
    Ok(())
}

/// The programs of the environment.
struct Tools {
    bin: PathBuf,
}

impl Tools {
    /// One of them, which finds the others.
    fn program(&self, workspace: &Workspace, name: &str) -> anyhow::Result<std::process::Command> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(self.bin.clone()).chain(std::env::split_paths(&path));
        let mut command = workspace.program(self.bin.join(name));
        command.env("PATH", std::env::join_paths(folders).context("PATH cannot be extended")?);
        command.env("LIBSQLITE3_FLAGS", SQLITE_FLAGS);
        Ok(command)
    }
}

fn require_target(workspace: &Workspace, target: &str) -> anyhow::Result<()> {
    let sysroot = output(workspace.program("rustc").args(["--print", "sysroot"]))?;
    if Path::new(sysroot.trim()).join("lib/rustlib").join(target).is_dir() {
        return Ok(());
    }
    check(workspace.program("rustup").args(["target", "add", target])).with_context(|| {
        format!("there is no standard library for {target}; add it: rustup target add {target}")
    })
}

/// maturin names the wheel for the glibc that it needs; auditwheel says whether that is true.
fn build_wheel(
    workspace: &Workspace,
    tools: &Tools,
    target: &str,
    out: &Path,
) -> anyhow::Result<()> {
    let mut build = tools.program(workspace, "maturin")?;
    build.args(["build", "--profile", "dist", "--manifest-path", "python/Cargo.toml"]);
    build.args(["--zig", "--compatibility", "manylinux2014", "--target", target]);
    let folder = workspace.target().join("dist-wheel").join(target);
    let _ = fs::remove_dir_all(&folder);
    check(build.arg("--out").arg(&folder))?;
    let wheel = python::made_wheel(&folder)?;
    let said = output(tools.program(workspace, "auditwheel")?.arg("show").arg(&wheel))?;
    ensure!(said.contains("manylinux_2_17"), "auditwheel finds no manylinux2014 wheel: {said}");
    let unpacked = folder.join("unpacked");
    let mut unpack = tools.program(workspace, "python")?;
    check(unpack.args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&unpacked))?;
    check_library(&unpacked.join("furlong/_furlong.abi3.so"))?;
    let name = wheel.file_name().context("a wheel has a name")?;
    fs::copy(&wheel, out.join(name)).context("cannot copy the wheel")?;
    Ok(())
}

/// The program, checked: old enough a glibc, and small.
fn build_program(workspace: &Workspace, tools: &Tools, target: &str) -> anyhow::Result<PathBuf> {
    let mut build = tools.program(workspace, "cargo-zigbuild")?;
    build.args(["zigbuild", "--profile", "dist", "--package", "furlong", "--bin", "furlong"]);
    let oldest = glibc::OLDEST;
    build.args(["--locked", "--target", &format!("{target}.{}.{}", oldest.0, oldest.1)]);
    check(&mut build)?;
    let program = workspace.target().join(target).join("dist/furlong");
    check_library(&program)?;
    let bytes = fs::metadata(&program).context("cannot look at the program")?.len();
    println!("furlong for {target}: {:.1} MB", bytes as f64 / 1e6);
    check_size(target, bytes)?;
    Ok(program)
}

fn check_size(target: &str, bytes: u64) -> anyhow::Result<()> {
    ensure!(
        bytes < PROGRAM_BYTES_MAX,
        "the program for {target} has {bytes} bytes, and is to have fewer than {PROGRAM_BYTES_MAX}"
    );
    Ok(())
}

/// Runs a program that is for this machine, and checks that it is the one of this version.
fn check_version(workspace: &Workspace, program: &Path, version: &str) -> anyhow::Result<()> {
    let said = output(workspace.program(program).arg("--version"))?;
    ensure!(said.trim() == format!("furlong {version}"), "{} says: {said}", program.display());
    Ok(())
}

/// Checks that an executable or a library asks for no glibc newer than that of manylinux2014.
fn check_library(path: &Path) -> anyhow::Result<()> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let newest = glibc::newest(&bytes)
        .with_context(|| format!("{} names no version of glibc", path.display()))?;
    let shown = |(major, minor)| format!("{major}.{minor}");
    println!("{} needs glibc {}", path.display(), shown(newest));
    ensure!(
        newest <= glibc::OLDEST,
        "{} needs glibc {}, and is to run with {}",
        path.display(),
        shown(newest),
        shown(glibc::OLDEST)
    );
    Ok(())
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// `SHA256SUMS`, as `sha256sum --check` reads it.
fn sum(workspace: &Workspace, out: &Path) -> anyhow::Result<()> {
    let entries = fs::read_dir(out).context("the folder is gone")?.flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
    names.sort();
    let sums = output(workspace.program("sha256sum").arg("--").args(names).current_dir(out))?;
    write(&out.join("SHA256SUMS"), &sums)
}

/// By the names that both Rust and Python give them.
const ARCHITECTURES: &[&str] = &["x86_64", "aarch64"];
/// A download that nobody thinks about, and a copy to each of a hundred hosts that takes a moment.
const PROGRAM_BYTES_MAX: u64 = 15_000_000;
/// Parts of `SQLite` that the journal and the history do not use: half a megabyte.
const SQLITE_FLAGS: &str = "-USQLITE_ENABLE_FTS3 -USQLITE_ENABLE_FTS3_PARENTHESIS \
    -USQLITE_ENABLE_FTS5 -USQLITE_ENABLE_RTREE -USQLITE_ENABLE_DBSTAT_VTAB \
    -USQLITE_ENABLE_STAT4 -USQLITE_SOUNDEX -DSQLITE_OMIT_JSON";

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> anyhow::Result<Distribution> {
        Distribution::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn both_architectures_are_made_unless_one_is_named() {
        assert_eq!(parse("").unwrap().architectures, ["x86_64", "aarch64"]);
        assert_eq!(parse("--arch aarch64").unwrap().architectures, ["aarch64"]);
    }

    #[test]
    fn a_program_of_15_mb_is_refused() {
        assert!(check_size("x86_64", 14_999_999).is_ok());
        let error = check_size("x86_64", 15_000_000).unwrap_err().to_string();
        assert!(error.ends_with("has 15000000 bytes, and is to have fewer than 15000000"));
    }

    #[test]
    fn a_program_of_another_version_is_refused() {
        let workspace = Workspace::find().unwrap();
        // It says its own.
        let error = check_version(&workspace, Path::new("/bin/echo"), "0.1.0").unwrap_err();
        assert!(error.to_string().contains("/bin/echo says: "), "{error}");
    }

    #[test]
    fn an_unknown_architecture_is_refused_with_those_there_are() {
        let error = parse("--arch vax").unwrap_err().to_string();
        assert_eq!(error, "no architecture `vax`; there are x86_64 and aarch64");
        assert!(parse("vax").is_err() && parse("--arch").is_err());
    }
}
