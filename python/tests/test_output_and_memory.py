"""Output is never dropped in silence, and large functions and payloads cost what they must and no more."""

from __future__ import annotations

import base64
import functools
import json
import operator
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import eventually

import furlong
from furlong import errors
from furlong.pickling.functions import function_of

# What `seq 100000` prints.
LINES = b"".join(b"%d\n" % number for number in range(1, 100_001))
MIB = 1 << 20
# What is large here, and the arguments of a call that is larger than the credit of a client.
TABLE = list(range(30_000))


@pytest.fixture
def command(cluster: furlong.Cluster) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Return what starts the command on the module's cluster, with its output in pipes."""
    made = []

    def start(subcommand: str, *args: str) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", "furlong", subcommand, "--cluster", cluster.cluster_id, *args]
        made.append(
            subprocess.Popen(
                argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
            )
        )
        return made[-1]

    yield start
    for process in made:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen[bytes]) -> tuple[int, bytes, str]:
    """Return exit code, output and errors."""
    stdout, stderr = process.communicate(timeout=60)
    return process.returncode, stdout, stderr.decode()


def known(rc: furlong.Client) -> int:
    """Count the tasks that have not ended."""
    status = rc.queue_status()
    engines = [row for engine, row in status.items() if engine != "unassigned"]
    return status["unassigned"] + sum(row["queue"] + row["tasks"] for row in engines)


def test_reader_after_the_end_gets_every_byte_of_all_tasks(
    command: Callable[..., subprocess.Popen[bytes]], rc: furlong.Client, tmp_path: Path
) -> None:
    """More than a broker holds for a client that does not read is printed to who reads when all tasks have ended."""
    gate, done = tmp_path / "gate", tmp_path / "done"
    done.mkdir()
    # Whoever cannot print submits no more, so nothing is printed before all are submitted.
    waits = f"while [ ! -e {gate} ]; do sleep 0.01; done"
    script = f"{waits}; seq 100000; seq 10 >&2; touch {done}/$FURLONG_TASK"
    process = command("submit", "--array", "1-60", "--wait", "--", "sh", "-c", script)
    eventually(lambda: known(rc) == 60)
    gate.touch()
    eventually(lambda: len(list(done.iterdir())) == 60)
    code, stdout, stderr = ended(process)
    assert (code, stderr) == (0, "".join(f"{number}\n" for number in range(1, 11)) * 60)
    assert stdout == LINES * 60


def test_reader_after_the_end_gets_every_byte_as_json(
    command: Callable[..., subprocess.Popen[bytes]], rc: furlong.Client, tmp_path: Path
) -> None:
    """The same with `--json`."""
    gate, done = tmp_path / "gate", tmp_path / "done"
    done.mkdir()
    waits = f"while [ ! -e {gate} ]; do sleep 0.01; done"
    script = f"{waits}; seq 100000; touch {done}/$FURLONG_TASK"
    process = command("submit", "--array", "1-40", "--wait", "--json", "--", "sh", "-c", script)
    eventually(lambda: known(rc) == 40)
    gate.touch()
    eventually(lambda: len(list(done.iterdir())) == 40)
    code, stdout, _ = ended(process)
    documents = [json.loads(line) for line in stdout.splitlines()]
    assert code == 0 and len(documents) == 40
    assert all(document["stdout"].encode() == LINES for document in documents)
    assert all(document["left_out_bytes"] == {"stdout": 0, "stderr": 0} for document in documents)


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_output_beyond_what_is_kept_is_whole_for_who_waits(
    command: Callable[..., subprocess.Popen[bytes]], flags: list[str]
) -> None:
    """Many MiB of one task on both streams come whole, and with its own exit code."""
    script = "for i in 1 2 3 4 5 6; do seq 100000; seq 100000 >&2; done; exit 7"
    code, stdout, stderr = ended(command("submit", "--wait", *flags, "--", "sh", "-c", script))
    assert code == 7
    if flags:
        document = json.loads(stdout)
        stdout, stderr = document["stdout"].encode(), document["stderr"]
        assert document["left_out_bytes"] == {"stdout": 0, "stderr": 0}
    assert stdout == LINES * 6 and stderr.encode() == LINES * 6


