//! The work to run: functions, arguments and options, and how they become the payload of a submit.

use std::sync::Arc;

use bytes::Bytes;
use furlong_wire::call::{
    Call as HeaderCall, CallHeader, Codec, CommandSpec, InputPath, ReplyHeader, encode_header,
    encode_reply,
};
use furlong_wire::ids::{FunctionHash, TaskId};
use furlong_wire::message::{Runtime, Targets, TaskOptions};
use furlong_wire::os_text::OsText;
use serde::Serialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::core::definitions::{Definition, Instead};
use crate::core::{Call, Content};
use crate::error::ClientError;
use crate::options::{CheckedOptions, HasTaskId, Settings, option_setters};
use crate::pickled::PickledFunction;

/// Source text up to this size goes with each call; longer text is defined once a session.
const SOURCE_INLINE_BYTES_MAX: usize = 512;

/// One call: a function, its arguments, and what is not the default.
///
/// ```
/// use std::time::Duration;
///
/// use furlong_client::{Arguments, CallSpec};
///
/// let call = CallSpec::python("math:sqrt")
///     .arguments(Arguments::json(vec![2.into()]))
///     .label("root")
///     .run_timeout(Duration::from_secs(60))
///     .error_retries(2);
/// assert_eq!(call.task_options().unwrap().run_timeout_ms, Some(60_000));
/// ```
///
/// A wrong option is an error of the submit ([`ClientError::Options`]).
#[derive(Clone, Debug)]
#[must_use = "nothing runs before it is submitted"]
pub struct CallSpec {
    /// Its runtime.
    pub runtime: Runtime,
    /// The function.
    pub function: Function,
    /// Its arguments.
    pub arguments: Arguments,
    /// The options that differ from the defaults.
    pub(crate) settings: Settings,
}

/// The function to call.
#[derive(Clone, Debug)]
pub enum Function {
    /// A function that the engine finds by name: `module:name` in Python, a registered name in
    /// Rust.
    Named(String),
    /// A function that a source file defines.
    Source(Arc<SourceFunction>),
    /// A function that a Python client has pickled.
    Pickled(Arc<PickledFunction>),
    /// Code to execute in the engine's lasting namespace.
    Code(String),
    /// A whole script to run in the engine's lasting namespace.
    Script {
        /// Its name, for tracebacks.
        file: String,
        /// Its text.
        source: OsText,
    },
    /// Sets variables in the namespace: its one argument is a dictionary of them.
    Push,
    /// Evaluates expressions, mostly names, in the namespace. The value is the list of theirs.
    Pull(Vec<String>),
    /// The names in the namespace that a user has made, sorted.
    Keys,
    /// Empties the namespace.
    Clear,
    /// A program to run. Its standard input are [`Arguments::Raw`].
    Command(Box<CommandSpec>),
    /// Nothing to run: the arguments are the value. A pickle is one of the value itself.
    Value,
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
    /// The JSON text of `[[positional...], {named...}]`, passed as it is.
    JsonText(Bytes),
    /// A msgpack array of the arguments.
    Msgpack(Bytes),
    /// Buffers, passed as they are.
    Raw(Vec<Bytes>),
    /// A pickle (protocol 5) of `(args, kwargs)`, then its out-of-band buffers.
    Pickle(Vec<Bytes>),
    /// The same where the arguments of a pickled function hold functions or classes by value, which
    /// only the same version of Python can load.
    PickleOfCode(Vec<Bytes>),
}

