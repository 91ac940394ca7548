//! The broker's ports: for all roles, for engines or clients alone, on this or that address, of
//! several clusters.

use std::net::{TcpListener, TcpStream};
use std::path::Path;

use furlong_host::home::{Home as Folders, load_capability};
use furlong_tests::command::{command, furlong};
use furlong_tests::good::Good;
use furlong_tests::home::Home;
use furlong_tests::program::Program;
use furlong_tests::session::{Answer, Credentials, shake_hands};
use furlong_tests::wait::{SOON, eventually};
use furlong_wire::capability::Capability;
use furlong_wire::token::Role;
use serde_json::Value;

/// Starts a broker, and waits until it can be reached.
fn start(home: &Home, args: &[&str]) -> Program {
    let broker = Program::start(
        "broker",
        &[&["--bind", "127.0.0.1", "--stop-with-stdin"], args].concat(),
        home,
    );
    broker.wait_for_line("capability files are in", SOON);
    broker
}

/// Ends a broker gracefully.
fn stop(mut broker: Program) {
    broker.terminate();
    assert_eq!(broker.wait_exit(SOON).code(), Some(0));
}

/// Runs a broker that ends by itself: what it said last.
fn refused(home: &Home, args: &[&str]) -> String {
    let mut broker = Program::start("broker", args, home);
    assert_eq!(broker.wait_exit(SOON).code(), Some(1), "{}", broker.stderr());
    broker.stderr().lines().last().unwrap_or_default().to_owned()
}

/// The main port, that for engines and that for clients, by `run/broker.json`.
fn ports(home: &Home) -> [Option<u16>; 3] {
    let state: Value =
        serde_json::from_slice(&std::fs::read(home.cluster().broker_state()).unwrap()).unwrap();
    ["port", "engine_port", "client_port"].map(|name| state[name].as_u64().map(|port| port as u16))
}

/// The ports that a role's file names.
fn port_of(home: &Home, role: Role) -> u16 {
    let capability = home.capability(role);
    let port = capability.endpoints()[0].port();
    assert!(capability.endpoints().iter().all(|endpoint| endpoint.port() == port));
    port
}

fn is_let_in(port: u16, capability: &Capability) -> Result<(), String> {
    match shake_hands(port, &Credentials::of(capability)) {
        Answer::Welcome(_) => Ok(()),
        Answer::Refused(refused) => Err(refused.text),
        Answer::Closed => Err("closed".to_owned()),
    }
}

#[test]
fn a_port_for_engines_takes_engines_alone_and_the_main_port_everybody() {
    let home = Home::new();
    let broker = start(&home, &["--engine-port", "0"]);
    let [Some(main), Some(engines), None] = ports(&home) else { panic!("{:?}", ports(&home)) };
    for role in Role::ALL {
        let capability = home.capability(role);
        assert_eq!(
            port_of(&home, role),
            if role == Role::Engine { engines } else { main },
            "{role}"
        );
        assert_eq!(is_let_in(main, &capability), Ok(()), "{role}: a file of before still serves");
        let expected = format!("this port is for engines, and the capability's role is {role}");
        match is_let_in(engines, &capability) {
            Ok(()) => assert_eq!(role, Role::Engine),
            Err(text) => {
                assert!(role != Role::Engine && text.starts_with(&expected), "{role}: {text}");
            }
        }
    }
    stop(broker);
    // Remembered, each by its number, until it is taken back.
    let broker = start(&home, &[]);
    assert_eq!(ports(&home), [Some(main), Some(engines), None]);
    Good::connect(&home.capability(Role::Client)).unwrap();
    stop(broker);
    let broker = start(&home, &["--engine-port", "none"]);
    assert_eq!(ports(&home), [Some(main), None, None]);
    assert_eq!(port_of(&home, Role::Engine), main);
    stop(broker);
}

#[test]
fn with_ports_for_both_there_is_no_main_port_unless_it_is_asked_for() {
    let home = Home::new();
    let mut broker = start(&home, &["--engine-port", "0", "--client-port", "0"]);
    let [None, Some(engines), Some(clients)] = ports(&home) else { panic!("{:?}", ports(&home)) };
    for role in Role::ALL {
        let (own, other) =
            if role == Role::Engine { (engines, clients) } else { (clients, engines) };
        let capability = home.capability(role);
        assert_eq!((port_of(&home, role), is_let_in(own, &capability)), (own, Ok(())), "{role}");
        assert!(
            is_let_in(other, &capability).unwrap_err().starts_with("this port is for "),
            "{role}"
        );
    }
    let listed = furlong(&["cluster", "list"], &home).ok();
    assert!(listed.contains(&format!(":{clients}")), "{listed}");
    let second = refused(&home, &["--bind", "127.0.0.1"]);
    assert!(second.contains(&format!("(process {}, port {clients})", broker.pid())), "{second}");
    broker.kill();
    let broker = start(&home, &[]);
    assert_eq!(ports(&home), [None, Some(engines), Some(clients)], "all are remembered");
    stop(broker);
    let broker = start(&home, &["--port", "0"]);
    let [Some(main), Some(_), Some(_)] = ports(&home) else { panic!("{:?}", ports(&home)) };
    assert_eq!(is_let_in(main, &home.capability(Role::Admin)), Ok(()));
    assert_eq!(port_of(&home, Role::Admin), clients);
    stop(broker);
}

