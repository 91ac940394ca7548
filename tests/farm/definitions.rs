//! Pools that are defined by name in `pools.toml`, by an administrator and by the user.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use furlong_tests::command::wait_for_engines;
use furlong_tests::site::Site;
use serde_json::{Value, json};

const GPU: &str = r#"
[gpu]
on = "slurm"
n = "0..8"
per-job = 2
walltime = "2h"
setup = ["module load cuda", "ulimit -c 0"]
label = "kind=gpu"
args = ["--partition=gpu"]
"#;

/// A site without a scheduler, but with one that takes everything.
fn site() -> Site {
    let site = Site::alone();
    site.fake("sbatch", "echo 'sbatch: Job 7 to start' >&2");
    site
}

/// Writes a file that only its owner can change, whatever the umask.
fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    set_mode(path, 0o644);
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn user_file(site: &Site) -> PathBuf {
    site.home.path().join("pools.toml")
}

#[track_caller]
fn assert_has(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "{part}\nis not in\n{said}");
    }
}

#[test]
fn flags_go_before_the_users_file_and_that_before_the_sites() {
    let site = site();
    write(&site.home.site_pools(), GPU);
    let start = ["cluster", "start", "--on", "gpu", "--dry-run"];
    let said = site.run(&start).ok();
    let parts = [
        "#SBATCH --job-name=furlong-default-NEW-gpu\n",
        "#SBATCH --array=1-4\n",
        "#SBATCH --time=120\n",
        "\nmodule load cuda\nulimit -c 0\nexec ",
        " --label=kind=gpu --label=pool=gpu ",
        "# sbatch --parsable --partition=gpu < ",
    ];
    assert_has(&said, &parts);
    let flags = ["-n", "2", "--walltime", "30m", "--", "--gres=gpu:1"];
    let said = site.run(&[&start[..], &flags].concat()).ok();
    assert_has(&said, &["--array=1-1\n", "--time=30\n", "--partition=gpu --gres=gpu:1 < "]);
    for add in [&["pool", "add", "mine", "--on", "gpu"][..], &["pool", "add", "gpu"]] {
        let said = site.run(&[add, &["--dry-run"]].concat()).ok();
        assert_has(&said, &[&format!("-NEW-{}\n", add[2]), "#SBATCH --time=120\n"]);
    }
    write(&user_file(&site), "[gpu]\non = \"slurm\"\nn = 3\nwalltime = \"3h\"\n");
    let said = site.run(&start).ok();
    assert_has(&said, &["--array=1-3\n", "--time=180\n", "# sbatch --parsable < "]);
    assert!(!site.home.cluster().path().exists(), "a folder is left");
    assert!(site.run(&["cluster", "list"]).ok().starts_with("no clusters in "));
}

#[test]
fn a_definition_may_have_the_name_of_its_system() {
    let site = site();
    write(&site.home.site_pools(), "[slurm]\non = \"slurm\"\nargs = [\"--account=lab\"]\n");
    let said = site.run(&["cluster", "start", "--on", "slurm", "-n", "1", "--dry-run"]).ok();
    assert_has(&said, &["--parsable --account=lab < "]);
}

