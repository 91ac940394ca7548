//! A map whose keys are given one after the other and mostly taken out in about that order.

use std::collections::BTreeMap;

/// Entries of one page.
const PAGE: u64 = 32;

/// A map from numbers to values, in pages of consecutive numbers: to add, find and remove one costs a look-up among the
/// pages, and an old number that stays keeps its page alone. Its order is that of the numbers.
#[derive(Debug)]
pub struct Numbered<T> {
    pages: BTreeMap<u64, Page<T>>,
    len: usize,
    /// The last page that became empty, for the next one that is needed.
    spare: Option<Page<T>>,
}

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

impl<T> Default for Numbered<T> {
    fn default() -> Self {
        Self { pages: BTreeMap::new(), len: 0, spare: None }
    }
}

impl<T> Numbered<T> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value of a number.
    pub fn get(&self, number: u64) -> Option<&T> {
        self.pages.get(&(number / PAGE))?.slots[(number % PAGE) as usize].as_ref()
    }

    /// The value of a number.
    pub fn get_mut(&mut self, number: u64) -> Option<&mut T> {
        self.pages.get_mut(&(number / PAGE))?.slots[(number % PAGE) as usize].as_mut()
    }

    /// Whether a number has a value.
    pub fn contains(&self, number: u64) -> bool {
        self.get(number).is_some()
    }

    /// Gives a number a value, in place of the one that it had.
    pub fn insert(&mut self, number: u64, value: T) -> Option<T> {
        let spare = &mut self.spare;
        let page = self.pages.entry(number / PAGE).or_insert_with(|| spare.take().unwrap_or_default());
        let before = page.slots[(number % PAGE) as usize].replace(value);
        if before.is_none() {
            page.live += 1;
            self.len += 1;
        }
        before
    }

    /// Takes a number's value out.
    pub fn remove(&mut self, number: u64) -> Option<T> {
        let page = self.pages.get_mut(&(number / PAGE))?;
        let value = page.slots[(number % PAGE) as usize].take()?;
        page.live -= 1;
        self.len -= 1;
        if page.live == 0 {
            self.spare = self.pages.remove(&(number / PAGE));
        }
        Some(value)
    }

    /// The smallest number.
    #[cfg(test)]
    pub fn first(&self) -> Option<u64> {
        self.iter().next().map(|(number, _)| number)
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.range(0, u64::MAX)
    }

    /// Those whose numbers are from `first` to `last`, in order.
    pub fn range(&self, first: u64, last: u64) -> impl Iterator<Item = (u64, &T)> {
        // A map refuses a range that ends before it begins.
        let pages = first / PAGE..=(last / PAGE).max(first / PAGE);
        let in_pages = self.pages.range(pages).flat_map(|(page, content)| {
            let slots = content.slots.iter().enumerate();
            slots.filter_map(move |(at, value)| value.as_ref().map(|value| (page * PAGE + at as u64, value)))
        });
        in_pages.filter(move |(number, _)| (first..=last).contains(number))
    }

    /// Takes out those whose numbers are from `first` to `last`, and gives them in order.
    pub fn remove_range(&mut self, first: u64, last: u64) -> Vec<(u64, T)> {
        if first == last {
            return self.remove(first).map(|value| (first, value)).into_iter().collect();
        }
        let numbers: Vec<u64> = self.range(first, last).map(|(number, _)| number).collect();
        numbers.into_iter().filter_map(|number| self.remove(number).map(|value| (number, value))).collect()
    }

    /// Takes the page of the smallest numbers out, whatever is in it.
    pub fn forget_oldest(&mut self) {
        if let Some((_, page)) = self.pages.pop_first() {
            self.len -= page.live as usize;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_a_map_in_order(steps in proptest::collection::vec((0u64..300, any::<bool>(), 0u64..40), 0..300)) {
            let mut numbered = Numbered::default();
            let mut model = BTreeMap::new();
            for (number, insert, more) in steps {
                if insert {
                    prop_assert_eq!(numbered.insert(number, more), model.insert(number, more));
                } else if more < 20 {
                    prop_assert_eq!(numbered.remove(number), model.remove(&number));
                } else {
                    let removed = numbered.remove_range(number, number + more);
                    let expected: Vec<_> = model.extract_if(number..=number + more, |_, _| true).collect();
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
    fn an_empty_range_and_the_whole_range_are_ranges() {
        let mut numbered = Numbered::default();
        numbered.insert(u64::MAX, 1);
        assert_eq!(numbered.range(5, 4).count(), 0);
        assert_eq!(numbered.remove_range(0, u64::MAX), [(u64::MAX, 1)]);
        numbered.insert(3, 1);
        numbered.forget_oldest();
        assert!(numbered.is_empty());
    }
}
