//! IPython's shell where there is one, and where there is none.

use std::process::Command as StdCommand;

use furlong_wire::call::Display;

use super::*;

/// Returns true if the Python of the tests has IPython.
fn has_ipython() -> bool {
    let python = config().interpreter;
    let has = StdCommand::new(python)
        .args(["-c", "import IPython"])
        .stderr(std::process::Stdio::null())
        .status();
    has.is_ok_and(|status| status.success())
}

/// An interpreter that finds no IPython, whether there is one or not.
fn without_ipython() -> (Fixture, tempfile::TempDir) {
    let mut config = config();
    let folder = tempfile::tempdir().unwrap();
    let finder = "import sys\nclass Without:\n    def find_spec(self, name, *_):\n        \
                  if name.partition('.')[0] == 'IPython': raise ModuleNotFoundError(name)\n\
                  sys.meta_path.insert(0, Without())\n";
    std::fs::write(folder.path().join("sitecustomize.py"), finder).unwrap();
    config.env.push(("PYTHONPATH".into(), folder.path().into()));
    (Fixture::with(config), folder)
}

impl Fixture {
    async fn shown(&mut self, source: &str) -> (Option<String>, Vec<Display>) {
        match self.execute(source).await {
            AttemptEnd { header: ReplyHeader::Executed { repr, displays, .. }, .. } => {
                (repr, displays)
            }
            other => panic!("{source}: {other:?}"),
        }
    }
}

const RICH: &str = "class Rich:\n    def _repr_html_(self): return '<b>rich</b>'\n\
                    \x20   def __repr__(self): return 'Rich()'\n\
                    class Picture:\n    def _repr_png_(self): return b'png', {'width': 10}\n    def __repr__(self): return 'Picture()'";