#[test]
fn a_port_that_cannot_be_had_is_one_line() {
    let home = Home::new();
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port().to_string();
    for flag in ["--engine-port", "--client-port"] {
        let line = refused(&home, &["--bind", "127.0.0.1", flag, &port]);
        let expected = format!("broker: port {port} is held by pid {} (", std::process::id());
        assert!(line.starts_with(&expected) && line.ends_with(&format!("{flag} N")), "{line}");
    }
    let line = refused(&home, &["--engine-port", "7", "--client-port", "7"]);
    assert_eq!(line, "broker: port 7 is given to engines and to clients: choose another for one");
    let line = refused(&home, &["--bind", "192.0.2.1"]);
    assert!(line.contains("no interface of this machine has the address 192.0.2.1"), "{line}");
    let line = refused(&home, &["--bind", "127.0.0.1", "--location", "a b"]);
    assert!(line.contains("`a b` is no host"), "{line}");
    for args in [["--engine-port", "70000"], ["--client-port", "any"]] {
        let mut broker = Program::start("broker", &args, &home);
        assert_eq!(broker.wait_exit(SOON).code(), Some(2), "{args:?}");
    }
}

#[test]
fn a_busy_port_of_the_last_start_is_one_line_too() {
    let home = Home::new();
    stop(start(&home, &["--engine-port", "0"]));
    let [_, Some(engines), _] = ports(&home) else { panic!("{:?}", ports(&home)) };
    let _holder = TcpListener::bind(("127.0.0.1", engines)).unwrap();
    let line = refused(&home, &["--bind", "127.0.0.1"]);
    let expected = format!(
        "port {engines}, kept from the last start so that files stay good, is held by pid "
    );
    assert!(line.contains(&expected) && line.ends_with("--engine-port N"), "{line}");
}

#[test]
fn several_clusters_live_side_by_side_and_their_files_do_not_open_each_other() {
    let home = Home::new();
    let (_first, _second) = (start(&home, &[]), start(&home, &["--cluster", "lab"]));
    let file = |cluster: &str, role| {
        let dir = Folders::at(home.path()).cluster(&cluster.parse().unwrap());
        load_capability(&dir.capability(role)).unwrap()
    };
    let (ours, theirs) = (file("default", Role::Client), file("lab", Role::Client));
    let port = |capability: &Capability| capability.endpoints()[0].port();
    assert_ne!(port(&ours), port(&theirs));
    assert_eq!(is_let_in(port(&ours), &ours), Ok(()));
    assert_eq!(is_let_in(port(&theirs), &theirs), Ok(()));
    assert_eq!(is_let_in(port(&theirs), &ours), Err("closed".to_owned()));
    // An engine of the second is not seen in the first.
    let cap = home.path().join("lab/security/engine.cap.json");
    let args = ["--stop-with-stdin", "--cap", cap.to_str().unwrap()];
    let _engine = Program::spawn("engine", command("engine", &args, &home));
    let ids = |cluster: &str| furlong(&["ids", "--json", "--cluster", cluster], &home).ok();
    assert!(eventually(SOON, || ids("lab").contains('0')), "{}", ids("lab"));
    assert_eq!(ids("default"), "[]");
    let listed = furlong(&["cluster", "list"], &home).ok();
    assert_eq!(listed.matches(" running ").count(), 2, "{listed}");
}

#[test]
fn a_location_comes_first_in_the_files_and_then_the_address() {
    let home = Home::new();
    let broker = start(&home, &["--location", "head.example"]);
    let [Some(port), ..] = ports(&home) else { panic!("{:?}", ports(&home)) };
    let texts = |role| {
        home.capability(role)
            .endpoints()
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(texts(Role::Client), format!("tcp://head.example:{port} tcp://127.0.0.1:{port}"));
    stop(broker);
    // A location that is an IPv6 address, and none: the files follow.
    let broker = start(&home, &["--location", "::1"]);
    assert_eq!(texts(Role::Engine), format!("tcp://[::1]:{port} tcp://127.0.0.1:{port}"));
    stop(broker);
    let broker = start(&home, &[]);
    assert_eq!(texts(Role::Engine), format!("tcp://127.0.0.1:{port}"));
    stop(broker);
}

#[test]
fn all_interfaces_are_all_addresses_also_of_ipv6() {
    if !Path::new("/proc/net/if_inet6").exists() {
        return;
    }
    for (bind, reached) in
        [("::1", vec!["[::1]"]), ("::", vec!["127.0.0.1", "[::1]"]), ("0.0.0.0", vec!["127.0.0.1"])]
    {
        let home = Home::new();
        let broker = Program::start("broker", &["--bind", bind, "--stop-with-stdin"], &home);
        broker.wait_for_line("capability files are in", SOON);
        let [Some(port), ..] = ports(&home) else { panic!("{:?}", ports(&home)) };
        let capability = home.capability(Role::Client);
        for host in reached {
            let endpoint = format!("tcp://{host}:{port}").parse().unwrap();
            assert!(
                capability.endpoints().contains(&endpoint),
                "{bind}: {:?}",
                capability.endpoints()
            );
            assert!(TcpStream::connect(format!("{host}:{port}")).is_ok(), "{bind}: {host}");
        }
        // The loopback addresses come last: another machine would reach itself by them.
        let hosts = capability
            .endpoints()
            .iter()
            .map(|endpoint| ["127.0.0.1", "::1"].contains(&endpoint.host()));
        assert!(hosts.is_sorted(), "{:?}", capability.endpoints());
        Good::connect(&capability).unwrap();
    }
}
