//! Values that clients cannot find by name, and those that have no pickle.

use std::io::Write;
use std::process::{Command as StdCommand, Stdio};

use furlong_wire::call::PickledCall;
use serde_bytes::ByteBuf;

use super::*;

/// Runs a script with the Python of the tests; buffers go in and out as lines of hexadecimal
/// digits.
fn run_python(script: &str, buffers: &[Bytes]) -> Vec<Bytes> {
    let mut command = StdCommand::new(config().interpreter);
    let mut child = command
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let hex = |buffer: &Bytes| {
        buffer.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat() + "\n"
    };
    let input: String = buffers.iter().map(hex).collect();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let byte =
        |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    lines
        .lines()
        .map(|line| line.as_bytes().chunks(2).map(byte).collect::<Vec<_>>().into())
        .collect()
}

/// Loads a result as a client does, and evaluates an expression of `value`, `versions` and
/// `buffers`.
fn at_client(data: &[Bytes], expression: &str) -> String {
    let script = "import pickle, sys, types\nversions = []\n\
        def load_code(major, minor, inner, buffers):\n\
        \x20   versions.append((major, minor) == sys.version_info[:2])\n\
        \x20   return pickle.loads(inner, buffers=buffers)\n\
        sys.modules['furlong'] = types.ModuleType('furlong')\n\
        sys.modules['furlong._wire'] = wire = types.ModuleType('furlong._wire')\n\
        exec(open('DEFINITIONS').read(), vars(wire))\nwire.load_code = load_code\n\
        buffers = [bytes.fromhex(line) for line in sys.stdin]\n\
        value = pickle.loads(buffers[0], buffers=buffers[1:])\nprint(repr((EXPRESSION)).encode().hex())";
    let definitions =
        concat!(env!("CARGO_MANIFEST_DIR"), "/src/runtime/python/furlong_worker/definitions.py");
    let script = script.replace("DEFINITIONS", definitions).replace("EXPRESSION", expression);
    let out = run_python(&script, data);
    String::from_utf8(out[0].to_vec()).unwrap()
}

/// Returns true if the Python of the tests has cloudpickle, without which nothing goes by value.
fn has_cloudpickle() -> bool {
    let has = StdCommand::new(config().interpreter)
        .args(["-c", "import cloudpickle"])
        .stderr(Stdio::null())
        .status();
    has.is_ok_and(|status| status.success())
}

impl Fixture {
    async fn pulled(&mut self, names: &[&str]) -> Vec<Bytes> {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let attempt = self.start(Call::Pull { names }, Codec::Pickle, Vec::new());
        let reply = self.end(attempt).await;
        assert_eq!(reply.outcome, AttemptOutcome::Succeeded, "{reply:?}");
        reply.data
    }

    async fn pull_error(&mut self, expression: &str) -> String {
        let attempt =
            self.start(Call::Pull { names: vec![expression.into()] }, Codec::Pickle, Vec::new());
        error(self.end(attempt).await).message
    }
}

#[tokio::test]
async fn functions_and_classes_of_the_engine_go_to_clients_by_value() {
    if !has_cloudpickle() {
        return;
    }
    let mut python = Fixture::new();
    let define = "k = 10\ndef f(x): return x + k\nclass C:\n    def __init__(self, n): self.n = n\n\
                  \x20   def double(self): return 2 * self.n\nclass Failure(Exception): pass\nbig = bytes(100_000)\n\
                  import pickle";
    python.eval(define).await;
    let data = python.pulled(&["f", "C(4)", "lambda: 3", "Failure('no')"]).await;
    assert!(data[0].starts_with(b"\x80\x05cfurlong._wire\nload_code\n"), "{data:?}");
    let seen = "value[0](1), value[1].double(), value[2](), type(value[3]).__name__, \
                str(value[3]), versions";
    assert_eq!(at_client(&data, seen), "(11, 8, 3, 'Failure', 'no', [True])");
    // Large buffers stay out of band, and so does a large pickle.
    let data = python.pulled(&["f", "pickle.PickleBuffer(big)", "['x'] * 5000"]).await;
    assert_eq!(data.iter().skip(1).map(Bytes::len).filter(|length| *length == 100_000).count(), 1);
    assert!(data.len() == 3 && data[0].len() < 100, "{}", data.len());
    assert_eq!(at_client(&data, "value[0](2), len(value[1]), len(value[2])"), "(12, 100000, 5000)");
    for plain in [
        "'__main__'",
        "[1, {'a': (2.0, None)}]",
        "__import__('math').sqrt",
        "ValueError('furlong_source_')",
    ] {
        let data = python.pulled(&[plain]).await;
        assert!(
            data[0].starts_with(b"\x80\x05") && !data[0].starts_with(b"\x80\x05c"),
            "{plain}: {data:?}"
        );
        assert_eq!(at_client(&data, "versions"), "[]");
    }
}