#[test]
fn definitions_are_listed_with_their_files() {
    let site = site();
    let said = site.run(&["pool", "definitions"]).ok();
    let (user, admins) = (user_file(&site), site.home.site_pools());
    let none = "no pool is defined; `[NAME]` and its flags define one, in ";
    assert_eq!(said, format!("{none}{} or {}", user.display(), admins.display()));
    assert_eq!(site.run(&["pool", "definitions", "--json"]).ok(), "[]");
    let limits = "[limits]\nmax-engines = 64\nmax-walltime = \"12h\"\n";
    write(&admins, &format!("{limits}{GPU}\n[lab]\non = \"lsf\"\n"));
    write(&user, "[gpu]\non = \"sge\"\nn = 3\n");
    let said = site.run(&["pool", "definitions"]).ok();
    let lines: Vec<Vec<&str>> =
        said.lines().map(|line| line.split_whitespace().collect()).collect();
    let (user, admins) = (user.to_str().unwrap(), admins.to_str().unwrap());
    assert_eq!(lines[0], ["name", "system", "engines", "file"]);
    assert_eq!(lines[1], ["gpu", "sge", "3", &format!("{user},"), "before", admins]);
    assert_eq!(lines[2], ["lab", "lsf", "-", admins]);
    let bounds = format!("a pool has at most 64 engines, 12h00m a job, by {admins}");
    assert_eq!(said.lines().nth(3), Some(bounds.as_str()));
    let said = site.run(&["pool", "definitions", "--json"]).ok();
    let gpu = json!({
        "name": "gpu", "on": "sge", "file": user, "before": admins, "settings": {"n": ["3"]}
    });
    assert_eq!(serde_json::from_str::<Value>(&said).unwrap()[0], gpu);
}

#[test]
fn a_wrong_file_is_said_in_a_line_with_the_remedy() {
    let site = site();
    let admins = site.home.site_pools();
    let shown = admins.display();
    for (text, expected) in [
        ("[a]\non = \"slrum\"\n", "line 2: `on` cannot be `slrum`: there is no such system; there"),
        (
            "[a]\non = \"slurm\"\nwalltme = 3\n",
            "line 3: a pool cannot have `walltme`; the keys are",
        ),
        ("[a]\non = \"slurm\"\ncpus = \"two\"\n", "line 3: `cpus` is a whole number: cpus = 8"),
        ("[a]\non = \"slurm\"\ncpus = 0\n", "line 3: `cpus` cannot be `0`: 0 is not in 1..=1024"),
        (
            "[a]\non = \"slurm\"\nn = \"8..1\"\n",
            "line 3: `n` cannot be `8..1`: write it as a number",
        ),
        (
            "[a]\non = \"slurm\"\nwalltime = 30\n",
            "line 3: `walltime` cannot be `30`: it is at least",
        ),
        (
            "[a]\non = \"slurm\"\nhosts = \"x\"\n",
            "line 3: `hosts` cannot be `x`: hosts are for `on",
        ),
        ("[a]\non = \"slurm\"\nargs = \"-J x\"\n", "line 3: `args` cannot be `-J x`: leave `"),
        (
            "[a]\non = \"slurm\"\ntemplate = \"no\"\n",
            "line 3: `template` cannot be `no`: there is no ",
        ),
        (
            "[a]\non = \"ssh\"\nargs = [\"-v\"]\n",
            "line 3: `args` cannot be `-v`: they are for a batch",
        ),
        ("[a\n", "line 1: this is no TOML: "),
        ("n = 3\n", "line 1: `n` stands outside of a pool; write `[NAME]` on a line before it"),
        (
            "[limits]\nmax-walltime = \"2\"\n",
            "line 2: `max-walltime` cannot be `2`: it is at least",
        ),
    ] {
        write(&admins, text);
        let said = site.run(&["pool", "definitions"]).failed(1);
        assert!(said.starts_with(&format!("furlong: {shown}: {expected}")), "{said}\n{text}");
        assert_eq!(said.lines().count(), 1, "{said}");
        let start = ["cluster", "start", "--on", "a", "-n", "1", "--dry-run"];
        assert_eq!(site.run(&start).failed(1), said);
    }
    write(&admins, "[a]\non = \"ssh\"\n");
    let said = site.run(&["cluster", "start", "--on", "a"]).failed(1);
    let no_hosts = format!("furlong: pool a of {shown}: name a file of hosts with --hosts FILE");
    assert_eq!(said, no_hosts);
    let said = site.run(&["cluster", "start", "--on", "b"]).failed(1);
    assert_has(&said, &["there is no system `b`; --on takes `slurm`, ", "; defined are `a`"]);
    let user = user_file(&site);
    write(&user, "[limits]\nmax-jobs = 1000\n");
    let said = site.run(&["pool", "definitions"]).failed(1);
    assert_has(&said, &[user.to_str().unwrap(), "`[limits]` are the administrator's"]);
}

