//! Open files that a daemon must not keep: a lock of the shell that starts it would never be given
//! back.
//!
//! The unsafe code is one call per descriptor that borrows it by its number, since what somebody
//! else has opened has no owner here. It is borrowed for one `fcntl` that changes nothing but
//! whether the next program keeps it.
#![allow(unsafe_code)]

use std::os::fd::{BorrowedFd, RawFd};

use rustix::io::{FdFlags, fcntl_setfd};

/// Has programs that are started from now on get standard input, output and error alone.
pub fn keep_from_children() {
    for fd in open_descriptors().into_iter().filter(|fd| *fd > 2) {
        // SAFETY: the number is used for this call only; if nothing is open there, the call fails.
        let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
        let _ = fcntl_setfd(borrowed, FdFlags::CLOEXEC);
    }
}

/// Their numbers; without `/proc`, all that a process has by default.
fn open_descriptors() -> Vec<RawFd> {
    let listed = std::fs::read_dir("/proc/self/fd").map(|entries| {
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse().ok()))
            .collect()
    });
    listed.unwrap_or_else(|_| (0..1024).collect())
}
