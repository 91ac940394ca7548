//! Style as a test: what `docs/ARCHITECTURE.md` and the review habits of this project ask of every
//! file.
//!
//! Each rule is a function from the tree of files to a list of `file:line: what is wrong; how to
//! mend it`. Here each is run over the repository under its own name; beside each rule is a test
//! that shows it a bad sample.

mod modules;
mod rules;
mod source;
mod tree;

use std::sync::OnceLock;

use crate::rules::{
    layers, leftovers, links, manifests, packages, printing, size, structure, text, words,
};
use crate::tree::Tree;

/// Runs the rule over the repository and fails with all that it found.
fn holds(rule: fn(&Tree) -> Vec<String>) {
    static REPOSITORY: OnceLock<Tree> = OnceLock::new();
    let found = rule(REPOSITORY.get_or_init(Tree::of_repository));
    assert!(found.is_empty(), "{} to mend:\n{}\n", found.len(), found.join("\n"));
}

#[test]
fn files_are_short() {
    holds(size::files_are_short);
}

#[test]
fn functions_are_short() {
    holds(size::functions_are_short);
}

#[test]
fn lines_are_short() {
    holds(size::lines_are_short);
}

#[test]
fn files_know_each_other_in_one_direction() {
    holds(structure::files_know_each_other_in_one_direction);
}

#[test]
fn folders_are_small() {
    holds(structure::folders_are_small);
}

#[test]
fn packages_import_downward() {
    holds(packages::packages_import_downward);
}

#[test]
fn packages_are_small() {
    holds(packages::packages_are_small);
}

#[test]
fn types_have_few_fields() {
    holds(structure::types_have_few_fields);
}

#[test]
fn nothing_is_left_over() {
    holds(leftovers::nothing_is_left_over);
}

#[test]
fn unwrap_is_for_tests() {
    holds(leftovers::unwrap_is_for_tests);
}

#[test]
fn expect_says_why() {
    holds(leftovers::expect_says_why);
}

#[test]
fn cores_do_no_io() {
    holds(layers::cores_do_no_io);
}

#[test]
fn unsafe_code_is_listed() {
    holds(layers::unsafe_code_is_listed);
}

#[test]
fn every_file_is_a_module() {
    holds(modules::every_file_is_a_module);
}

#[test]
fn crates_use_the_workspace_lints() {
    holds(manifests::crates_use_the_workspace_lints);
}

#[test]
fn the_command_prints_in_one_place() {
    holds(printing::the_command_prints_in_one_place);
}

#[test]
fn no_machine_is_named() {
    holds(text::no_machine_is_named);
}

#[test]
fn whitespace_is_clean() {
    holds(text::whitespace_is_clean);
}

#[test]
fn links_lead_somewhere() {
    holds(links::links_lead_somewhere);
}

#[test]
fn named_files_are_there() {
    holds(links::named_files_are_there);
}

#[test]
fn no_word_is_private() {
    holds(words::no_word_is_private);
}

#[test]
fn doc_lines_begin_with_a_noun_or_a_verb() {
    holds(words::doc_lines_begin_with_a_noun_or_a_verb);
}

#[test]
fn docstrings_begin_with_a_noun_or_a_verb() {
    holds(words::docstrings_begin_with_a_noun_or_a_verb);
}

#[test]
fn questions_change_nothing() {
    holds(words::questions_change_nothing);
}

#[test]
fn options_are_no_loops() {
    holds(words::options_are_no_loops);
}

#[test]
fn architecture_is_complete() {
    holds(words::architecture_is_complete);
}
