//! The end of a process, in words.

use rustix::process::Signal;

use super::memory::{MemoryAtEnd, mebibytes};

/// A process was killed: by which signal, and whether for want of memory. What it might take is
/// said with every signal, as a program that gets no memory mostly ends by one.
pub(super) fn killed_by(signal: i32, memory: MemoryAtEnd) -> String {
    let mut text = match (signal, memory.ran_out) {
        (9, Some(true)) => "killed by the system, because memory ran out".to_owned(),
        (9, None) => "killed by SIGKILL, as the system does when memory runs out".to_owned(),
        _ => format!("killed by {}", signal_name(signal)),
    };
    if let Some(bytes) = memory.bytes {
        text.push_str("; ");
        text.push_str(&bound(bytes));
    }
    text
}

/// A process ended by itself, with this code. One of those that it had started may have been
/// killed.
pub(super) fn exit_code(code: i32, memory: MemoryAtEnd) -> String {
    let meanwhile = match memory.ran_out {
        Some(true) => "; meanwhile the system has killed a process, because memory ran out",
        _ => "",
    };
    format!("exit code {code}{meanwhile}")
}

/// Describes how much memory a process might take.
pub(super) fn bound(bytes: u64) -> String {
    format!("it may take {} (`engine --memory`)", mebibytes(bytes))
}

fn signal_name(signal: i32) -> String {
    let name = NAMES.iter().find(|(known, _)| known.as_raw() == signal);
    name.map_or_else(|| format!("signal {signal}"), |(_, name)| (*name).to_owned())
}

const NAMES: [(Signal, &str); 20] = [
    (Signal::ABORT, "SIGABRT"),
    (Signal::ALARM, "SIGALRM"),
    (Signal::BUS, "SIGBUS"),
    (Signal::FPE, "SIGFPE"),
    (Signal::HUP, "SIGHUP"),
    (Signal::ILL, "SIGILL"),
    (Signal::INT, "SIGINT"),
    (Signal::KILL, "SIGKILL"),
    (Signal::PIPE, "SIGPIPE"),
    (Signal::PROF, "SIGPROF"),
    (Signal::QUIT, "SIGQUIT"),
    (Signal::SEGV, "SIGSEGV"),
    (Signal::SYS, "SIGSYS"),
    (Signal::TERM, "SIGTERM"),
    (Signal::TRAP, "SIGTRAP"),
    (Signal::USR1, "SIGUSR1"),
    (Signal::USR2, "SIGUSR2"),
    (Signal::VTALARM, "SIGVTALRM"),
    (Signal::XCPU, "SIGXCPU"),
    (Signal::XFSZ, "SIGXFSZ"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_says_what_is_known_of_memory() {
        let killed = |signal, ran_out, bytes| killed_by(signal, MemoryAtEnd { ran_out, bytes });
        assert_eq!(killed(11, Some(false), None), "killed by SIGSEGV");
        assert_eq!(killed(40, None, None), "killed by signal 40");
        assert_eq!(killed(9, Some(false), None), "killed by SIGKILL");
        assert_eq!(killed(9, Some(true), None), "killed by the system, because memory ran out");
        assert_eq!(
            killed(9, None, None),
            "killed by SIGKILL, as the system does when memory runs out"
        );
        assert_eq!(
            killed(6, None, Some(1 << 30)),
            "killed by SIGABRT; it may take 1024 MiB (`engine --memory`)"
        );
    }

    #[test]
    fn an_exit_code_says_that_the_system_has_killed_something_meanwhile() {
        let ended = |ran_out| exit_code(137, MemoryAtEnd { ran_out, bytes: Some(1 << 20) });
        assert_eq!(
            (ended(None), ended(Some(false))),
            ("exit code 137".to_owned(), "exit code 137".to_owned())
        );
        assert_eq!(
            ended(Some(true)),
            "exit code 137; meanwhile the system has killed a process, because memory ran out"
        );
    }
}
