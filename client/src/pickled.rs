//! Functions as pickles, for clients that are Python programs.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use furlong_wire::call::{Call, PickledCall, PickledDefinition};
use furlong_wire::ids::FunctionHash;
use serde_bytes::ByteBuf;
use sha2::{Digest, Sha256};

use crate::core::definitions::{Definition, Instead};

/// A pickle up to this size goes with each call; a longer one is defined once a session.
const BLOB_INLINE_BYTES_MAX: usize = 1024;

/// A function that a Python client has pickled, to be called by Python engines.
///
/// ```
/// use std::sync::Arc;
///
/// use furlong_client::{Arguments, CallSpec, PickleSupport, PickledFunction};
///
/// // The pickle of `math.sqrt`, and one of `((2.0,), {})`.
/// let function = PickledFunction::new("sqrt", "cmath\nsqrt\n.", (3, 12));
/// let arguments = Arguments::Pickle(vec!["((F2.0\nt}t.".into()]);
/// let call = CallSpec::pickled(Arc::new(function)).arguments(arguments).label("root");
///
/// // One that cloudpickle has made holds code. Engines without cloudpickle use the client's.
/// let support = PickleSupport::new("...the text of cloudpickle/cloudpickle.py...");
/// let mine = PickledFunction::new("mine", vec![0x80, 5, b'N', b'.'], (3, 12));
/// let mine = mine.has_code(true).support(&support);
/// assert_eq!(mine.name(), "mine");
/// # drop(call);
/// ```
#[derive(Clone, Debug)]
pub struct PickledFunction {
    name: String,
    blob: Bytes,
    digest: FunctionHash,
    python: (u8, u8),
    has_code: bool,
    is_kept: bool,
    is_defined: bool,
    support: Option<PickleSupport>,
    definition: OnceLock<Option<Arc<Definition>>>,
}

/// The text of the client's module `cloudpickle` (version 3, which is one file), for engines whose
/// Python has none.
///
/// It is defined once a session for all functions whose pickles are short, and with each that is
/// long: compress it.
#[derive(Clone, Debug)]
pub struct PickleSupport(Arc<Definition>);

impl PickleSupport {
    /// The text of `cloudpickle/cloudpickle.py`, as it is or compressed by zlib.
    pub fn new(source: impl Into<Bytes>) -> Self {
        let source = source.into();
        Self(Arc::new(Definition::new(digest(&[&source]), source)))
    }
}

impl PickledFunction {
    /// A function of this name, which is for people, as a pickle made by this Python (major and
    /// minor version).
    pub fn new(name: impl Into<String>, blob: impl Into<Bytes>, python: (u8, u8)) -> Self {
        let blob = blob.into();
        let digest = digest(&[&blob]);
        let (name, has_code, is_kept, is_defined, support) =
            (name.into(), false, true, false, None);
        Self {
            name,
            blob,
            digest,
            python,
            has_code,
            is_kept,
            is_defined,
            support,
            definition: OnceLock::new(),
        }
    }

    /// Sets whether the pickle holds functions or classes by value. An engine whose Python is of
    /// another major or minor version then refuses the call.
    #[must_use]
    pub fn has_code(mut self, has_code: bool) -> Self {
        self.has_code = has_code;
        self
    }

    /// Sets whether an engine keeps what it has loaded for later calls, as it does by default. A
    /// function that means something else each time, as an expression in the engine's namespace, is
    /// not to be kept.
    #[must_use]
    pub fn kept(mut self, is_kept: bool) -> Self {
        self.is_kept = is_kept;
        self
    }

    /// Adds what engines without cloudpickle need.
    #[must_use]
    pub fn support(mut self, support: &PickleSupport) -> Self {
        self.support = Some(support.clone());
        self.definition = OnceLock::new();
        self
    }

    /// Defines it once a session although it is short: for one that is called often.
    #[must_use]
    pub fn defined(mut self) -> Self {
        self.is_defined = true;
        self.definition = OnceLock::new();
        self
    }

    /// The function's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The pickle.
    pub fn blob(&self) -> &Bytes {
        &self.blob
    }

    /// SHA-256 of the pickle.
    pub fn hash(&self) -> FunctionHash {
        self.digest
    }

    fn is_inline(&self) -> bool {
        !self.is_defined && self.blob.len() <= BLOB_INLINE_BYTES_MAX
    }

    /// Returns what is defined once a session: the function where it is long, and the support.
    pub(crate) fn definition(&self) -> Option<Arc<Definition>> {
        let define = || {
            let support = self.support.as_ref().map(|support| Arc::clone(&support.0));
            if self.is_inline() {
                return support;
            }
            let (text, text_hash) = support.as_ref().map_or_else(
                || (Bytes::new(), FunctionHash([0; 32])),
                |definition| (definition.source.clone(), definition.hash),
            );
            let hash = digest(&[b"pickled", &self.digest.0, &text_hash.0]);
            let source = PickledDefinition { blob: self.blob.clone(), support: text }.encode();
            let instead = Instead { function: self.blob.clone(), definition: support };
            Some(Arc::new(Definition { instead: Some(instead), ..Definition::new(hash, source) }))
        };
        self.definition.get_or_init(define).clone()
    }

    /// The call in the header; `has_code` is what the arguments have.
    pub(crate) fn call(&self, has_code: bool) -> Call {
        Call::Pickled(PickledCall {
            name: self.name.clone(),
            hash: self.is_kept.then_some(self.digest),
            blob: self.is_inline().then(|| ByteBuf::from(&self.blob[..])),
            python: self.python,
            has_code: self.has_code || has_code,
        })
    }
}

fn digest(parts: &[&[u8]]) -> FunctionHash {
    let mut sha = Sha256::new();
    parts.iter().for_each(|part| sha.update(part));
    FunctionHash(sha.finalize().into())
}
