//! Marks in the run of a Rust function, which divide its time into parts.

use std::cell::Cell;

use crate::clock;
use crate::job::JobTimes;

thread_local! {
    /// When this thread's function had its arguments, and when it returned: 0 if it has not come so
    /// far, or takes buffers and gives them.
    static LOADED_AT: Cell<u64> = const { Cell::new(0) };
    static RETURNED_AT: Cell<u64> = const { Cell::new(0) };
}

/// Calls this thread's function, which has its arguments.
pub(super) fn run<R>(function: impl FnOnce() -> R) -> R {
    LOADED_AT.set(clock::now_us());
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
