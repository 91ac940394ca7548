//! Errors, by whose fault they are.

use std::io;
use std::sync::Arc;

use furlong_host::home::{CapabilityFileError, CapabilityNotFound, HomeError};
use furlong_host::private_file::FileProblem;
use furlong_link::dial::DialError;
use furlong_link::peer::inbox::ReceiveError;
use furlong_wire::capability::Endpoint;
use furlong_wire::ids::TaskId;
use furlong_wire::payload::PayloadError;

use crate::options::OptionError;

/// The reason why there is no [`crate::Client`].
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The broker was not reached, or it refused.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// There is no capability file where one was looked for.
    #[error(transparent)]
    NoCapability(#[from] CapabilityNotFound),
    /// The capability file cannot be used.
    #[error(transparent)]
    CapabilityFile(#[from] CapabilityFileError),
    /// The folder of all clusters is not known.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The capability is not for clients.
    #[error(
        "the capability is for engines: a client needs one of another role, such as client.cap.json"
    )]
    EngineRole,
    /// The blocking client was used where it would stop a tokio runtime.
    #[error(
        "the blocking client cannot connect from inside a tokio runtime, which it would stop; use the async \
         `furlong_client::Client` there, or a thread of its own (`std::thread::spawn`)"
    )]
    InsideAsync,
    /// The blocking client's thread or its runtime could not be started.
    #[error("the client's background thread cannot be started: {0}")]
    Thread(#[source] io::Error),
}

impl ConnectError {
    /// Returns true if another try, later, may succeed: a broker that is not there yet, or its
    /// capability file.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Dial(error) => error.is_transient(),
            Self::NoCapability(_) => true,
            Self::CapabilityFile(CapabilityFileError::File(file)) => {
                matches!(file.problem, FileProblem::Missing)
            }
            Self::CapabilityFile(_)
            | Self::Home(_)
            | Self::EngineRole
            | Self::InsideAsync
            | Self::Thread(_) => false,
        }
    }
}

/// The reason why a request to the broker could not be made, or has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClientError {
    /// The connection is over.
    #[error(transparent)]
    Disconnected(#[from] Arc<Disconnected>),
    /// The session's credit is used up: unfinished tasks, payload bytes, or bytes that wait to be
    /// sent.
    #[error("the session's credit is used up; take results first, or use the call that waits")]
    Busy,
    /// A payload that the broker could never take.
    #[error(
        "arguments and function of {bytes} bytes are over the {bytes_max} that the broker takes at once; start it with \
         more memory ({memory_flag}), or send them in parts"
    )]
    PayloadTooLarge {
        /// Its size.
        bytes: u64,
        /// The broker's limit.
        bytes_max: u64,
        /// The flag that gives it more memory, for people.
        memory_flag: Arc<str>,
    },
    /// A payload beyond the protocol's bounds.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// There are no engines to run on.
    #[error("no engines are connected; start some with `engine` or `furlong cluster start -n 4`")]
    NoEngines,
    /// More tasks in one call than a session may have.
    #[error(
        "one call for {tasks} engines is over the limit of {tasks_max}; name fewer engines at once"
    )]
    TooManyTargets {
        /// Tasks that the call would make.
        tasks: u64,
        /// The limit.
        tasks_max: u64,
    },
    /// More functions from elsewhere than a session may define.
    #[error("one session can define {functions_max} functions and texts; connect anew for more")]
    TooManyFunctions {
        /// The limit.
        functions_max: usize,
    },
    /// Something is wrong with an option.
    #[error(transparent)]
    Options(#[from] OptionError),
    /// Arguments that cannot be encoded.
    #[error("the arguments cannot be encoded: {0}")]
    Encode(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// A result that was to be an input has come, and the broker does not hold it any longer.
    #[error(
        "the result of {0} has been taken from the broker, so that it cannot be an input; pass its value, or let it stay"
    )]
    InputTaken(TaskId),
    /// Code takes no arguments.
    #[error(
        "code and operations on a namespace take no arguments; name a function, or put the values into the code"
    )]
    CodeWithArguments,
    /// A command without a program.
    #[error("a command needs a program: its `argv` is empty")]
    NoCommand,
    /// Something else than variables was pushed.
    #[error("what is pushed are variables: a map with names as keys, or a struct")]
    NotVariables,
    /// Something else than a Python function was to be mapped over engines.
    #[error("blocks of items are for Python functions; `Tasks::map` calls Rust functions, too")]
    NotPython,
    /// The broker refuses the request, and says why.
    #[error("{0}")]
    Refused(String),
    /// The connection was cut before the broker answered, and what was asked must not be done
    /// twice.
    #[error(
        "the connection to the broker was cut before it answered, and is sought again; whether it was done is not \
         known: look with `status`, and ask again"
    )]
    Interrupted,
    /// The broker is connected, and does not answer.
    #[error(
        "the broker at {endpoint} is connected and has not answered for {seconds} s; it may have very much to do, or be \
         broken: look at its log, and try again"
    )]
    NoAnswer {
        /// The endpoint of the broker.
        endpoint: Endpoint,
        /// For how long.
        seconds: u32,
    },
    /// The answer cannot be read, and the connection was cut for that, one after the other.
    #[error(
        "the broker's answer cannot be read ({0}), and is not asked for again after a second cut; install the same \
         Furlong on both sides"
    )]
    UnsoundAnswer(Arc<str>),
    /// The request does not fit a message.
    #[error(
        "the request has {bytes} bytes, over the limit of {bytes_max}; name less in it, and ask in parts"
    )]
    TooLong {
        /// Its size.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// The broker answered something else than what was asked.
    #[error("the broker's answer is not to what was asked: it speaks another version")]
    WrongAnswer,
    /// The blocking client was used where it would stop a tokio runtime.
    #[error(
        "the blocking client would stop the tokio runtime that it was called in; use the async `furlong_client::Client` \
         there, or a thread of its own (`std::thread::spawn`)"
    )]
    InsideAsync,
}

