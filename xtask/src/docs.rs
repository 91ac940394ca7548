//! `cargo xtask docs`: the site of the documents, in `target/site`: README, guide, promises,
//! protocol and changelog, the Python package from its docstrings, the crates as cargo documents
//! them.
//!
//! The documents are copied as they lie in the repository, so that their links hold. The tool stops
//! at a link between them that leads nowhere; what it makes is checked here once more.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

use crate::python;
use crate::workspace::{Workspace, check};

/// Builds the site and checks it.
pub fn build(workspace: &Workspace) -> anyhow::Result<()> {
    let python = python::ensure_environment(workspace, "docs-venv", "xtask/requirements-docs.txt")?;
    let source = workspace.target().join("site-source");
    let site = workspace.target().join("site");
    let _ = fs::remove_dir_all(&source);
    for part in PARTS {
        copy(&workspace.root().join(part), &source.join(part))?;
    }
    let config = "docs/site/mkdocs.yml";
    let mut make = workspace.program(&python);
    make.args(["-m", "mkdocs", "build", "--strict", "--config-file", config]);
    // The target folder may be another than the one that the file names.
    make.arg("--site-dir").arg(&site).env("FURLONG_SITE_SOURCE", &source);
    // The message is about versions to come, and no finding about these documents.
    check(make.env("NO_MKDOCS_2_WARNING", "1"))?;
    check(&mut workspace.cargo("doc --workspace --no-deps --locked"))?;
    copy(&workspace.target().join("doc"), &site.join("rust"))?;
    check_site(&site)?;
    println!("{}", site.join("index.html").display());
    Ok(())
}

/// Copies a file, or a folder with all that is in it.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    let why = || format!("cannot copy {}", from.display());
    if !from.is_dir() {
        fs::create_dir_all(to.parent().with_context(why)?).with_context(why)?;
        return fs::copy(from, to).map(drop).with_context(why);
    }
    for entry in fs::read_dir(from).with_context(why)? {
        let entry = entry.with_context(why)?;
        copy(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

/// Checks all pages but cargo's, which `cargo doc` checks: a link within the site leads to a file,
/// and what a page loads is in the site.
fn check_site(site: &Path) -> anyhow::Result<()> {
    let pages = pages(site)?;
    ensure!(pages.len() > 20, "there are only {} pages in {}", pages.len(), site.display());
    let mut wrong = BTreeSet::new();
    for page in &pages {
        let text =
            fs::read_to_string(page).with_context(|| format!("cannot read {}", page.display()))?;
        let shown = page.strip_prefix(site).unwrap_or(page).display();
        for load in loads(&text).filter(|load| is_elsewhere(load)) {
            wrong.insert(format!("{shown} loads {load}"));
        }
        let folder = page.parent().context("a page is in a folder")?;
        for link in attributes(&text, "href").chain(attributes(&text, "src")) {
            if leads_nowhere(site, folder, link) {
                wrong.insert(format!("{shown} links to {link}, which is not there"));
            }
        }
    }
    if wrong.is_empty() {
        println!("{} pages, and all their links lead somewhere", pages.len());
        return Ok(());
    }
    bail!("{}", wrong.into_iter().collect::<Vec<_>>().join("\n"))
}

fn pages(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).context("the site is not there")?.flatten() {
        let path = entry.path();
        if path.is_dir() && entry.file_name() != "rust" {
            found.extend(pages(&path)?);
        } else if path.extension().is_some_and(|it| it == "html") {
            found.push(path);
        }
    }
    Ok(found)
}

/// Returns true for a link within the site to no file of it.
fn leads_nowhere(site: &Path, folder: &Path, link: &str) -> bool {
    let path = link.split(['#', '?']).next().unwrap_or_default();
    if path.is_empty() || is_elsewhere(link) {
        return false;
    }
    let target = match path.strip_prefix('/') {
        Some(path) => site.join(path),
        None => folder.join(path),
    };
    !target.exists()
}

/// Returns true for an address with a scheme or a host of its own.
fn is_elsewhere(link: &str) -> bool {
    let scheme = link.split(['/', '?', '#']).next().unwrap_or_default();
    link.starts_with("//") || scheme.contains(':')
}

/// The addresses of what a browser fetches to show the page: scripts, pictures, style sheets.
fn loads(text: &str) -> impl Iterator<Item = &str> {
    let sheets = text.split("<link").skip(1).filter_map(|rest| {
        let tag = rest.split('>').next()?;
        let is_loaded = ["stylesheet", "preload", "icon"].iter().any(|word| tag.contains(word));
        if is_loaded { attributes(tag, "href").next() } else { None }
    });
    sheets.chain(attributes(text, "src").filter(|address| !address.starts_with("data:")))
}

/// The values of an attribute, as the tools write them: in double quotes.
fn attributes<'a>(text: &'a str, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
    let mark = format!(" {name}=\"");
    let ends: Vec<usize> = text.match_indices(&mark).map(|(at, _)| at + mark.len()).collect();
    ends.into_iter().filter_map(|at| text[at..].split('"').next())
}

/// What the site is made of, and what its pages link to.
const PARTS: &[&str] = &[
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "docs",
    "engine/examples",
    "examples",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_page_loads_from_elsewhere_is_found() {
        let page = "<link rel=\"canonical\" href=\"https://a.example/\">\
                    <link href=\"https://b.example/a.css\" rel=\"stylesheet\">\
                    <script src=\"//c.example/a.js\"></script><img src=\"data:image/png;base64,\">\
                    <img src=\"a.png\"><a href=\"https://d.example\">d</a>";
        let found: Vec<&str> = loads(page).filter(|load| is_elsewhere(load)).collect();
        assert_eq!(found, ["https://b.example/a.css", "//c.example/a.js"]);
    }

    #[test]
    fn every_page_of_the_guide_is_in_the_navigation() {
        let root = Workspace::find().unwrap().root().to_owned();
        let config = fs::read_to_string(root.join("docs/site/mkdocs.yml")).unwrap();
        let nav = &config[config.find("\nnav:").unwrap()..];
        let pages: Vec<_> = fs::read_dir(root.join("docs/guide")).unwrap().flatten().collect();
        assert!(pages.len() > 20);
        for page in pages {
            let name = format!("docs/guide/{}", page.file_name().to_string_lossy());
            assert!(nav.contains(&name), "{name} is in no part of the navigation");
        }
    }

    #[test]
    fn a_link_within_the_site_leads_to_a_file() {
        let root = Workspace::find().unwrap().root().to_owned();
        let nowhere = |link: &str| leads_nowhere(&root, &root.join("docs"), link);
        assert!(nowhere("missing.md") && nowhere("../missing.md#a") && nowhere("/missing"));
        for link in ["SECURITY.md", "../README.md#a", "/README.md", "#a", "mailto:a@b", "//a/b"] {
            assert!(!nowhere(link), "{link}");
        }
    }
}