impl CallSpec {
    /// A call without arguments.
    pub fn new(runtime: Runtime, function: Function) -> Self {
        Self { runtime, function, arguments: Arguments::None, settings: Settings::default() }
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

    /// Calls a function that a Python client has pickled.
    pub fn pickled(function: Arc<PickledFunction>) -> Self {
        Self::new(Runtime::Python, Function::Pickled(function))
    }

    /// Executes Python code in the engine's lasting namespace.
    pub fn code(source: impl Into<String>) -> Self {
        Self::new(Runtime::Python, Function::Code(source.into()))
    }

    /// Runs a whole Python script in the engine's lasting namespace; `file` is its name in
    /// tracebacks.
    pub fn script(file: impl Into<String>, source: impl Into<OsText>) -> Self {
        Self::new(Runtime::Python, Function::Script { file: file.into(), source: source.into() })
    }

    /// Runs a program: its name, found in the engine's `PATH` where it has no slash, and its
    /// arguments. Its standard input are the call's arguments, as [`Arguments::Raw`].
    ///
    /// ```
    /// use furlong_client::{Arguments, CallSpec};
    ///
    /// let lines = Arguments::Raw(vec!["one\ntwo\n".into()]);
    /// let call = CallSpec::command(["wc", "-l"]).arguments(lines);
    /// ```
    pub fn command(argv: impl IntoIterator<Item = impl Into<OsText>>) -> Self {
        let argv = argv.into_iter().map(Into::into).collect();
        Self::command_with(CommandSpec { argv, ..CommandSpec::default() })
    }

    /// Runs a program with all that can be said of it: variables, directory, its number in an
    /// array, files for output.
    pub fn command_with(command: CommandSpec) -> Self {
        Self::new(Runtime::Command, Function::Command(Box::new(command)))
    }

    /// A command's standard input are the results of these tasks, one after the other, which are
    /// inputs of the task ([`CallSpec::inputs`]): what a command has written, if its output was
    /// asked for whole, the bytes or text that a function has returned, or the text of JSON.
    ///
    /// ```
    /// # fn main() {
    /// use furlong_client::{CallSpec, CommandExtras, CommandSpec, TaskId};
    ///
    /// let part = CommandSpec {
    ///     argv: vec!["ls".into()],
    ///     extras: CommandExtras { whole_output: true, ..CommandExtras::default() },
    ///     ..CommandSpec::default()
    /// };
    /// let part = CallSpec::command_with(part).stay(true);
    /// # let whole = |task: TaskId|
    /// // With the task that this became:
    /// CallSpec::command(["sort"]).stdin_from([task])
    /// # ;
    /// # }
    /// ```
    pub fn stdin_from(mut self, tasks: impl IntoIterator<Item = impl HasTaskId>) -> Self {
        for task in tasks {
            let place = self.input_place(task.task_id());
            if let Function::Command(command) = &mut self.function {
                command.extras.stdin.push(place);
            }
        }
        self
    }

    /// Adds an argument of a command: the path of a file with the result of a task, which is an
    /// input of the task. The file can be read and not written, as long as the command runs.
    pub fn input_argument(mut self, task: impl HasTaskId) -> Self {
        let input = self.input_place(task.task_id());
        if let Function::Command(command) = &mut self.function {
            let argument = command.argv.len() as u32;
            command.argv.push(OsText::from(""));
            command.extras.paths.push(InputPath { argument, offset: 0, input });
        }
        self
    }

    /// A task's place among the inputs.
    fn input_place(&mut self, task: TaskId) -> u32 {
        let inputs = &mut self.settings.get_mut().inputs;
        let known = inputs.iter().position(|it| *it == task);
        let place = known.unwrap_or_else(|| {
            inputs.push(task);
            inputs.len() - 1
        });
        place as u32
    }

    /// Puts a value at the broker, which other tasks can have as an input
    /// ([`CallSpec::inputs`]): sent once, and held until it is let go. Its encoding is that of
    /// the arguments: [`Arguments::Pickle`] with a pickle of the value, [`Arguments::JsonText`]
    /// with its text, or [`Arguments::Raw`].
    pub fn value(value: Arguments) -> Self {
        Self::new(Runtime::Value, Function::Value).arguments(value)
    }

    /// With these arguments.
    pub fn arguments(mut self, arguments: Arguments) -> Self {
        self.arguments = arguments;
        self
    }

    option_setters!(settings);

    /// The options that differ from the defaults.
    pub fn task_options(&self) -> Option<&TaskOptions> {
        self.settings.get()
    }

    pub(crate) fn prepare(&self, targets: Targets) -> Result<Call, ClientError> {
        let (runtime, function) = (self.runtime, &self.function);
        check_function(function)?;
        let (codec, has_code, data) = lay_out(runtime, function, self.arguments.clone())?;
        Ok(Call {
            targets,
            runtime,
            class: function.class(runtime),
            definition: function.definition(),
            options: self.settings.check()?.map(CheckedOptions::into_inner),
            content: Content::Buffers(function.header(codec, has_code), data),
        })
    }
}

impl Function {
    /// The runtime that this function is for, unless one says otherwise: a name with a colon, all
    /// source text and the namespace are Python's, other names are Rust functions.
    pub fn runtime(&self) -> Runtime {
        match self {
            Self::Named(name) if !name.contains(':') => Runtime::Native,
            Self::Command(_) => Runtime::Command,
            Self::Value => Runtime::Value,
            _ => Runtime::Python,
        }
    }

