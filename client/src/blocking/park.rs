//! Waiting for a future on a thread that has nothing else to do.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// Wakes a thread by unparking it.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

thread_local! {
    static WAKER: Waker = Waker::from(Arc::new(Unpark(thread::current())));
}

/// Runs a future to its end on this thread. The futures of this crate need no runtime for that,
/// only somebody to wake.
pub(super) fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    WAKER.with(|waker| {
        loop {
            match future.as_mut().poll(&mut Context::from_waker(waker)) {
                Poll::Ready(output) => return output,
                Poll::Pending => thread::park(),
            }
        }
    })
}

/// Runs a future for some time at most; none if it has not ended by then.
pub(super) fn block_on_for<F: Future>(future: F, timeout: Duration) -> Option<F::Output> {
    let began = Instant::now();
    let mut future = pin!(future);
    WAKER.with(|waker| {
        loop {
            if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(waker)) {
                return Some(output);
            }
            thread::park_timeout(
                timeout.checked_sub(began.elapsed()).filter(|left| !left.is_zero())?,
            );
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_future_that_another_thread_completes_ends_the_wait() {
        let (send, receive) = tokio::sync::oneshot::channel();
        let sender = thread::spawn(move || send.send(7).unwrap());
        assert_eq!(block_on(receive), Ok(7));
        sender.join().unwrap();
    }

    #[test]
    fn a_wait_with_a_bound_ends() {
        assert_eq!(block_on_for(std::future::pending::<()>(), Duration::from_millis(1)), None);
        assert_eq!(block_on_for(std::future::ready(7), Duration::ZERO), Some(7));
    }
}
