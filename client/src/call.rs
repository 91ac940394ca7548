//! What to run: functions, arguments and options, and how they become the payload of a submit.

use std::sync::Arc;

use bytes::Bytes;
use furlong_wire::call::{Call as HeaderCall, CallHeader, Codec, CommandSpec, encode_header};
use furlong_wire::ids::{EngineId, FunctionHash};
use furlong_wire::limits::{NAME_BYTES_MAX, SUBMIT_TARGETS_MAX};
use furlong_wire::message::{Runtime, Targets, TaskOptions};
use serde::Serialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::core::{Call, Content, Definition};
use crate::error::ClientError;

/// Source text up to this size goes with each call; longer text is defined once a session.
const SOURCE_INLINE_BYTES_MAX: usize = 512;
/// Labels that a task may require.
const REQUIRED_LABELS_MAX: usize = 64;

/// One call: a function, its arguments, and what is not the default.
///
/// ```
/// use furlong_client::{Arguments, CallSpec};
///
/// let call = CallSpec::python("math:sqrt").arguments(Arguments::json(vec![2.into()])).label("root");
/// assert_eq!(call.options.unwrap().label.as_deref(), Some("root"));
/// ```
#[derive(Clone, Debug)]
pub struct CallSpec {
    /// What runs it.
    pub runtime: Runtime,
    /// The function.
    pub function: Function,
    /// Its arguments.
    pub arguments: Arguments,
    /// What is not the default.
    pub options: Option<Box<TaskOptions>>,
}

/// What to call.
#[derive(Clone, Debug)]
pub enum Function {
    /// A function that the engine finds by name: `module:name` in Python, a registered name in Rust.
    Named(String),
    /// A function that a source file defines.
    Source(Arc<SourceFunction>),
    /// Code to execute in the engine's lasting namespace.
    Code(String),
    /// A program to run. Its standard input are the arguments, as [`Arguments::Raw`].
    Command(Box<CommandSpec>),
}

/// A function of a source file, which travels to the engines.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourceFunction {
    /// The file's name, for tracebacks.
    file: String,
    /// The file's text.
    source: Bytes,
    /// The function's name in the file.
    function: String,
    /// SHA-256 of the text.
    hash: FunctionHash,
}

/// Arguments, encoded or to be encoded. The result comes back in the same way.
#[derive(Clone, PartialEq, Debug)]
pub enum Arguments {
    /// No arguments.
    None,
    /// Positional and named arguments as JSON values.
    Json(Vec<Value>, Map<String, Value>),
    /// A msgpack array of the arguments.
    Msgpack(Bytes),
    /// Buffers, passed as they are.
    Raw(Vec<Bytes>),
    /// A pickle (protocol 5) of `(args, kwargs)`, then its out-of-band buffers.
    Pickle(Vec<Bytes>),
}

impl CallSpec {
    /// A call without arguments.
    pub fn new(runtime: Runtime, function: Function) -> Self {
        Self { runtime, function, arguments: Arguments::None, options: None }
    }

    /// Calls a Rust function that the engines have registered.
    pub fn native(name: impl Into<String>) -> Self {
        Self::new(Runtime::Native, Function::Named(name.into()))
    }

    /// Calls a Python function by `module:name`.
    pub fn python(name: impl Into<String>) -> Self {
        Self::new(Runtime::Python, Function::Named(name.into()))
    }

    /// Calls a Python function that a source file defines.
    pub fn source(function: Arc<SourceFunction>) -> Self {
        Self::new(Runtime::Python, Function::Source(function))
    }

    /// Executes Python code in the engine's lasting namespace.
    pub fn code(source: impl Into<String>) -> Self {
        Self::new(Runtime::Python, Function::Code(source.into()))
    }

    /// Runs a program: its name, found in the engine's `PATH` where it has no slash, and its arguments.
    pub fn command(argv: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let argv = argv.into_iter().map(Into::into).collect();
        let spec = CommandSpec { argv, ..CommandSpec::default() };
        Self::new(Runtime::Command, Function::Command(Box::new(spec)))
    }

