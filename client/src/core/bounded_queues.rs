//! Bounded queues to readers who may be slow: output, intermediate data, events.

use std::collections::VecDeque;
use std::task::Poll;

use slab::Slab;

use super::Waiter;

/// Bytes that each item counts beyond its own, so that many empty ones are bounded as well.
const ITEM_BYTES: usize = 64;

/// An item in a queue.
pub trait Weigh {
    /// Bytes that it holds.
    fn bytes(&self) -> usize;
}

/// Queues of one kind, each with one reader.
#[derive(Debug)]
pub struct BoundedQueues<T, W> {
    slab: Slab<BoundedQueue<T, W>>,
    /// Bytes in one queue, beyond which its oldest items go.
    bytes_max: usize,
}

#[derive(Debug)]
struct BoundedQueue<T, W> {
    items: VecDeque<T>,
    bytes: usize,
    /// Items that went because the reader was slow, since it was last told.
    missed: u64,
    waiter: Option<W>,
    is_over: bool,
}

/// The answer to a request for the next item.
#[derive(Debug)]
pub enum Fed<T> {
    /// Here it is.
    Item(T),
    /// So many went before the next one.
    Missed(u64),
    /// Nothing will come any longer.
    Over,
}

impl<T: Weigh, W: Waiter> BoundedQueues<T, W> {
    /// No queues yet.
    pub fn new(bytes_max: usize) -> Self {
        Self { slab: Slab::new(), bytes_max }
    }

    /// Returns true if nobody reads.
    pub fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }

    /// A new queue's key.
    pub fn open(&mut self) -> usize {
        self.slab.insert(BoundedQueue {
            items: VecDeque::new(),
            bytes: 0,
            missed: 0,
            waiter: None,
            is_over: false,
        })
    }

    /// Adds an item; the oldest go if the reader is slow. Returns whom to wake.
    pub fn push(&mut self, key: usize, item: T) -> Option<W> {
        // Its reader has left, or has been told that nothing more comes.
        let feed = self.slab.get_mut(key).filter(|feed| !feed.is_over)?;
        feed.bytes += item.bytes() + ITEM_BYTES;
        feed.items.push_back(item);
        // The newest stays, however large it is.
        while feed.bytes > self.bytes_max && feed.items.len() > 1 {
            let oldest = feed.items.pop_front().expect("there are two at least");
            assert!(oldest.bytes() + ITEM_BYTES <= feed.bytes, "each item was counted as it came");
            feed.bytes -= oldest.bytes() + ITEM_BYTES;
            feed.missed += 1;
        }
        feed.waiter.take()
    }

    /// Nothing more comes. Returns whom to wake.
    pub fn finish(&mut self, key: usize) -> Option<W> {
        let feed = self.slab.get_mut(key)?;
        feed.is_over = true;
        feed.waiter.take()
    }

    /// Nothing more comes to anybody. Returns whom to wake.
    pub fn finish_all(&mut self) -> Vec<W> {
        let feeds = self.slab.iter_mut().map(|(_, feed)| feed);
        feeds
            .filter_map(|feed| {
                feed.is_over = true;
                feed.waiter.take()
            })
            .collect()
    }

    /// Every queue's key.
    pub fn keys(&self) -> Vec<usize> {
        self.slab.iter().map(|(key, _)| key).collect()
    }

    /// The next item, or the waiter is kept until there is one. The one that it replaces is given
    /// back.
    pub fn poll(&mut self, key: usize, waiter: &W, replaced: &mut Option<W>) -> Poll<Fed<T>> {
        let Some(feed) = self.slab.get_mut(key) else { return Poll::Ready(Fed::Over) };
        // Before the next item: the gap is where the reader stands now.
        if feed.missed > 0 {
            return Poll::Ready(Fed::Missed(std::mem::take(&mut feed.missed)));
        }
        if let Some(item) = feed.items.pop_front() {
            assert!(item.bytes() + ITEM_BYTES <= feed.bytes, "each item was counted as it came");
            feed.bytes -= item.bytes() + ITEM_BYTES;
            return Poll::Ready(Fed::Item(item));
        }
        // Last: what had come before is still to be read.
        if feed.is_over {
            return Poll::Ready(Fed::Over);
        }
        *replaced = feed.waiter.replace(waiter.clone());
        Poll::Pending
    }

    /// Nobody reads it any longer. The waiter is given back.
    pub fn forget(&mut self, key: usize) -> Option<W> {
        self.slab.try_remove(key).and_then(|feed| feed.waiter)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    impl Weigh for usize {
        fn bytes(&self) -> usize {
            *self
        }
    }

    fn poll(feeds: &mut BoundedQueues<usize, Waker>, key: usize) -> Option<String> {
        match feeds.poll(key, Waker::noop(), &mut None) {
            Poll::Ready(fed) => Some(format!("{fed:?}")),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_slow_reader_is_told_how_many_it_missed() {
        let mut feeds = BoundedQueues::new(1_000);
        let key = feeds.open();
        assert_eq!(poll(&mut feeds, key), None);
        for _ in 0..5 {
            feeds.push(key, 300);
        }
        assert_eq!(poll(&mut feeds, key).unwrap(), "Missed(3)");
        assert_eq!(poll(&mut feeds, key).unwrap(), "Item(300)");
        feeds.finish(key);
        feeds.push(key, 1);
        assert_eq!(poll(&mut feeds, key).unwrap(), "Item(300)");
        assert_eq!(poll(&mut feeds, key).unwrap(), "Over");
    }

    #[test]
    fn empty_items_are_bounded_and_the_newest_is_kept_whatever_its_size() {
        let mut feeds = BoundedQueues::new(1_000);
        let key = feeds.open();
        (0..1_000).for_each(|_| drop(feeds.push(key, 0)));
        assert_eq!(feeds.slab[key].items.len(), 1_000 / ITEM_BYTES);
        feeds.push(key, 5_000);
        assert_eq!(poll(&mut feeds, key).unwrap(), "Missed(1000)");
        assert_eq!(poll(&mut feeds, key).unwrap(), "Item(5000)");
        assert!(feeds.forget(key).is_none());
        assert_eq!(poll(&mut feeds, key).unwrap(), "Over");
    }
}
