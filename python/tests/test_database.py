"""Queries over tasks: of what the broker knows, of the history, and of what neither has."""

from __future__ import annotations

import datetime
import signal
import sqlite3
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import SOON_SECONDS, eventually

import furlong
from furlong import errors
from furlong.results import database


def fit(n: int) -> int:
    if n == 3:
        raise ValueError(n)
    return n


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Return a function that records a cluster's history to a file, until the test ends."""
    started = []

    def start(rc: furlong.Client, *flags: str) -> Path:
        path = tmp_path / "history.db"
        words = [sys.executable, "-m", "furlong", "history", "record", "--file", str(path), *flags]
        recorder = subprocess.Popen([*words, "--cluster", rc.cluster_name], stdout=subprocess.PIPE)
        started.append(recorder)
        assert recorder.stdout is not None
        assert recorder.stdout.readline().startswith(b"history ")
        return path

    yield start
    for recorder in started:
        recorder.send_signal(signal.SIGTERM)
        assert recorder.wait(SOON_SECONDS) == 0
        assert recorder.stdout is not None
        recorder.stdout.close()


def run_some(rc: furlong.Client) -> list[str]:
    """Run five tasks, the fourth of which fails."""
    results = [rc.load_balanced_view().apply_async(fit, n) for n in range(5)]
    for result in results:
        result.wait(SOON_SECONDS)
    return [result.msg_ids[0] for result in results]


def ids(records: list[dict[str, Any]]) -> list[str]:
    return [record["msg_id"] for record in records]


def test_tasks_are_found_by_fields_and_operators(rc: furlong.Client, gate: Any) -> None:
    before = datetime.datetime.now(datetime.timezone.utc)
    done = run_some(rc)
    waits = rc[0].apply_async(gate.wait)
    own = {"client_uuid": rc.session}
    eventually(lambda: rc.db_query({**own, "state": "running"}) != [])
    assert ids(rc.db_query(own)) == [*done, *waits.msg_ids]
    assert ids(rc.db_query({**own, "completed": None})) == waits.msg_ids
    assert ids(rc.db_query({**own, "completed": {"$exists": True}})) == done
    assert ids(rc.db_query({**own, "state": {"$in": ["failed", "lost"]}})) == done[3:4]
    assert ids(rc.db_query({**own, "error": {"$glob": "Value*"}})) == done[3:4]
    assert ids(rc.db_query({"msg_id": done[1]})) == done[1:2]
    assert ids(rc.db_query({**own, "submitted": {"$lt": before}})) == []
    assert (
        ids(rc.db_query({**own, "submitted": {"$gte": before}, "name": "test_database.fit"}))
        == done
    )
    naive = before.astimezone().replace(tzinfo=None)
    assert ids(rc.db_query({**own, "completed": {"$gt": naive}})) == done
    [record] = rc.db_query({"msg_id": done[3]}, keys=["state", "error"])
    assert record == {"msg_id": done[3], "state": "failed", "error": "ValueError"}
    [record] = rc.db_query({"msg_id": done[0]})
    assert set(record) == set(database.FIELDS)
    assert record["submitted"] <= record["started"] <= record["completed"]
    assert record["engine_id"] in rc.ids
    assert record["attempts"] == 1
    gate.open()


def test_a_kept_task_has_its_label(rc: furlong.Client) -> None:
    view = rc.direct_view(0, keep=True, label="night")
    made = view.apply_async(fit, 1)
    made.wait(SOON_SECONDS)
    found = rc.db_query({"label": {"$glob": "n*t"}, "client_uuid": rc.session})
    assert ids(found) == made.msg_ids
    assert found[0]["state"] == "succeeded"


def test_what_is_not_known_of_tasks_is_an_error(rc: furlong.Client) -> None:
    with pytest.raises(ValueError, match="use 'engine_id'"):
        rc.db_query({"engine_uuid": "x"})
    with pytest.raises(ValueError, match="rc.get_result"):
        rc.db_query({}, keys=["stdout"])
    with pytest.raises(ValueError, match="there are msg_id, client_uuid"):
        rc.db_query({"msgid": "x"})
    with pytest.raises(ValueError, match=r"'\$near' is no operator"):
        rc.db_query({"state": {"$near": "x"}})


