//! The bounds that both sides must know, in one place. Sizes are bytes, times milliseconds.
//!
//! A limit of one message or type stands here all the same, so that the worst case of a connection
//! can be added up by reading one file. What one process bounds for itself stands beside what it
//! bounds: the broker's memory in `broker/src/budget.rs`, unknown peers in `shell/rates.rs`.

/// Protocol version. Both sides must name the same one before 1.0.
pub const PROTOCOL_VERSION: u32 = 1;

/// Bytes buffered from a peer that has not proved itself.
pub const PREAUTH_BUFFER_BYTES_MAX: usize = 4 * 1024;
/// Bytes of a frame from a peer that has not proved itself.
pub const PREAUTH_FRAME_BYTES_MAX: usize = 4 * 1024;
/// Frames in a message from a peer that has not proved itself.
pub const PREAUTH_FRAMES_MAX: usize = 1;
/// Time for the greeting and READY.
pub const GREETING_TIMEOUT_MS: u64 = 2_000;
/// Time for the whole handshake, from `accept` to the third message.
pub const HANDSHAKE_TIMEOUT_MS: u64 = 5_000;
/// Handshakes that the broker begins in a second, and at once after a quiet second half as many.
pub const HANDSHAKES_PER_SECOND_MAX: u32 = 2_000;
/// Those of one origin: an address, a /64 network of IPv6, all pipes.
pub const HANDSHAKES_PER_SECOND_OF_ORIGIN_MAX: u32 = 1_000;
/// Connections that have not sent a whole first message, in all.
pub const PENDING_MAX: usize = 384;
/// Those of one origin.
pub const PENDING_PER_ORIGIN_MAX: usize = 128;
/// Connections whose first message waits for its turn, in all.
pub const WAITING_MAX: usize = 256;
/// Those of one origin.
pub const WAITING_PER_ORIGIN_MAX: usize = 192;
/// Connections that have sent a right first message and not proved themselves, in all.
pub const CALLERS_MAX: usize = 384;
/// Those of one origin.
pub const CALLERS_OF_ORIGIN_MAX: usize = 256;

/// Bytes of one record: envelope and chunks together.
pub const RECORD_BYTES_MAX: usize = 512 * 1024;
/// Frames of one record: the envelope and its chunks.
pub const RECORD_FRAMES_MAX: usize = 1024;
/// Bytes of a request to a gateway, with its delimiter: what one program may make it hold of a
/// message that is not complete.
pub const GATEWAY_REQUEST_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Frames of a request to a gateway: an empty delimiter, and the body.
pub const GATEWAY_FRAMES_MAX: usize = 2;
/// Bytes of a record's batch of messages, before sealing. One message may be longer, up to
/// [`MESSAGE_BYTES_MAX`], and then has a record of its own. A record is opened when it is whole:
/// larger ones make client, broker and engines wait for each other by turns.
pub const BATCH_BYTES_TARGET: usize = 8 * 1024;
/// Bytes of the longest single message: a registration that names [`HELD_RESULTS_MAX`] attempts.
/// Lists that may be longer are split where the message is made, and an answer that is longer
/// becomes a refusal.
pub const MESSAGE_BYTES_MAX: usize = 480 * 1024;
/// Attempts, or ranges of tasks, in one message.
pub const LISTED_MAX: usize = 4096;
/// Bytes of what one page of an answer lists, by a rough count; the item that reaches this is its
/// last one.
pub const PAGE_BYTES_TARGET: usize = 64 * 1024;
/// Bytes of the `Chunk` message that goes with each chunk of a record.
pub const CHUNK_MESSAGE_BYTES_MAX: usize = 12;
/// Bytes of chunks in one record, so that control never waits behind more than this.
pub const RECORD_CHUNK_BYTES_MAX: usize = 256 * 1024;
/// Bytes of plaintext in one chunk. With its tag and its frame's header a full chunk fits 256 KiB:
/// a buffer of one byte more takes a quarter more memory of an allocator with classes of sizes, and
/// a broker may hold very many of them.
pub const CHUNK_BYTES_MAX: usize = RECORD_CHUNK_BYTES_MAX - 64;
/// A payload up to this size travels inside its message.
pub const INLINE_PAYLOAD_BYTES_MAX: usize = 1024;
/// Bytes of one payload, all buffers together.
pub const PAYLOAD_BYTES_MAX: u64 = 16 * 1024 * 1024 * 1024;
/// The largest payload that a peer may send, in first credits: a quarter of the broker's memory
/// stays for others.
pub const OVERDRAFT_CREDITS: u64 = 3;
/// The number of no transfer: a result that an engine announces under it waits to be asked for.
pub const ASKED_FOR_TRANSFER: u64 = 0;
/// Buffers in one payload.
pub const PAYLOAD_BUFFERS_MAX: usize = 4096;
/// Each buffer of a payload begins at a multiple of this, so that an array in it is aligned for any
/// vector unit.
pub const BUFFER_ALIGNMENT: usize = 64;

