//! The ports: binding them, saying where they can be reached, accepting.
//!
//! The main port serves every role. Engines, and everybody else, can have a port of their own
//! besides, which serves nobody else and which their capability files then name. Whoever gives both
//! wants the roles apart: then there is no main port, unless it is asked for by its number.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use furlong_host::home::ClusterDir;
use furlong_link::local;
use furlong_wire::capability::Endpoint;
use furlong_wire::ids::{BrokerStart, ClusterId};
use furlong_wire::token::Role;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::entrance::Entrance;
use super::port_holder::port_holder;
use super::run_files::{BrokerState, endpoint_texts, read_state, write_state};
use super::settings::{BrokerArgs, OwnPort};
use super::{Shell, connection};
use crate::core::Serves;

/// The bound ports.
#[derive(Debug)]
pub(super) struct Listening {
    bind: IpAddr,
    doors: Vec<Door>,
}

/// A bound port.
#[derive(Debug)]
struct Door {
    serves: Serves,
    /// The port, and what is beside it for peers on this machine.
    entrances: Vec<Rc<Entrance>>,
    port: u16,
    /// The endpoints for peers, in the order in which they should try.
    endpoints: Vec<Endpoint>,
}

/// A port to bind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Wanted {
    serves: Serves,
    /// 0 for any free one.
    port: u16,
    /// True if it is not asked for, but that of the last start.
    kept: bool,
}

/// Descriptors that the broker needs for itself: log, listener, epoll, files while they are
/// written.
const DESCRIPTORS_RESERVED: u64 = 64;
/// Descriptors of connections for which memory is planned, whatever the system would allow.
const CONNECTION_DESCRIPTORS_MAX: u64 = 100_000;
/// Descriptors of memory files at most; payloads beyond are copied.
const FILE_DESCRIPTORS_MAX: u64 = 16_384;

/// Raises the soft limit of descriptors, and gives a permit for each of them that connections may
/// have, and for each that the memory files of payloads may have.
pub(super) fn descriptor_permits() -> (Arc<Semaphore>, Arc<Semaphore>) {
    let mut limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(1 << 20);
    limit.current = Some(most);
    let raised = setrlimit(Resource::Nofile, limit)
        .map_or_else(|_| getrlimit(Resource::Nofile).current, |()| Some(most));
    let descriptors = raised.unwrap_or(1024).saturating_sub(DESCRIPTORS_RESERVED);
    let files = (descriptors / 4).min(FILE_DESCRIPTORS_MAX);
    let connections = (descriptors - files).clamp(16, CONNECTION_DESCRIPTORS_MAX);
    let permits = |descriptors: u64| Arc::new(Semaphore::new(descriptors as usize));
    (permits(connections), permits(files))
}

/// Binds the asked ports, else those of the last start, else a free one for all roles.
pub(super) async fn bind(
    args: &BrokerArgs,
    dir: &ClusterDir,
    cluster: &ClusterId,
) -> Result<Listening> {
    let wanted = wanted(args, read_state(dir).as_ref());
    for (place, one) in wanted.iter().enumerate() {
        let twice = wanted[..place].iter().find(|other| one.port != 0 && other.port == one.port);
        if let Some(other) = twice {
            bail!(
                "port {} is given to {} and to {}: choose another for one",
                one.port,
                other.serves,
                one.serves
            );
        }
    }
    let mut doors = Vec::new();
    // Those with a number first: any free one must not take it away.
    let (named, any): (Vec<Wanted>, _) = wanted.into_iter().partition(|wanted| wanted.port != 0);
    for wanted in named.into_iter().chain(any) {
        doors.push(Door::open(args, cluster, wanted).await?);
    }
    Ok(Listening { bind: args.bind, doors })
}

/// Returns the ports to bind, by the flags and the last start.
fn wanted(args: &BrokerArgs, last: Option<&BrokerState>) -> Vec<Wanted> {
    let own = |serves, flag: Option<OwnPort>, last: Option<u16>| match flag {
        Some(OwnPort::None) => None,
        Some(OwnPort::Number(port)) => Some(Wanted { serves, port, kept: false }),
        None => last.map(|port| Wanted { serves, port, kept: true }),
    };
    let engines = own(Serves::Engines, args.engine_port, last.and_then(|last| last.engine_port));
    let clients = own(Serves::Clients, args.client_port, last.and_then(|last| last.client_port));
    let last = last.and_then(|last| last.port);
    let all = match args.port {
        Some(port) => Some(Wanted { serves: Serves::All, port, kept: false }),
        None if engines.is_some() && clients.is_some() => None,
        None => Some(Wanted { serves: Serves::All, port: last.unwrap_or(0), kept: last.is_some() }),
    };
    [all, engines, clients].into_iter().flatten().collect()
}

