//! Values that jobs get from other tasks, and that clients share.

use std::os::fd::OwnedFd;

use furlong_link::file::{PayloadFile, create, write_at};

use super::*;
use crate::job::{DataFile, Input, SlotJob};

/// The size of an input that is passed in a file, or sent in pieces.
const LARGE_BYTES: usize = 300_000;
/// Pickles of calls: of the value of the first input, made anew; of the same twice; and shared.
const TAKEN: &[u8] = b"((cfurlong_worker\ntaken\n(I0\ntRt(dt.";
const TAKEN_TWICE: &[u8] = b"((cfurlong_worker\ntaken\n(I0\ntRcfurlong_worker\ntaken\n(I0\ntRt(dt.";
const SHARED: &[u8] = b"((cfurlong_worker\nshared_value\n(I0\ntRt(dt.";
/// The pickle of a `bytearray` that lies beside it.
const BESIDE: &[u8] = b"\x80\x05\x97.";

fn input(key: u64, codec: Codec, data: Vec<Bytes>) -> Input {
    Input { key: Some(key), header: ReplyHeader::Returned { codec }, data, file: None }
}

/// The same in a file.
fn filed(input: Input) -> Input {
    let file: OwnedFd = create().unwrap();
    let mut at = 64;
    let mut places = Vec::new();
    write_at(&file, 0, &[0; 64]).unwrap();
    for buffer in &input.data {
        write_at(&file, at, buffer).unwrap();
        places.push((at, buffer.len() as u64));
        at += (buffer.len() as u64).next_multiple_of(64);
    }
    let file = PayloadFile::seal(file).unwrap();
    Input { file: Some(Box::new(DataFile { file, places })), ..input }
}

fn large(key: u64) -> Input {
    let data = vec![Bytes::from_static(BESIDE), Bytes::from(vec![7; LARGE_BYTES])];
    input(key, Codec::Pickle, data)
}

impl Fixture {
    fn start_with(
        &mut self,
        codec: Codec,
        arguments: &'static [u8],
        inputs: Vec<Input>,
    ) -> SlotJob {
        self.attempts += 1;
        let call = Call::Named { function: "f".into() };
        self.slot.start(Job {
            attempt: SlotJob(self.attempts),
            session: SessionId([1; 16]),
            header: CallHeader { call, codec }.into(),
            definition: None,
            data: vec![Bytes::from_static(arguments)],
            file: None,
            inputs: Some(inputs.into()),
        });
        SlotJob(self.attempts)
    }

    /// Calls `f`, which gives a text, with the first input as the pickle says.
    async fn text_of(&mut self, arguments: &'static [u8], inputs: Vec<Input>) -> String {
        let attempt = self.start_with(Codec::Pickle, arguments, inputs);
        let reply = self.end(attempt).await;
        match reply.header {
            ReplyHeader::Returned { .. } => {
                // A short text: its opcode, its length, and it.
                let data = &reply.data[0];
                let at = data.iter().position(|byte| *byte == 0x8c).expect("it is a short text");
                let length = usize::from(data[at + 1]);
                String::from_utf8(data[at + 2..at + 2 + length].to_vec()).unwrap()
            }
            ReplyHeader::Raised(error) => format!("{}: {}", error.type_name, error.message),
            other => panic!("{other:?}"),
        }
    }
}

fn exited(key: u64, written: Option<(u64, u64)>, data: Vec<Bytes>) -> Input {
    let header = ReplyHeader::Exited { code: Some(0), signal: None, written };
    Input { header, ..input(key, Codec::Raw, data) }
}

