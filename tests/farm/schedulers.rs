//! Pools of engines on batch systems other than Slurm: on a real Grid Engine, and on a PBS, an LSF
//! and an `HTCondor` that are played.

use std::fs;
use std::process::Command;

use furlong_tests::command::{touch, wait_for_engines};
use furlong_tests::program::Program;
use furlong_tests::sge::GridEngine;
use furlong_tests::site::{JOBS, Site};
use furlong_tests::wait::{SOON, eventually};
use rustix::process::{Signal, kill_process};
use serde_json::Value;

/// A site whose commands of these names are this script, which runs in their folder.
fn of_fakes(names: &[&str], script: &str) -> Site {
    let site = Site::on(Vec::new());
    let script = format!("cd '{}' || exit\n{script}", site.fakes.display());
    names.iter().for_each(|name| site.fake(name, &script));
    site
}

#[test]
fn grid_engine_is_asked_before_anything_is_left() {
    let Some(engine) = GridEngine::start(2) else { return };
    let site = Site::on(engine.variables());
    let dry = ["cluster", "start", "--on", "sge", "-n", "4", "--walltime", "2h", "--dry-run"];
    let said = site.run(&dry).ok();
    for part in ["#$ -t 1-4\n", "#$ -l h_rt=7200\n", "found suitable queue(s)"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let said = site.run(&[&dry[..], &["--", "-q", "nope"]].concat()).failed(1);
    assert!(said.contains("job requests unknown queue \"nope\"; `qconf -sql` lists"), "{said}");
    let said = site.run(&[&dry[..], &["--", "-N", "mine"]].concat()).failed(1);
    assert!(said.contains("leave `-N` out of the arguments for `qsub`"), "{said}");
    assert_eq!(engine.queue(), Vec::<String>::new());
    assert!(!site.home.cluster().path().exists(), "a folder is left");
}

#[test]
fn engines_in_grid_engine_jobs_are_scaled_and_kill_no_work() {
    let Some(engine) = GridEngine::start(3) else { return };
    let site = Site::on(engine.variables());
    let mut cluster = site.start(&["sge", "-n", "4"]);
    // Of four jobs three run, and one waits.
    wait_for_engines(3, &site.home);
    site.wait_for("one that waits", |pool| {
        let jobs = pool["jobs"].as_array().unwrap();
        let waiting = jobs.iter().filter(|job| job["state"] == "pending").count();
        pool["engines"] == 3 && jobs.len() == 4 && waiting == 1
    });
    let gate = site.home.path().join("gate");
    let wait = format!("until [ -e {} ]; do sleep 0.1; done; echo done", gate.display());
    let args = ["submit", "--array", "1-3", "--retries", "0", "--wait", "--", "sh", "-c", &wait];
    let mut tasks = Program::spawn("furlong", site.command(&args));
    let has_all = || {
        let status: Value = serde_json::from_str(&site.run(&["status", "--json"]).ok()).unwrap();
        status["tasks"]["assigned"] == 3
    };
    assert!(eventually(SOON, has_all));
    site.run(&["pool", "scale", "sge", "1"]).ok();
    site.wait_for("two jobs that drain, and none that waits", |pool| {
        let jobs = pool["jobs"].as_array().unwrap();
        jobs.iter().filter(|job| job["state"] == "drains").count() == 2 && jobs.len() == 3
    });
    assert_eq!(engine.queue().len(), 3, "{:?}", engine.queue());
    touch(&gate);
    assert_eq!(tasks.wait_exit(SOON).code(), Some(0), "{}", tasks.stderr());
    assert_eq!(tasks.stdout(), "done\n".repeat(3).trim_end());
    assert!(eventually(JOBS, || engine.queue().len() == 1), "{:?}", engine.queue());
    cluster.terminate();
    cluster.wait_exit(JOBS);
    assert_eq!(engine.queue(), Vec::<String>::new(), "the jobs end with the cluster");
}

#[test]
fn the_task_of_a_cancelled_grid_engine_job_runs_again() {
    let Some(engine) = GridEngine::start(1) else { return };
    let site = Site::on(engine.variables());
    let _cluster = site.start(&["sge", "-n", "1"]);
    wait_for_engines(1, &site.home);
    let at = |name: &str| site.home.path().join(name);
    let (began, gate) = (at("began"), at("gate"));
    let work = format!(
        "touch {}; until [ -e {} ]; do sleep 0.1; done; echo done",
        began.display(),
        gate.display()
    );
    let args = ["submit", "--wait", "--", "sh", "-c", &work];
    let mut task = Program::spawn("furlong", site.command(&args));
    assert!(eventually(SOON, || began.exists()));
    let before = site.wait_for("a job", |pool| pool["engines"] == 1)["jobs"][0]["job"].clone();
    engine.run("qdel", &[before.as_str().unwrap()]).ok();
    site.wait_for("another job", |pool| {
        pool["engines"] == 1
            && pool["jobs"].as_array().unwrap().iter().any(|it| it["job"] != before)
    });
    touch(&gate);
    assert_eq!(task.wait_exit(JOBS).code(), Some(0), "{}", task.stderr());
    assert_eq!(task.stdout(), "done");
}

#[test]
fn cluster_stop_finds_grid_engine_orphans_by_name() {
    let Some(engine) = GridEngine::start(3) else { return };
    let site = Site::on(engine.variables());
    let mut cluster = site.start(&["sge", "-n", "3"]);
    wait_for_engines(3, &site.home);
    cluster.kill();
    // One that has ended meanwhile is what is wanted.
    let _ = kill_process(site.keeper().unwrap(), Signal::KILL);
    // Not even the pool is known any more.
    fs::remove_dir_all(site.home.cluster().path().join("pools")).unwrap();
    assert_eq!(engine.queue().len(), 3);
    let said = site.run(&["cluster", "stop"]).ok();
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].starts_with("3 jobs have ended, nothing is left: "), "{said}");
    // A Slurm that is here too was never used, and is not asked.
    assert_eq!(lines[1..], ["cluster default is stopped"], "{said}");
    assert_eq!(engine.queue(), Vec::<String>::new());
}