def test_bytes_that_are_no_text_come_whole(command: Callable[..., subprocess.Popen[bytes]]) -> None:
    """A program's output is bytes, of which none is changed."""
    script = "import os,sys; sys.stdout.buffer.write(bytes(range(256)) * 12_000)"
    assert ended(command("submit", "--wait", "--", sys.executable, "-c", script)) == (
        0,
        bytes(range(256)) * 12_000,
        "",
    )


@pytest.mark.parametrize("written", [b"caf\xe9 \xff\n", "caf\u00e9\n".encode()])
def test_json_has_the_bytes_of_what_is_no_text(
    command: Callable[..., subprocess.Popen[bytes]], rc: furlong.Client, written: bytes
) -> None:
    """Beside the text, which shows a sign for each such byte, stand the bytes."""
    program = (
        f"import sys; sys.stdout.buffer.write({written!r}); sys.stdout.flush(); "
        f"sys.stderr.buffer.write({written!r})"
    )
    for argv in (
        ["submit", "--json", "--wait", "--", sys.executable, "-c", program],
        ["execute", "--json", "--targets", str(rc.ids[0]), program],
    ):
        code, stdout, _ = ended(command(*argv))
        document = json.loads(stdout)
        for stream in ("stdout", "stderr"):
            assert (code, document[stream]) == (0, written.decode("utf-8", "replace"))
            encoded = document.get(f"{stream}_base64")
            assert (
                encoded is None
                if "\ufffd" not in document[stream]
                else base64.b64decode(encoded) == written
            )


def test_executed_code_prints_bytes_as_they_are(
    command: Callable[..., subprocess.Popen[bytes]], rc: furlong.Client
) -> None:
    """Code of an engine prints what a program prints."""
    code = "import sys; _ = sys.stdout.buffer.write(b'caf\\xe9 \\xff')"
    assert ended(command("execute", "--targets", str(rc.ids[0]), code))[1].endswith(
        b": caf\xe9 \xff\n"
    )
    assert b": caf\xe9 \xff\n" in command_stderr(command("map", "builtins:exec", code))


def test_mapped_function_that_prints_too_much_says_so(
    command: Callable[..., subprocess.Popen[bytes]],
) -> None:
    """The exit code tells it as well as the text."""
    code, stdout, stderr = ended(command("map", "builtins:exec", "print('x' * 3_000_000)"))
    assert (code, stdout, stderr.count("bytes of output left out]")) == (3, b"null\n", 1)


def command_stderr(process: subprocess.Popen[bytes]) -> bytes:
    """Return the errors as bytes."""
    return process.communicate(timeout=60)[1]


