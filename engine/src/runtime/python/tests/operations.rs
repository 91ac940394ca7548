//! Push, pull, keys, clear, scripts, and what tasks publish.

use super::*;

impl Fixture {
    async fn operate(&mut self, call: Call, codec: Codec, data: Vec<Bytes>) -> AttemptEnd {
        let attempt = self.start(call, codec, data);
        self.end(attempt).await
    }

    async fn push(&mut self, json: &'static str) -> Result<String, RemoteError> {
        json_value(
            self.operate(Call::Push, Codec::Json, vec![Bytes::from_static(json.as_bytes())]).await,
        )
    }

    async fn pull(&mut self, names: &[&str]) -> Result<String, RemoteError> {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        json_value(self.operate(Call::Pull { names }, Codec::Json, Vec::new()).await)
    }

    async fn keys(&mut self) -> String {
        json_value(self.operate(Call::Keys, Codec::Json, Vec::new()).await).unwrap()
    }
}

#[tokio::test]
async fn variables_are_pushed_pulled_listed_and_cleared() {
    let mut python = Fixture::new();
    python.slot.set_engine_id(3);
    assert_eq!(python.keys().await, "[]");
    assert_eq!(python.push(r#"[[{"a": 1, "b": [2, "ü"]}], {}]"#).await.unwrap(), "null");
    python.eval("import os\n_hidden = 1\nclass C: pass\nc = C()").await;
    python.push(r#"[[{"c.field": 5}], {}]"#).await.unwrap();
    assert_eq!(
        python.pull(&["a + 1", "b", "c.field", "engine_id"]).await.unwrap(),
        r#"[2,[2,"ü"],5,3]"#
    );
    assert_eq!(python.keys().await, r#"["C","a","b","c","os"]"#);
    assert_eq!(python.pull(&["a", "missing"]).await.unwrap_err().type_name, "NameError");
    assert_eq!(python.pull(&["a +"]).await.unwrap_err().type_name, "SyntaxError");
    for (wrong, type_name) in [
        (r#"[[{"a b": 1}], {}]"#, "ValueError"),
        (r#"[[{"nothing.x": 1}], {}]"#, "NameError"),
        ("[[3], {}]", "TypeError"),
        ("[[], {}]", "TypeError"),
    ] {
        assert_eq!(python.push(wrong).await.unwrap_err().type_name, type_name, "{wrong}");
    }
    let cleared = python.operate(Call::Clear, Codec::Json, Vec::new()).await;
    assert_eq!(json_value(cleared).unwrap(), "null");
    assert_eq!(python.keys().await, "[]");
    assert_eq!(
        python.eval("engine_id, __name__, callable(publish)").await.as_deref(),
        Some("(3, '__main__', True)")
    );
    let raw = python.operate(Call::Keys, Codec::Raw, Vec::new()).await;
    assert_eq!(error(raw).type_name, "TypeError");
    python.push(r#"[[{"engine_id": "mine"}], {}]"#).await.unwrap();
    assert_eq!(python.keys().await, r#"["engine_id"]"#, "now it is the user's");
}

#[tokio::test]
async fn arrays_are_pushed_and_pulled_out_of_band() {
    let mut python = Fixture::new();
    let source = "import pickle\n\
        def pack(data):\n    buffers = []\n\
        \x20   head = pickle.dumps((({'big': pickle.PickleBuffer(data)},), {}), protocol=5, buffer_callback=buffers.append)\n\
        \x20   return [head, *[b.raw() for b in buffers]]";
    python.eval(source).await;
    let big = Bytes::from(vec![7_u8; 1_000_000]);
    let packed = python
        .operate(Call::Named { function: "pack".into() }, Codec::Raw, vec![big.clone()])
        .await;
    let pushed = python.operate(Call::Push, Codec::Pickle, packed.data).await;
    assert_eq!(pushed.header, ReplyHeader::Returned { codec: Codec::Pickle });
    let names = vec!["pickle.PickleBuffer(big)".to_owned()];
    let pulled = python.operate(Call::Pull { names }, Codec::Pickle, Vec::new()).await;
    assert_eq!(pulled.data[1], big);
    assert_eq!(python.pull(&["len(big)"]).await.unwrap(), "[1000000]");
}

#[tokio::test]
async fn a_script_runs_whole_in_the_namespace_and_its_errors_name_its_file() {
    let mut python = Fixture::new();
    let run = |source: &str| Call::Run { file: "job/setup.py".into(), source: source.into() };
    let reply = python.operate(run("x = 4\nfile = __file__\nx + 1"), Codec::Json, Vec::new()).await;
    assert_eq!(reply.header, ReplyHeader::Executed { count: 1, repr: None, displays: Vec::new() });
    assert_eq!(
        python.pull(&["x", "file", "'__file__' in globals()"]).await.unwrap(),
        r#"[4,"job/setup.py",false]"#
    );
    let failed =
        error(python.operate(run("def f():\n    1 / 0\nf()"), Codec::Json, Vec::new()).await);
    assert_eq!((failed.type_name.as_str(), failed.execution), ("ZeroDivisionError", Some(2)));
    let expected = "  File \"job/setup.py\", line 2, in f\n    1 / 0\n";
    assert!(
        failed.traceback.contains(expected) && !failed.traceback.contains("worker"),
        "{}",
        failed.traceback
    );
    let failed = error(python.operate(run("x = ("), Codec::Json, Vec::new()).await);
    assert!(failed.traceback.contains("File \"job/setup.py\", line 1"), "{}", failed.traceback);
    let command = Call::Command(Box::default());
    assert!(
        error(python.operate(command, Codec::Raw, Vec::new()).await)
            .message
            .contains("runtime `command`")
    );
}

#[tokio::test]
async fn what_a_task_publishes_comes_before_its_end_and_the_last_word_wins() {
    let mut python = Fixture::new();
    python.eval("import furlong_worker, threading, time").await;
    let attempt = python.start_execute(
        "for n in range(5000): publish({'step': n, 'loss': [0.5, None, True, 'ü']})",
    );
    python.end(attempt).await;
    let published = python.published.remove(&attempt).unwrap();
    assert_eq!(published.codec, Codec::Json);
    assert_eq!(published.buffers, [Bytes::from(r#"{"step":4999,"loss":[0.5,null,true,"ü"]}"#)]);
    // What json would change goes as a pickle, large parts out of band.
    for value in ["(1, 2)", "{1: 2}", "float('nan')", "2 ** 70", "'\\ud800'", "{1, 2}"] {
        let attempt = python.start_execute(&format!("furlong_worker.publish({value})"));
        assert_eq!(python.end(attempt).await.outcome, AttemptOutcome::Succeeded);
        assert_eq!(python.published[&attempt].codec, Codec::Pickle, "{value}");
    }
    python.eval("import pickle").await;
    let attempt = python.start_execute("publish(pickle.PickleBuffer(bytearray(1_000_000)))");
    python.end(attempt).await;
    assert_eq!(python.published[&attempt].buffers[1].len(), 1_000_000);
    let failed = error(python.execute("publish('x' * (1 << 24))").await);
    assert_eq!(failed.type_name, "ValueError");
    // From a thread of the task, but not once the task has ended, nor from a fork.
    let source = "def late():\n    publish(1)\n    ready.set(); go.wait()\n    \
                  try: publish(2)\n    except RuntimeError as e: said = str(e)\n    \
                  globals().update(said=said); done.set()\n\
                  ready, go, done = threading.Event(), threading.Event(), threading.Event()\n\
                  threading.Thread(target=late).start()\nready.wait()";
    let attempt = python.start_execute(source);
    python.end(attempt).await;
    assert_eq!(python.published[&attempt].buffers, [Bytes::from_static(b"1")]);
    let said = python.eval("go.set(); done.wait(); said").await.unwrap();
    assert!(said.contains("publish() is for running tasks"), "{said}");
    let fork = "import os\npid = os.fork()\n\
                if not pid:\n    try: publish(1)\n    except RuntimeError: os._exit(7)\n\
                os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])";
    assert_eq!(python.eval(fork).await.as_deref(), Some("7"));
}

#[tokio::test]
async fn a_cancel_in_the_middle_of_publishing_leaves_whole_frames() {
    let mut python = Fixture::new();
    python.eval("big = 'x' * 300_000").await;
    for round in 0..30 {
        let attempt = python.start_execute("while True: publish(big); publish(1)");
        while !python.published.contains_key(&attempt) {
            python.event().await;
        }
        for _ in 0..round {
            tokio::task::yield_now().await;
        }
        python.slot.cancel(attempt, false);
        assert_eq!(python.end(attempt).await.outcome, AttemptOutcome::Cancelled);
    }
    assert_eq!(python.eval("len(big)").await.as_deref(), Some("300000"));
}