/// The flag that chooses the port for these roles.
fn flag_of(serves: Serves) -> &'static str {
    match serves {
        Serves::All => "--port",
        Serves::Engines => "--engine-port",
        Serves::Clients => "--client-port",
    }
}

impl Door {
    async fn open(args: &BrokerArgs, cluster: &ClusterId, wanted: Wanted) -> Result<Self> {
        let Wanted { serves, port, kept } = wanted;
        let address = SocketAddr::new(args.bind, port);
        let listener = match TcpListener::bind(address).await {
            Ok(listener) => listener,
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                let holder =
                    port_holder(port).map_or("another process".to_owned(), |holder| holder);
                let kept =
                    if kept { ", kept from the last start so that files stay good," } else { "" };
                bail!(
                    "port {port}{kept} is held by {holder}: stop that, or choose another with {} N",
                    flag_of(serves)
                );
            }
            Err(error) if error.kind() == std::io::ErrorKind::AddrNotAvailable => {
                bail!(
                    "no interface of this machine has the address {}: choose one with --bind ADDR",
                    args.bind
                );
            }
            Err(error) => return Err(error).with_context(|| format!("cannot listen at {address}")),
        };
        let port = listener.local_addr().context("a bound socket has an address")?.port();
        let mut entrances = vec![Rc::new(Entrance::Port(listener))];
        if !args.tcp_only {
            match local::bind(cluster, port) {
                Ok(listener) => entrances.push(Rc::new(Entrance::Local(listener))),
                Err(error) => {
                    tracing::warn!("peers on this machine come by TCP, not by pipes: {error}");
                }
            }
        }
        Ok(Self { serves, entrances, port, endpoints: endpoints(args, port)? })
    }
}

impl Listening {
    /// Returns the endpoints at which a role reaches the broker, in order: at the port that is for
    /// it alone, else at that for all.
    pub(super) fn endpoints(&self, role: Role) -> &[Endpoint] {
        let takes = |door: &&Door| door.serves.takes(role);
        let own = self.doors.iter().filter(takes).find(|door| door.serves != Serves::All);
        own.or_else(|| self.doors.iter().find(takes)).map_or(&[], |door| &door.endpoints)
    }

    /// The ports, for the log.
    pub(super) fn describe(&self) -> impl Iterator<Item = (Serves, String)> {
        self.doors.iter().map(|door| (door.serves, endpoint_texts(&door.endpoints).join(" ")))
    }

    /// Says in `run/broker.json` where the broker is, or that it has stopped.
    pub(super) fn write_state(
        &self,
        dir: &ClusterDir,
        start: BrokerStart,
        stopped: bool,
    ) -> Result<()> {
        let port =
            |serves| self.doors.iter().find(|door| door.serves == serves).map(|door| door.port);
        let state = BrokerState {
            pid: std::process::id(),
            bind: self.bind,
            port: port(Serves::All),
            engine_port: port(Serves::Engines),
            client_port: port(Serves::Clients),
            endpoints: endpoint_texts(self.endpoints(Role::Client)),
            engine_endpoints: endpoint_texts(self.endpoints(Role::Engine)),
            start_unix_us: start.0,
            stopped,
        };
        write_state(dir, &state)
    }
}

/// Returns the endpoints of a port. For all interfaces: each address of this machine, those for
/// others first.
fn endpoints(args: &BrokerArgs, port: u16) -> Result<Vec<Endpoint>> {
    let mut hosts: Vec<String> = args.location.iter().cloned().collect();
    if args.bind.is_unspecified() {
        let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
        let mut addresses: Vec<IpAddr> = interfaces.iter().map(if_addrs::Interface::ip).collect();
        let link_local = |ip: &IpAddr| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
        addresses.retain(|ip| !link_local(ip) && (args.bind.is_ipv6() || ip.is_ipv4()));
        addresses.sort_by_key(|ip| (ip.is_loopback(), ip.is_ipv6()));
        hosts.extend(addresses.iter().map(ToString::to_string));
    } else {
        hosts.push(args.bind.to_string());
    }
    hosts.truncate(furlong_wire::capability::ENDPOINTS_MAX);
    let endpoint = |host: &String| {
        Endpoint::new(host, port).with_context(|| format!("`{host}` is no host: see --location"))
    };
    let endpoints: Vec<Endpoint> = hosts.iter().map(endpoint).collect::<Result<_>>()?;
    ensure!(
        !endpoints.is_empty(),
        "this machine has no address: name one with --location HOST or --bind ADDR"
    );
    Ok(endpoints)
}