/// The connection to the broker is over, and with it what had not finished.
#[derive(Debug, thiserror::Error)]
#[error("the connection to the broker at {endpoint} {cause}{}", cause.advice())]
pub struct Disconnected {
    /// The endpoint at which the broker was.
    pub endpoint: Endpoint,
    /// The cause of the connection's end.
    pub cause: DisconnectCause,
}

impl DisconnectCause {
    /// Advice on what to do about it.
    fn advice(&self) -> &'static str {
        match self {
            Self::Closed | Self::RuntimeEnded => "",
            Self::UnsoundAgain(_) => "; install the same Furlong on both sides",
            _ => "; connect again, and submit what had not finished",
        }
    }

    /// Returns true if the session can go on, on another connection.
    pub(crate) fn is_cut(&self) -> bool {
        match self {
            Self::ClosedByBroker
            | Self::Socket(_)
            | Self::Silent
            | Self::Stalled
            | Self::Unsound(_) => true,
            Self::Closed
            | Self::Goodbye(_)
            | Self::SessionOver(_)
            | Self::UnsoundAgain(_)
            | Self::NoAnswer(_)
            | Self::RuntimeEnded => false,
        }
    }
}

/// The cause of a connection's end.
#[derive(Debug, thiserror::Error)]
pub enum DisconnectCause {
    /// This side closed it.
    #[error("was closed by this client")]
    Closed,
    /// The broker said goodbye.
    #[error("was ended by the broker: {0}")]
    Goodbye(String),
    /// The broker's end of the stream.
    #[error("was lost: the broker closed it (its log says why)")]
    ClosedByBroker,
    /// The socket's error.
    #[error("was lost: {0}")]
    Socket(#[from] io::Error),
    /// Nothing came for too long.
    #[error("was lost: nothing came for 15 s")]
    Silent,
    /// The broker took nothing of what waits for it, for too long.
    #[error("was lost: nothing was taken for 10 s")]
    Stalled,
    /// The broker lets the session in, and does not say what it knows of it.
    #[error(
        "is there again, but not the session: the broker has not said for {0} s what it knows of it"
    )]
    NoAnswer(u32),
    /// The broker is there, and the session is not: it had been away for too long, or was ended.
    #[error("is there again, but not the session: {0}")]
    SessionOver(String),
    /// The broker broke the protocol.
    #[error("was cut, as what came is unsound: {0}")]
    Unsound(#[from] ReceiveError),
    /// The same on the connection before.
    #[error("was cut twice in a row, as what comes is unsound: {0}")]
    UnsoundAgain(ReceiveError),
    /// The tokio runtime that the client was connected in is gone.
    #[error(
        "ended with the tokio runtime that it was made in; keep the runtime as long as the client"
    )]
    RuntimeEnded,
}
