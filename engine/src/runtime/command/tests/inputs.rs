//! Commands that read the results of other tasks.

use furlong_wire::call::{CommandExtras, InputPath};

use super::*;

/// A raw result.
fn raw(bytes: &[u8]) -> Input {
    let header = ReplyHeader::Returned { codec: Codec::Raw };
    Input { key: None, header, data: vec![Bytes::copy_from_slice(bytes)], file: None }
}

fn path(argument: u32, offset: u64, input: u32) -> InputPath {
    InputPath { argument, offset, input }
}

fn with(spec: CommandSpec, stdin: &[u32], paths: &[InputPath]) -> CommandSpec {
    let (stdin, paths) = (stdin.to_vec(), paths.to_vec());
    CommandSpec { extras: CommandExtras { whole_output: false, stdin, paths }, ..spec }
}

impl Fixture {
    /// Runs a command with inputs. Its output, or the reason why it did not begin.
    fn run_with(
        &mut self,
        spec: CommandSpec,
        data: Vec<Bytes>,
        inputs: &[Input],
    ) -> Result<String, String> {
        let attempt = self.start_with_inputs(spec, Codec::Raw, data, Some(inputs.into()));
        while !self.replies.contains_key(&attempt) {
            self.event();
        }
        let reply = self.replies.remove(&attempt).unwrap();
        let written = self.output.remove(&(attempt, true)).unwrap_or_default();
        match reply.header {
            ReplyHeader::Raised(error) => Err(error.message),
            _ if reply.outcome == AttemptOutcome::Succeeded => {
                Ok(String::from_utf8(written).unwrap())
            }
            header => Err(format!("{header:?}")),
        }
    }
}

#[test]
fn inputs_are_standard_input_one_after_the_other() {
    let mut it = Fixture::new();
    let inputs = [raw(b"b\n"), raw(b"a\n"), raw(b"")];
    let spec = with(command(&["sort"]), &[0, 1, 2], &[]);
    assert_eq!(it.run_with(spec, Vec::new(), &inputs).unwrap(), "a\nb\n");
    let spec = with(command(&["cat"]), &[2], &[]);
    assert_eq!(it.run_with(spec, Vec::new(), &inputs).unwrap(), "");
    let large = vec![b'x'; 1 << 20];
    let spec = with(command(&["wc", "-c"]), &[0, 0], &[]);
    let counted = it.run_with(spec, Vec::new(), &[raw(&large)]).unwrap();
    assert_eq!(counted.trim(), (2 << 20).to_string());
}

#[test]
fn inputs_are_files_that_every_process_can_read_and_nobody_write() {
    let mut it = Fixture::new();
    let inputs = [raw(b"first\n"), raw(b"second\n")];
    let spec = with(command(&["cat", "", "--", ""]), &[], &[path(1, 0, 1), path(3, 0, 0)]);
    assert_eq!(it.run_with(spec, Vec::new(), &inputs).unwrap(), "second\nfirst\n");
    // Within an argument, twice, and for processes that others have started.
    let script = "exec 0<&-; eval \"$0\"; (cat $a $b) | cat";
    let paths = [path(3, 2, 0), path(3, 5, 0)];
    let spec = with(command(&["sh", "-c", script, "a=;b="]), &[], &paths);
    assert_eq!(it.run_with(spec, Vec::new(), &inputs).unwrap(), "first\nfirst\n");
    let script = "echo x 2>/dev/null >> $0 || echo refused; wc -c < $0";
    let spec = with(command(&["sh", "-c", script, ""]), &[], &[path(3, 0, 0)]);
    let written = it.run_with(spec, Vec::new(), &inputs).unwrap();
    assert_eq!(written.split_whitespace().collect::<Vec<_>>(), ["refused", "6"]);
}

#[test]
fn files_of_inputs_are_closed_with_their_command() {
    let mut it = Fixture::new();
    let spec = with(command(&["echo", ""]), &[], &[path(1, 0, 0)]);
    let file = it.run_with(spec, Vec::new(), &[raw(b"gone")]).unwrap();
    assert!(file.starts_with("/proc/"), "{file}");
    // Another test of this process may have opened a file of that number meanwhile.
    assert!(fs::read(file.trim()).is_err() || fs::read(file.trim()).unwrap() != b"gone");
}

#[test]
fn inputs_that_are_not_there_or_have_no_bytes_fail_their_command() {
    let mut it = Fixture::new();
    let fails = |it: &mut Fixture, spec, data, inputs: &[Input]| {
        it.run_with(spec, data, inputs).unwrap_err()
    };
    let python = Input { header: ReplyHeader::Returned { codec: Codec::Pickle }, ..raw(b"K.") };
    let text = fails(&mut it, with(command(&["cat"]), &[0], &[]), vec![], &[python]);
    assert!(text.contains("input 1 cannot be read: it is a Python object"), "{text}");
    let not_whole = Input { header: exited(0), ..raw(b"") };
    let text = fails(&mut it, with(command(&["cat"]), &[0], &[]), vec![], &[not_whole]);
    assert!(text.contains("`--stay`"), "{text}");
    let text = fails(&mut it, with(command(&["cat"]), &[1], &[]), vec![], &[raw(b"")]);
    assert!(text.contains("no input 2"), "{text}");
    for wrong in [path(0, 0, 0), path(2, 0, 0), path(1, 2, 0), path(u32::MAX, u64::MAX, 0)] {
        let spec = with(command(&["cat", "x"]), &[], &[wrong]);
        let text = fails(&mut it, spec, vec![], &[raw(b"")]);
        assert!(text.contains("an argument that is not there"), "{wrong:?}: {text}");
    }
    let spec = with(command(&["cat"]), &[0], &[]);
    let text = fails(&mut it, spec, vec!["data".into()], &[raw(b"")]);
    assert!(text.contains("not both"), "{text}");
}
