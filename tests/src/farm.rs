//! A broker that runs.

use std::time::Duration;

use furlong_wire::capability::Capability;
use furlong_wire::token::Role;

use crate::good::Good;
use crate::home::Home;
use crate::measure::{rss_bytes, rss_peak_bytes};
use crate::program::Program;
use crate::wait::{SOON, eventually};

/// A broker of the default cluster, in a home of its own, which listens on 127.0.0.1.
#[derive(Debug)]
pub struct Farm {
    // The broker ends before its home is removed: fields are dropped in their order.
    broker: Program,
    home: Home,
    args: Vec<String>,
    port: u16,
    rss_at_start_bytes: u64,
}

impl Farm {
    /// Starts a broker.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a broker in a home that may have something in it.
    pub fn start_in(home: Home) -> Self {
        Self::start_in_with(home, &[])
    }

    /// Starts a broker with further arguments.
    pub fn start_with(args: &[&str]) -> Self {
        Self::start_in_with(Home::new(), args)
    }

    fn start_in_with(home: Home, args: &[&str]) -> Self {
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        let broker = start_broker(&home, &args);
        let port = home.broker_state().map_or(0, |state| state.port);
        let mut farm = Self { broker, home, args, port, rss_at_start_bytes: 0 };
        // After the first peer, so that what is loaded once is not counted as growth.
        farm.good(Role::Client);
        farm.rss_at_start_bytes = rss_bytes(farm.pid());
        farm
    }

    /// The broker.
    pub fn broker(&mut self) -> &mut Program {
        &mut self.broker
    }

    /// Its home.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.broker.pid()
    }

    /// The capability of a role.
    pub fn capability(&self, role: Role) -> Capability {
        self.home.capability(role)
    }

    /// Kills the broker with SIGKILL and starts it again.
    pub fn restart_after_sigkill(&mut self) {
        self.broker.kill();
        self.broker = start_broker(&self.home, &self.args);
    }

    /// An honest peer that is let in, though perhaps not at the first try: attackers may hold the
    /// unauthenticated peers' places, but no longer than the deadlines.
    ///
    /// # Panics
    /// If it is not let in.
    pub fn good(&self, role: Role) -> Good {
        let capability = self.capability(role);
        let mut last = Err("it was not tried".to_owned());
        eventually(SOON, || {
            last = Good::connect(&capability);
            last.is_ok()
        });
        last.unwrap_or_else(|error| {
            panic!("an honest peer is not let in: {error}\n{}", self.home.broker_log())
        })
    }

    /// By how many bytes the broker's memory has grown since its start, at most.
    pub fn growth_bytes(&self) -> u64 {
        rss_peak_bytes(self.pid()).saturating_sub(self.rss_at_start_bytes)
    }

    /// Checks that the broker is alive and serves honest peers, and that its memory never grew by
    /// more than this.
    ///
    /// # Panics
    /// If one of it is not so.
    pub fn check_healthy(&mut self, growth_bytes_max: u64) {
        assert!(self.broker.is_running(), "the broker has died:\n{}", self.broker.stderr());
        let mut good = self.good(Role::Client);
        good.engines().unwrap_or_else(|error| panic!("an honest peer gets no answer: {error}"));
        let growth = self.growth_bytes();
        assert!(growth <= growth_bytes_max, "the broker's memory grew by {} MiB", growth >> 20);
    }
}

/// Starts the broker and waits until it says where it is.
fn start_broker(home: &Home, args: &[String]) -> Program {
    let fixed = ["--bind", "127.0.0.1", "--stop-with-stdin"];
    let args: Vec<&str> = fixed.into_iter().chain(args.iter().map(String::as_str)).collect();
    let broker = Program::start("broker", &args, home);
    let is_up =
        || home.broker_state().is_some_and(|state| state.pid == broker.pid() && !state.stopped);
    assert!(eventually(START, is_up), "the broker does not start:\n{}", broker.stderr());
    broker
}

const START: Duration = Duration::from_secs(20);
