//! Functions that come as pickles: here mostly written by hand.

use std::path::Path;
use std::process::Command as StdCommand;

use furlong_wire::call::{PickledCall, PickledDefinition};
use serde_bytes::ByteBuf;

use super::*;

/// The Python of the tests, as the engine knows it.
async fn version() -> (u8, u8) {
    let shared = PythonShared::new(config());
    let version = shared.resolve().await.unwrap().version.clone();
    let mut numbers = version.split('.').map(|number| number.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// A call without code. A hash of 0 stands for none.
pub(super) fn pickled(hash: u32, blob: Option<&str>) -> PickledCall {
    let bytes = [&hash.to_le_bytes()[..], &[0; 28]].concat();
    let hash = (hash != 0).then(|| FunctionHash(bytes.try_into().unwrap()));
    let blob = blob.map(ByteBuf::from);
    PickledCall { name: "f".into(), hash, blob, python: (2, 7), has_code: false }
}

impl Fixture {
    async fn call_with(
        &mut self,
        call: PickledCall,
        definition: Option<Bytes>,
        arguments: &str,
    ) -> AttemptEnd {
        self.attempts += 1;
        let header = CallHeader { call: Call::Pickled(call), codec: Codec::Json };
        let data = vec![Bytes::copy_from_slice(arguments.as_bytes())];
        self.slot.start(Job {
            attempt: SlotJob(self.attempts),
            session: SessionId([1; 16]),
            header: header.into(),
            definition,
            data,
            file: None,
            inputs: None,
        });
        self.end(SlotJob(self.attempts)).await
    }

    async fn call(&mut self, call: PickledCall, arguments: &str) -> Result<String, RemoteError> {
        json_value(self.call_with(call, None, arguments).await)
    }
}

const NOTHING: &str = "[[],{}]";

#[tokio::test]
async fn a_pickled_function_is_sent_once_and_called_by_its_hash() {
    let mut python = Fixture::new();
    assert_eq!(
        python.call(pickled(1, None), "[[4],{}]").await.unwrap_err().type_name,
        "EngineError"
    );
    assert_eq!(python.call(pickled(1, Some("cmath\nsqrt\n.")), "[[4],{}]").await.unwrap(), "2.0");
    assert_eq!(python.call(pickled(1, None), "[[9],{}]").await.unwrap(), "3.0");
    let attempt =
        python.start(Call::Pickled(pickled(1, None)), Codec::Pickle, vec!["((F16.0\nt}t.".into()]);
    let reply = python.end(attempt).await;
    assert_eq!(reply.header, ReplyHeader::Returned { codec: Codec::Pickle });
    assert_eq!(reply.data[0], b"\x80\x05\x95\n\0\0\0\0\0\0\0G@\x10\0\0\0\0\0\0.".as_slice());
    // In a definition, with its length before it.
    let definition =
        PickledDefinition { blob: "cbuiltins\nabs\n.".into(), support: Bytes::new() }.encode();
    let reply = python.call_with(pickled(2, None), Some(definition), "[[-3],{}]").await;
    assert_eq!(json_value(reply).unwrap(), "3");
    assert_eq!(python.call(pickled(2, None), "[[-4],{}]").await.unwrap(), "4");
    let broken =
        python.call_with(pickled(3, None), Some(Bytes::from_static(&[9; 12])), NOTHING).await;
    assert!(
        error(broken).message.contains("neither the call nor a definition brought the function")
    );
}

#[tokio::test]
async fn the_oldest_functions_give_way_and_both_sides_agree_which() {
    let mut python = Fixture::new();
    for hash in 1..=1025 {
        let blob = format!("cbuiltins\n{}\n.", if hash % 2 == 0 { "min" } else { "max" });
        let expected = if hash % 2 == 0 { "3" } else { "5" };
        assert_eq!(python.call(pickled(hash, Some(&blob)), "[[3,5],{}]").await.unwrap(), expected);
    }
    assert!(python.call(pickled(1, None), "[[3,5],{}]").await.is_err());
    for (hash, expected) in [(2, "3"), (3, "5"), (1025, "5")] {
        assert_eq!(
            python.call(pickled(hash, None), "[[3,5],{}]").await.unwrap(),
            expected,
            "{hash}"
        );
    }
}

#[tokio::test]
async fn what_a_pickle_only_names_is_looked_up_again_after_code_ran() {
    let mut python = Fixture::new();
    let reference = pickled(0, Some("cfurlong_worker\nevaluate\n(Vg\ntR."));
    assert_eq!(python.call(reference.clone(), NOTHING).await.unwrap_err().type_name, "NameError");
    python.eval("import sys, types\nmod = sys.modules['mod'] = types.ModuleType('mod')").await;
    let define =
        "def f(): return {n}\nf.__module__ = 'mod'; mod.f = f\ndef g(): return {n}\nx = {n}";
    for n in ["1", "2"] {
        python.eval(&define.replace("{n}", n)).await;
        assert_eq!(python.call(reference.clone(), NOTHING).await.unwrap(), n);
        let blob = (n == "1").then_some("cmod\nf\n.");
        assert_eq!(python.call(pickled(7, blob), NOTHING).await.unwrap(), n);
        let arguments = "((cfurlong_worker\nevaluate\n(Vx + 1\ntRt}t.";
        let named = Call::Named { function: "str".into() };
        let attempt =
            python.start(named, Codec::Pickle, vec![Bytes::from_static(arguments.as_bytes())]);
        let value = python.end(attempt).await.data[0].clone();
        let expected: u8 = n.parse::<u8>().unwrap() + 1 + b'0';
        assert!(value.contains(&expected), "{value:?}");
    }
}

#[tokio::test]
async fn code_of_another_python_is_refused_before_anything_runs() {
    let mut python = Fixture::new();
    let of = |python, blob| PickledCall { python, has_code: true, ..pickled(1, Some(blob)) };
    python.eval("ran = []").await;
    let blob = "cfurlong_worker\nevaluate\n(Vran.append(1)\ntR.";
    let refused = python.call(of((3, 99), blob), NOTHING).await.unwrap_err();
    assert_eq!(refused.type_name, "furlong.PythonVersionError");
    let (major, minor) = version().await;
    let versions = format!(
        "the call of `f` holds code of Python 3.99, and this engine's is {major}.{minor}: define"
    );
    assert!(
        refused.message.starts_with(&versions) && refused.message.contains("--python"),
        "{}",
        refused.message
    );
    assert_eq!(python.eval("ran").await.as_deref(), Some("[]"));
    assert_eq!(
        python.call(of((major, minor), "cbuiltins\nabs\n."), "[[-1],{}]").await.unwrap(),
        "1"
    );
    assert_eq!(
        python.call(pickled(1, None), "[[-2],{}]").await.unwrap(),
        "2",
        "data may be of any version"
    );
}

/// An environment with nothing but the standard library.
fn bare_python(folder: &Path) -> PythonConfig {
    let mut command = StdCommand::new(config().interpreter);
    let made = command.args(["-m", "venv", "--without-pip"]).arg(folder).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    PythonConfig::new(folder.join("bin/python"))
}

#[tokio::test]
async fn a_missing_module_is_named_and_a_missing_cloudpickle_is_the_clients() {
    let folder = tempfile::tempdir().unwrap();
    let mut python = Fixture::with(bare_python(folder.path()));
    let missing =
        python.call(pickled(1, Some("cno_such_module\nf\n.")), NOTHING).await.unwrap_err();
    assert_eq!(missing.type_name, "ModuleNotFoundError");
    assert!(
        missing.message.starts_with("No module named 'no_such_module': the call's"),
        "{}",
        missing.message
    );
    let blob = "ccloudpickle.cloudpickle\n_make_seven\n.";
    let missing = python.call(pickled(2, Some(blob)), NOTHING).await.unwrap_err();
    assert_eq!(missing.type_name, "ModuleNotFoundError");
    assert!(
        missing.message.contains("its client has sent no cloudpickle; install it"),
        "{}",
        missing.message
    );

    let text = Bytes::from_static(
        b"def _make_seven(): return 7\ndef dumps(value, **_): return b'dumped'\n",
    );
    let reply = python.call_with(pickled(3, Some(blob)), Some(text), NOTHING).await;
    assert_eq!(json_value(reply).unwrap(), "7");
    assert_eq!(
        python.call(pickled(2, None), NOTHING).await.unwrap(),
        "7",
        "what failed is tried again"
    );
    let value = "import cloudpickle\ncloudpickle.dumps(1), cloudpickle.cloudpickle.__name__";
    assert_eq!(python.eval(value).await.as_deref(), Some("(b'dumped', 'cloudpickle.cloudpickle')"));
    let old = "ccloudpickle.cloudpickle\n_make_eight\n.";
    let old = python.call(pickled(5, Some(old)), NOTHING).await.unwrap_err();
    assert_eq!(old.type_name, "AttributeError");
    assert!(
        old.message.contains("cloudpickle is of another version than this engine's"),
        "{}",
        old.message
    );
    let other = Bytes::from_static(b"raise OSError");
    let reply = python.call_with(pickled(4, Some(blob)), Some(other), NOTHING).await;
    assert_eq!(json_value(reply).unwrap(), "7", "the first text counts");
}

#[tokio::test]
async fn user_code_finds_its_engine_by_name() {
    let labels = vec!["gpu".to_owned(), "say \"hi\", ünï\u{7}".to_owned()];
    let mut python = Fixture::with(PythonConfig { labels, ..config() });
    python.slot.set_engine_id(9);
    let seen = "import furlong_worker\nhere = furlong_worker.current_engine()\n\
                here.id, here.labels == labels, ascii(labels), here.rank == globals().get('rank')";
    let expected = r#"(9, True, '[\'gpu\', \'say "hi", \\xfcn\\xef\\x07\']', True)"#;
    assert_eq!(python.eval(seen).await.as_deref(), Some(expected));
    let blob = "cfurlong_worker\ncurrent_engine\n.";
    let text = python.call(pickled(1, Some(blob)), NOTHING).await.unwrap();
    assert_eq!(text, r#""<engine 9>""#);
    let functions = "[f.__module__ for f in \
                     (furlong_worker.evaluate, furlong_worker.Reference, furlong_worker.pull)]";
    assert_eq!(
        python.eval(functions).await.as_deref(),
        Some("['furlong_worker', 'furlong_worker', 'furlong_worker']")
    );
    let round_trip =
        "import pickle\nz = 5\npickle.loads(pickle.dumps(furlong_worker.Reference('z + 1')))";
    assert_eq!(python.eval(round_trip).await.as_deref(), Some("6"));
}

#[tokio::test]
async fn an_interactive_function_sees_the_engines_namespace() {
    let mut python = Fixture::new();
    let make = "import marshal, furlong_worker\n\
                def outer(c):\n    def inner(x, k=1, *, m=2): return a+x+k+m+c\n\
                \x20   return inner\nf = outer(100)\ncode = marshal.dumps(f.__code__)\n\
                made = furlong_worker.engine_function(code, 'h', f.__defaults__, f.__kwdefaults__, (100,), {}, 'doc')\n\
                again = furlong_worker.engine_function(code, 'h', f.__defaults__, f.__kwdefaults__, f.__closure__)\n\
                made.__name__, made.__doc__, made.__module__";
    assert_eq!(python.eval(make).await.as_deref(), Some("('h', 'doc', '__main__')"));
    assert_eq!(error(python.execute("made(1)").await).type_name, "NameError");
    assert_eq!(python.eval("a = 5\nmade(1), again(1, m=0)").await.as_deref(), Some("(109, 107)"));
}