async fn rich_values_are_shown(python: &mut Fixture) {
    python.eval(RICH).await;
    let (repr, displays) = python.shown("Rich()").await;
    assert_eq!((repr.as_deref(), displays.len()), (Some("Rich()"), 1));
    assert!(displays[0].is_value);
    assert_eq!(displays[0].data["text/html"], "<b>rich</b>");
    assert_eq!(displays[0].data["text/plain"], "Rich()");
    let (_, displays) = python.shown("Picture()").await;
    assert_eq!(displays[0].data["image/png"], "cG5n", "base64");
    assert_eq!(displays[0].metadata["image/png"], r#"{"width": 10}"#);
    assert_eq!(
        python.shown("Rich()\n5").await,
        (Some("5".into()), Vec::new()),
        "only the value is shown"
    );
    assert_eq!(python.shown("_").await, (Some("5".into()), Vec::new()));
}

#[tokio::test]
async fn without_ipython_rich_values_are_shown_and_a_magic_says_what_to_install() {
    let (mut python, _folder) = without_ipython();
    rich_values_are_shown(&mut python).await;
    for (source, magic) in
        [("x = 1\n%time x", "%time x"), ("!ls", "!ls"), ("len?", "len?"), ("a = !ls", "a = !ls")]
    {
        let failed = error(python.execute(source).await);
        assert_eq!(
            (failed.type_name.as_str(), failed.message.lines().count()),
            ("ImportError", 1),
            "{failed:?}"
        );
        assert!(
            failed.message.starts_with(&format!("`{magic}` is for IPython")),
            "{}",
            failed.message
        );
        assert!(failed.message.ends_with("-m pip install ipython"), "{}", failed.message);
    }
    assert_eq!(error(python.execute("x = (1 +").await).type_name, "SyntaxError");
}

#[tokio::test]
async fn plain_code_never_loads_ipython() {
    let mut python = Fixture::new();
    python.execute("x = (1 +\ny = 2").await;
    python.eval("class Plain: pass\nPlain()").await;
    assert_eq!(python.eval("import sys; 'IPython' in sys.modules").await.as_deref(), Some("False"));
}

#[tokio::test]
async fn magics_and_displays_are_ipythons_where_it_is() {
    if !has_ipython() {
        return;
    }
    let mut python = Fixture::new();
    python.eval("In = 'mine'").await;
    rich_values_are_shown(&mut python).await;
    let attempt = python.start_execute(
        "y = 6\n%time z = y * 7\n!echo from a $y\nfiles = !echo {z}\nz, list(files)",
    );
    let reply = python.end(attempt).await;
    let ReplyHeader::Executed { repr, .. } = &reply.header else { panic!("{reply:?}") };
    assert_eq!(repr.as_deref(), Some("(42, ['42'])"), "{reply:?}");
    let stdout = python.stdout(attempt);
    assert!(stdout.contains("Wall time:") && stdout.contains("from a 6\n"), "{stdout}");
    let attempt = python.start_execute("len?");
    python.end(attempt).await;
    assert!(
        python.stdout(attempt).contains("Return the number of items"),
        "{}",
        python.stdout(attempt)
    );
    let failed = error(python.execute("%no_such_magic").await);
    assert!(failed.message.contains("no_such_magic"), "{failed:?}");
    let failed = error(python.execute("%time 1\nx = (1 +").await);
    assert_eq!(failed.type_name, "SyntaxError");
    assert_eq!(python.eval("In").await.as_deref(), Some("'mine'"));
    let keys = python.start(Call::Keys, Codec::Json, Vec::new());
    let keys = json_value(python.end(keys).await).unwrap();
    assert_eq!(keys, r#"["In","Picture","Rich","files","y","z"]"#);
}

#[tokio::test]
async fn what_code_displays_is_captured_in_order_and_the_value_is_last() {
    if !has_ipython() {
        return;
    }
    let mut python = Fixture::new();
    let source = "from IPython.display import display, HTML, JSON\n\
                  for n in range(2): display(HTML(f'<i>{n}</i>'))\n\
                  display(JSON({'a': 1}))\nprint('printed')\nHTML('value')";
    let (_, displays) = python.shown(source).await;
    let html: Vec<_> = displays
        .iter()
        .map(|it| (it.is_value, it.data.get("text/html").map(String::as_str)))
        .collect();
    assert_eq!(
        html,
        [
            (false, Some("<i>0</i>")),
            (false, Some("<i>1</i>")),
            (false, None),
            (true, Some("value"))
        ]
    );
    assert_eq!(displays[2].data["application/json"], r#"{"a": 1}"#);
    python.eval("def f(): display(HTML('x')); return 1").await;
    let attempt = python.start_named("f", "[[],{}]");
    let reply = python.end(attempt).await;
    assert_eq!(
        (reply.header.codec(), &reply.data[0][..], reply.header.displays().len()),
        (Some(Codec::Json), &b"1"[..], 1)
    );
    assert_eq!(reply.header.displays()[0].data["text/html"], "x");
    assert_eq!(python.stdout(attempt), "");
    assert_eq!(
        python.json("len", "[[[1]],{}]").await.unwrap(),
        "1",
        "a later call has none of them"
    );
    python
        .execute(
            "import threading\nshow = threading.Event()\n\
        thread = threading.Thread(target=lambda: (show.wait(), display(HTML('late'))))\nthread.start()",
        )
        .await;
    assert_eq!(
        python.shown("show.set(); thread.join()").await.1,
        [],
        "it is of a thread whose task has ended"
    );
    let failed = python.execute("display(HTML('kept?')); 1 / 0").await;
    assert_eq!(failed.outcome, AttemptOutcome::Failed);
    assert_eq!(python.shown("5").await.1, []);
    let (_, displays) =
        python.shown("display(HTML('x'), metadata={'text/html': {'isolated': True}})").await;
    assert_eq!(displays[0].metadata["text/html"], r#"{"isolated": true}"#);
    let huge = python.start_execute("for _ in range(3): display(HTML('x' * 7_000_000))");
    let reply = python.end(huge).await;
    let ReplyHeader::Executed { displays, .. } = reply.header else { panic!("{reply:?}") };
    assert_eq!(displays.len(), 2);
    assert!(python.text(huge, OutputStream::Stderr).contains("is left out"));
}
