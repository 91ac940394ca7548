//! Files that know each other in one direction, folders that hold one thing, types that own what
//! they have.

use std::collections::{BTreeMap, BTreeSet};

use super::layers::named_paths;
use crate::source::{Source, is_word};
use crate::tree::{File, Tree};

/// The most that a core has of what should be little.
struct Limits {
    core: &'static str,
    /// Files that name each other in a circle, the root aside.
    circle: usize,
    /// Rust files of one folder.
    files: usize,
    /// Fields of one type.
    fields: usize,
}

/// Today's worst. They only ever become less.
const LIMITS: [Limits; 3] = [
    Limits { core: "broker/src/core", circle: 3, files: 12, fields: 15 },
    Limits { core: "engine/src/core", circle: 2, files: 12, fields: 24 },
    Limits { core: "client/src/core", circle: 3, files: 14, fields: 31 },
];

/// A configuration, and a row of the journal: what somebody has written down.
const CONFIGURATIONS: [&str; 2] = ["Config", "EndRow"];

/// No long circle of files that name each other.
pub fn files_know_each_other_in_one_direction(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for limits in &LIMITS {
        let Core { files, names } = Core::of(tree, limits.core);
        for circle in circles(&names).into_iter().filter(|circle| circle.len() > limits.circle) {
            let all: Vec<&str> = circle.iter().map(String::as_str).collect();
            let (len, most) = (circle.len(), limits.circle);
            let what = format!(
                "{len} files name each other in a circle, at most {most}: {}; move what they share \
                 into a file that names none of them",
                all.join(", ")
            );
            found.push(files[&circle[0]].at(1, what));
        }
    }
    found
}

/// No folder of a core with very many files.
pub fn folders_are_small(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for limits in &LIMITS {
        let mut folders: BTreeMap<&str, Vec<&File>> = BTreeMap::new();
        for (file, _) in tree.rust().filter(|(file, _)| is_in(&file.path, limits.core)) {
            let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
            folders.entry(folder).or_default().push(file);
        }
        for (folder, files) in folders.into_iter().filter(|(_, it)| it.len() > limits.files) {
            let (len, most) = (files.len(), limits.files);
            let what = format!("`{folder}` has {len} files, at most {most}; it holds two things");
            found.push(files[0].at(1, what));
        }
    }
    found
}

/// No type of a core with very many fields.
pub fn types_have_few_fields(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for limits in &LIMITS {
        let of_core = tree.rust().filter(|(file, _)| is_in(&file.path, limits.core));
        for (file, source) in of_core.filter(|(file, _)| !tree.is_test_file(file)) {
            for (line, name, fields) in structs(source) {
                let is_configuration = CONFIGURATIONS.contains(&name.as_str());
                if fields > limits.fields && !is_configuration && !source.is_test_line(line) {
                    let most = limits.fields;
                    let what = format!("`{name}` has {fields} fields, at most {most}; divide it");
                    found.push(file.at(line, what));
                }
            }
        }
    }
    found
}

/// The files of a core and the names of those that each names.
struct Core<'a> {
    files: BTreeMap<String, &'a File>,
    names: BTreeMap<String, BTreeSet<String>>,
}

impl<'a> Core<'a> {
    fn of(tree: &'a Tree, core: &str) -> Self {
        let of_core = tree.rust().filter(|(file, _)| is_in(&file.path, core));
        let of_core: Vec<_> = of_core.filter(|(file, _)| !tree.is_test_file(file)).collect();
        let modules = of_core.iter().map(|(file, _)| (module(&file.path, core), *file));
        // The root names all of them, and is named by all for its type.
        let files: BTreeMap<String, &File> =
            modules.filter(|(module, _)| !module.is_empty()).collect();
        let mut names = BTreeMap::new();
        for (file, source) in of_core {
            let own = module(&file.path, core);
            if own.is_empty() {
                continue;
            }
            let paths = named_paths(source).into_iter();
            let paths = paths.filter(|(line, _)| !source.is_test_line(*line));
            let others = paths.filter_map(|(_, path)| resolved(&path, &own));
            let others = others.filter_map(|path| longest_module(&path, &files));
            names.insert(own.clone(), others.filter(|other| *other != own).collect());
        }
        Self { files, names }
    }
}

fn is_in(path: &str, core: &str) -> bool {
    path.strip_prefix(core).is_some_and(|rest| rest.starts_with('/'))
}

/// The module of a file, from the core's root on: `sessions/quotas.rs` is `sessions::quotas`.
fn module(path: &str, core: &str) -> String {
    let path = path[core.len()..].trim_start_matches('/').trim_end_matches(".rs");
    let path = if path == "mod" { "" } else { path.trim_end_matches("/mod") };
    path.replace('/', "::")
}

/// A path from the core's root on, as a file of the core has it; none if it leads elsewhere.
fn resolved(path: &str, own: &str) -> Option<String> {
    if let Some(rest) = path.strip_prefix("crate::core::") {
        return Some(rest.to_owned());
    }
    let mut base: Vec<&str> = own.split("::").collect();
    let mut rest = path;
    if let Some(below) = path.strip_prefix("self::") {
        rest = below;
    } else if !path.starts_with("super::") {
        return None;
    }
    while let Some(above) = rest.strip_prefix("super::") {
        base.pop()?;
        rest = above;
    }
    Some(base.into_iter().chain([rest]).collect::<Vec<_>>().join("::"))
}

