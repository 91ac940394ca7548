//! Cells as IPython takes them, scripts as Python does, and values that JSON cannot say.

use furlong_wire::os_text::OsText;

use super::*;

fn script(source: &[u8]) -> Call {
    Call::Run { file: "script.py".into(), source: OsText::from_bytes(source.to_vec()) }
}

impl Fixture {
    async fn run_script(&mut self, source: &[u8]) -> AttemptEnd {
        let attempt = self.start(script(source), Codec::Json, Vec::new());
        self.end(attempt).await
    }
}

#[tokio::test]
async fn a_script_is_read_as_python_reads_it() {
    let mut python = Fixture::new();
    for (source, printed) in [
        (&b"\xef\xbb\xbfprint('bom')\n"[..], "bom\n"),
        (b"# -*- coding: latin-1 -*-\nprint('caf\xe9')", "café\n"),
        (b"#!/usr/bin/python\n# vim: set fileencoding=cp1252 :\nprint('\x80')\n", "€\n"),
        (b"print('before')\nimport sys\nsys.exit(0)\nprint('after')\n", "before\n"),
        (b"print(1)\r\nraise SystemExit\r\n", "1\n"),
    ] {
        let attempt = python.start(script(source), Codec::Json, Vec::new());
        assert_eq!(python.end(attempt).await.outcome, AttemptOutcome::Succeeded, "{source:?}");
        assert_eq!(python.text(attempt, OutputStream::Stdout), printed);
    }
    for (source, name) in [
        (&b"import sys; sys.exit(3)"[..], "SystemExit"),
        (b"raise SystemExit('no input')", "SystemExit"),
        (b"print('caf\xe9')", "SyntaxError"),
        (b"# coding: no-such-coding\n", "SyntaxError"),
        (b"await f()", "SyntaxError"),
    ] {
        let failed = error(python.run_script(source).await);
        assert_eq!(failed.type_name, name, "{source:?}");
    }
    let failed = error(python.run_script(b"# coding: latin-1\nx = 'caf\xe9'\n1 / 0").await);
    assert!(failed.traceback.contains("    1 / 0"), "{}", failed.traceback);
}

#[tokio::test]
async fn a_cell_awaits_at_top_level_in_one_loop() {
    let mut python = Fixture::new();
    assert_eq!(
        python.eval("import asyncio\nawait asyncio.sleep(0, 5)").await.as_deref(),
        Some("5")
    );
    let begin = "async def late(): await asyncio.sleep(0); return 'late'\n\
                 task = asyncio.ensure_future(late())";
    python.eval(begin).await;
    assert_eq!(
        python.eval("await task").await.as_deref(),
        Some("'late'"),
        "the loop of the cell before"
    );
    assert_eq!(
        error(python.execute("await asyncio.sleep(0); 1 / 0").await).type_name,
        "ZeroDivisionError"
    );
    assert_eq!(
        python.eval("async with asyncio.Lock() as held: x = 3\nx").await.as_deref(),
        Some("3")
    );
    let attempt = python.start_execute("print('begun', flush=True)\nawait asyncio.sleep(600)");
    python.output_of(attempt, "begun").await;
    python.slot.cancel(attempt, false);
    assert_eq!(python.end(attempt).await.outcome, AttemptOutcome::Cancelled);
    assert_eq!(
        python.eval("await asyncio.sleep(0, x)").await.as_deref(),
        Some("3"),
        "the same interpreter"
    );
}

#[tokio::test]
async fn a_semicolon_at_the_end_of_a_cell_hides_its_value() {
    let mut python = Fixture::new();
    for (source, shown) in [
        ("4;", None),
        ("5; # five", None),
        ("x = 1; x", Some("1")),
        ("'a;'", Some("'a;'")),
        ("6 # not; hidden", Some("6")),
        ("(1,\n2);\n\n", None),
    ] {
        assert_eq!(python.eval(source).await.as_deref(), shown, "{source}");
    }
    assert_eq!(python.eval("import sys; sys.exit(0)").await, None);
}

#[tokio::test]
async fn what_json_cannot_say_is_text_with_a_warning() {
    let mut python = Fixture::new();
    python.eval("import collections, pathlib\ndef give(text): return eval(text)").await;
    for (value, json) in [
        ("float('nan')", r#""nan""#),
        ("[1, float('-inf'), {'a': {1}}]", r#"[1,"-inf",{"a":"{1}"}]"#),
        ("b'x'", r#""b'x'""#),
        ("{(1, 2): 2 ** 70}", r#"{"(1, 2)":1180591620717411303424}"#),
        ("pathlib.PurePath('a/b')", r#""a/b""#),
    ] {
        let arguments = format!("[[{value:?}],{{}}]");
        let attempt = python.start(
            Call::Named { function: "give".into() },
            Codec::Json,
            vec![arguments.into()],
        );
        assert_eq!(json_value(python.end(attempt).await).unwrap(), json);
        let warned = python.text(attempt, OutputStream::Stderr);
        assert!(warned.contains("which json cannot say: it is given as text"), "{value}: {warned}");
    }
    // A file name that is not UTF-8 is no text for JSON either, but JSON can say it.
    assert_eq!(
        python.json("os:fsdecode", r#"[["caf\udce9"],{}]"#).await.unwrap(),
        r#""caf\udce9""#
    );
    let failed =
        python.json("give", r#"[["(lambda a: a.append(a) or a)([])"],{}]"#).await.unwrap_err();
    assert!(failed.message.contains("holds itself"), "{}", failed.message);
}
