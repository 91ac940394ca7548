//! Control of engines and the broker: signals, and how they stop.

use std::fmt;
use std::str::FromStr;

use furlong_wire::message::{FromClient, Shutdown};

use crate::client::Client;
use crate::error::{ClientError, DisconnectCause};
use crate::live::Events;
use crate::multiengine::EngineTargets;
use crate::request::order;

/// A signal, by its number on the engines' machines, which run Linux.
///
/// ```
/// use furlong_client::Signal;
///
/// assert_eq!("SIGINT".parse(), Ok(Signal::INT));
/// assert_eq!("usr1".parse(), Ok(Signal::USR1));
/// assert_eq!("9".parse(), Ok(Signal::KILL));
/// assert_eq!(Signal::TERM.to_string(), "SIGTERM");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Signal(i32);

impl Signal {
    /// An interrupt: `KeyboardInterrupt` in Python.
    pub const INT: Self = Self(2);
    /// The end, at once and for certain.
    pub const KILL: Self = Self(9);
    /// For the program's own use.
    pub const USR1: Self = Self(10);
    /// For the program's own use.
    pub const USR2: Self = Self(12);
    /// A graceful end.
    pub const TERM: Self = Self(15);
    /// Goes on after a stop.
    pub const CONT: Self = Self(18);
    /// Stops for a while, until [`Signal::CONT`].
    pub const STOP: Self = Self(19);

    /// A signal by its number, from 1 to 64.
    pub fn new(number: i32) -> Result<Self, SignalError> {
        if (1..=NUMBER_MAX).contains(&number) {
            Ok(Self(number))
        } else {
            Err(SignalError(number.to_string()))
        }
    }

    /// Its number.
    pub fn number(self) -> i32 {
        self.0
    }
}

impl FromStr for Signal {
    type Err = SignalError;

    /// From a number, or a name in any case, with or without `SIG`.
    fn from_str(text: &str) -> Result<Self, SignalError> {
        let unknown = || SignalError(text.to_owned());
        if let Ok(number) = text.parse() {
            return Self::new(number).map_err(|_| unknown());
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let number = NAMES.iter().position(|known| *known == name).ok_or_else(unknown)?;
        Ok(Self(number as i32 + 1))
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match usize::try_from(self.0 - 1).ok().and_then(|place| NAMES.get(place)) {
            Some(name) => write!(f, "SIG{name}"),
            None => write!(f, "signal {}", self.0),
        }
    }
}

/// No signal has this name or number.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("there is no signal `{0}`: write a name such as SIGINT, or a number from 1 to 64")]
pub struct SignalError(String);

/// Linux has signals up to this number; those from 32 on are for real-time use and have no names.
const NUMBER_MAX: i32 = 64;
/// The names of signals from 1 on, as signal(7) lists them for most architectures.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

impl Client {
    /// Stops engines, and their processes where all engines of one are meant. With `finish` they
    /// finish first what they have been given. For the role `admin`.
    pub async fn shutdown(&self, engines: EngineTargets, finish: bool) -> Result<(), ClientError> {
        let engines = match engines {
            EngineTargets::All => None,
            EngineTargets::Ids(engines) => Some(engines),
        };
        self.send_shutdown(|request| Shutdown { request, engines, finish, broker: false }).await
    }

    /// Stops all engines and the broker. With `finish`, engines finish first what they have been
    /// given. For the role `admin`. This session is over with it.
    pub async fn shutdown_cluster(&self, finish: bool) -> Result<(), ClientError> {
        let stopped = self
            .send_shutdown(|request| Shutdown { request, engines: None, finish, broker: true })
            .await;
        match stopped {
            // The broker's goodbye, if it was faster than its answer.
            Err(ClientError::Disconnected(why))
                if matches!(why.cause, DisconnectCause::Goodbye(_)) =>
            {
                Ok(())
            }
            stopped => stopped,
        }
    }

    async fn send_shutdown(
        &self,
        shutdown: impl FnOnce(u64) -> Shutdown,
    ) -> Result<(), ClientError> {
        order(&self.handle, |request| FromClient::Shutdown(shutdown(request))).await
    }

    /// Subscribes to the events of the cluster from now on: engines that come, go, and get new
    /// interpreters.
    pub fn subscribe(&self) -> Result<Events, ClientError> {
        let feed = self.handle.shared.with(crate::shared::Core::subscribe)?;
        Ok(Events::new(std::sync::Arc::clone(&self.handle), feed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers_that_agree() {
        for (name, signal) in [
            ("int", Signal::INT),
            ("KILL", Signal::KILL),
            ("SIGUSR1", Signal::USR1),
            ("sigusr2", Signal::USR2),
            ("15", Signal::TERM),
            ("CONT", Signal::CONT),
            ("Stop", Signal::STOP),
        ] {
            assert_eq!(name.parse(), Ok(signal));
            assert_eq!(signal.to_string().parse(), Ok(signal));
        }
        assert_eq!(Signal::new(40).unwrap().to_string(), "signal 40");
        for wrong in ["", "SIG", "SIGNO", "0", "65", "-2"] {
            assert!(wrong.parse::<Signal>().is_err(), "{wrong}");
        }
    }
}
