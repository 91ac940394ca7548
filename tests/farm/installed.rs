//! The command as an installation has it: one program by three names, manual pages, completions.

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::process::Command;

use furlong_tests::command::furlong;
use furlong_tests::home::Home;
use furlong_tests::program::binary;

#[test]
fn a_link_to_the_program_is_the_command_of_its_name() {
    let home = Home::new();
    let help = |name: &str| {
        let link = home.path().join(name);
        symlink(binary("furlong"), &link).unwrap();
        let output = Command::new(&link).arg("--help").output().unwrap();
        assert!(output.status.success(), "{name}");
        String::from_utf8(output.stdout).unwrap()
    };
    for name in ["broker", "engine"] {
        assert_eq!(help(name), furlong(&[name, "--help"], &home).ok() + "\n");
    }
    assert_eq!(help("furlong-of-today"), furlong(&["--help"], &home).ok() + "\n");
}

#[test]
fn every_command_has_a_manual_page() {
    let home = Home::new();
    let folder = home.path().join("share/man1");
    furlong(&["man", folder.to_str().unwrap()], &home).ok();
    let entries = std::fs::read_dir(&folder).unwrap();
    let pages: BTreeSet<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let help = furlong(&["--help"], &home).ok();
    let commands = help.split("Commands:\n").nth(1).unwrap().lines();
    let names =
        commands.take_while(|line| !line.is_empty()).filter(|line| !line.starts_with("   "));
    for name in names.filter_map(|line| line.split_whitespace().next()) {
        assert!(
            name == "help" || pages.contains(&format!("furlong-{name}.1")),
            "{name}: {pages:?}"
        );
    }
    assert!(pages.contains("furlong.1") && pages.contains("furlong-cluster-start.1"));
    let map = std::fs::read_to_string(folder.join("furlong-map.1")).unwrap();
    assert!(map.starts_with(".ie") || map.starts_with(".TH"), "{map}");
    assert!(map.contains("Call a Python function for each item"), "{map}");
}

#[test]
fn manual_pages_that_cannot_be_written_are_an_error_of_one_line() {
    let home = Home::new();
    let output = furlong(&["man", "/dev/null/pages"], &home);
    assert_eq!(output.code, Some(1));
    assert!(output.stderr.contains("cannot write manual pages to /dev/null/pages"));
    assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);
}