    /// With these arguments.
    #[must_use]
    pub fn arguments(mut self, arguments: Arguments) -> Self {
        self.arguments = arguments;
        self
    }

    /// With these options, in place of all that were set before.
    #[must_use]
    pub fn options(mut self, options: TaskOptions) -> Self {
        self.options = Some(Box::new(options));
        self
    }

    /// With a name for people and selectors.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.options.get_or_insert_default().label = Some(label.into());
        self
    }

    pub(crate) fn prepare(&self, targets: Targets) -> Result<Call, ClientError> {
        self.options.as_deref().map_or(Ok(()), check_options)?;
        let (runtime, function) = (self.runtime, &self.function);
        Ok(Call {
            targets,
            runtime,
            class: function.class(runtime),
            definition: function.definition().map(Arc::new),
            options: self.options.clone(),
            content: lay_out(runtime, function, &self.arguments, |codec| function.header(codec))?,
        })
    }
}

impl Function {
    /// The runtime that this function is for, unless one says otherwise: a name with a colon and all source text are
    /// Python's, other names are Rust functions; a program is a program.
    pub fn runtime(&self) -> Runtime {
        match self {
            Self::Named(name) if !name.contains(':') => Runtime::Native,
            Self::Command(_) => Runtime::Command,
            _ => Runtime::Python,
        }
    }

    /// A number that tells kinds of tasks apart: FNV-1a of what names the function.
    fn class(&self, runtime: Runtime) -> u32 {
        let parts: [&[u8]; 3] = match self {
            Self::Named(name) => [b"named", name.as_bytes(), b""],
            Self::Source(source) => [b"source", &source.hash.0, source.function.as_bytes()],
            // All code is one kind: the broker tells only so many apart, and code rarely comes twice.
            Self::Code(_) => [b"code", b"", b""],
            Self::Command(spec) => [b"command", spec.argv.first().map_or(b"", |name| name.as_bytes()), b""],
        };
        let bytes = runtime.as_str().bytes().chain(parts.into_iter().flatten().copied());
        bytes.fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
    }

    /// The text that is defined once a session, if there is one.
    fn definition(&self) -> Option<Definition> {
        let Self::Source(function) = self else { return None };
        let long = function.source.len() > SOURCE_INLINE_BYTES_MAX;
        long.then(|| Definition { hash: function.hash, source: function.source.clone() })
    }

    fn header(&self, codec: Codec) -> Bytes {
        let call = match self {
            Self::Named(name) => HeaderCall::Named { function: name.clone() },
            Self::Source(source) => HeaderCall::Source {
                file: source.file.clone(),
                hash: source.hash,
                source: (source.source.len() <= SOURCE_INLINE_BYTES_MAX).then(|| source.source().to_owned()),
                function: source.function.clone(),
            },
            Self::Code(code) => HeaderCall::Execute { source: code.clone() },
            Self::Command(spec) => HeaderCall::Command(spec.clone()),
        };
        encode_header(&CallHeader { call, codec }).into()
    }
}

impl SourceFunction {
    /// A function of a file with this text.
    pub fn new(file: impl Into<String>, source: impl Into<String>, function: impl Into<String>) -> Self {
        let source = source.into();
        let hash = FunctionHash(Sha256::digest(source.as_bytes()).into());
        Self { file: file.into(), source: source.into(), function: function.into(), hash }
    }

    /// The file's name, for tracebacks.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The file's text.
    pub fn source(&self) -> &str {
        std::str::from_utf8(&self.source).expect("the bytes were made of a string")
    }

    /// The function's name in the file.
    pub fn function(&self) -> &str {
        &self.function
    }

    /// SHA-256 of the text.
    pub fn hash(&self) -> FunctionHash {
        self.hash
    }
}

impl Arguments {
    /// Positional arguments as JSON values.
    pub fn json(arguments: Vec<Value>) -> Self {
        Self::Json(arguments, Map::new())
    }