/// Accepts at every port, until what it returns is dropped.
pub(super) fn open(
    shell: &Rc<Shell>,
    listening: &Listening,
    permits: &Arc<Semaphore>,
) -> JoinSet<()> {
    let mut accepting = JoinSet::new();
    for door in &listening.doors {
        for entrance in &door.entrances {
            accepting.spawn_local(accept(
                shell.clone(),
                entrance.clone(),
                door.serves,
                permits.clone(),
            ));
        }
    }
    accepting
}

/// Accepts for ever: permits first, so that descriptors never run out; errors back off, so that
/// nothing spins.
async fn accept(shell: Rc<Shell>, entrance: Rc<Entrance>, serves: Serves, permits: Arc<Semaphore>) {
    let mut backoff = Duration::from_millis(10);
    while let Ok(permit) = permits.clone().acquire_many_owned(entrance.descriptors()).await {
        let (arrival, address) = match entrance.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(backoff).await;
                backoff = (backoff * 2).min(Duration::from_secs(1));
                continue;
            }
        };
        backoff = Duration::from_millis(10);
        let place = shell.pending.admit(address.origin());
        let halves = match arrival.open() {
            Ok(halves) => halves,
            Err(error) => {
                shell.log_rejected(address, &error.into());
                continue;
            }
        };
        let shell = shell.clone();
        tokio::task::spawn_local(async move {
            let _permit = permit;
            let evicted = place.evicted();
            tokio::select! {
                () = connection::serve(shell, serves, halves, address, place) => {}
                () = evicted.notified() => {}
            }
        });
        // Those who are here already may have something to say, before newer ones take their
        // places.
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: BrokerArgs,
    }

    /// The ports that these flags want after a start with those ports: main, engines', clients';
    /// with `*` if kept.
    fn ports(flags: &str, last: [Option<u16>; 3]) -> [String; 3] {
        let args = Cli::parse_from(["broker"].into_iter().chain(flags.split_whitespace())).args;
        let [port, engine_port, client_port] = last;
        let state = BrokerState {
            pid: 1,
            bind: args.bind,
            port,
            engine_port,
            client_port,
            endpoints: vec![],
            engine_endpoints: vec![],
            start_unix_us: 1,
            stopped: true,
        };
        let wanted = wanted(&args, last.iter().any(Option::is_some).then_some(&state));
        [Serves::All, Serves::Engines, Serves::Clients].map(|serves| {
            let wanted = wanted.iter().find(|wanted| wanted.serves == serves);
            wanted.map_or("-".to_owned(), |wanted| {
                format!("{}{}", wanted.port, if wanted.kept { "*" } else { "" })
            })
        })
    }

    #[test]
    fn flags_and_the_last_start_decide_which_ports_there_are() {
        let never = [None; 3];
        let apart = [None, Some(8), Some(9)];
        assert_eq!(ports("", never), ["0", "-", "-"]);
        assert_eq!(ports("--port 7", never), ["7", "-", "-"]);
        assert_eq!(ports("--engine-port 8", never), ["0", "8", "-"]);
        assert_eq!(ports("--engine-port 8", [Some(7), None, None]), ["7*", "8", "-"]);
        assert_eq!(
            ports("--engine-port 8 --client-port 9", [Some(7), None, None]),
            ["-", "8", "9"]
        );
        assert_eq!(ports("--port 7 --engine-port 8 --client-port 0", never), ["7", "8", "0"]);
        assert_eq!(ports("", apart), ["-", "8*", "9*"]);
        assert_eq!(ports("--engine-port none", apart), ["0", "-", "9*"]);
        assert_eq!(ports("--engine-port none --client-port none", apart), ["0", "-", "-"]);
        assert_eq!(ports("--engine-port 0", apart), ["-", "0", "9*"]);
    }
}
