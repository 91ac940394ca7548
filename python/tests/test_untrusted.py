"""The answers that a client did not ask for: an engine by hand gives them."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest
from conftest import SOON_SECONDS, eventually
from engine_by_hand import JSON, MSGPACK, PICKLE, EngineByHand

import furlong
from furlong.errors import ResultLost

OWNED = "FURLONG_TEST_OWNED"


class Evil:
    """A value whose pickle runs code where it is loaded."""

    def __reduce__(self) -> object:
        return exec, (f"import os; os.environ[{OWNED!r}] = 'yes'",)


EVIL = pickle.dumps(Evil())


@pytest.fixture(scope="module")
def alone(nothing_is_left: None) -> Iterator[furlong.Cluster]:
    """Return a cluster without engines of its own."""
    made = furlong.Cluster(n=0)
    made.start_and_connect_sync().close()
    yield made
    made.stop_cluster_sync()


@pytest.fixture
def rc(alone: furlong.Cluster) -> Iterator[furlong.Client]:
    """Return a client in whose process no code of an engine has run, also after the test."""
    assert OWNED not in os.environ
    with furlong.Client(cluster=alone, timeout=SOON_SECONDS) as client:
        yield client
    assert os.environ.pop(OWNED, None) is None, "code of the engine ran in the client"


@pytest.fixture
def engine(alone: furlong.Cluster, rc: furlong.Client) -> Iterator[EngineByHand]:
    """Return the engine, and wait until the client knows it."""
    made = EngineByHand(Path(alone.folder) / "security" / "engine.cap.json")
    eventually(lambda: rc.ids)
    yield made
    made.close()
    eventually(lambda: not rc.ids)


def test_an_evil_pickle_runs_code() -> None:
    """The other tests would prove nothing if it did not."""
    pickle.loads(EVIL)
    assert os.environ.pop(OWNED) == "yes"


def test_a_rust_function_answers_with_data_alone(rc: furlong.Client, engine: EngineByHand) -> None:
    result = rc.native["echo"].submit(1)
    engine.finish(engine.take(), PICKLE, EVIL)
    with pytest.raises(ResultLost, match="it came as a pickle, and what was asked for is msgpack"):
        result.get(timeout=SOON_SECONDS)
    assert "cannot be read" in str(result.metadata["error"])


def test_what_was_displayed_with_a_value_hides_no_pickle(
    rc: furlong.Client, engine: EngineByHand
) -> None:
    result = rc.native["echo"].submit(1)
    engine.finish(engine.take(), {"displayed": [PICKLE, []]}, EVIL)
    with pytest.raises(ResultLost, match="a pickle"):
        result.get(timeout=SOON_SECONDS)


def test_what_a_rust_function_publishes_is_data(rc: furlong.Client, engine: EngineByHand) -> None:
    result = rc.native["echo"].submit(1)
    attempt = engine.take()
    engine.publish(attempt, MSGPACK, msgpack.packb({"a": 1}))
    assert eventually(lambda: result.data) == {"a": 1}
    engine.publish(attempt, PICKLE, EVIL)
    engine.finish(attempt, MSGPACK, msgpack.packb(5))
    assert result.get(timeout=SOON_SECONDS) == 5
    with pytest.raises(ResultLost, match="what was published cannot be read: it came as a pickle"):
        _ = result.data
    assert isinstance(result.metadata["data"], ResultLost)
    assert result.metadata["status"] == "ok"


def test_executed_code_has_no_value_and_publishes_data(
    rc: furlong.Client, engine: EngineByHand
) -> None:
    result = rc[:].execute("1", silent=False)
    attempt = engine.take()
    engine.publish(attempt, PICKLE, EVIL)
    engine.finish(attempt, PICKLE, EVIL)
    [reply] = result.get(timeout=SOON_SECONDS)
    assert reply.execute_result is None
    with pytest.raises(ResultLost, match="a pickle"):
        _ = result.data


def test_a_call_of_a_python_function_is_answered_by_a_pickle(
    rc: furlong.Client, engine: EngineByHand
) -> None:
    view = rc.load_balanced_view()
    wrong = (
        (JSON, b"1", "it came as JSON"),
        (MSGPACK, b"\x01", "it came as msgpack"),
        ({"exited": [0, None]}, b"", "no value came"),
    )
    for header, data, said in wrong:
        result = view.apply_async(abs, -1)
        engine.finish(engine.take(), header, data)
        with pytest.raises(ResultLost, match=f"{said}, and what was asked for is a pickle"):
            result.get(timeout=SOON_SECONDS)
    result = view.apply_async(abs, -1)
    engine.finish(engine.take(), PICKLE, pickle.dumps(1))
    assert result.get(timeout=SOON_SECONDS) == 1


def test_a_map_is_answered_by_pickles(rc: furlong.Client, engine: EngineByHand) -> None:
    result = rc.load_balanced_view().map_async(abs, [-1], chunksize=1)
    engine.finish(engine.take(), JSON, b"[1]")
    with pytest.raises(ResultLost, match="it came as JSON, and what was asked for is a pickle"):
        result.get(timeout=SOON_SECONDS)


def test_a_command_of_another_session_has_no_value(
    alone: furlong.Cluster, rc: furlong.Client, engine: EngineByHand
) -> None:
    name = submit_command(alone)
    result = rc.get_result(name)
    engine.finish(engine.take(), PICKLE, EVIL)
    with pytest.raises(ResultLost, match="it came as a pickle, and what was asked for is no value"):
        result.get(timeout=SOON_SECONDS)


def test_a_json_value_of_another_session_is_read(
    alone: furlong.Cluster, rc: furlong.Client, engine: EngineByHand
) -> None:
    other = furlong.Client(cluster=alone, timeout=SOON_SECONDS)
    with other:
        kept = other.load_balanced_view(keep=True).apply_async(abs, -1)
        fetched = rc.get_result(kept.msg_ids[0])
        engine.finish(engine.take(), JSON, b'{"a": [1, 2.5]}')
        assert fetched.get(timeout=SOON_SECONDS) == {"a": [1, 2.5]}


def submit_command(cluster: furlong.Cluster) -> str:
    """Submit a command by the command line, and give the task's name."""
    words = [
        sys.executable,
        "-m",
        "furlong",
        "submit",
        "--cluster",
        cluster.cluster_id,
        "--",
        "true",
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=SOON_SECONDS, check=True)
    return done.stdout.strip()