    /// Positional and named arguments as JSON values.
    pub fn json_with(arguments: Vec<Value>, named: Map<String, Value>) -> Self {
        Self::Json(arguments, named)
    }

    /// Positional arguments as msgpack: a tuple, an array or a `Vec` of them.
    ///
    /// # Errors
    /// [`ClientError::Encode`] if a value cannot be encoded.
    pub fn msgpack(arguments: &(impl Serialize + ?Sized)) -> Result<Self, ClientError> {
        let bytes = rmp_serde::to_vec_named(arguments).map_err(|error| ClientError::Encode(Arc::new(error)))?;
        Ok(Self::Msgpack(bytes.into()))
    }

    /// The codec, and the data after the header.
    fn encode(&self, runtime: Runtime) -> Result<(Codec, Vec<Bytes>), ClientError> {
        Ok(match self {
            Self::None => match runtime {
                Runtime::Native => (Codec::Msgpack, vec![Bytes::from_static(b"\x90")]),
                Runtime::Python => (Codec::Json, vec![Bytes::from_static(b"[[],{}]")]),
                Runtime::Command => (Codec::Raw, Vec::new()),
            },
            Self::Json(arguments, named) => {
                let bytes = serde_json::to_vec(&(arguments, named));
                (Codec::Json, vec![bytes.map_err(|error| ClientError::Encode(Arc::new(error)))?.into()])
            }
            Self::Msgpack(bytes) => (Codec::Msgpack, vec![bytes.clone()]),
            Self::Raw(buffers) => (Codec::Raw, buffers.clone()),
            Self::Pickle(buffers) => (Codec::Pickle, buffers.clone()),
        })
    }
}

/// A function whose header is encoded once for many calls.
#[derive(Debug)]
pub(crate) struct Prepared {
    runtime: Runtime,
    function: Function,
    class: u32,
    definition: Option<Arc<Definition>>,
    options: Option<Box<TaskOptions>>,
    /// The header of the last call's codec.
    header: Option<(Codec, Bytes)>,
}

impl Prepared {
    pub(crate) fn new(
        runtime: Runtime,
        function: Function,
        options: Option<Box<TaskOptions>>,
    ) -> Result<Self, ClientError> {
        options.as_deref().map_or(Ok(()), check_options)?;
        let class = function.class(runtime);
        let definition = function.definition().map(Arc::new);
        Ok(Self { runtime, function, class, definition, options, header: None })
    }

    pub(crate) fn call(&mut self, targets: Targets, arguments: &Arguments) -> Result<Call, ClientError> {
        let known = &mut self.header;
        let function = &self.function;
        let content = lay_out(self.runtime, function, arguments, |codec| match known {
            Some((of, header)) if *of == codec => header.clone(),
            _ => known.insert((codec, function.header(codec))).1.clone(),
        })?;
        Ok(Call {
            targets,
            runtime: self.runtime,
            class: self.class,
            definition: self.definition.clone(),
            options: self.options.clone(),
            content,
        })
    }
}

/// A call's buffers: the header in the arguments' codec, then the arguments.
fn lay_out(
    runtime: Runtime,
    function: &Function,
    arguments: &Arguments,
    header: impl FnOnce(Codec) -> Bytes,
) -> Result<Content, ClientError> {
    let (codec, data) = match (function, arguments) {
        (Function::Code(_), Arguments::None) => (Codec::Json, Vec::new()),
        (Function::Code(_), _) => return Err(ClientError::CodeWithArguments),
        _ => arguments.encode(runtime)?,
    };
    let mut buffers = Vec::with_capacity(1 + data.len());
    buffers.push(header(codec));
    buffers.extend(data);
    Ok(Content::Buffers(buffers))
}

/// The engines of a direct submit.
pub(crate) fn direct(engines: Vec<EngineId>) -> Result<Targets, ClientError> {
    let tasks_max = SUBMIT_TARGETS_MAX as u64;
    match engines.len() {
        0 => Err(ClientError::NoEngines),
        tasks if tasks > SUBMIT_TARGETS_MAX => Err(ClientError::TooManyTargets { tasks: tasks as u64, tasks_max }),
        _ => Ok(Targets::Engines(engines)),
    }
}

