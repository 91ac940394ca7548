//! The files that the rules look at.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use crate::modules;
use crate::source::Source;

/// All text files of the repository, or of a sample.
pub struct Tree {
    /// In the order of their paths.
    pub files: Vec<File>,
    /// Paths of everything that exists, folders and binary files included: what a link may lead to.
    pub paths: BTreeSet<String>,
    /// Modules that are declared under `#[cfg(test)]`, by path.
    test_modules: BTreeSet<String>,
}

/// One text file.
pub struct File {
    /// From the repository's top folder, with `/`.
    pub path: String,
    /// The whole text.
    pub text: String,
    /// The code in the text, for Rust and Python.
    pub source: Option<Source>,
}

impl Tree {
    /// Everything that git tracks or would track; without git, everything outside the target
    /// folders.
    pub fn of_repository() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .expect("the tests' folder is in the repository");
        let paths = listed_by_git(root).unwrap_or_else(|| walked(root));
        let read = |path: String| Some((path.clone(), std::fs::read(root.join(path)).ok()?));
        Self::of_files(paths.into_iter().filter_map(read))
    }

    /// A tree of the given files.
    #[cfg(test)]
    pub fn sample(files: &[(&str, &str)]) -> Self {
        Self::of_files(
            files.iter().map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec())),
        )
    }

    fn of_files(contents: impl Iterator<Item = (String, Vec<u8>)>) -> Self {
        let mut tree =
            Self { files: Vec::new(), paths: BTreeSet::new(), test_modules: BTreeSet::new() };
        for (path, bytes) in contents {
            let ancestors = Path::new(&path)
                .ancestors()
                .map(|ancestor| ancestor.to_string_lossy().into_owned());
            tree.paths.extend(ancestors);
            if let Some(text) = String::from_utf8(bytes).ok().filter(|text| !text.contains('\0')) {
                tree.files.push(File::new(path, text));
            }
        }
        tree.files.sort_by(|one, other| one.path.cmp(&other.path));
        tree.test_modules = modules::test_modules(&tree);
        tree
    }

    /// The files whose name ends in one of these extensions.
    pub fn with_extension<'a>(&'a self, extensions: &'a [&str]) -> impl Iterator<Item = &'a File> {
        self.files.iter().filter(|file| extensions.contains(&file.extension()))
    }

    /// The Rust files with their code.
    pub fn rust(&self) -> impl Iterator<Item = (&File, &Source)> {
        self.with_extension(&["rs"]).filter_map(|file| Some((file, file.source.as_ref()?)))
    }

    /// Returns true if the file as a whole is test code or an example.
    pub fn is_test_file(&self, file: &File) -> bool {
        file.is_in_tests()
            || self.test_modules.contains(&file.path)
            || file.path.split('/').any(|part| part == "examples")
    }
}

impl File {
    fn new(path: String, text: String) -> Self {
        let mut file = Self { path, text, source: None };
        file.source = match file.extension() {
            "rs" => Some(Source::rust(&file.text)),
            "py" => Some(Source::python(&file.text)),
            _ => None,
        };
        file
    }

    /// Of the file's name, without the dot; empty without one.
    pub fn extension(&self) -> &str {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        name.rsplit_once('.').map_or("", |(_, extension)| extension)
    }

    /// Returns true if it lies in a folder `tests` or is called `tests.rs`.
    pub fn is_in_tests(&self) -> bool {
        self.path.split('/').any(|part| part == "tests" || part == "tests.rs")
    }

    /// `file:line: what`, lines counted from 1.
    pub fn at(&self, line: usize, what: impl std::fmt::Display) -> String {
        format!("{}:{line}: {what}", self.path)
    }
}

/// Tracked files and new ones that are not ignored; `None` if git or the repository is missing.
fn listed_by_git(root: &Path) -> Option<Vec<String>> {
    let arguments = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let output = Command::new("git").args(arguments).current_dir(root).output().ok()?;
    let listing = String::from_utf8(output.stdout).ok()?;
    let paths: Vec<String> = listing.split_terminator('\0').map(str::to_owned).collect();
    (output.status.success() && !paths.is_empty()).then_some(paths)
}

/// All files below the folder, without what tools made.
fn walked(root: &Path) -> Vec<String> {
    let mut paths = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        for path in entries.map(|entry| entry.path()) {
            if path.is_symlink() || is_made_by_tools(&path) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(relative) = path.strip_prefix(root) {
                paths.push(relative.to_string_lossy().into_owned());
            }
        }
    }
    paths
}

/// Build and cache folders carry a `CACHEDIR.TAG`; the others are known by name.
fn is_made_by_tools(path: &Path) -> bool {
    let names =
        [".git", "target", "__pycache__", ".ruff_cache", ".pytest_cache", ".venv", "node_modules"];
    let is_named = path.file_name().is_some_and(|name| names.iter().any(|known| name == *known));
    path.is_dir() && (is_named || path.join("CACHEDIR.TAG").exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_listing_find_this_file() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let here = "tests/tidy/tree.rs".to_owned();
        assert!(walked(root).contains(&here));
        assert!(listed_by_git(root).is_none_or(|paths| paths.contains(&here)));
    }

    #[test]
    fn tests_are_known_by_folder_name_and_declaration() {
        let tree = Tree::sample(&[
            ("wire/Cargo.toml", ""),
            ("wire/src/lib.rs", "#[cfg(test)]\nmod pair;\nmod zmtp;\n"),
            ("wire/src/pair.rs", ""),
            ("wire/src/zmtp/mod.rs", "mod tests;\n"),
            ("wire/src/zmtp/tests.rs", ""),
        ]);
        let tests: Vec<_> = tree
            .files
            .iter()
            .filter(|file| tree.is_test_file(file))
            .map(|file| &*file.path)
            .collect();
        assert_eq!(tests, ["wire/src/pair.rs", "wire/src/zmtp/tests.rs"]);
    }
}
