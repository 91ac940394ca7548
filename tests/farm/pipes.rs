//! Peers on the broker's machine: pipes instead of TCP, and the port where there are none.

use furlong_link::local;
use furlong_tests::command::{engine, furlong};
use furlong_tests::farm::Farm;
use furlong_tests::good::Good;
use furlong_tests::wait::{SOON, eventually};
use furlong_wire::token::Role;
use serde_json::Value;
use tokio::net::UnixListener;
use tokio::runtime::Runtime;

/// Starts an engine, and gives the address that the broker sees and the engine's process.
fn address_of_an_engine(farm: &Farm) -> (String, u32) {
    let engine = engine(farm.home());
    let mut address = None;
    let is_there = eventually(SOON, || {
        let status: Value =
            serde_json::from_str(&furlong(&["status", "--json"], farm.home()).ok()).unwrap();
        address = status["processes"][0]["address"].as_str().map(str::to_owned);
        address.is_some()
    });
    assert!(is_there, "no engine came\n{}", farm.home().broker_log());
    assert!(furlong(&["execute", "6 * 7"], farm.home()).ok().ends_with("42"));
    (address.unwrap_or_default(), engine.pid())
}

/// Takes the name of a broker's pipes, which has stopped.
fn take_name(farm: &Farm) -> (Runtime, UnixListener) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let entered = runtime.enter();
    let listener = local::bind(&farm.capability(Role::Client).cluster_id(), farm.port()).unwrap();
    drop(entered);
    (runtime, listener)
}

#[test]
fn peers_on_the_brokers_machine_come_by_pipes() {
    let (address, pid) = address_of_an_engine(&Farm::start());
    assert_eq!(address, format!("local process {pid}"));
}

#[test]
fn a_broker_can_serve_them_by_tcp_as_well() {
    let (address, _) = address_of_an_engine(&Farm::start_with(&["--tcp-only"]));
    assert!(address.starts_with("127.0.0.1:"), "{address}");
}

#[test]
fn who_takes_the_name_and_gives_no_pipes_keeps_nobody_from_the_port() {
    let mut farm = Farm::start();
    farm.broker().kill();
    let _taken = take_name(&farm);
    farm.restart_after_sigkill();
    assert!(farm.broker().stderr().contains("peers on this machine come by TCP, not by pipes"));
    let (address, _) = address_of_an_engine(&farm);
    assert!(address.starts_with("127.0.0.1:"), "{address}");
}

#[test]
fn who_takes_the_name_gives_pipes_and_says_nothing_keeps_nobody_from_the_port() {
    let mut farm = Farm::start();
    farm.broker().kill();
    let (runtime, listener) = take_name(&farm);
    farm.restart_after_sigkill();
    // It lives until the test is over.
    std::thread::spawn(move || {
        runtime.block_on(async {
            let mut given = Vec::new();
            while let Ok((socket, _)) = listener.accept().await {
                given.push(local::give_pipes(socket));
            }
        });
    });
    let capability = farm.capability(Role::Client);
    Good::connect(&capability).unwrap();
}

#[test]
fn many_peers_come_and_go_and_leave_no_descriptor_behind() {
    let mut farm = Farm::start();
    let peers: Vec<_> = (0..20).map(|_| farm.good(Role::Client)).collect();
    let (with_them, theirs) = (descriptors(farm.pid()), 3 * peers.len());
    drop(peers);
    let are_gone = eventually(SOON, || descriptors(farm.pid()) <= with_them - theirs);
    assert!(are_gone, "{} of {with_them}", descriptors(farm.pid()));
    farm.check_healthy(64 << 20);
}

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}
