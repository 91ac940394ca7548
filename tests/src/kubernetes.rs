//! A Kubernetes of a test's own: an API server that is played on loopback, whose pods are processes
//! of this machine. The real `kubectl` talks to it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

/// The server, which ends when it is dropped, with its pods.
#[derive(Debug)]
pub struct Kubernetes {
    folder: TempDir,
    server: Child,
}

const SERVER: &str = include_str!("kubernetes.py");

impl Kubernetes {
    /// Starts one; none where there is no `kubectl`.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn start() -> Option<Self> {
        let has_kubectl = Command::new("kubectl").args(["version", "--client"]).output();
        if !has_kubectl.is_ok_and(|output| output.status.success()) {
            println!("left out: there is no `kubectl`");
            return None;
        }
        let folder = tempfile::tempdir().expect("there is a folder for temporary files");
        let pods = folder.path().join("pods");
        fs::create_dir(&pods).expect("a new folder can be written to");
        let python = std::env::var_os("FURLONG_TEST_PYTHON").unwrap_or_else(|| "python3".into());
        let mut server = Command::new(python)
            .args(["-c", SERVER])
            .arg(&pods)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("Python runs");
        let mut url = String::new();
        let output = server.stdout.take().expect("its output is a pipe");
        BufReader::new(output).read_line(&mut url).expect("it says where it listens");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "here",
            "contexts": [{
                "name": "here",
                "context": { "cluster": "c", "user": "u", "namespace": "team" },
            }],
            "clusters": [{ "name": "c", "cluster": { "server": url.trim() } }],
            "users": [{ "name": "u", "user": {} }],
        });
        let it = Self { folder, server };
        fs::write(it.config(), config.to_string()).expect("a new folder can be written to");
        Some(it)
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("config")
    }

    /// The variables by which `kubectl` finds it.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let home = self.folder.path().display().to_string();
        vec![("KUBECONFIG", self.config().display().to_string()), ("HOME", home)]
    }

    /// Sets one of its settings, or takes it away.
    ///
    /// # Panics
    /// If its folder is gone.
    pub fn set(&self, name: &str, value: Option<&str>) {
        let path = self.folder.path().join("pods").join(name);
        match value {
            Some(value) => fs::write(path, value).expect("the folder is ours"),
            // One that was not set is what is wanted.
            None => drop(fs::remove_file(path)),
        }
    }

    /// Runs `kubectl`, and gives what it prints.
    ///
    /// # Panics
    /// If it fails.
    pub fn run(&self, args: &[&str]) -> String {
        let output = Command::new("kubectl").args(args).envs(self.variables()).output();
        let output = output.expect("it was there before");
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The names of all objects of a kind.
    ///
    /// # Panics
    /// If they cannot be had.
    pub fn names(&self, kind: &str) -> Vec<String> {
        let said = self.run(&["get", kind, "-o", "json"]);
        let list: Value = serde_json::from_str(&said).expect("it prints JSON");
        let items = list["items"].as_array().expect("it is a list").iter();
        items.filter_map(|item| Some(item["metadata"]["name"].as_str()?.to_owned())).collect()
    }
}

impl Drop for Kubernetes {
    fn drop(&mut self) {
        // Its end of input is the server's end, and that of its pods.
        drop(self.server.stdin.take());
        let _ = self.server.wait();
    }
}
