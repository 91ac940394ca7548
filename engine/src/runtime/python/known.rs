//! The functions that an interpreter holds, and that need not be sent to it again.

use std::collections::{HashSet, VecDeque};

use bytes::Bytes;
use furlong_wire::call::{Call, PickledCall, PickledDefinition};
use furlong_wire::ids::FunctionHash;

use super::inputs::KnownInputs;
use super::protocol::CannotAsk;
use crate::runtime::Job;

/// One interpreter's functions. Both sides change their lists in the order of the requests, so they
/// agree without a message.
#[derive(Debug, Default)]
pub(super) struct Known {
    sources: Sources,
    functions: Functions,
    supports: Supports,
    pub(super) inputs: KnownInputs,
}

/// The parts of a function that a request has to carry.
#[derive(Debug, Default)]
pub(super) struct Unknown {
    /// The source text or the pickle, if the interpreter does not have it.
    pub(super) function: Option<Bytes>,
    /// The support that the function's client sends with it, its `cloudpickle` and modules, if the
    /// interpreter does not have the same.
    pub(super) support: Bytes,
}

impl Known {
    /// Returns what must be sent of a job's function.
    pub(super) fn unknown(&self, job: &Job) -> Result<Unknown, CannotAsk> {
        let function = match &job.header.call {
            Call::Source { hash, .. } if self.sources.contains(hash) => {
                return Ok(Unknown::default());
            }
            Call::Source { source, .. } => {
                let text = source.as_ref().map(|source| Bytes::copy_from_slice(source.as_bytes()));
                text.or_else(|| job.definition.clone()).ok_or(CannotAsk::SourceMissing)?
            }
            Call::Pickled(PickledCall { hash: Some(hash), .. })
                if self.functions.contains(hash) =>
            {
                return Ok(Unknown::default());
            }
            Call::Pickled(call) => return self.unknown_pickle(call, job.definition.as_ref()),
            Call::Command(_) => return Err(CannotAsk::Command),
            _ => return Ok(Unknown::default()),
        };
        Ok(Unknown { function: Some(function), support: Bytes::new() })
    }

    fn unknown_pickle(
        &self,
        call: &PickledCall,
        definition: Option<&Bytes>,
    ) -> Result<Unknown, CannotAsk> {
        let (function, support) = match (&call.blob, definition) {
            (Some(blob), support) => {
                (Bytes::copy_from_slice(blob), support.cloned().unwrap_or_default())
            }
            (None, Some(definition)) => {
                let parts = PickledDefinition::decode(definition)
                    .map_err(|_| CannotAsk::FunctionMissing)?;
                (parts.blob, parts.support)
            }
            (None, None) => return Err(CannotAsk::FunctionMissing),
        };
        let support = if self.supports.contains(&support) { Bytes::new() } else { support };
        Ok(Unknown { function: Some(function), support })
    }

    /// Bytes that a job's request has of its function at most.
    pub(super) fn unknown_bytes(&self, job: &Job) -> usize {
        let defined = || job.definition.as_ref().map_or(0, Bytes::len);
        match &job.header.call {
            Call::Source { hash, .. } if self.sources.contains(hash) => 0,
            Call::Source { source, .. } => {
                source.as_ref().map_or_else(defined, |source| source.len())
            }
            Call::Pickled(PickledCall { hash: Some(hash), .. })
                if self.functions.contains(hash) =>
            {
                0
            }
            Call::Pickled(PickledCall { blob, .. }) => {
                blob.as_ref().map_or(0, |blob| blob.len()) + defined()
            }
            _ => 0,
        }
    }

    /// A request of this call, with what it has to say of its function, goes out now.
    pub(super) fn note(&mut self, call: &Call, unknown: &Unknown) {
        if !unknown.support.is_empty() {
            self.supports.note(unknown.support.clone());
        }
        match call {
            Call::Source { hash, .. } => self.sources.note(*hash),
            Call::Pickled(PickledCall { hash: Some(hash), .. }) => {
                unknown
                    .function
                    .iter()
                    .for_each(|function| self.functions.note(*hash, function.len()));
            }
            _ => {}
        }
    }
}

/// The sources, that of the latest call last: the same list as `Sources` in `sources.py`.
#[derive(Debug, Default)]
struct Sources {
    hashes: Vec<FunctionHash>,
}

impl Sources {
    fn contains(&self, hash: &FunctionHash) -> bool {
        self.hashes.contains(hash)
    }

    fn note(&mut self, hash: FunctionHash) {
        self.hashes.retain(|known| *known != hash);
        self.hashes.push(hash);
        if self.hashes.len() > SOURCES_MAX {
            self.hashes.remove(0);
        }
    }
}

/// The support that clients have sent with functions, the latest last: the same list as `Libraries`
/// in `modules.py`.
#[derive(Debug, Default)]
struct Supports {
    texts: VecDeque<Bytes>,
}

impl Supports {
    fn contains(&self, text: &Bytes) -> bool {
        self.texts.contains(text)
    }

    fn note(&mut self, text: Bytes) {
        if self.texts.len() == SUPPORTS_MAX {
            self.texts.pop_front();
        }
        self.texts.push_back(text);
    }
}

/// The functions that came as pickles, in the order in which they were sent: the same list as
/// `Functions` in `pickles.py`. The oldest goes first, also if it is still called: so a call of a
/// known one changes nothing.
#[derive(Debug, Default)]
struct Functions {
    hashes: HashSet<FunctionHash>,
    /// With the lengths of their pickles.
    order: VecDeque<(FunctionHash, usize)>,
    bytes: usize,
}

impl Functions {
    fn contains(&self, hash: &FunctionHash) -> bool {
        self.hashes.contains(hash)
    }

    fn note(&mut self, hash: FunctionHash, bytes: usize) {
        self.hashes.insert(hash);
        self.order.push_back((hash, bytes));
        self.bytes += bytes;
        while self.order.len() > FUNCTIONS_MAX
            || (self.bytes > FUNCTION_BYTES_MAX && self.order.len() > 1)
        {
            let (oldest, bytes) = self.order.pop_front().expect("there are some");
            self.hashes.remove(&oldest);
            self.bytes -= bytes;
        }
    }
}

/// The same number as `SOURCES_MAX` in `sources.py`.
const SOURCES_MAX: usize = 64;
/// The same number as `LIBRARIES_MAX` in `modules.py`.
const SUPPORTS_MAX: usize = 64;
/// The same number as `FUNCTIONS_MAX` in `pickles.py`.
const FUNCTIONS_MAX: usize = 1024;
/// The same number as `FUNCTION_BYTES_MAX` in `pickles.py`.
const FUNCTION_BYTES_MAX: usize = 256 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_functions_go_when_there_are_too_many_or_they_are_too_large() {
        let hash =
            |n: usize| FunctionHash(std::array::from_fn(|place| (n >> (8 * (place % 2))) as u8));
        let mut functions = Functions::default();
        (0..=FUNCTIONS_MAX).for_each(|n| functions.note(hash(n), 1));
        assert!(!functions.contains(&hash(0)) && functions.contains(&hash(1)));
        functions.note(hash(5000), FUNCTION_BYTES_MAX - 10);
        assert_eq!((functions.order.len(), functions.bytes), (11, FUNCTION_BYTES_MAX));
        functions.note(hash(5001), 2 * FUNCTION_BYTES_MAX);
        assert!(
            functions.contains(&hash(5001))
                && functions.order.len() == 1
                && functions.hashes.len() == 1
        );
    }
}
