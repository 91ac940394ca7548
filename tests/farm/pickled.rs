//! Functions that a Python client has pickled, as the Rust client brings them to engines.

use std::ffi::OsString;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use furlong_client::{
    Arguments, CallSpec, Codec, ErrorKind, Function, PickleSupport, PickledFunction, ReplyHeader,
    Runtime, TaskResult,
};
use furlong_tests::work::Work;
use futures_util::StreamExt;

/// The data that a Python client would pickle: a short function and a long one, arguments, and its
/// own cloudpickle.
struct Made {
    version: (u8, u8),
    short: Bytes,
    long: Bytes,
    arguments: Bytes,
    compressed: Bytes,
}

const SCRIPT: &str = r#"
import pathlib, sys, zlib
import cloudpickle.cloudpickle as cloudpickle
offset = 10
def add(x): return x + offset
table = [f"entry {n}" for n in range(500)]
def look_up(n): return table[n]
parts = [bytes(sys.version_info[:2]), cloudpickle.dumps(add), cloudpickle.dumps(look_up), cloudpickle.dumps(((4,), {}))]
parts.append(zlib.compress(pathlib.Path(cloudpickle.__file__).read_bytes()))
for part in parts:
    print(part.hex())
"#;

fn python() -> OsString {
    std::env::var_os("FURLONG_TEST_PYTHON").unwrap_or_else(|| "python3".into())
}

/// None if the Python of the tests has no cloudpickle 3, which is one file.
fn made() -> Option<Made> {
    let probe = ["-c", "from cloudpickle.cloudpickle import dumps"];
    let has = Command::new(python()).args(probe).stderr(Stdio::null()).status();
    if !has.is_ok_and(|status| status.success()) {
        return None;
    }
    let parts = run(SCRIPT, "");
    let [version, short, long, arguments, compressed] = parts.try_into().unwrap();
    let version = (version[0], version[1]);
    assert!(short.len() <= 1024 && long.len() > 1024, "{} and {}", short.len(), long.len());
    Some(Made { version, short, long, arguments, compressed })
}

/// Runs a script, which prints lines of hexadecimal digits.
fn run(script: &str, input: &str) -> Vec<Bytes> {
    let mut command = Command::new(python());
    let command = command
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let byte =
        |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    lines
        .lines()
        .map(|line| line.as_bytes().chunks(2).map(byte).collect::<Vec<_>>().into())
        .collect()
}

/// Returns the value of a result, as it looks in Python.
fn shown(result: &TaskResult) -> String {
    assert_eq!(result.codec(), Some(Codec::Pickle));
    let digits =
        result.data[0].iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
    let script = "import pickle; print(repr(pickle.loads(bytes.fromhex(input()))).encode().hex())";
    String::from_utf8(run(script, &digits)[0].to_vec()).unwrap()
}

impl Made {
    fn short(&self) -> PickledFunction {
        PickledFunction::new("add", self.short.clone(), self.version).has_code(true)
    }

    fn long(&self) -> PickledFunction {
        PickledFunction::new("look_up", self.long.clone(), self.version).has_code(true)
    }

    fn call(&self, function: PickledFunction) -> CallSpec {
        CallSpec::pickled(Arc::new(function))
            .arguments(Arguments::Pickle(vec![self.arguments.clone()]))
    }
}

/// An interpreter of an environment with nothing but the standard library.
fn bare_python(work: &Work) -> String {
    let folder = work.path("bare");
    let made =
        Command::new(python()).args(["-m", "venv", "--without-pip", &folder]).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    format!("{folder}/bin/python")
}

#[test]
fn pickled_functions_run_on_engines_that_have_cloudpickle() {
    let Some(made) = made() else { return };
    let python = python().into_string().unwrap();
    let work = Work::start_with(&[], &[&["--python", &python, "--label", "big,fast"]]);
    for _ in 0..2 {
        assert_eq!(shown(&work.run(&made.call(made.short())).unwrap()), "14");
        assert_eq!(shown(&work.run(&made.call(made.long())).unwrap()), "'entry 4'");
    }
    // Ten of them, by a map.
    let function = Function::Pickled(Arc::new(made.short()));
    let items = (0..10).map(|_| Arguments::PickleOfCode(vec![made.arguments.clone()]));
    let sums = work.client().tasks().map(function, items).stream().unwrap();
    let sums: Vec<_> =
        work.within(sums.map(|(_, result)| result.unwrap().data[0].clone()).collect());
    assert!(sums.len() == 10 && sums.iter().all(|sum| *sum == sums[0]));

    let unfit =
        PickledFunction::new("add", made.short.clone(), (made.version.0, 99)).has_code(true);
    let failure = work.run(&made.call(unfit)).unwrap_err();
    assert_eq!(failure.kind(), Some(ErrorKind::Remote));
    let remote = failure.remote().unwrap();
    assert_eq!(remote.type_name, "furlong.PythonVersionError");
    assert!(remote.message.contains("`add` holds code of Python 3.99"), "{remote}");

    let labels = PickledFunction::new(
        "labels",
        "cfurlong_worker\nevaluate\n(Vlambda: labels\ntR.",
        made.version,
    );
    let labels =
        CallSpec::pickled(Arc::new(labels.kept(false))).arguments(Arguments::json(Vec::new()));
    assert_eq!(work.run(&labels).unwrap().json::<Vec<String>>().unwrap(), ["big", "fast"]);
}

#[test]
fn the_clients_cloudpickle_serves_engines_that_have_none() {
    let Some(made) = made() else { return };
    let mut work = Work::start(0);
    let python = bare_python(&work);
    work.add_engine(&["--python", &python]);
    work.wait_for_processes(1);
    let failure = work.run(&made.call(made.short())).unwrap_err();
    let remote = failure.remote().unwrap();
    assert_eq!(remote.type_name, "ModuleNotFoundError");
    assert!(remote.message.contains("its client has sent no cloudpickle"), "{remote}");

    let support = PickleSupport::new(made.compressed.clone());
    assert_eq!(shown(&work.run(&made.call(made.long().support(&support))).unwrap()), "'entry 4'");
    assert_eq!(shown(&work.run(&made.call(made.short().support(&support))).unwrap()), "14");
    // The engine can send code of its own now.
    work.run(&CallSpec::code("def mine(): return 1")).unwrap();
    let pull = CallSpec::new(Runtime::Python, Function::Pull(vec!["mine".into()]))
        .arguments(Arguments::Pickle(vec![]));
    let pulled = work.run(&pull).unwrap();
    assert!(matches!(pulled.header, ReplyHeader::Returned { codec: Codec::Pickle }));
    assert!(
        pulled.data[0].starts_with(b"\x80\x05cfurlong._wire\nload_code\n"),
        "{:?}",
        pulled.data
    );
}