def test_the_history_has_what_the_broker_does_not_know(
    rc: furlong.Client, record: Callable[..., Path]
) -> None:
    done = run_some(rc)
    path = record(rc)

    def recorded() -> list[dict[str, Any]]:
        history = database.History(path)
        query = database.Query({"client_uuid": rc.session}, None)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = database.find(query, history, [], [], 0)
        history.close()
        return found

    eventually(lambda: len(recorded()) == len(done))
    of_broker = {record["msg_id"]: record for record in rc.db_query({"client_uuid": rc.session})}
    for each in recorded():
        same = of_broker[each["msg_id"]]
        for field in ("engine_id", "host", "name", "state", "error", "attempts"):
            assert each[field] == same[field], field
        for field in ("submitted", "completed"):
            assert abs((each[field] - same[field]).total_seconds()) < 0.001
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ids(rc.db_query({"client_uuid": rc.session}, history=path)) == done


def test_what_may_be_missing_is_said(rc: furlong.Client, record: Callable[..., Path]) -> None:
    run_some(rc)
    path = record(rc)
    assert path.stat().st_mode & 0o777 == 0o600
    with sqlite3.connect(path) as changed:
        changed.execute("INSERT INTO gaps VALUES (1, 1000000, 2000000, 7, 'it was away')")
    changed.close()
    with pytest.warns(errors.IncompleteHistoryWarning, match="7 tasks between 1970.*it was away"):
        rc.db_query({"state": "failed"}, history=path)
    now = datetime.datetime.now(datetime.timezone.utc)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rc.db_query({"completed": {"$gt": now}}, history=path)
    with pytest.warns(errors.IncompleteHistoryWarning, match="9 tasks that the broker has forgot"):
        database.find(database.Query({}, None), None, [], [], 9)


def test_a_file_that_is_no_history_is_refused(rc: furlong.Client, tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with pytest.raises(FileNotFoundError, match="there is no history"):
        rc.db_query({}, history=path)
    path.write_text("no database at all, but longer than the header of one would be" * 9)
    with pytest.raises(ValueError, match="is no history"):
        rc.db_query({}, history=path)
    path.unlink()
    other = sqlite3.connect(path)
    other.executescript("CREATE TABLE a (b);")
    other.close()
    with pytest.raises(ValueError, match="is no history"):
        rc.db_query({}, history=path)


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ({"name": {"$in": "foo"}}, r"'\$in' of 'name' takes a list, not 'foo'"),
        ({"name": {"$nin": None}}, "takes a list, not None"),
        ({"engine_id": {"$in": [1, "2"]}}, "takes a whole number, not '2'"),
        ({"engine_id": {"$gt": "2"}}, "takes a whole number, not '2'"),
        ({"engine_id": {"$lt": None}}, "takes a whole number, not None"),
        ({"engine_id": {"$mod": 2}}, "takes a divisor, which is not 0, and a remainder"),
        ({"engine_id": {"$mod": [0, 1]}}, "takes a divisor, which is not 0, and a remainder"),
        ({"name": {"$mod": [2, 1]}}, "is of numbers, and 'name' is none"),
        ({"name": {"$glob": 3}}, "takes a text, not 3"),
        ({"submitted": {"$glob": "2026*"}}, "is of texts, and 'submitted' is none"),
        ({"submitted": {"$gt": "2026-01-01"}}, "takes a datetime, not '2026-01-01'"),
        ({"submitted": {"$gt": datetime.date(2026, 1, 1)}}, "takes a datetime, not"),
    ],
    ids=str,
)
def test_query_of_a_wrong_operand_says_so(query: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        database.Query(query, None)


def test_query_may_ask_for_what_is_not_there() -> None:
    for operand in (None, {"$ne": None}, {"$in": [None, 1]}, {"$nin": (2,)}, {"$exists": False}):
        database.Query({"engine_id": operand}, None)
