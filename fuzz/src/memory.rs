//! Memory as a property: what an input may make the product hold at once.

/// Does something that must not hold more than that many bytes more at any moment than at its
/// beginning. Counts what this thread allocates.
///
/// # Panics
/// If it does.
pub fn within<R>(bytes_max: usize, act: impl FnOnce() -> R) -> R {
    let mut result = None;
    let used = allocation_counter::measure(|| result = Some(act()));
    assert!(
        used.bytes_max <= bytes_max as u64,
        "{} bytes were held, at most {bytes_max} may be",
        used.bytes_max
    );
    result.expect("`measure` calls what it is given")
}
