//! The crates that are compiled into the program and the Python package, as cargo names them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::Context;
use serde_json::Value;

use crate::workspace::{Workspace, output};

/// A crate.
#[derive(Clone, Debug)]
pub struct Crate {
    /// Its name in the registry.
    pub name: String,
    /// Its version.
    pub version: String,
    /// An SPDX expression; nothing if its manifest has none.
    pub licence: Option<String>,
    /// The SHA-256 of its archive, in hexadecimal. Our own crates have none.
    pub checksum: Option<String>,
    /// The folder of its source.
    pub folder: PathBuf,
    /// The identities of the crates on which it depends.
    pub depends_on: BTreeSet<String>,
}

impl Crate {
    /// Returns true for a crate of this repository.
    pub fn is_ours(&self) -> bool {
        self.checksum.is_none()
    }

    /// Its address in the scheme of package URLs.
    pub fn purl(&self) -> String {
        format!("pkg:cargo/{}@{}", self.name, self.version)
    }
}

/// All that is in a program, by cargo's identity of each crate.
#[derive(Debug)]
pub struct Dependencies {
    crates: BTreeMap<String, Crate>,
    version: String,
}

impl Dependencies {
    /// Asks cargo, without the network if everything is there that is compiled.
    pub fn read(workspace: &Workspace) -> anyhow::Result<Self> {
        let metadata = output(&mut workspace.cargo(
            "metadata --format-version 1 --locked --filter-platform x86_64-unknown-linux-gnu",
        ))?;
        let lock = std::fs::read_to_string(workspace.root().join("Cargo.lock"))
            .context("cannot read Cargo.lock")?;
        Self::parse(&serde_json::from_str(&metadata)?, &checksums(&lock))
    }

    /// Furlong's version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The crates, ordered by name and version.
    pub fn sorted(&self) -> Vec<&Crate> {
        let mut all: Vec<_> = self.crates.values().collect();
        all.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
        all
    }

    /// The crate with one of the identities in [`Crate::depends_on`].
    pub fn get(&self, id: &str) -> Option<&Crate> {
        self.crates.get(id)
    }

    fn parse(
        metadata: &Value,
        checksums: &BTreeMap<(String, String), String>,
    ) -> anyhow::Result<Self> {
        let packages = by_id(&metadata["packages"]);
        let nodes = by_id(&metadata["resolve"]["nodes"]);
        let root = |name: &str| packages.iter().find(|(_, package)| package["name"] == name);
        let mut waiting = Vec::new();
        for name in ["furlong", "furlong-python"] {
            let (id, _) = root(name).with_context(|| format!("cargo knows no package {name}"))?;
            waiting.push((*id).to_owned());
        }
        let version = packages[waiting[0].as_str()]["version"].as_str().unwrap_or_default();
        let mut crates = BTreeMap::new();
        while let Some(id) = waiting.pop() {
            if crates.contains_key(&id) {
                continue;
            }
            let package = packages.get(id.as_str()).context("cargo names an unknown package")?;
            let node = nodes.get(id.as_str()).context("cargo has not resolved a package")?;
            let one = read_crate(package, node, checksums)?;
            waiting.extend(one.depends_on.iter().cloned());
            crates.insert(id, one);
        }
        Ok(Self { crates, version: version.to_owned() })
    }
}

fn by_id(list: &Value) -> BTreeMap<&str, &Value> {
    let entries = list.as_array().into_iter().flatten();
    entries.filter_map(|entry| Some((entry["id"].as_str()?, entry))).collect()
}

fn read_crate(
    package: &Value,
    node: &Value,
    checksums: &BTreeMap<(String, String), String>,
) -> anyhow::Result<Crate> {
    let text = |key: &str| package[key].as_str().map(str::to_owned);
    let name = text("name").context("a package has no name")?;
    let version = text("version").context("a package has no version")?;
    let manifest = PathBuf::from(text("manifest_path").context("a package has no manifest")?);
    Ok(Crate {
        checksum: checksums.get(&(name.clone(), version.clone())).cloned(),
        // Some old manifests write a choice as `MIT/Apache-2.0`.
        licence: text("license").map(|licence| licence.replace('/', " OR ")),
        folder: manifest.parent().context("a manifest has no folder")?.to_owned(),
        depends_on: dependencies_of(node),
        name,
        version,
    })
}

/// Those that are compiled into it or run while it is built; not those of its tests.
fn dependencies_of(node: &Value) -> BTreeSet<String> {
    let is_more_than_for_tests = |dependency: &&Value| {
        let kinds = dependency["dep_kinds"].as_array();
        kinds.is_some_and(|kinds| kinds.iter().any(|kind| kind["kind"] != "dev"))
    };
    let all = node["deps"].as_array().into_iter().flatten().filter(is_more_than_for_tests);
    all.filter_map(|dependency| dependency["pkg"].as_str()).map(str::to_owned).collect()
}

/// The checksums of `Cargo.lock`, by name and version.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let mut found = BTreeMap::new();
    for package in lock.split("[[package]]").skip(1) {
        let value = |key: &str| {
            let line = package.lines().find_map(|line| line.strip_prefix(key))?;
            Some(line.strip_prefix(" = ")?.trim_matches('"').to_owned())
        };
        if let (Some(name), Some(version), Some(checksum)) =
            (value("name"), value("version"), value("checksum"))
        {
            found.insert((name, version), checksum);
        }
    }
    found
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// What cargo says of this repository.
    pub fn own() -> Dependencies {
        Dependencies::read(&Workspace::find().unwrap()).unwrap()
    }

    #[test]
    fn what_is_compiled_is_there_and_what_is_for_tests_is_not() {
        let own = own();
        let has = |name: &str| own.sorted().iter().any(|one| one.name == name);
        assert!(has("furlong-wire") && has("pyo3") && has("ring"));
        assert!(!has("proptest") && !has("zeromq") && !has("xtask"));
        assert_eq!(own.version(), env!("CARGO_PKG_VERSION"));
    }

    #[test]
    fn every_crate_from_elsewhere_has_a_checksum_and_a_licence() {
        for one in own().sorted() {
            let is_from_here = one.name.starts_with("furlong");
            assert_eq!(one.is_ours(), is_from_here, "{}", one.name);
            assert!(one.licence.is_some(), "{}", one.name);
            assert!(one.folder.join("Cargo.toml").is_file(), "{}", one.name);
        }
    }
}