#[tokio::test]
async fn what_a_source_file_defines_goes_to_clients_by_value() {
    if !has_cloudpickle() {
        return;
    }
    let mut python = Fixture::new();
    let text = "class Point:\n    def __init__(self, x): self.x = x\ndef f(): return Point(3)";
    let call = Call::Source {
        file: "p.py".into(),
        hash: FunctionHash([5; 32]),
        source: Some(text.into()),
        function: "f".into(),
    };
    let attempt = python.start(call, Codec::Pickle, vec!["()}t.".into()]);
    let reply = python.end(attempt).await;
    assert_eq!(reply.outcome, AttemptOutcome::Succeeded, "{reply:?}");
    assert_eq!(
        at_client(&reply.data, "value.x, type(value).__name__, versions"),
        "(3, 'Point', [True])"
    );
}

#[tokio::test]
async fn functions_by_value_are_called_pushed_and_pulled() {
    if !has_cloudpickle() {
        return;
    }
    let mut python = Fixture::new();
    let script = "import sys, cloudpickle\nn = 5\ndef f(x): return x + n\n\
        for value in (f, (({'g': f, 'h': lambda: f(1)},), {}), ((1,), {})):\n\
        \x20   print(cloudpickle.dumps(value).hex())\n\
        print(bytes(sys.version_info[:2]).hex())";
    let made = run_python(script, &[]);
    let [function, variables, arguments, version] = &made[..] else { panic!("{made:?}") };
    let call = PickledCall {
        name: "f".into(),
        hash: Some(FunctionHash([1; 32])),
        blob: Some(ByteBuf::from(&function[..])),
        python: (version[0], version[1]),
        has_code: true,
    };
    for _ in 0..2 {
        let attempt =
            python.start(Call::Pickled(call.clone()), Codec::Pickle, vec![arguments.clone()]);
        assert_eq!(at_client(&python.end(attempt).await.data, "value"), "6");
    }
    let attempt = python.start(Call::Push, Codec::Pickle, vec![variables.clone()]);
    assert_eq!(python.end(attempt).await.outcome, AttemptOutcome::Succeeded);
    assert_eq!(python.json("g", "[[1],{}]").await.unwrap(), "6");
    assert_eq!(python.eval("g(2), h()").await.as_deref(), Some("(7, 6)"));
    let data = python.pulled(&["g", "h"]).await;
    assert_eq!(at_client(&data, "value[0](3), value[1]()"), "(8, 6)");
}

#[tokio::test]
async fn a_value_without_a_pickle_is_named_by_its_path() {
    let mut python = Fixture::new();
    let define = "import threading, functools, collections\n\
        lock = threading.Lock()\nclass Holder: pass\n\
        class Slotted:\n    __slots__ = ('inner',)\nholder, slotted = Holder(), Slotted()\n\
        holder.lock, slotted.inner = lock, [1, lock]\nPair = collections.namedtuple('Pair', 'left right')\n\
        def closing(held):\n    def inner(): return held\n    return inner\ndeep = lock\n\
        for _ in range(10): deep = {'{}': deep}";
    python.eval(define).await;
    for (expression, path) in [
        ("lock", "result[0] is a _thread.lock"),
        ("{'a': [0, lock]}", "result[0]['a'][1] is a _thread.lock"),
        ("functools.partial(print, sep=lock)", "result[0].keywords['sep'] is a _thread.lock"),
        ("(n for n in 'ab')", "result[0] is a generator"),
        (
            "deep['{}']",
            "result[0]['{}']['{}']['{}']['{}']['{}']['{}']['{}']['{}']['{}'] is a _thread.lock",
        ),
    ] {
        let expected = format!("the result cannot be pickled: {path}");
        assert!(
            python.pull_error(expression).await.starts_with(&expected),
            "{}",
            python.pull_error(expression).await
        );
    }
    if has_cloudpickle() {
        for (expression, path) in [
            ("{'a': holder}", "result[0]['a'].lock is a _thread.lock"),
            ("slotted", "result[0].inner[1] is a _thread.lock"),
            ("Pair(1, lock)", "result[0].right is a _thread.lock"),
            ("closing(lock)", "result[0].__closure__['held'] is a _thread.lock"),
        ] {
            assert_eq!(
                python.pull_error(expression).await,
                format!("the result cannot be pickled: {path}")
            );
        }
    }
    let looped = python.pull_error("(lambda a: (a.append(a), a.append(lock), a)[2])([])").await;
    assert!(looped.starts_with("the result cannot be pickled: result[0]"), "{looped}");
}

#[tokio::test]
async fn an_exception_of_several_keeps_its_text_and_that_of_its_causes() {
    let mut python = Fixture::new();
    let define = "class CompositeError(Exception): pass\n\
                  def f():\n    try: 1 / 0\n    except Exception as error:\n\
                  \x20       raise CompositeError('2 of 3 failed\\n  engine 0: no\\n  engine 2: no') from error";
    python.eval(define).await;
    let raised = python.json("f", "[[],{}]").await.unwrap_err();
    assert_eq!(raised.type_name, "__main__.CompositeError");
    assert_eq!(raised.message, "2 of 3 failed\n  engine 0: no\n  engine 2: no");
    for text in
        ["ZeroDivisionError: division by zero\n", "CompositeError: 2 of 3 failed\n  engine 0: no\n"]
    {
        assert!(raised.traceback.contains(text), "{}", raised.traceback);
    }
}
