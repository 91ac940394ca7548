//! Large payloads on one machine: passed in memory files, and sent where they cannot be.

use std::process::Command;

use bytes::Bytes;
use furlong_client::{Arguments, CallSpec, TaskResult};
use furlong_host::private_file::write_private;
use furlong_tests::command::{command, file};
use furlong_tests::measure::memory_files;
use furlong_tests::proxy::Proxy;
use furlong_tests::wait::{SOON, eventually};
use furlong_tests::work::Work;
use furlong_wire::token::Role;

/// Data whose every part differs.
fn data(bytes: usize) -> Bytes {
    (0..bytes).map(|at| (at % 251) as u8).collect::<Vec<u8>>().into()
}

fn echo(data: &[Bytes]) -> CallSpec {
    CallSpec::native("echo").arguments(Arguments::Raw(data.to_vec()))
}

fn raw(result: TaskResult) -> Vec<Bytes> {
    result.data
}

#[test]
fn large_payloads_come_back_as_they_were_in_every_size_and_number() {
    let work = Work::start(1);
    for bytes in [31_000, 33_000, 130_000, 1 << 20, 5 << 20] {
        let sent = [data(bytes), Bytes::new(), data(bytes / 3), data(1)];
        assert!(raw(work.run(&echo(&sent)).unwrap()) == sent, "{bytes} bytes");
    }
    let many: Vec<Bytes> = (0..500).map(|n| data(100 + n)).collect();
    assert!(raw(work.run(&echo(&many)).unwrap()) == many);
}

#[test]
fn a_payload_that_waits_is_one_file_of_the_broker_and_then_none() {
    let work = Work::start(0);
    let sent = data(3 << 20);
    let task = work.submit(&echo(std::slice::from_ref(&sent)));
    let broker = work.farm().pid();
    assert!(eventually(SOON, || memory_files(broker) == 1), "{} files", memory_files(broker));
    let mut work = work;
    work.add_engine(&[]);
    let result = work.within(task).unwrap();
    assert!(raw(result) == [sent]);
    assert!(eventually(SOON, || memory_files(broker) == 0), "{} files", memory_files(broker));
    let engine = work.engines()[0].pid();
    assert!(eventually(SOON, || memory_files(engine) == 0), "{} files", memory_files(engine));
}

#[test]
fn peers_by_tcp_and_on_this_machine_read_each_others_payloads() {
    let mut work = Work::start(1);
    let proxy = Proxy::start(work.farm().port());
    let write = |role, name: &str| {
        let path = work.farm().home().path().join(name);
        let capability = proxy.capability(work.farm().capability(role));
        write_private(&path, capability.to_json().as_bytes()).unwrap();
        path
    };
    let (client_file, engine_file) =
        (write(Role::Client, "far-client.json"), write(Role::Engine, "far-engine.json"));
    let sent = [data(700_000), data(40_000)];

    let far = work.connect_with(&client_file);
    let result = work.within(work.submit_by(&far, &echo(&sent))).unwrap();
    assert!(raw(result) == sent, "a far client's, by a near engine");

    work.engines().clear();
    let engine_file = engine_file.to_string_lossy().into_owned();
    work.add_engine(&["--cap", &engine_file]);
    work.wait_for_processes(1);
    assert!(raw(work.run(&echo(&sent)).unwrap()) == sent, "a near client's, by a far engine");
    let result = work.within(work.submit_by(&far, &echo(&sent))).unwrap();
    assert!(raw(result) == sent, "by TCP on both sides");
}

#[test]
fn a_program_that_may_write_no_large_files_sends_its_payload() {
    let work = Work::start(1);
    let home = work.farm().home();
    // A block has 512 bytes or 1024; the source is several times as long as the limit.
    let source = file(home, "long.py", &format!("len('{}')", "x".repeat(100_000)));
    let furlong = command("furlong", &["execute", "-"], home);
    let program = furlong.get_program().to_string_lossy().into_owned();
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("ulimit -f 20; exec {program} execute - < {source}")]);
    shell.envs(furlong.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = shell.output().unwrap();
    let (said, error) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("100000"), "{said}{error}");
}

#[test]
fn a_broker_that_serves_by_tcp_alone_passes_none() {
    let work = Work::start_with(&["--tcp-only"], &[&[]]);
    let sent = data(1 << 20);
    assert!(raw(work.run(&echo(std::slice::from_ref(&sent))).unwrap()) == [sent]);
}

#[test]
fn a_durable_task_keeps_its_payload_over_a_restart() {
    let mut work = Work::start_with(&["--journal"], &[]);
    let sent = data(400_000);
    let task = work.submit(&echo(std::slice::from_ref(&sent)).durable(true));
    let id = task.id();
    work.wait_for_phase(id, furlong_client::TaskPhase::Queued);
    work.farm_mut().restart_after_sigkill();
    work.add_engine(&[]);
    assert!(raw(work.within(task).unwrap()) == [sent]);
}