    /// A number that tells kinds of tasks apart: FNV-1a of what names the function.
    pub(crate) fn class(&self, runtime: Runtime) -> u32 {
        let parts: [&[u8]; 3] = match self {
            Self::Named(name) => [b"named", name.as_bytes(), b""],
            Self::Source(source) => [b"source", &source.hash.0, source.function.as_bytes()],
            Self::Pickled(function) => {
                let hash = function.hash();
                return class_of(runtime, [b"pickled", &hash.0, function.name().as_bytes()]);
            }
            // All code is one kind: the broker tells only so many apart, and code rarely comes
            // twice.
            Self::Code(_) | Self::Script { .. } => [b"code", b"", b""],
            Self::Push | Self::Pull(_) | Self::Keys | Self::Clear => [b"namespace", b"", b""],
            Self::Command(command) => {
                [b"command", command.argv.first().map_or(b"", |program| program.as_bytes()), b""]
            }
            Self::Value => [b"value", b"", b""],
        };
        class_of(runtime, parts)
    }

    /// Returns what is defined once a session, if there is anything.
    pub(crate) fn definition(&self) -> Option<Arc<Definition>> {
        match self {
            Self::Source(function) if function.source.len() > SOURCE_INLINE_BYTES_MAX => {
                let text = function.source.clone();
                let instead = Some(Instead { function: text.clone(), definition: None });
                Some(Arc::new(Definition { instead, ..Definition::new(function.hash, text) }))
            }
            Self::Pickled(function) => function.definition(),
            _ => None,
        }
    }

    /// Returns true if it is called without any data, not even an empty list of arguments.
    fn takes_no_data(&self) -> bool {
        matches!(
            self,
            Self::Code(_) | Self::Script { .. } | Self::Pull(_) | Self::Keys | Self::Clear
        )
    }

    /// The header, for arguments that hold code or do not.
    pub(crate) fn header(&self, codec: Codec, has_code: bool) -> Bytes {
        let call = match self {
            Self::Named(name) => HeaderCall::Named { function: name.clone() },
            Self::Source(source) => HeaderCall::Source {
                file: source.file.clone(),
                hash: source.hash,
                source: (source.source.len() <= SOURCE_INLINE_BYTES_MAX)
                    .then(|| OsText::from_bytes(source.source.to_vec())),
                function: source.function.clone(),
            },
            Self::Pickled(function) => function.call(has_code),
            Self::Code(code) => HeaderCall::Execute { source: code.clone() },
            Self::Script { file, source } => {
                HeaderCall::Run { file: file.clone(), source: source.clone() }
            }
            Self::Push => HeaderCall::Push,
            Self::Pull(names) => HeaderCall::Pull { names: names.clone() },
            Self::Keys => HeaderCall::Keys,
            Self::Clear => HeaderCall::Clear,
            Self::Command(command) => HeaderCall::Command(command.clone()),
            // It is read as a result is.
            Self::Value => return encode_reply(&ReplyHeader::Returned { codec }),
        };
        encode_header(&CallHeader { call, codec }).into()
    }
}

impl SourceFunction {
    /// A function of a file with this text.
    pub fn new(
        file: impl Into<String>,
        source: impl Into<OsText>,
        function: impl Into<String>,
    ) -> Self {
        let source = Bytes::from(source.into().into_bytes());
        let hash = FunctionHash(Sha256::digest(&source).into());
        Self { file: file.into(), source, function: function.into(), hash }
    }

