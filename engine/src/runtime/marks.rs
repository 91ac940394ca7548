//! Marks in the run of a Rust function, which divide its time into parts.

use std::cell::Cell;

use bytes::Bytes;

use crate::clock;
use crate::job::JobTimes;

thread_local! {
    /// When this thread's function had its arguments, and when it returned: 0 if it has not come so
    /// far, if its arguments are short, or if it takes buffers and gives them.
    static LOADED_AT: Cell<u64> = const { Cell::new(0) };
    static RETURNED_AT: Cell<u64> = const { Cell::new(0) };
}

/// Bytes of arguments up to which it takes no time to speak of to decode them.
const SHORT_BYTES: usize = 1024;

/// Calls this thread's function, whose arguments have been decoded.
pub(super) fn run<R>(data: &[Bytes], function: impl FnOnce() -> R) -> R {
    if data.iter().any(|buffer| buffer.len() > SHORT_BYTES) {
        LOADED_AT.set(clock::now_us());
    }
    let value = function();
    RETURNED_AT.set(clock::now_us());
    value
}

/// The times of a job that began then and ends now.
pub(super) fn measured(begun_at: u64) -> JobTimes {
    let ends_at = clock::now_us();
    let (loaded, returned) = (LOADED_AT.take(), RETURNED_AT.take());
    let loaded = if loaded == 0 { begun_at } else { loaded };
    let returned = if returned == 0 { ends_at } else { returned };
    JobTimes {
        begun_at_us: Some(begun_at),
        load_us: loaded - begun_at,
        run_us: returned - loaded,
        store_us: ends_at - returned,
    }
}
