//! The folders of the Python package: small, and layers that import downward.

use std::collections::{BTreeMap, BTreeSet};

use super::structure::circles;
use crate::tree::{File, Tree};

const ROOT: &str = "python/furlong/";
/// Its folders, the highest first. Files beside them belong to no layer.
const LAYERS: [&str; 14] = [
    "notebook",
    "ipython_kernel",
    "libraries",
    "cluster",
    "client",
    "views",
    "maps",
    "results",
    "runs",
    "pickling",
    "modules",
    "calls",
    "waiting",
    "shared",
];
const FILES_MAX: usize = 13;

/// A file imports, while it is loaded, only what lies in its own folder or further down, and no
/// files import each other. What a function imports when it is called is left out.
pub fn packages_import_downward(tree: &Tree) -> Vec<String> {
    let files: BTreeMap<String, &File> = files(tree).map(|file| (module(file), file)).collect();
    let mut found = Vec::new();
    let mut names = BTreeMap::new();
    for (own, file) in &files {
        let mut others = BTreeSet::new();
        for (line, other) in imports(&file.text, &files) {
            if let (Some(here), Some(there)) = (layer(own), layer(&other))
                && there < here
            {
                let (here, there) = (LAYERS[here], LAYERS[there]);
                let what = format!(
                    "`{here}` imports `{other}`, and `{there}` is above it; move what both need \
                     down"
                );
                found.push(file.at(line, what));
            }
            others.insert(other);
        }
        others.remove(own);
        names.insert(own.clone(), others);
    }
    found.extend(circles(&names).into_iter().map(|circle| {
        let all = circle.join(", ");
        files[&circle[0]].at(1, format!("{all} import each other; move what they share down"))
    }));
    found
}

/// No folder with very many files, and none without a layer.
pub fn packages_are_small(tree: &Tree) -> Vec<String> {
    let mut folders: BTreeMap<&str, Vec<&File>> = BTreeMap::new();
    for file in files(tree) {
        let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        folders.entry(folder).or_default().push(file);
    }
    let mut found = Vec::new();
    for (folder, files) in folders {
        let len = files.len();
        if len > FILES_MAX {
            let what = format!("`{folder}` has {len} files, at most {FILES_MAX}; divide it");
            found.push(files[0].at(1, what));
        }
        let name = folder.strip_prefix(ROOT);
        if name.is_some_and(|name| !LAYERS.contains(&name)) {
            found.push(files[0].at(1, format!("`{folder}` has no place among the layers")));
        }
    }
    found
}

fn files(tree: &Tree) -> impl Iterator<Item = &File> {
    tree.with_extension(&["py"]).filter(|file| file.path.starts_with(ROOT))
}

/// The name of a file's module within the package; empty for the package itself.
fn module(file: &File) -> String {
    let path = file.path[ROOT.len()..].trim_end_matches(".py");
    path.trim_end_matches("__init__").trim_end_matches('/').replace('/', ".")
}

fn layer(module: &str) -> Option<usize> {
    let folder = module.split('.').next().unwrap_or_default();
    LAYERS.iter().position(|layer| *layer == folder)
}

/// The files that a file imports while it is loaded, each with the line.
fn imports(text: &str, files: &BTreeMap<String, &File>) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let Some((from, first)) =
            line.strip_prefix("from furlong").and_then(|rest| rest.split_once(" import "))
        else {
            continue;
        };
        let from = from.trim_start_matches('.');
        let mut names = first.to_owned();
        while names.contains('(') && !names.contains(')') {
            let Some((_, more)) = lines.next() else { break };
            names.push_str(more);
        }
        for name in names.split([',', '(', ')']).map(str::trim).filter(|name| !name.is_empty()) {
            let whole = if from.is_empty() { name.to_owned() } else { format!("{from}.{name}") };
            let other = if files.contains_key(&whole) { whole } else { from.to_owned() };
            if !other.is_empty() && files.contains_key(&other) {
                found.push((index + 1, other));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_that_lead_up_or_back_are_found() {
        let tree = Tree::sample(&[
            ("python/furlong/errors.py", ""),
            (
                "python/furlong/maps/a.py",
                "from furlong import errors\nfrom furlong.maps import (\n    b,\n)\n\n\n\
                 def f():\n    from furlong.views import c\n",
            ),
            ("python/furlong/maps/b.py", "from furlong.maps.a import f\n"),
            ("python/furlong/views/c.py", "from furlong.maps.a import f\n"),
            ("python/furlong/calls/d.py", "from furlong.views.c import f\n"),
        ]);
        let found = packages_import_downward(&tree);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("python/furlong/calls/d.py:1: `calls` imports `views.c`"));
        assert!(found[1].contains("maps.a, maps.b import each other"));
    }

    #[test]
    fn a_crowded_folder_and_one_without_a_layer_are_found() {
        let paths: Vec<String> =
            (0..=FILES_MAX).map(|n| format!("python/furlong/maps/{n}.py")).collect();
        let mut files: Vec<(&str, &str)> = paths.iter().map(|path| (path.as_str(), "")).collect();
        files.push(("python/furlong/other/a.py", ""));
        assert_eq!(packages_are_small(&Tree::sample(&files)).len(), 2);
    }
}