#[tokio::test]
async fn inputs_in_any_codec_follow_the_arguments_of_a_json_call() {
    let mut python = Fixture::new();
    python.eval("def f(*values): return [repr(value) for value in values]").await;
    let inputs = vec![
        input(1, Codec::Json, vec![Bytes::from_static(b"{\"a\":1}")]),
        input(2, Codec::Pickle, vec![Bytes::from_static(b"(I5\nI6\nt.")]),
        input(3, Codec::Raw, vec![Bytes::from_static(b"raw")]),
        exited(14, Some((3, 0)), vec![Bytes::from_static(b"out"), Bytes::new()]),
        exited(15, Some((0, 0)), Vec::new()),
    ];
    let attempt = python.start_with(Codec::Json, b"[[0],{}]", inputs);
    let value = json_value(python.end(attempt).await).unwrap();
    assert_eq!(value, r#"["0","{'a': 1}","(5, 6)","b'raw'","b'out'","b''"]"#);
    let executed = ReplyHeader::Executed { count: 1, repr: None, displays: Vec::new() };
    for (given, text) in [
        (Input { header: executed, ..input(7, Codec::Json, Vec::new()) }, "has no value"),
        (input(8, Codec::Msgpack, Vec::new()), "comes as msgpack"),
        (exited(9, None, Vec::new()), "has no value"),
    ] {
        let attempt = python.start_with(Codec::Json, b"[[0],{}]", vec![given]);
        let failed = error(python.end(attempt).await);
        assert!(failed.message.contains(text), "{}", failed.message);
    }
}

#[tokio::test]
async fn each_job_and_each_use_has_a_value_of_its_own() {
    let mut python = Fixture::new();
    let function = "def f(one, other=None):\n    one[0] += 1\n    \
        return f'{one[0]} {len(one)} {other and other[0]} {sum(one[1:]) % 7}'";
    python.eval(function).await;
    let (sent, passed) = (large(1), filed(large(2)));
    for given in [&sent, &passed, &sent, &passed] {
        assert_eq!(python.text_of(TAKEN, vec![given.clone()]).await, "8 300000 None 0");
        let twice = python.text_of(TAKEN_TWICE, vec![given.clone()]).await;
        assert_eq!(twice, "8 300000 7 0", "the other one is as it was");
    }
}

#[tokio::test]
async fn a_shared_value_is_one_for_all_jobs_and_cannot_be_written_to() {
    let mut python = Fixture::new();
    python.eval("seen = []\ndef f(it):\n    seen.append(it)\n    it[0] = 1").await;
    for given in [large(1), filed(large(2))] {
        for _ in 0..2 {
            let failed = python.text_of(SHARED, vec![given.clone()]).await;
            assert_eq!(failed, "TypeError: cannot modify read-only memory");
        }
    }
    let same = python.eval("seen[0] is seen[1], seen[2] is seen[3], seen[1] is seen[2]").await;
    assert_eq!(same.unwrap(), "(True, True, False)");
    python.slot.forget_input(1);
    python.text_of(SHARED, vec![large(1)]).await;
    assert_eq!(python.eval("seen[4] is seen[0]").await.unwrap(), "False", "it was let go");
}

#[tokio::test]
async fn an_input_is_sent_once_while_it_is_known_and_its_file_is_closed_when_it_is_not() {
    let mut python = Fixture::new();
    let files = "import os\ndef files(): return sum('furlong-payload' in os.readlink(entry.path) \
        for entry in os.scandir('/proc/self/fd') if os.path.islink(entry.path))\n\
        def f(it): return f'{len(it)} {files()}'";
    python.eval(files).await;
    let passed = filed(large(1));
    for _ in 0..3 {
        // The one that is kept; and before Python 3.13 the mapping's.
        let text = python.text_of(TAKEN, vec![passed.clone()]).await;
        assert!(["300000 1", "300000 2"].contains(&text.as_str()), "{text}");
    }
    python.slot.forget_input(1);
    assert_eq!(python.eval("import gc\ngc.collect()\nfiles()").await.unwrap(), "0");
    let attempts: Vec<SlotJob> = (10..80)
        .map(|key| python.start_with(Codec::Pickle, TAKEN, vec![filed(large(key))]))
        .collect();
    for attempt in attempts {
        python.end(attempt).await;
    }
    assert_eq!(python.eval("files()").await.unwrap(), "64", "the oldest have gone");
    assert!(python.text_of(TAKEN, vec![filed(large(10))]).await.starts_with("300000 "));
}

#[tokio::test]
async fn small_inputs_go_ahead_with_their_jobs_and_a_recalled_job_leaves_none_behind() {
    let mut python = Fixture::new();
    python.eval("def f(it): return repr(it)").await;
    let small = |key: u64| input(key, Codec::Pickle, vec![Bytes::from(format!("I{key}\n."))]);
    let attempts: Vec<SlotJob> = (0..100)
        .map(|key| python.start_with(Codec::Pickle, TAKEN, vec![small(key % 70)]))
        .collect();
    for (key, attempt) in attempts.into_iter().enumerate() {
        let reply = python.end(attempt).await;
        let text = String::from_utf8_lossy(&reply.data[0]).into_owned();
        assert!(text.contains(&(key % 70).to_string()), "{text:?}");
    }
    let sleeps = python.start_execute("import time\ntime.sleep(60)");
    let behind = python.start_with(Codec::Pickle, TAKEN, vec![small(200)]);
    if !python.slot.recall(behind) {
        while !python.recalled.contains(&behind) {
            python.event().await;
        }
    }
    python.slot.cancel(sleeps, false);
    python.end(sleeps).await;
    assert!(python.text_of(TAKEN, vec![small(201)]).await.contains("201"));
}

#[tokio::test]
async fn an_input_that_is_let_go_while_its_job_waits_is_not_kept() {
    let mut python = Fixture::new();
    python.eval("import time").await;
    python.eval("def f(it): return str(len(it))").await;
    let sleeps = python.start_execute("time.sleep(60)");
    let waits = python.start_with(Codec::Pickle, TAKEN, vec![filed(large(1))]);
    python.slot.forget_input(1);
    python.slot.cancel(sleeps, false);
    python.end(sleeps).await;
    python.end(waits).await;
    let files = "import gc, os\ngc.collect()\nsum('furlong-payload' in os.readlink(entry.path) \
        for entry in os.scandir('/proc/self/fd') if os.path.islink(entry.path))";
    assert_eq!(python.eval(files).await.unwrap(), "0");
}