#[test]
fn a_file_that_others_can_change_is_refused() {
    let site = site();
    let admins = site.home.site_pools();
    write(&admins, "[a]\non = \"slurm\"\nn = 1\ntemplate = \"mine.sh\"\n");
    let script = admins.with_file_name("mine.sh");
    write(&script, "#SBATCH --job-name={{name}}\nexec {{engine}}\n");
    let start = ["cluster", "start", "--on", "a", "--dry-run"];
    for path in [&admins, &script] {
        for mode in [0o666, 0o664] {
            set_mode(path, mode);
            let said = site.run(&start).failed(1);
            let shown = path.display();
            let expected = format!(
                "furlong: {shown} can be written by others ({mode:04o}), who could run commands \
                 as you; `chmod go-w {shown}` mends it"
            );
            assert_eq!(said, expected);
        }
        set_mode(path, 0o644);
    }
    assert_has(&site.run(&start).ok(), &["#SBATCH --job-name=furlong-default-NEW-a\nexec "]);
    assert_has(&site.run(&["pool", "template", "a"]).ok(), &["--job-name={{name}}\nexec {{"]);
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&admins, Some(12_345), None).unwrap();
        let said = site.run(&start).failed(1);
        assert_has(&said, &["belongs to user 12345, who could run commands as you; `chown root "]);
    }
    fs::remove_file(&admins).unwrap();
    fs::create_dir(&admins).unwrap();
    let said = site.run(&start).failed(1);
    assert_has(&said, &[" is not a file; move it away"]);
}

#[test]
fn bounds_of_the_administrator_hold_for_every_pool() {
    let site = site();
    let admins = site.home.site_pools();
    let limits =
        "[limits]\nmax-engines = 8\nmax-jobs = 4\nmax-pending = 2\nmax-walltime = \"10m\"\n";
    write(&admins, limits);
    let start = ["cluster", "start", "--on", "slurm", "--dry-run"];
    let said = site.run(&[&start[..], &["-n", "8"]].concat()).ok();
    assert_has(&said, &["#SBATCH --time=10\n"]);
    for (flags, expected) in [
        (["-n", "9"], "9 engines are too many: a pool has 8 at most here, by "),
        (["--max-jobs", "5"], "5 jobs at a time are too many: a pool has 4 at most here, by "),
        (["--max-pending", "3"], "3 jobs that wait are too many: a pool has 2 at most here, by "),
        (["--walltime", "11m"], "a job may take 10m00s at most here, by "),
    ] {
        let n = if flags[0] == "-n" { &[][..] } else { &["-n", "8"] };
        let said = site.run(&[&start[..], n, &flags].concat()).failed(1);
        assert_has(
            &said,
            &[expected, admins.to_str().unwrap(), &format!("less with {}", flags[0])],
        );
    }
}

#[test]
fn a_pool_of_defined_hosts_has_engines() {
    let site = Site::on(Vec::new());
    site.fake("ssh", "while [ \"$1\" != -- ]; do shift; done\nexec sh -c \"$3\"");
    let admins = site.home.site_pools();
    write(&admins, "[limits]\nmax-engines = 3\n\n[lab]\non = \"ssh\"\nhosts = \"hosts\"\nn = 1\n");
    write(&admins.with_file_name("hosts"), "node1\nnode2\n");
    let cluster = site.start(&["lab"]);
    wait_for_engines(2, &site.home);
    let pool = site.wait_for("two engines", |pool| pool["engines"] == 2);
    assert_eq!((&pool["pool"], &pool["system"]), (&json!("lab"), &json!("ssh")));
    let said = site.run(&["pool", "scale", "lab", "4"]).failed(1);
    assert_has(&said, &["4 engines are too many: a pool has 3 at most here, by "]);
    site.run(&["pool", "scale", "lab", "1"]).ok();
    wait_for_engines(1, &site.home);
    site.run(&["cluster", "stop"]).ok();
    drop(cluster);
}
