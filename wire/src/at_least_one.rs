//! Lists that are never empty, and mostly have one element.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::message::quick::{ARRAY_PARTS_MAX, Input, Quick, put_by_serde, put_parts};

/// One element or more. The first one is in place, so that a list of one is no allocation. Travels
/// as an array.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AtLeastOne<T> {
    /// The first.
    pub first: T,
    /// Those after it.
    pub others: Vec<T>,
}

impl<T> AtLeastOne<T> {
    /// One element.
    pub const fn new(first: T) -> Self {
        Self { first, others: Vec::new() }
    }

    /// Returns the number of elements.
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        1 + self.others.len()
    }

    /// Appends one.
    pub fn push(&mut self, other: T) {
        self.others.push(other);
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> + Clone {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// Maps each element, in order.
    pub fn map<U>(self, mut f: impl FnMut(T) -> U) -> AtLeastOne<U> {
        let first = f(self.first);
        AtLeastOne { first, others: self.others.into_iter().map(f).collect() }
    }
}

impl<T> IntoIterator for AtLeastOne<T> {
    type Item = T;
    type IntoIter = std::iter::Chain<std::iter::Once<T>, std::vec::IntoIter<T>>;

    fn into_iter(self) -> Self::IntoIter {
        std::iter::once(self.first).chain(self.others)
    }
}

impl<T: Serialize> Serialize for AtLeastOne<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for AtLeastOne<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Elements(PhantomData))
    }
}

struct Elements<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Elements<T> {
    type Value = AtLeastOne<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of one or more")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let first = seq.next_element()?.ok_or_else(|| A::Error::invalid_length(0, &self))?;
        let mut elements = AtLeastOne::new(first);
        while let Some(other) = seq.next_element()? {
            elements.push(other);
        }
        Ok(elements)
    }
}

impl<T: Quick> Quick for AtLeastOne<T> {
    #[inline]
    fn put(&self, out: &mut Vec<u8>) {
        if self.len() > ARRAY_PARTS_MAX {
            return put_by_serde(self, out);
        }
        put_parts(self.len() as u8, out);
        self.iter().for_each(|element| element.put(out));
    }

    /// Takes one alone; serde takes longer ones.
    #[inline]
    fn take(input: &mut Input<'_>) -> Option<Self> {
        input.parts(1)?;
        T::take(input).map(Self::new)
    }
}