#[test]
fn a_bad_script_on_grid_engine_does_not_flood() {
    let Some(engine) = GridEngine::start(4) else { return };
    let site = Site::on(engine.variables());
    let _cluster = site.start(&["sge", "-n", "16", "--python", "/no/python"]);
    let pool = site.wait_for("a reason", |pool| pool["paused"].is_string());
    let paused = pool["paused"].as_str().unwrap();
    assert!(
        paused.contains("jobs in a row ended without an engine: /no/python is not"),
        "{paused}"
    );
    assert_eq!(engine.queue(), Vec::<String>::new());
}

/// A PBS of one folder: `qsub` starts the script as a job, `qstat` lists jobs whose processes live,
/// `qdel` ends them. What it prints is what PBS Professional prints.
const PBS: &str = r#"
case ${0##*/} in
qsub)
    number=$(($(cat number 2> /dev/null || echo 100) + 1)); echo $number > number
    cat > $number.script
    sed -n 's/^#PBS -N //p' $number.script > $number.name
    PBS_JOBID=$number.pbs01 PBS_O_WORKDIR=$OLDPWD setsid bash $number.script > /dev/null 2>&1 &
    echo $! > $number.pid
    echo 'Our new queue is twice as fast!'; echo $number.pbs01 ;;
qstat)
    for pid in *.pid; do
        kill -0 "$(cat "$pid" 2> /dev/null)" 2> /dev/null || continue
        printf 'Job Id: %s.pbs01\n    Job_Name = %s\n' "${pid%.pid}" "$(cat "${pid%.pid}.name")"
        printf '    job_state = R\n    exec_host = n1/0\n    Variable_List = PBS_O_HOME=/root,\n'
        printf '\tPBS_O_PATH = /bin\n\n'
    done ;;
qdel) for id; do kill -- "-$(cat "$id.pid")"; done ;;
esac"#;

#[test]
fn engines_in_pbs_jobs_come_and_leave_nothing() {
    let site = of_fakes(&["qsub", "qstat", "qdel", "pbsnodes"], PBS);
    let said = site.run(&["cluster", "start", "--on", "pbs", "-n", "2", "--dry-run"]).ok();
    assert!(said.contains("#PBS -l walltime=1:00:00\n"), "{said}");
    assert!(said.contains("PBS cannot be asked if it would take this"), "{said}");
    let mut cluster = site.start(&["pbs", "-n", "3"]);
    wait_for_engines(3, &site.home);
    let pool = site.wait_for("three engines", |pool| pool["engines"] == 3);
    let job = pool["jobs"][0]["job"].as_str().unwrap();
    assert_eq!((job, pool["jobs"].as_array().unwrap().len()), ("101", 3));
    assert_eq!(site.run(&["submit", "--wait", "--", "echo", "hello"]).ok(), "hello");
    site.run(&["pool", "log", job]).ok();
    cluster.terminate();
    cluster.wait_exit(JOBS);
    let left = site.home.path().join("fakes");
    let listed = Command::new(left.join("qstat")).output().unwrap();
    assert!(listed.stdout.is_empty(), "{listed:?}");
}

