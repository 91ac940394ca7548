//! What is refused, and how that is said.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use rustix::io::Errno;

use super::*;

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// A folder with a good private file in it, and the file's path.
fn private_file() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.cap.json");
    write_private(&path, b"secret").unwrap();
    (folder, path)
}

fn refusal(path: &Path) -> String {
    let line = read_private(path, 100).unwrap_err().to_string();
    assert!(!line.contains('\n'));
    line
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn a_private_file_reads_back_and_is_replaced_whole() {
    let (folder, path) = private_file();
    assert_eq!(*read_private(&path, 6).unwrap(), "secret");
    assert_eq!(mode(&path), 0o600);
    write_private(&path, b"").unwrap();
    assert_eq!(*read_private(&path, 0).unwrap(), "");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file stays");
}

#[test]
fn a_new_file_replaces_nothing() {
    let (folder, path) = private_file();
    symlink("nowhere", folder.path().join("link")).unwrap();
    for taken in [path.clone(), folder.path().join("link"), folder.path().to_owned()] {
        let refusal = create_private(&taken, b"new").unwrap_err().to_string();
        assert_eq!(
            refusal,
            format!("{}: it is there already; remove it, or choose another name", taken.display())
        );
    }
    assert_eq!(*read_private(&path, 100).unwrap(), "secret");
    let fresh = folder.path().join("fresh");
    create_private(&fresh, b"new").unwrap();
    assert_eq!((mode(&fresh), &**read_private(&fresh, 100).unwrap()), (0o600, "new"));
    assert!(matches!(
        create_private(&path.join("below"), b"").unwrap_err().problem,
        FileProblem::NotAFolder
    ));
}

#[test]
fn writing_replaces_a_link_and_mends_permissions_instead_of_following_them() {
    let (folder, path) = private_file();
    let victim = folder.path().join("victim");
    fs::rename(&path, &victim).unwrap();
    symlink(&victim, &path).unwrap();
    write_private(&path, b"new").unwrap();
    assert_eq!(fs::read(&victim).unwrap(), b"secret");
    chmod(&path, 0o666);
    write_private(&path, b"newer").unwrap();
    assert_eq!(*read_private(&path, 100).unwrap(), "newer");
}

#[test]
fn permissions_for_others_are_refused_with_the_command_that_mends_them() {
    let (_folder, path) = private_file();
    for open in [0o644, 0o640, 0o620, 0o610, 0o604, 0o602, 0o601, 0o660, 0o777] {
        chmod(&path, open);
        let path_shown = path.display();
        assert_eq!(
            refusal(&path),
            format!(
                "{path_shown}: it holds a secret, and its permissions {open:04o} let others have it; \
                 mend it with: chmod 600 {path_shown}"
            )
        );
    }
    for private in [0o600, 0o400, 0o700] {
        chmod(&path, private);
        read_private(&path, 100).unwrap();
    }
}

#[test]
fn what_is_not_one_regular_file_is_refused() {
    let (folder, path) = private_file();
    let at = |name: &str| folder.path().join(name);
    symlink(&path, at("symlink")).unwrap();
    symlink(at("nowhere"), at("dangling")).unwrap();
    fs::create_dir(at("folder")).unwrap();
    rustix::fs::mknodat(CWD, at("fifo"), rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
    let _socket = UnixListener::bind(at("socket")).unwrap();
    let cases = [
        ("symlink", "it is a symbolic link; name the file itself"),
        ("dangling", "it is a symbolic link; name the file itself"),
        ("folder", "it is a folder, not a file"),
        ("fifo", "it is a named pipe, not a file"),
        ("socket", "it is not a regular file"),
        ("missing", "there is no such file"),
        ("missing/file", "there is no such file"),
        ("x.cap.json/file", "it is not a folder"),
        ("..", "it is a folder, not a file"),
    ];
    for (name, expected) in cases {
        let refusal = refusal(&at(name));
        assert!(refusal.ends_with(expected), "{name}: {refusal}");
    }
    assert!(refusal(Path::new("/dev/null")).ends_with("it is not a regular file"));
}

#[test]
fn a_file_to_write_to_is_made_private_and_is_no_link_and_no_pipe() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    assert!(matches!(open_own_if_there(&at("lock")).unwrap_err().problem, FileProblem::Missing));
    open_own(&at("lock")).unwrap();
    append_own(&at("log")).unwrap().write_all(b"one ").unwrap();
    append_own(&at("log")).unwrap().write_all(b"two").unwrap();
    assert_eq!((mode(&at("lock")), mode(&at("log"))), (0o600, 0o600));
    assert_eq!(fs::read(at("log")).unwrap(), b"one two");
    symlink(at("log"), at("symlink")).unwrap();
    rustix::fs::mknodat(CWD, at("fifo"), rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
        .unwrap();
    fs::create_dir(at("folder")).unwrap();
    let cases = [
        ("symlink", "it is a symbolic link; name the file itself"),
        ("fifo", "it is a named pipe, not a file"),
        ("folder", "it is a folder, not a file"),
    ];
    for (name, expected) in cases {
        for open in [open_own, open_own_if_there, append_own] {
            let refusal = open(&at(name)).unwrap_err().to_string();
            assert!(refusal.ends_with(expected), "{name}: {refusal}");
        }
    }
    // Also if somebody reads from it.
    let _reader =
        openat(CWD, at("fifo"), OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).unwrap();
    assert!(matches!(open_own(&at("fifo")).unwrap_err().problem, FileProblem::Fifo));
}

#[test]
fn a_hard_link_is_refused_until_it_is_gone() {
    let (folder, path) = private_file();
    let other = folder.path().join("other");
    fs::hard_link(&path, &other).unwrap();
    assert!(refusal(&path).ends_with("it has 2 names (hard links), and a private file has one"));
    fs::remove_file(other).unwrap();
    read_private(&path, 100).unwrap();
}

#[test]
fn a_big_file_is_refused_unread_and_binary_is_no_text() {
    let (_folder, path) = private_file();
    File::options().write(true).open(&path).unwrap().set_len(1 << 30).unwrap();
    assert!(
        refusal(&path)
            .ends_with("it has 1073741824 bytes, more than the 100 that such a file can have")
    );
    write_private(&path, &[0xff]).unwrap();
    assert!(refusal(&path).ends_with("it is not UTF-8 text"));
}

#[test]
fn a_file_that_changes_while_it_is_read_is_refused() {
    let (_folder, path) = private_file();
    for wrong_size in [5, 7] {
        let read = read_text(File::open(&path).unwrap(), wrong_size);
        assert!(matches!(read, Err(FileProblem::Changed)), "{read:?}");
    }
}

#[test]
fn a_folder_in_which_anybody_can_replace_the_file_is_refused() {
    let (folder, path) = private_file();
    chmod(folder.path(), 0o777);
    let folder_shown = folder.path().display();
    let expected = format!(
        "{folder_shown}: its permissions 0777 let others replace the files in it; mend it with: chmod o-w {folder_shown}"
    );
    assert_eq!(refusal(&path), expected);
    assert_eq!(write_private(&path, b"new").unwrap_err().to_string(), expected);
    chmod(folder.path(), 0o1777);
    read_private(&path, 100).unwrap();
}

#[test]
fn another_users_file_is_refused() {
    let (_folder, path) = private_file();
    // Only root can give a file away; for anybody else there is nothing to try.
    if std::os::unix::fs::chown(&path, Some(12_345), None).is_ok() {
        assert!(refusal(&path).contains("it belongs to user 12345, and this program runs as user"));
    }
}

#[test]
fn what_the_system_denies_is_said_plainly() {
    // By its number, because root is denied nothing.
    assert_eq!(FileProblem::from(Errno::ACCESS).to_string(), "permission denied");
}

#[test]
fn a_private_folder_is_made_private_and_kept_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a/b");
    ensure_private_dir(&path).unwrap();
    ensure_private_dir(&path).unwrap();
    assert_eq!((mode(&path), mode(&folder.path().join("a"))), (0o700, 0o700));
    for writable in [0o770, 0o702, 0o1777] {
        chmod(&path, writable);
        let refusal = ensure_private_dir(&path).unwrap_err().to_string();
        assert!(
            refusal.ends_with(&format!("mend it with: chmod 700 {}", path.display())),
            "{refusal}"
        );
    }
    chmod(&path, 0o755);
    ensure_private_dir(&path).unwrap();

    let link = folder.path().join("link");
    symlink(&path, &link).unwrap();
    assert!(matches!(ensure_private_dir(&link).unwrap_err().problem, FileProblem::NotAFolder));
    fs::write(folder.path().join("file"), "").unwrap();
    let file = ensure_private_dir(&folder.path().join("file")).unwrap_err();
    assert!(matches!(file.problem, FileProblem::NotAFolder), "{file}");
}

#[test]
fn commands_quote_paths_as_a_shell_needs_it() {
    assert_eq!(quoted(Path::new("/h/a/x.cap.json")), "/h/a/x.cap.json");
    assert_eq!(quoted(Path::new("/my files/it's")), r"'/my files/it'\''s'");
}
