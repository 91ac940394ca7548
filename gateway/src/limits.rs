//! Every bound of a gateway. That of a request's bytes is
//! [`GATEWAY_REQUEST_BYTES_MAX`](furlong_wire::limits::GATEWAY_REQUEST_BYTES_MAX).

use std::time::Duration;

/// The version of the requests and answers.
pub const VERSION: u64 = 1;
/// Connections at once. Each costs a request of 4 MiB and its results at most.
pub const CONNECTIONS_MAX: usize = 64;
/// Connections beyond those that are told so; others are closed without a word.
pub const TURNED_AWAY_MAX: usize = 16;
/// The time in which a connection must have finished its ZMTP handshake.
pub const READY_WITHIN: Duration = Duration::from_secs(10);
/// The time in which a peer must take an answer, before its connection is closed.
pub const TAKEN_WITHIN: Duration = Duration::from_secs(30);
/// The delay before a wrong token is answered, and the connection closed: at most
/// [`CONNECTIONS_MAX`] guesses at 256 bits in this time.
pub const WRONG_TOKEN_DELAY: Duration = Duration::from_secs(1);
/// Tasks of a peer that have not ended. Each item of a map and each engine of an execute is one.
pub const OUTSTANDING_MAX: usize = 4096;
/// Items of a map.
pub const ITEMS_MAX: usize = 4096;
/// Engines that one execute names.
pub const ENGINES_MAX: usize = 4096;
/// Words of a command.
pub const WORDS_MAX: usize = 4096;
/// Requests of a peer for results that wait.
pub const WAITS_MAX: usize = 256;
/// Ended tasks whose results are kept for a peer until it asks; beyond that the oldest go.
pub const RESULTS_MAX: usize = 1024;
/// Bytes of those results.
pub const RESULTS_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of an answer.
pub const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;
/// The longest wait of one request for a result: an hour.
pub const WAIT_MS_MAX: u64 = 3_600_000;
/// Bytes of a request's id, if it is text.
pub const ID_BYTES_MAX: usize = 128;
/// Levels of arrays and maps in a msgpack request.
pub const DEPTH_MAX: usize = 64;