#[test]
fn a_pbs_that_answers_garbage_is_said_in_a_line() {
    let script = "case ${0##*/} in qstat) [ ! -e mad ] || echo 'Welcome to -f 12';; esac";
    let site = of_fakes(&["qsub", "qstat", "qdel"], script);
    let _cluster = site.start(&["pbs", "-n", "2"]);
    let pool =
        site.wait_for("a refusal", |pool| pool["state"] != "ok" && pool["state"] != "starts");
    let state = pool["state"].as_str().unwrap();
    assert!(state.starts_with("qsub says no job's id: nothing; tried again"), "{state}");
    touch(&site.home.path().join("fakes/mad"));
    site.wait_for("garbage", |pool| {
        pool["state"] == "qstat answers what nobody understands: Welcome to -f 12"
    });
}

/// An LSF of one folder: `bsub` starts the elements of an array, `bjobs` lists those whose
/// processes live, `bkill` ends them. What it prints is what LSF 10.1 prints.
const LSF: &str = r#"
case ${0##*/} in
bsub)
    number=$(($(cat number 2> /dev/null || echo 100) + 1)); echo $number > number
    cat > $number.script
    array=$(sed -n 's/^#BSUB -J "\(.*\)"$/\1/p' $number.script)
    last=${array##*-}; last=${last%]}
    for index in $(seq "$last"); do
        echo "${array%%[*}[$index]" > "$number[$index].name"
        LSB_JOBID=$number LSB_JOBINDEX=$index setsid bash $number.script > /dev/null 2>&1 &
        echo $! > "$number[$index].pid"
    done
    echo 'Our new queue {gpu} is twice as fast!'
    echo "Job <$number> is submitted to default queue <normal>." ;;
bjobs)
    comma=; records=
    for pid in *.pid; do
        kill -0 "$(cat "$pid" 2> /dev/null)" 2> /dev/null || continue
        job=${pid%.pid}; index=${job##*[}
        records="$records$comma{\"JOBID\":\"${job%%[*}\",\"JOBINDEX\":\"${index%]}\",
            \"STAT\":\"RUN\",\"EXEC_HOST\":\"n1\",\"JOB_NAME\":\"$(cat "$job.name")\",\"EXIT_REASON\":\"\",
            \"PEND_REASON\":\"\"}"
        comma=,
    done
    [ -n "$records" ] || { echo 'No unfinished job found' >&2; exit 255; }
    printf '{\n  "COMMAND":"bjobs",\n  "JOBS":9,\n  "RECORDS":[\n%s\n  ]\n}\n' "$records" ;;
bkill) for id; do kill -- "-$(cat "$id.pid")"; done ;;
esac"#;

#[test]
fn engines_in_lsf_jobs_come_and_leave_nothing() {
    let site = of_fakes(&["bsub", "bjobs", "bkill"], LSF);
    let dry = ["cluster", "start", "--on", "lsf", "-n", "2", "--walltime", "2h", "--dry-run"];
    let said = site.run(&dry).ok();
    for part in ["-lsf[1-2]\"\n", "#BSUB -W 120\n", "LSF cannot be asked if it would take this"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let said = site.run(&[&dry[..], &["--", "-J", "mine"]].concat()).failed(1);
    assert!(said.contains("leave `-J` out of the arguments for `bsub`"), "{said}");
    let mut cluster = site.start(&["lsf", "-n", "3"]);
    wait_for_engines(3, &site.home);
    let pool = site.wait_for("three engines", |pool| pool["engines"] == 3);
    let jobs = pool["jobs"].as_array().unwrap();
    let mut ids: Vec<&str> = jobs.iter().map(|job| job["job"].as_str().unwrap()).collect();
    ids.sort_unstable();
    // The first job goes ahead of the others.
    assert_eq!(ids, ["101[1]", "102[1]", "102[2]"]);
    assert_eq!(site.run(&["submit", "--wait", "--", "echo", "hello"]).ok(), "hello");
    site.run(&["pool", "log", "102[2]"]).ok();
    cluster.terminate();
    cluster.wait_exit(JOBS);
    let listed = Command::new(site.fakes.join("bjobs")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&listed.stderr), "No unfinished job found\n");
}

#[test]
fn an_lsf_that_answers_garbage_is_said_in_a_line() {
    let script = "case ${0##*/} in bjobs) if [ -e mad ]; then echo '{\"COMMAND\":\"bjobs\",'
                  else echo 'No unfinished job found' >&2; exit 255; fi;; esac";
    let site = of_fakes(&["bsub", "bjobs", "bkill"], script);
    let _cluster = site.start(&["lsf", "-n", "2"]);
    let pool =
        site.wait_for("a refusal", |pool| pool["state"] != "ok" && pool["state"] != "starts");
    let state = pool["state"].as_str().unwrap();
    assert!(state.starts_with("bsub says no job's id: nothing; tried again"), "{state}");
    touch(&site.fakes.join("mad"));
    site.wait_for("half an answer", |pool| {
        pool["state"] == "bjobs answers what nobody understands: {\"COMMAND\":\"bjobs\","
    });
}