/// The limits that the broker enforces by closing the connection.
fn check_options(options: &TaskOptions) -> Result<(), ClientError> {
    let too_long = |option, limit| Err(ClientError::OptionTooLong { option, limit });
    if options.label.as_ref().is_some_and(|label| label.len() > NAME_BYTES_MAX) {
        return too_long("label", NAME_BYTES_MAX);
    }
    if options.after.len() + options.follow.len() > SUBMIT_TARGETS_MAX {
        return too_long("after", SUBMIT_TARGETS_MAX);
    }
    if options.require.len() > REQUIRED_LABELS_MAX {
        return too_long("require", REQUIRED_LABELS_MAX);
    }
    if options.require.iter().any(|label| label.len() > NAME_BYTES_MAX) {
        return too_long("require", NAME_BYTES_MAX);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use furlong_wire::call::decode_header;

    use super::*;

    fn buffers(call: Call) -> Vec<Bytes> {
        match call.content {
            Content::Buffers(buffers) => buffers,
            Content::Packed(packed) => panic!("not packed yet: {packed:?}"),
        }
    }

    fn header(call: Call) -> CallHeader {
        decode_header(&buffers(call)[0]).unwrap()
    }

    #[test]
    fn arguments_are_laid_out_as_the_wire_says() {
        let call = CallSpec::python("m:f").arguments(Arguments::json(vec![1.into(), "a".into()]));
        let call = call.prepare(Targets::Shared).unwrap();
        assert_eq!(&buffers(call)[1][..], br#"[[1,"a"],{}]"#);
        let call = CallSpec::native("add").arguments(Arguments::msgpack(&(1, 2)).unwrap());
        assert_eq!(&buffers(call.prepare(Targets::Shared).unwrap())[1][..], b"\x92\x01\x02");
        assert_eq!(&buffers(CallSpec::native("noop").prepare(Targets::Shared).unwrap())[1][..], b"\x90");
    }

    #[test]
    fn short_source_goes_with_the_call_and_long_source_is_defined() {
        let short = Arc::new(SourceFunction::new("f.py", "def f(): pass", "f"));
        let call = CallSpec::source(Arc::clone(&short)).prepare(Targets::Shared).unwrap();
        assert!(call.definition.is_none());
        let HeaderCall::Source { source, hash, .. } = header(call).call else { panic!("a source call") };
        assert_eq!((source.as_deref(), hash), (Some("def f(): pass"), short.hash()));

        let text = format!("def f(): pass\n{}", "#".repeat(SOURCE_INLINE_BYTES_MAX));
        let long = Arc::new(SourceFunction::new("f.py", text.clone(), "f"));
        let call = CallSpec::source(long).prepare(Targets::Shared).unwrap();
        assert_eq!(call.definition.as_ref().unwrap().source, text);
        assert!(matches!(header(call).call, HeaderCall::Source { source: None, .. }));
    }

    #[test]
    fn code_takes_no_arguments() {
        let call = CallSpec::code("1 + 1").arguments(Arguments::json(vec![]));
        assert!(matches!(call.prepare(Targets::Shared), Err(ClientError::CodeWithArguments)));
    }

    #[test]
    fn kinds_of_tasks_have_numbers_of_their_own() {
        let class = |spec: CallSpec| spec.prepare(Targets::Shared).unwrap().class;
        assert_eq!(class(CallSpec::native("a")), class(CallSpec::native("a")));
        assert_ne!(class(CallSpec::native("a")), class(CallSpec::python("a")));
        assert_ne!(class(CallSpec::native("a")), class(CallSpec::native("b")));
    }

    #[test]
    fn options_beyond_the_brokers_limits_are_refused_here() {
        let call = CallSpec::native("a").label("l".repeat(NAME_BYTES_MAX + 1));
        let error = call.prepare(Targets::Shared).unwrap_err();
        assert_eq!(error.to_string(), "the option `label` is over its limit of 256");
    }
}
