//! A map whose keys are given one after the other and mostly taken out in about that order.

use std::collections::{BTreeMap, VecDeque};
use std::marker::PhantomData;

use furlong_wire::ids::{AttemptId, TaskSeq};

use crate::core::turns::work::count;

/// Entries of one page.
const PAGE: u64 = 32;
/// Pages that are found by counting. Older ones that still have something go to a map.
const RECENT_MAX: u64 = 1024;

/// A map from numbers to values, in pages of consecutive numbers. Of the last 32 768 numbers each
/// is found by its place, without a search; an older one that stays keeps its page alone. Its order
/// is that of the numbers.
#[derive(Debug)]
pub struct SeqMap<K, T> {
    /// Consecutive pages, from the page `first_recent` on. Neither the first nor the last is
    /// missing.
    recent: VecDeque<Option<Page<T>>>,
    first_recent: u64,
    old: BTreeMap<u64, Page<T>>,
    len: usize,
    /// The last page that became empty, for the next one that is needed.
    spare: Option<Page<T>>,
    keys: PhantomData<K>,
}

/// A key of a [`SeqMap`]: a number under a name.
pub trait SeqKey: Copy {
    /// The key of a number.
    fn of(number: u64) -> Self;

    /// Its number.
    fn number(self) -> u64;
}

/// Newtypes of numbers.
macro_rules! seq_keys {
    ($($name:ident)+) => {
        $(impl SeqKey for $name {
            fn of(number: u64) -> Self {
                Self(number)
            }

            fn number(self) -> u64 {
                self.0
            }
        })+
    };
}

seq_keys! { AttemptId TaskSeq }

#[derive(Debug)]
struct Page<T> {
    slots: Box<[Option<T>; PAGE as usize]>,
    live: u32,
}

impl<T> Default for Page<T> {
    fn default() -> Self {
        Self { slots: Box::new([const { None }; PAGE as usize]), live: 0 }
    }
}

impl<K, T> Default for SeqMap<K, T> {
    fn default() -> Self {
        Self {
            recent: VecDeque::new(),
            first_recent: 0,
            old: BTreeMap::new(),
            len: 0,
            spare: None,
            keys: PhantomData,
        }
    }
}

impl<K: SeqKey, T> SeqMap<K, T> {
    /// Returns the number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns true if there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value of a number.
    pub fn get(&self, key: K) -> Option<&T> {
        let number = key.number();
        self.page(number / PAGE)?.slots[(number % PAGE) as usize].as_ref()
    }

    /// The value of a number.
    pub fn get_mut(&mut self, key: K) -> Option<&mut T> {
        let number = key.number();
        self.page_mut(number / PAGE)?.slots[(number % PAGE) as usize].as_mut()
    }

    /// Returns true if a number has a value.
    pub fn contains(&self, key: K) -> bool {
        self.get(key).is_some()
    }

    /// Gives a number a value, in place of the one that it had.
    pub fn insert(&mut self, key: K, value: T) -> Option<T> {
        let number = key.number();
        let page = self.page_or_new(number / PAGE);
        let before = page.slots[(number % PAGE) as usize].replace(value);
        if before.is_none() {
            page.live += 1;
            self.len += 1;
        }
        before
    }

    /// Takes a number's value out.
    pub fn remove(&mut self, key: K) -> Option<T> {
        let number = key.number();
        let page = self.page_mut(number / PAGE)?;
        let value = page.slots[(number % PAGE) as usize].take()?;
        assert!(page.live > 0 && page.live <= PAGE as u32, "a page of {} values", page.live);
        page.live -= 1;
        let is_empty = page.live == 0;
        self.len -= 1;
        if is_empty {
            // Numbers mostly come and go in order: the next page is needed soon.
            self.spare = self.take_page(number / PAGE);
        }
        Some(value)
    }

