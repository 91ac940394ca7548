//! An OpenSSH server of a test's own, on loopback: its own host key and user key, and no file of
//! the system. It is for root alone, because it logs root in.

use std::fmt::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::program::Program;
use crate::wait::{SOON, eventually};

/// A server that runs. When it is dropped, it takes no more connections.
#[derive(Debug)]
pub struct Sshd {
    _server: Program,
    folder: TempDir,
}

/// The program, which is in no `PATH`.
const SERVER: &str = "/usr/sbin/sshd";
/// The folder that it demands for the separation of its privileges.
const PRIVILEGES: &str = "/run/sshd";

impl Sshd {
    /// Starts one that is `node1` at 127.0.0.11, `node2` at 127.0.0.12, and so on. None, and a line
    /// that says so, where there is no server, or not for us: the test is left out.
    ///
    /// # Panics
    /// If it is here and does not start.
    pub fn start(nodes: u8) -> Option<Self> {
        if !Path::new(SERVER).is_file() || !rustix::process::geteuid().is_root() {
            println!("skipped: there is no `{SERVER}` here, or not for us");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(PRIVILEGES).unwrap();
        let [host_key, user_key] =
            ["host_key", "user_key"].map(|name| make_key(folder.path(), name));
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let mut server = format!(
            "Port {port}\nHostKey {}\nPidFile none\nAuthorizedKeysFile {}\nStrictModes no\n\
             UsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
             PermitRootLogin prohibit-password\nMaxStartups 100\n",
            at("host_key"),
            at("user_key.pub"),
        );
        let (mut client, mut known) = (String::new(), String::new());
        for node in 1..=nodes {
            let address = format!("127.0.0.{}", 10 + node);
            writeln!(server, "ListenAddress {address}").unwrap();
            writeln!(client, "Host node{node}\n  HostName {address}").unwrap();
            writeln!(known, "[{address}]:{port} {host_key}").unwrap();
        }
        writeln!(
            client,
            "Host *\n  Port {port}\n  User root\n  IdentityFile {}\n  IdentitiesOnly yes\n  \
             UserKnownHostsFile {}\n  StrictHostKeyChecking yes",
            at("user_key"),
            at("known_hosts"),
        )
        .unwrap();
        assert!(user_key.starts_with("ssh-ed25519 "), "{user_key}");
        for (name, text) in [("server", server), ("client", client), ("known_hosts", known)] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let mut command = Command::new(SERVER);
        command.args(["-D", "-e", "-f", &at("server")]);
        let server = Program::spawn("sshd", command);
        let is_there = || server.stderr().contains("Server listening on 127.0.0.11");
        assert!(eventually(SOON, is_there), "{}", server.stderr());
        Some(Self { _server: server, folder })
    }

    /// The words that a shell runs in place of `ssh`, which knows the server's names and keys.
    pub fn client(&self) -> String {
        let config: PathBuf = self.folder.path().join("client");
        format!("/usr/bin/ssh -F {}", config.display())
    }
}

/// Makes a key, and gives its public half without the comment.
fn make_key(folder: &Path, name: &str) -> String {
    let path = folder.join(name);
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f"])
        .arg(&path)
        .stdin(Stdio::null())
        .status();
    assert!(made.is_ok_and(|status| status.success()), "ssh-keygen makes no key");
    let text = std::fs::read_to_string(path.with_extension("pub")).unwrap();
    text.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}