    /// The file's name, for tracebacks.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The file's text, in the encoding that Python finds in it.
    pub fn source(&self) -> &Bytes {
        &self.source
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

    /// Positional arguments as msgpack: a tuple, an array or a `Vec` of them.
    ///
    /// # Errors
    /// [`ClientError::Encode`] if a value cannot be encoded.
    pub fn msgpack(arguments: &(impl Serialize + ?Sized)) -> Result<Self, ClientError> {
        let bytes = rmp_serde::to_vec_named(arguments)
            .map_err(|error| ClientError::Encode(Arc::new(error)))?;
        Ok(Self::Msgpack(bytes.into()))
    }

    /// The codec, and the data after the header.
    fn encode(self, runtime: Runtime) -> Result<(Codec, Vec<Bytes>), ClientError> {
        Ok(match self {
            Self::None => match runtime {
                Runtime::Native => (Codec::Msgpack, vec![Bytes::from_static(b"\x90")]),
                Runtime::Python => (Codec::Json, vec![Bytes::from_static(b"[[],{}]")]),
                Runtime::Command | Runtime::Value => (Codec::Raw, Vec::new()),
            },
            Self::Json(arguments, named) => {
                let bytes = serde_json::to_vec(&(arguments, named));
                (
                    Codec::Json,
                    vec![bytes.map_err(|error| ClientError::Encode(Arc::new(error)))?.into()],
                )
            }
            Self::JsonText(text) => (Codec::Json, vec![text]),
            Self::Msgpack(bytes) => (Codec::Msgpack, vec![bytes]),
            Self::Raw(buffers) => (Codec::Raw, buffers),
            Self::Pickle(buffers) | Self::PickleOfCode(buffers) => (Codec::Pickle, buffers),
        })
    }
}

/// The codec of a call's arguments, whether they hold code, and their buffers.
pub(crate) fn lay_out(
    runtime: Runtime,
    function: &Function,
    arguments: Arguments,
) -> Result<(Codec, bool, Vec<Bytes>), ClientError> {
    let takes_no_data = function.takes_no_data();
    let has_code = matches!(arguments, Arguments::PickleOfCode(_));
    let (codec, data) = match arguments {
        Arguments::None if takes_no_data => (Codec::Json, Vec::new()),
        // The codec is that of the value which comes back.
        Arguments::Pickle(none) if takes_no_data && none.is_empty() => (Codec::Pickle, Vec::new()),
        _ if takes_no_data => return Err(ClientError::CodeWithArguments),
        _ => arguments.encode(runtime)?,
    };
    Ok((codec, has_code, data))
}

/// FNV-1a.
fn class_of(runtime: Runtime, parts: [&[u8]; 3]) -> u32 {
    let bytes = runtime.as_str().bytes().chain(parts.into_iter().flatten().copied());
    bytes.fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

pub(crate) fn check_function(function: &Function) -> Result<(), ClientError> {
    match function {
        Function::Command(command) if command.argv.is_empty() => Err(ClientError::NoCommand),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use furlong_wire::call::{PickledDefinition, decode_header};

    use super::*;
    use crate::pickled::PickleSupport;

    fn buffers(call: Call) -> Vec<Bytes> {
        match call.content {
            Content::Buffers(header, data) => std::iter::once(header).chain(data).collect(),
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
        assert_eq!(
            &buffers(CallSpec::native("noop").prepare(Targets::Shared).unwrap())[1][..],
            b"\x90"
        );
    }

    #[test]
    fn short_source_goes_with_the_call_and_long_source_is_defined() {
        let short = Arc::new(SourceFunction::new("f.py", "def f(): pass", "f"));
        let call = CallSpec::source(Arc::clone(&short)).prepare(Targets::Shared).unwrap();
        assert!(call.definition.is_none());
        let HeaderCall::Source { source, hash, .. } = header(call).call else {
            panic!("a source call")
        };
        assert_eq!((source.unwrap().as_bytes(), hash), (&b"def f(): pass"[..], short.hash()));

        let text = format!("def f(): pass\n{}", "#".repeat(SOURCE_INLINE_BYTES_MAX));
        let long = Arc::new(SourceFunction::new("f.py", text.clone(), "f"));
        let call = CallSpec::source(long).prepare(Targets::Shared).unwrap();
        assert_eq!(call.definition.as_ref().unwrap().source, text);
        assert!(matches!(header(call).call, HeaderCall::Source { source: None, .. }));
    }

    #[test]
    fn a_short_pickle_goes_with_the_call_and_the_support_of_all_is_one_definition() {
        let support = PickleSupport::new("text");
        let function =
            |bytes: usize| PickledFunction::new("f", vec![b'p'; bytes], (3, 12)).support(&support);
        let prepare =
            |function| CallSpec::pickled(Arc::new(function)).prepare(Targets::Shared).unwrap();
        let pickled = |call| match header(call).call {
            HeaderCall::Pickled(pickled) => pickled,
            other => panic!("{other:?}"),
        };
        let (short, other) = (prepare(function(1024)), prepare(function(3)));
        assert_eq!(short.definition.as_ref().unwrap().source, "text");
        assert!(Arc::ptr_eq(
            short.definition.as_ref().unwrap(),
            other.definition.as_ref().unwrap()
        ));
        assert_ne!(short.class, other.class);
        let short = pickled(short);
        assert_eq!(
            (short.blob.map(|blob| blob.len()), short.python, short.has_code),
            (Some(1024), (3, 12), false)
        );
        assert_eq!(short.hash, Some(function(1024).hash()));

        let long = function(1025);
        let call = prepare(long.clone());
        let source = call.definition.as_ref().unwrap().source.clone();
        let parts = PickledDefinition { blob: long.blob().clone(), support: "text".into() };
        assert_eq!(PickledDefinition::decode(&source), Ok(parts));
        assert_eq!(pickled(call).blob, None);
        let often = prepare(function(3).defined());
        assert_eq!(often.definition.as_ref().unwrap().source[8..], b"ppptext"[..]);
        assert_eq!(pickled(often).blob, None);
        assert!(prepare(PickledFunction::new("f", "p", (3, 12))).definition.is_none());
        assert_eq!(pickled(prepare(function(3).kept(false))).hash, None);
    }

    #[test]
    fn a_call_says_whether_its_function_or_its_arguments_hold_code() {
        let function = || PickledFunction::new("f", "p", (3, 12));
        let has_code = |call: CallSpec| match header(call.prepare(Targets::Shared).unwrap()).call {
            HeaderCall::Pickled(pickled) => pickled.has_code,
            other => panic!("{other:?}"),
        };
        let call = CallSpec::pickled(Arc::new(function()));
        assert!(!has_code(call.clone().arguments(Arguments::Pickle(vec![]))));
        assert!(has_code(call.arguments(Arguments::PickleOfCode(vec![]))));
        assert!(has_code(CallSpec::pickled(Arc::new(function().has_code(true)))));
    }

    #[test]
    fn code_takes_no_arguments() {
        let call = CallSpec::code("1 + 1").arguments(Arguments::json(vec![]));
        assert!(matches!(call.prepare(Targets::Shared), Err(ClientError::CodeWithArguments)));
        let pull = CallSpec::new(Runtime::Python, Function::Pull(vec!["x".into()]));
        assert_eq!(buffers(pull.prepare(Targets::Shared).unwrap()).len(), 1);
        let pickled = pull.arguments(Arguments::Pickle(vec![])).prepare(Targets::Shared).unwrap();
        assert_eq!(header(pickled).codec, Codec::Pickle);
    }

    #[test]
    fn a_command_takes_its_input_as_it_is() {
        let command = CommandSpec { argv: vec!["cat".into()], ..CommandSpec::default() };
        let call = CallSpec::command(["cat"]).arguments(Arguments::Raw(vec!["in".into()]));
        let buffers = buffers(call.prepare(Targets::Shared).unwrap());
        let expected =
            CallHeader { call: HeaderCall::Command(Box::new(command)), codec: Codec::Raw };
        assert_eq!(decode_header(&buffers[0]), Ok(expected));
        assert_eq!(buffers[1..], [Bytes::from("in")]);
        let none = CallSpec::command_with(CommandSpec::default()).prepare(Targets::Shared);
        assert!(matches!(none, Err(ClientError::NoCommand)));
    }

    #[test]
    fn kinds_of_tasks_have_numbers_of_their_own() {
        let class = |spec: CallSpec| spec.prepare(Targets::Shared).unwrap().class;
        assert_eq!(class(CallSpec::native("a")), class(CallSpec::native("a")));
        assert_ne!(class(CallSpec::native("a")), class(CallSpec::python("a")));
        assert_ne!(class(CallSpec::native("a")), class(CallSpec::native("b")));
    }
}
