//! The port: binding it, saying where it can be reached, accepting.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use furlong_link::dial::prepare_socket;
use furlong_link::home::ClusterDir;
use furlong_wire::capability::Endpoint;
use furlong_wire::ids::BrokerStart;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::port_holder::port_holder;
use super::run_files::{BrokerState, endpoint_texts, read_state, write_state};
use super::settings::BrokerArgs;
use super::{Shell, connection};

/// A bound port.
#[derive(Debug)]
pub(super) struct Listening {
    listener: TcpListener,
    bind: IpAddr,
    port: u16,
    /// Where peers reach it, in the order in which they should try.
    pub(super) endpoints: Vec<Endpoint>,
}

/// Descriptors that the broker needs for itself: log, listener, epoll, files while they are written.
const DESCRIPTORS_RESERVED: u64 = 64;
/// Connections for which memory is planned, whatever the system would allow.
const CONNECTIONS_MAX: u64 = 100_000;

/// Raises the soft limit of descriptors, and gives a permit for each connection that there may be.
pub(super) fn connection_permits() -> Arc<Semaphore> {
    let mut limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(1 << 20);
    limit.current = Some(most);
    let raised =
        setrlimit(Resource::Nofile, limit).map_or_else(|_| getrlimit(Resource::Nofile).current, |()| Some(most));
    let descriptors = raised.unwrap_or(1024).min(CONNECTIONS_MAX);
    Arc::new(Semaphore::new(descriptors.saturating_sub(DESCRIPTORS_RESERVED).max(16) as usize))
}

/// Binds the asked port, else that of the last start, else a free one.
pub(super) async fn bind(args: &BrokerArgs, dir: &ClusterDir) -> Result<Listening> {
    let kept = read_state(dir).map(|state| state.port);
    let wanted = args.port.or(kept).unwrap_or(0);
    let address = SocketAddr::new(args.bind, wanted);
    let listener = match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            let holder = port_holder(wanted).map_or("another process".to_owned(), |holder| holder);
            let kept = if args.port.is_none() { ", kept from the last start so that files stay good," } else { "" };
            bail!("port {wanted}{kept} is held by {holder}: stop that, or choose another with --port N");
        }
        Err(error) if error.kind() == std::io::ErrorKind::AddrNotAvailable => {
            bail!("no interface of this machine has the address {}: choose one with --bind ADDR", args.bind);
        }
        Err(error) => return Err(error).with_context(|| format!("cannot listen at {address}")),
    };
    let port = listener.local_addr().context("a bound socket has an address")?.port();
    let endpoints = endpoints(args, port)?;
    Ok(Listening { listener, bind: args.bind, port, endpoints })
}

impl Listening {
    /// Says in `run/broker.json` where the broker is, or that it has stopped.
    pub(super) fn write_state(&self, dir: &ClusterDir, start: BrokerStart, stopped: bool) -> Result<()> {
        let state = BrokerState {
            pid: std::process::id(),
            bind: self.bind,
            port: self.port,
            endpoints: endpoint_texts(&self.endpoints),
            start_unix_us: start.0,
            stopped,
        };
        write_state(dir, &state)
    }
}

/// Where peers reach the port. For all interfaces: each address of this machine, those for others first.
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
    let endpoint =
        |host: &String| Endpoint::new(host, port).with_context(|| format!("`{host}` is no host: see --location"));
    hosts.iter().map(endpoint).collect()
}

/// Accepts for ever: a permit first, so that descriptors never run out; errors back off, so that nothing spins.
pub(super) async fn accept(shell: Rc<Shell>, listening: &Listening, permits: Arc<Semaphore>) -> anyhow::Error {
    let mut backoff = Duration::from_millis(10);
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else {
            return anyhow::anyhow!("the listener was closed");
        };
        let (socket, address) = match listening.listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(backoff).await;
                backoff = (backoff * 2).min(Duration::from_secs(1));
                continue;
            }
        };
        backoff = Duration::from_millis(10);
        let stranding = shell.strangers.admit(address);
        let prepared = prepare_socket(&socket);
        let shell = shell.clone();
        tokio::task::spawn_local(async move {
            let _permit = permit;
            if prepared.is_ok() {
                let evicted = stranding.evicted();
                tokio::select! {
                    () = connection::serve(shell, socket, address, stranding) => {}
                    () = evicted.notified() => {}
                }
            }
        });
    }
}