/// A side that has sent nothing for this long sends an empty record.
pub const HEARTBEAT_IDLE_MS: u64 = 5_000;
/// A side that has received nothing for this long closes the connection.
pub const HEARTBEAT_DEAD_MS: u64 = 15_000;
/// A peer that takes nothing of what waits for it for this long is closed.
pub const WRITE_STALL_MS: u64 = 10_000;
/// Bytes written to one peer before all others have their turn: inline, and by the peer's writer
/// task after that.
pub const WRITE_TURN_BYTES: usize = 64 * 1024;

/// Unfinished tasks that one broker holds.
pub const UNFINISHED_TASKS_MAX: u64 = 10_000_000;
/// Task targets that one submit may name.
pub const SUBMIT_TARGETS_MAX: usize = 16_384;
/// Ended attempts that an engine process holds until they are released. It names them when it
/// registers, and more do not fit a record.
pub const HELD_RESULTS_MAX: usize = 8_000;
/// Bytes of the results that an engine process holds until they are released.
pub const HELD_RESULT_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Engines behind one connection.
pub const SLOTS_PER_PROCESS_MAX: usize = 1024;
/// Bytes of a task's output that are kept from its start, and as many from its end, for each
/// stream.
pub const OUTPUT_KEPT_BYTES: usize = 1024 * 1024;
/// Bytes of a command's output that come with its result, for each stream, if the whole was asked
/// for.
pub const OUTPUT_WHOLE_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Bytes of an engine's text about a task's end, or an interpreter's: the exception itself is in
/// the payload.
pub const ERROR_TEXT_BYTES_MAX: usize = 4096;
/// Bytes of what is told of an interpreter that is inspected; the rest is left out, and counted.
pub const INSPECTED_BYTES_MAX: usize = 128 * 1024;
/// The longest time for which an interpreter is sampled.
pub const SAMPLING_MS_MAX: u32 = 600_000;
/// The most looks a second at an interpreter that is sampled.
pub const SAMPLES_PER_S_MAX: u32 = 200;
/// Sessions in one look at an interpreter.
pub const INSPECT_SESSIONS_MAX: usize = 256;
/// Bytes of output in one message.
pub const OUTPUT_MESSAGE_BYTES_MAX: usize = 32 * 1024;
/// Records of ended tasks that the broker keeps, with or without their results.
pub const KEPT_RECORDS_MAX: usize = 100_000;
/// The retention time of a result after its task's end.
pub const KEPT_MS: u64 = 3_600_000;
/// Fetches of one client that wait for their task's end.
pub const FETCHES_WAITING_MAX: usize = 1024;
/// Task records in one reply.
pub const RECORDS_PER_REPLY_MAX: usize = 200;
/// Bytes of one payload that a running task publishes.
pub const PUBLISHED_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Ends of a session's tasks that are remembered for dependencies after their result was
/// acknowledged.
pub const ENDS_REMEMBERED_MAX: usize = 65_536;
/// Tasks that a client has one task wait for: a submit with this many still fits one message,
/// whatever else it says. The broker takes as many as a Submit may have targets.
pub const DEPENDENCIES_MAX: usize = 2048;
/// Keys that one running attempt may have let in, and sessions that it may have open by them.
pub const GRANTS_PER_ATTEMPT_MAX: usize = 64;
/// The maximum nesting depth of tasks that wait for tasks. A slot has at most so many additional
/// interpreters.
pub const NESTING_MAX: u32 = 64;
/// Sessions that an attempt can say it waits for.
pub const LENT_SESSIONS_MAX: usize = 1024;
/// Bytes of a name: a label, a runtime, a host, a version.
pub const NAME_BYTES_MAX: usize = 256;
/// Kinds of tasks that one session names.
pub const KINDS_NAMED_MAX: usize = 4096;
/// Bytes of the type of an error, as an engine tells it the broker.
pub const ERROR_TYPE_BYTES_MAX: usize = 64;
/// Bytes of an encoded token.
pub const TOKEN_BYTES_MAX: usize = 1536;
/// Bytes of a capability file.
pub const CAPABILITY_FILE_BYTES_MAX: u64 = 64 * 1024;
/// Tokens that one cluster can have revoked.
pub const REVOKED_TOKENS_MAX: usize = 16_384;
/// Bytes of a `revoked.json`: enough for that many tokens with the longest reasons, each character
/// of them escaped.
pub const REVOKED_FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Tolerance for clocks that differ, when a token's validity is checked.
pub const CLOCK_TOLERANCE_S: u64 = 300;
/// Bytes of a refusal's text.
pub const REFUSAL_TEXT_BYTES_MAX: usize = 1024;

const _: () = assert!(MESSAGE_BYTES_MAX + 64 < RECORD_BYTES_MAX);
const _: () = assert!(2 * BATCH_BYTES_TARGET + RECORD_CHUNK_BYTES_MAX + 64 < RECORD_BYTES_MAX);
const _: () = assert!(CHUNK_BYTES_MAX + 16 + CHUNK_MESSAGE_BYTES_MAX <= RECORD_CHUNK_BYTES_MAX);