fn longest_module(path: &str, files: &BTreeMap<String, &File>) -> Option<String> {
    let mut path = path;
    loop {
        if files.contains_key(path) {
            return Some(path.to_owned());
        }
        path = path.rsplit_once("::")?.0;
    }
}

/// Files each of which leads to all others, the largest circle first.
pub fn circles(names: &BTreeMap<String, BTreeSet<String>>) -> Vec<Vec<String>> {
    let reached: BTreeMap<&String, BTreeSet<&String>> = names
        .keys()
        .map(|from| {
            let mut reached = BTreeSet::new();
            let mut waiting = vec![from];
            while let Some(next) = waiting.pop() {
                waiting.extend(names[next].iter().filter(|other| reached.insert(*other)));
            }
            (from, reached)
        })
        .collect();
    let circle = |from: &String| -> Vec<String> {
        let both = reached[from].iter().filter(|other| reached[**other].contains(from));
        both.map(|other| (*other).clone()).collect()
    };
    let mut circles: Vec<_> = names
        .keys()
        .map(circle)
        .filter(|it| it.len() > 1)
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    circles.sort_by_key(|circle| std::cmp::Reverse(circle.len()));
    circles
}

/// The types of a file that have named fields: line, name, and how many.
fn structs(source: &Source) -> Vec<(usize, String, usize)> {
    let mut found = Vec::new();
    for at in source.find_path("struct") {
        let name = source.word_at(source.skip_space(at + 6));
        let end = (at..source.code.len()).find(|at| matches!(source.code[*at], '{' | ';' | '('));
        let Some(open) = end.filter(|at| source.code[*at] == '{' && !name.is_empty()) else {
            continue;
        };
        found.push((
            source.line_of(at),
            name,
            fields(&source.code[open + 1..source.closing(open)]),
        ));
    }
    found
}

/// Names before a single colon, outside all brackets.
fn fields(body: &[char]) -> usize {
    let mut depth = 0_usize;
    let mut fields = 0;
    for (at, char) in body.iter().enumerate() {
        match char {
            '(' | '[' | '{' | '<' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            '>' if at == 0 || body[at - 1] != '-' => depth = depth.saturating_sub(1),
            ':' if depth == 0 => {
                let is_alone = body.get(at + 1) != Some(&':') && body[at - 1] != ':';
                fields += usize::from(is_alone && is_word(body[at - 1]));
            }
            _ => {}
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(files: &[(&str, &str)]) -> Tree {
        let files: Vec<(String, &str)> =
            files.iter().map(|(path, text)| (format!("broker/src/core/{path}"), *text)).collect();
        let files: Vec<(&str, &str)> =
            files.iter().map(|(path, text)| (path.as_str(), *text)).collect();
        Tree::sample(&files)
    }

    fn names(tree: &Tree) -> BTreeMap<String, BTreeSet<String>> {
        Core::of(tree, "broker/src/core").names
    }

    #[test]
    fn a_circle_of_files_is_found() {
        let tree = of(&[
            ("mod.rs", "mod a;\nmod b;\n"),
            ("a.rs", "use super::{Core, b::One};\n"),
            ("b/mod.rs", "fn b() -> crate::core::b::c::Two { todo }\n"),
            (
                "b/c.rs",
                "use super::super::a;\n#[cfg(test)]\nmod tests {\n    use super::super::d;\n}\n",
            ),
            ("d.rs", "use super::a::A;\nuse super::Core;\n"),
        ]);
        let circles = circles(&names(&tree));
        assert_eq!(circles, [["a", "b", "b::c"].map(str::to_owned).to_vec()]);
        let one_way = of(&[("a.rs", "use super::b::c::D;\n"), ("b/c.rs", ""), ("b/mod.rs", "")]);
        assert!(super::circles(&names(&one_way)).is_empty());
    }

    #[test]
    fn fields_are_counted_and_nothing_else() {
        let text =
            "struct A<T: B> {\n    a: BTreeMap<u8, Vec<c::D>>,\n    pub b: fn(x: u8) -> u8,\n}\n";
        let text = format!("{text}struct E(u8);\nstruct F;\n");
        assert_eq!(structs(&Source::rust(&text)), [(1, "A".to_owned(), 2)]);
    }

    #[test]
    fn a_crowded_folder_and_a_large_type_are_found() {
        let fields = "    a: u8,\n".repeat(100);
        let large = format!("struct Large {{\n{fields}}}\n");
        let paths: Vec<String> = (0..100).map(|n| format!("a{n}.rs")).collect();
        let mut files: Vec<(&str, &str)> = paths.iter().map(|path| (path.as_str(), "")).collect();
        assert_eq!(folders_are_small(&of(&files)).len(), 1);
        files.push(("b/mod.rs", &large));
        assert_eq!(types_have_few_fields(&of(&files)).len(), 1);
    }
}
