//! The system's allocator, with a count of the bytes that are held, and of the most that were.

#![expect(unsafe_code, reason = "an allocator is an unsafe trait; this one passes everything on")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

static HELD_BYTES: AtomicU64 = AtomicU64::new(0);
static PEAK_BYTES: AtomicU64 = AtomicU64::new(0);

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: the system's allocator does everything.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let bytes = layout.size() as u64;
        PEAK_BYTES
            .fetch_max(HELD_BYTES.fetch_add(bytes, Ordering::Relaxed) + bytes, Ordering::Relaxed);
        // SAFETY: the caller's promises are those that it wants.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD_BYTES.fetch_sub(layout.size() as u64, Ordering::Relaxed);
        // SAFETY: the caller's promises are those that it wants.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Does something, and gives the bytes that all threads together have allocated for it: those that
/// are still held, and the most that were at any time.
pub fn counted<T>(f: impl FnOnce() -> T) -> (T, [u64; 2]) {
    let before = HELD_BYTES.load(Ordering::Relaxed);
    PEAK_BYTES.store(before, Ordering::Relaxed);
    let given = f();
    let [held, peak] = [&HELD_BYTES, &PEAK_BYTES]
        .map(|bytes| bytes.load(Ordering::Relaxed).saturating_sub(before));
    (given, [held, peak])
}