def test_closed_pipe_ends_the_command_and_its_tasks(
    command: Callable[..., subprocess.Popen[bytes]], rc: furlong.Client
) -> None:
    """A reader that has read enough ends it quietly; nothing of it runs or waits any longer."""
    process = command(
        "submit", "--array", "1-100", "--wait", "--", "sh", "-c", "seq 100000; sleep 1000 & wait $!"
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"1\n"
    process.stdout.close()
    process.stdout = None
    assert process.wait(60) == 0
    eventually(lambda: rc.queue_status()["unassigned"] == 0)
    eventually(lambda: all(rc.queue_status()[engine]["tasks"] == 0 for engine in rc.ids))
    assert process.stderr is not None and process.stderr.read() == b""


def test_what_is_not_kept_is_said_by_text_json_and_exit_code(
    command: Callable[..., subprocess.Popen[bytes]], rc: furlong.Client
) -> None:
    """Kept output is bounded: 1 MiB of each end."""
    code, stdout, _ = ended(
        command(
            "submit", "--", "sh", "-c", "seq 100000; seq 100000; seq 100000; seq 100000; seq 100000"
        )
    )
    name = stdout.decode().strip()
    code, stdout, stderr = ended(command("result", "-f", name))
    assert code == 3 and len(stdout) == 2 * MIB and "are left out" in stderr
    code, stdout, _ = ended(command("result", "--json", name))
    assert code == 3 and json.loads(stdout)["left_out_bytes"]["stdout"] == 5 * len(LINES) - 2 * MIB


@pytest.mark.parametrize("flags", [[], ["--json"], ["--live"]])
def test_executed_code_that_prints_too_much_says_so(
    command: Callable[..., subprocess.Popen[bytes]], flags: list[str], tmp_path: Path
) -> None:
    """`execute` and `run` print 1 MiB of each end, say what is missing, and end with 3."""
    script = tmp_path / "script.py"
    script.write_text("print('x' * 5_000_000)")
    for call in (["execute", script.read_text()], ["run", str(script)]):
        code, stdout, stderr = ended(command(call[0], "--targets", "0", *flags, *call[1:]))
        assert code == 3
        assert (
            b"left_out_bytes" in stdout
            if flags == ["--json"]
            else "left out" in stdout.decode() + stderr
        )


def test_output_that_was_left_out_is_said_in_python(
    rc: furlong.Client, capfd: pytest.CaptureFixture[str]
) -> None:
    """The text of a result, and what is printed while it comes, say how much is missing."""
    code = "import sys\nprint('a' * 3_000_000)\nprint('b' * 3_000_000, file=sys.stderr)"
    result = rc[0].execute(code)
    with result.stream_output():
        result.get()
    assert (
        "[902849 bytes of output left out]" in result.stdout
        and "[902849 bytes of output left out]" in result.stderr
    )
    shown = capfd.readouterr()
    assert "902849 bytes left out" in shown.out and "902849 bytes left out" in shown.err


def length_of_table() -> int:
    """Return the length of a global list."""
    return len(TABLE)


def test_unchanged_globals_are_made_and_sent_once(lview: furlong.LoadBalancedView) -> None:
    """A function over a large global is the same for each call, until the global changes in place."""
    first, _ = function_of(length_of_table)
    assert all(function_of(length_of_table)[0] is first for _ in range(3))
    mutable = bytearray(b"x" * 200_000)

    def total(_: int = 0) -> int:
        return sum(mutable)

    before, _ = function_of(total)
    assert function_of(total)[0] is before
    assert lview.apply_sync(total) == sum(mutable)
    mutable[0] = 0
    assert function_of(total)[0] is not before
    assert lview.apply_sync(total) == sum(mutable)
    assert lview.map_sync(total, range(3)) == [sum(mutable)] * 3


def test_functions_that_carry_data_do_not_fill_the_session(
    own: Callable[..., furlong.Cluster],
) -> None:
    """Far more than the broker's memory passes as functions, one after the other and at once."""
    with own(n=2, broker_memory="64M") as rc:
        view = rc.load_balanced_view()
        carrying = [
            functools.partial(operator.countOf, bytes([place]) * (2 * MIB)) for place in range(40)
        ]
        assert [view.apply_sync(call, place) for place, call in enumerate(carrying)] == [
            2 * MIB
        ] * 40
        results = [view.apply_async(call, place) for place, call in enumerate(carrying)]
        assert [result.get() for result in results] == [2 * MIB] * 40
        assert view.map_sync(carrying[0], [0, 1] * 20) == [2 * MIB, 0] * 20
        # One of the first is needed again.
        assert view.apply_sync(carrying[1], 1) == 2 * MIB
        # What is left of them is within bounds: something large passes still.
        assert view.apply_sync(len, bytes(20 * MIB)) == 20 * MIB


def test_one_payload_takes_what_nobody_else_needs_and_the_error_names_the_flag(
    own: Callable[..., furlong.Cluster],
) -> None:
    """Three quarters of the payload memory for one argument or result; beyond, the remedy is that of a cluster."""
    with own(n=1, broker_memory="64M") as rc:
        view = rc.load_balanced_view()
        assert view.apply_sync(len, bytes(22 * MIB)) == 22 * MIB
        assert len(view.apply_sync(bytes, 22 * MIB)) == 22 * MIB
        waiting = [view.apply_async(len, bytes(size * MIB)) for size in (1, 20, 3, 20, 1)]
        assert [result.get() for result in waiting] == [size * MIB for size in (1, 20, 3, 20, 1)]
        with pytest.raises(errors.PayloadTooLarge, match="Cluster\\(broker_memory=SIZE\\)"):
            view.apply_sync(len, bytes(25 * MIB))
        with pytest.raises(furlong.FurlongError, match="cluster start --broker-memory"):
            view.apply_sync(bytes, 25 * MIB)


def test_many_outstanding_payloads_all_come(lview: furlong.LoadBalancedView) -> None:
    """Several hundred large arguments and results wait at once."""
    results = [lview.apply_async(bytes, 200_000) for _ in range(200)]
    sent = [lview.apply_async(len, bytes(200_000)) for _ in range(200)]
    assert (
        {len(result.get()) for result in results} == {result.get() for result in sent} == {200_000}
    )