/// An `HTCondor` of one folder: `condor_submit` starts the jobs of a cluster, `condor_q` lists
/// those whose processes live, `condor_rm` ends them. What it prints is what `HTCondor` 23 prints.
const HTCONDOR: &str = r#"
case ${0##*/} in
condor_submit)
    cluster=$(($(cat number 2> /dev/null || echo 100) + 1)); echo $cluster > number
    cat > $cluster.description
    value() { sed -n "s/^$1 = //p" $cluster.description; }
    jobs=$(sed -n 's/^queue //p' $cluster.description)
    text=$(value arguments); text=${text#\"-c \'}; text=${text%\'\"}
    for number in $(seq 0 $((jobs - 1))); do
        filled() {
            sed "s/''/'/g; s/\"\"/\"/g; s/\$(ClusterId)/$cluster/g; s/\$(ProcId)/$number/g" |
                sed 's/\$(DOLLAR)/$/g'
        }
        job=$cluster.$number
        echo "$text" | filled > "$job.script"
        value '+JobBatchName' > "$job.name"
        setsid bash "$job.script" > "$(value output | filled)" 2>&1 &
        echo $! > "$job.pid"
    done
    echo "$cluster.0 - $cluster.$((jobs - 1))" ;;
condor_q)
    comma='['
    for pid in *.pid; do
        kill -0 "$(cat "$pid" 2> /dev/null)" 2> /dev/null || continue
        job=${pid%.pid}
        printf '%s\n{\n  "ClusterId": %s,\n' "$comma" "${job%.*}"
        printf '  "JobBatchName": %s,\n  "JobStatus": 2,\n' "$(cat "$job.name")"
        printf '  "ProcId": %s,\n  "RemoteHost": "slot1_1@n1"\n}\n' "${job#*.}"
        comma=,
    done
    [ "$comma" = '[' ] || echo ']' ;;
condor_rm) for id; do kill -- "-$(cat "$id.pid")"; done ;;
esac"#;

#[test]
fn engines_in_htcondor_jobs_come_and_leave_nothing() {
    let site = of_fakes(&["condor_submit", "condor_q", "condor_rm"], HTCONDOR);
    let dry = ["cluster", "start", "--on", "htcondor", "-n", "2", "--walltime", "2h", "--dry-run"];
    let said = site.run(&dry).ok();
    for part in ["-htcondor\"\n", "JobCurrentStartDate > 7200\n", "\nqueue 2\n"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let said = site.run(&[&dry[..], &["--", "-append", "queue 9"]].concat()).failed(1);
    assert!(said.contains("leave `queue` out of the arguments for `condor_submit`"), "{said}");
    let setup = "export SAID=\"it's $((6 * 7))\"";
    let mut cluster = site.start(&["htcondor", "-n", "3", "--setup", setup]);
    wait_for_engines(3, &site.home);
    let pool = site.wait_for("three engines", |pool| pool["engines"] == 3);
    let jobs = pool["jobs"].as_array().unwrap();
    let mut ids: Vec<&str> = jobs.iter().map(|job| job["job"].as_str().unwrap()).collect();
    ids.sort_unstable();
    // The first job goes ahead of the others.
    assert_eq!(ids, ["101.0", "102.0", "102.1"]);
    let said = site.run(&["submit", "--wait", "--", "sh", "-c", "echo $SAID"]).ok();
    assert_eq!(said, "it's 42");
    site.run(&["pool", "log", "102.1"]).ok();
    cluster.terminate();
    cluster.wait_exit(JOBS);
    let listed = Command::new(site.fakes.join("condor_q")).output().unwrap();
    assert!(listed.stdout.is_empty(), "{listed:?}");
}

#[test]
fn an_htcondor_that_answers_garbage_is_said_in_a_line() {
    let script = "case ${0##*/} in condor_q) [ ! -e mad ] || echo '[ {\"ClusterId\":';; esac";
    let site = of_fakes(&["condor_submit", "condor_q", "condor_rm"], script);
    let _cluster = site.start(&["htcondor", "-n", "2"]);
    let pool =
        site.wait_for("a refusal", |pool| pool["state"] != "ok" && pool["state"] != "starts");
    let state = pool["state"].as_str().unwrap();
    assert!(state.starts_with("condor_submit says no job's id: nothing; tried again"), "{state}");
    touch(&site.fakes.join("mad"));
    site.wait_for("half an answer", |pool| {
        pool["state"] == "condor_q answers what nobody understands: [ {\"ClusterId\":"
    });
}
