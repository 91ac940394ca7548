//! Functions that are made ready once for many calls, and calls that are submitted more than once.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use furlong_wire::call::Codec;
use furlong_wire::message::{Runtime, Targets};

use crate::call::{Arguments, Function, check_function, lay_out};
use crate::core::definitions::Definition;
use crate::core::{Call, Content};
use crate::error::ClientError;
use crate::options::CheckedOptions;

/// A function, made ready once for many calls: its class, its definition and its header.
#[derive(Debug)]
pub struct Prepared {
    runtime: Runtime,
    function: Function,
    class: u32,
    definition: Option<Arc<Definition>>,
    /// The header of the first call, its codec, and whether its arguments held code: mostly those
    /// of all calls.
    header: OnceLock<(Codec, bool, Bytes)>,
}

/// A call that is ready to be submitted: once, or again and again.
#[derive(Clone, Debug)]
pub struct PreparedCall {
    runtime: Runtime,
    class: u32,
    definition: Option<Arc<Definition>>,
    options: Option<CheckedOptions>,
    header: Bytes,
    data: Vec<Bytes>,
}

impl Prepared {
    /// A function for this runtime.
    ///
    /// # Errors
    /// [`ClientError::NoCommand`].
    pub fn new(runtime: Runtime, function: Function) -> Result<Self, ClientError> {
        check_function(&function)?;
        let class = function.class(runtime);
        let definition = function.definition();
        Ok(Self { runtime, function, class, definition, header: OnceLock::new() })
    }

    /// A call with these arguments and options.
    ///
    /// # Errors
    /// If the arguments cannot be encoded, or code is called with some.
    pub fn call(
        &self,
        arguments: Arguments,
        options: Option<CheckedOptions>,
    ) -> Result<PreparedCall, ClientError> {
        let (codec, has_code, data) = lay_out(self.runtime, &self.function, arguments)?;
        Ok(PreparedCall {
            runtime: self.runtime,
            class: self.class,
            definition: self.definition.clone(),
            options,
            header: self.header(codec, has_code),
            data,
        })
    }

    fn header(&self, codec: Codec, has_code: bool) -> Bytes {
        let make = || self.function.header(codec, has_code);
        let (of, with_code, header) = self.header.get_or_init(|| (codec, has_code, make()));
        if (*of, *with_code) == (codec, has_code) { header.clone() } else { make() }
    }
}

impl PreparedCall {
    /// Bytes of its arguments.
    pub fn data_bytes(&self) -> usize {
        self.data.iter().map(Bytes::len).sum()
    }

    pub(crate) fn into_call(self, targets: Targets) -> Call {
        let Self { runtime, class, definition, options, header, data } = self;
        let options = options.map(CheckedOptions::into_inner);
        let content = Content::Buffers(header, data);
        Call { targets, runtime, class, definition, options, content }
    }
}

#[cfg(test)]
mod tests {
    use furlong_wire::call::{Call as HeaderCall, CallHeader, decode_header};
    use furlong_wire::message::TaskOptions;

    use super::*;
    use crate::pickled::PickledFunction;

    fn prepared() -> Prepared {
        let function = Function::Pickled(Arc::new(PickledFunction::new("f", "p", (3, 12))));
        Prepared::new(Runtime::Python, function).unwrap()
    }

    fn buffers(call: PreparedCall) -> (Bytes, Vec<Bytes>) {
        match call.into_call(Targets::Shared).content {
            Content::Buffers(header, data) => (header, data),
            Content::Packed(packed) => panic!("not packed yet: {packed:?}"),
        }
    }

    #[test]
    fn each_call_says_whether_its_own_arguments_hold_code() {
        let prepared = prepared();
        for expected in [false, true, false] {
            let data = vec!["a".into()];
            let arguments =
                if expected { Arguments::PickleOfCode(data) } else { Arguments::Pickle(data) };
            let (header, _) = buffers(prepared.call(arguments, None).unwrap());
            let header: CallHeader = decode_header(&header).unwrap();
            assert!(
                matches!(header.call, HeaderCall::Pickled(pickled) if pickled.has_code == expected)
            );
        }
    }

    #[test]
    fn the_header_of_calls_is_made_once() {
        let prepared = prepared();
        let header = || buffers(prepared.call(Arguments::Pickle(vec![]), None).unwrap()).0;
        assert_eq!(header().as_ptr(), header().as_ptr());
    }

    #[test]
    fn a_call_is_the_same_each_time_that_it_is_submitted() {
        let options = TaskOptions { label: Some("a".into()), ..TaskOptions::default() };
        let options = CheckedOptions::new(options.clone()).unwrap();
        let call = prepared().call(Arguments::Pickle(vec!["a".into()]), Some(options)).unwrap();
        assert_eq!(call.data_bytes(), 1);
        let calls = [call.clone(), call].map(|call| call.into_call(Targets::Shared));
        assert!(calls.iter().all(|call| call.options.as_ref().unwrap().label.is_some()));
        let [first, second] = calls.map(|call| format!("{:?}", call.content));
        assert_eq!(first, second);
    }
}