    /// The smallest number.
    #[cfg(test)]
    pub fn first(&self) -> Option<K> {
        self.iter().next().map(|(key, _)| key)
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = (K, &T)> {
        self.range(K::of(0), K::of(u64::MAX))
    }

    /// Those whose numbers are from `first` to `last`, in order.
    pub fn range(&self, first: K, last: K) -> impl Iterator<Item = (K, &T)> {
        let (first, last) = (first.number(), last.number());
        let (first_page, last_page) = (first / PAGE, (last / PAGE).max(first / PAGE));
        let old = self.old.range(first_page..=last_page).map(|(page, content)| (*page, content));
        let before = first_page.saturating_sub(self.first_recent).min(self.recent.len() as u64);
        let recent = (self.first_recent + before..).zip(self.recent.range(before as usize..));
        let recent = recent.take_while(move |(page, _)| *page <= last_page).inspect(|_| count(1));
        let recent = recent.filter_map(|(page, content)| Some((page, content.as_ref()?)));
        let pages = old.chain(recent);
        let in_pages = pages.flat_map(|(page, content)| {
            let slots = content.slots.iter().enumerate();
            slots.filter_map(move |(at, value)| {
                value.as_ref().map(|value| (page * PAGE + at as u64, value))
            })
        });
        let in_range = in_pages
            .inspect(|_| count(1))
            .filter(move |(number, _)| (first..=last).contains(number));
        in_range.map(|(number, value)| (K::of(number), value))
    }

    /// Takes out those whose numbers are from `first` to `last`, so many at most, and gives them in
    /// order.
    pub fn remove_first(&mut self, first: K, last: K, most: usize) -> Vec<(K, T)> {
        let keys: Vec<K> = self.range(first, last).take(most).map(|(key, _)| key).collect();
        keys.into_iter()
            .map(|key| (key, self.remove(key).expect("it was found a moment ago")))
            .collect()
    }

    /// Takes the page of the smallest numbers out, whatever is in it.
    pub fn forget_oldest(&mut self) {
        let oldest = self
            .old
            .keys()
            .next()
            .copied()
            .or_else(|| (!self.recent.is_empty()).then_some(self.first_recent));
        if let Some(page) = oldest.and_then(|page| self.take_page(page)) {
            assert!(page.live as usize <= self.len, "{} of {} are forgotten", page.live, self.len);
            self.len -= page.live as usize;
        }
    }

    fn page(&self, page: u64) -> Option<&Page<T>> {
        match page.checked_sub(self.first_recent) {
            Some(place) => self.recent.get(usize::try_from(place).ok()?)?.as_ref(),
            None => self.old.get(&page),
        }
    }

    fn page_mut(&mut self, page: u64) -> Option<&mut Page<T>> {
        match page.checked_sub(self.first_recent) {
            Some(place) => self.recent.get_mut(usize::try_from(place).ok()?)?.as_mut(),
            None => self.old.get_mut(&page),
        }
    }

    fn page_or_new(&mut self, page: u64) -> &mut Page<T> {
        if self.recent.is_empty() {
            // The old ones are all before the recent ones.
            self.first_recent = self.old.keys().next_back().map_or(page, |last| page.max(last + 1));
        }
        if page < self.first_recent {
            let spare = &mut self.spare;
            return self.old.entry(page).or_insert_with(|| spare.take().unwrap_or_default());
        }
        while !self.recent.is_empty() && page - self.first_recent >= RECENT_MAX {
            // One number that stays, such as that of a result which its client never acknowledges,
            // would otherwise keep a place for every page after it.
            if let Some(Some(aged)) = self.recent.pop_front() {
                let before = self.old.insert(self.first_recent, aged);
                assert!(before.is_none(), "page {} is both old and recent", self.first_recent);
            }
            self.first_recent += 1;
            self.trim();
        }
        if self.recent.is_empty() {
            self.first_recent = page;
        }
        let place = (page - self.first_recent) as usize;
        while self.recent.len() <= place {
            self.recent.push_back(None);
        }
        let spare = &mut self.spare;
        self.recent[place].get_or_insert_with(|| spare.take().unwrap_or_default())
    }

    fn take_page(&mut self, page: u64) -> Option<Page<T>> {
        let Some(place) = page.checked_sub(self.first_recent) else {
            return self.old.remove(&page);
        };
        let taken = self.recent.get_mut(usize::try_from(place).ok()?)?.take();
        self.trim();
        taken
    }

    /// Lets the recent pages begin and end with one that is there.
    fn trim(&mut self) {
        while let Some(None) = self.recent.front() {
            self.recent.pop_front();
            self.first_recent += 1;
        }
        while let Some(None) = self.recent.back() {
            self.recent.pop_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    impl SeqKey for u64 {
        fn of(number: u64) -> Self {
            number
        }

        fn number(self) -> u64 {
            self
        }
    }

    proptest! {
        #[test]
        fn it_is_a_map_in_order(
            steps in proptest::collection::vec((0u64..300, any::<bool>(), 0u64..40), 0..300),
        ) {
            let mut numbered = SeqMap::default();
            let mut model = BTreeMap::new();
            for (number, insert, more) in steps {
                if insert {
                    prop_assert_eq!(numbered.insert(number, more), model.insert(number, more));
                } else if more < 20 {
                    prop_assert_eq!(numbered.remove(number), model.remove(&number));
                } else {
                    let removed = numbered.remove_first(number, number + more, usize::MAX);
                    let expected: Vec<_> =
                        model.extract_if(number..=number + more, |_, _| true).collect();
                    prop_assert_eq!(removed, expected);
                }
                prop_assert_eq!(numbered.len(), model.len());
                prop_assert_eq!(numbered.first(), model.keys().next().copied());
                let all: Vec<_> = numbered.iter().map(|(number, value)| (number, *value)).collect();
                prop_assert_eq!(all, model.clone().into_iter().collect::<Vec<_>>());
                prop_assert_eq!(numbered.get(number), model.get(&number));
            }
        }
    }

    #[test]
    fn numbers_far_apart_are_found_too() {
        let mut numbered = SeqMap::default();
        let numbers = [5, 40_000, 40_001, 7, 90_000, 10_000_000_000, 6, 9_999_999_999, u64::MAX, 0];
        for number in numbers {
            numbered.insert(number, number);
        }
        let mut sorted = numbers;
        sorted.sort_unstable();
        assert_eq!(numbered.iter().map(|(number, _)| number).collect::<Vec<_>>(), sorted);
        assert!(numbers.iter().all(|number| numbered.get(*number) == Some(number)));
        assert!(numbered.recent.len() as u64 <= RECENT_MAX);
        assert_eq!(numbered.range(6, 40_000).count(), 3);
        assert!(numbers.iter().all(|number| numbered.remove(*number) == Some(*number)));
        assert!(numbered.is_empty() && numbered.recent.is_empty() && numbered.old.is_empty());
    }

    #[test]
    fn an_empty_range_and_the_whole_range_are_ranges() {
        let mut numbered = SeqMap::default();
        numbered.insert(u64::MAX, 1);
        assert_eq!(numbered.range(5, 4).count(), 0);
        assert_eq!(numbered.remove_first(0, u64::MAX, 9), [(u64::MAX, 1)]);
        numbered.insert(3, 1);
        numbered.forget_oldest();
        assert!(numbered.is_empty());
    }
}
