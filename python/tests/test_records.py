"""The broker's records of tasks: results for other clients, queues, the history, labels, purges."""

import json
import time

import pytest

import furlong
from furlong import errors


def fails():
    raise ValueError("always")


@pytest.fixture
def other(cluster):
    """Return a second client of the same owner."""
    with furlong.Client(cluster=cluster) as client:
        yield client


def test_081_another_client_gets_the_same_value(rc, lview, view, other):
    lview.keep = view.keep = True
    value, failed = lview.apply_async(lambda: {"a": [1]}), lview.apply_async(fails)
    direct = view.apply_async(lambda: engine_id)  # noqa: F821
    rc.wait([value, failed, direct], timeout=60)
    assert other.get_result(value.msg_ids[0]).get(60) == {"a": [1]}
    assert other.get_result(value.msg_ids).get(60) == [{"a": [1]}]
    assert other.get_result(direct.msg_ids).get(60) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="always"):
        other.get_result(failed.msg_ids[0]).get(60)
    again = other.get_result(value.msg_ids[0], block=True)
    assert again.done()
    assert again.engine_id == value.engine_id
    assert other.get_result(value.msg_ids[0], owner=False).get() == {"a": [1]}


def test_081_another_client_waits_for_what_runs(rc, lview, other, gate):
    lview.keep = True
    result = lview.apply_async(gate.wait, 7)
    rc.flush()
    again = other.get_result(result.msg_ids[0])
    assert not again.done()
    assert again.wait(0.01) is False
    with pytest.raises(TimeoutError):
        again.get(0.01)
    called = []
    again.add_done_callback(lambda r: called.append(r.result()))
    gate.open()
    assert again.get(60) == 7
    assert result.get(60) == 7


def test_081_ones_own_results_are_the_same_objects(rc, lview):
    result = lview.apply_async(int)
    assert rc.get_result(result) is result
    assert rc.get_result(result.msg_ids[0]) is result
    assert rc.get_result(-1) is result
    assert rc.get_result() is result
    assert lview.get_result(result.msg_ids[0]) is result
    several = rc[:].apply_async(lambda: engine_id)  # noqa: F821
    assert rc.get_result(several.msg_ids[2]).get() == 2
    assert rc.get_result([result, several]).get() == [0, 0, 1, 2, 3]


def test_081_short_ids_as_people_see_them(rc, lview):
    result = lview.apply_async(int)
    result.get()
    short = f"{rc._session.short_id}:{result.msg_ids[0].rpartition(':')[2]}"
    assert rc.get_result(short) is result


def test_081_what_is_not_known_is_refused(rc, other):
    for wrong in (f"{rc.session}:999999", "0" * 32 + ":1"):
        with pytest.raises(errors.RequestRefused, match="unknown"):
            other.get_result(wrong)
    for wrong in ("no id", "zz:1"):
        with pytest.raises((KeyError, ValueError, errors.RequestRefused)):
            other.get_result(wrong)
    with pytest.raises(TypeError):
        other.get_result(1.5)
    with pytest.raises(IndexError):
        other.get_result(5)


def test_082_queue_status(rc, view, gate):
    idle = rc.queue_status()
    assert set(idle) == {*rc.ids, "unassigned"}
    assert idle["unassigned"] == 0
    for engine in rc.ids:
        assert set(idle[engine]) == {"queue", "completed", "tasks"}
        assert idle[engine]["queue"] == idle[engine]["tasks"] == 0
    held = rc[1].apply_async(gate.wait)
    waiting = [rc[1].apply_async(int) for _ in range(5)]
    rc.flush()
    status = rc.queue_status()
    assert status[1]["queue"] + status[1]["tasks"] == 6
    assert status[0]["queue"] + status[0]["tasks"] == 0
    assert set(rc.queue_status(targets=[1])) == {1, "unassigned"}
    assert set(rc[1:3].queue_status()) == {1, 2, "unassigned"}
    gate.open()
    assert rc.wait([held, *waiting], timeout=60)
    assert rc.queue_status()[1]["completed"] == idle[1]["completed"] + 6
    assert rc.queue_status()[0]["completed"] == idle[0]["completed"]


def test_082_targets_that_name_no_engine(rc):
    view = rc[:]
    for call in (
        lambda: rc[[]].apply_sync(int),
        lambda: rc[10:].execute("1"),
        lambda: view.push({"a": 1}, targets=[]),
        lambda: rc.load_balanced_view([]).apply_sync(int),
    ):
        with pytest.raises(
            furlong.NoEnginesRegistered, match="the targets name no engine; there are"
        ):
            call()


def test_082_a_cluster_without_engines(own):
    cluster = own(n=0)
    cluster.start_controller_sync()
    with furlong.Client(cluster=cluster) as client:
        assert client.queue_status() == {"unassigned": 0}
        assert client.ids == []
        with pytest.raises(furlong.NoEnginesRegistered):
            client[:]
        with pytest.raises(furlong.NoEnginesRegistered):
            client[-1]
        with pytest.raises(IndexError):
            client[0]
        with pytest.raises(furlong.NoEnginesRegistered):
            client.direct_view("all").apply_async(int)


def test_082_result_status(rc, lview, gate):
    held, done = lview.apply_async(gate.wait, 3), lview.apply_async(int)
    done.get(60)
    status = rc.result_status([held, done.msg_ids[0]])
    assert status == {"pending": held.msg_ids, "completed": done.msg_ids}
    gate.open()
    held.get(60)
    status = rc.result_status(held.msg_ids, status_only=False)
    assert status == {"pending": [], "completed": held.msg_ids, held.msg_ids[0]: 3}


def test_084_the_history_is_in_the_order_of_submits(rc, lview, other):
    lview.keep = True
    ids = []
    for _ in range(10):
        result = lview.apply_async(int)
        result.get()
        ids += result.msg_ids
    assert rc.hub_history()[-1] == ids[-1]
    assert [key for key in other.hub_history() if key.startswith(rc.session)][-10:] == ids
    submitted = [
        record["times"]["submitted_unix_us"] for record in rc.records() if record["id"] in ids
    ]
    assert len(submitted) == 10
    assert list(rc.history)[-10:] == ids
    assert rc.history[-1] == ids[-1]
    assert rc.history[-3:] == ids[-3:]
    assert rc.history == list(rc.history)
    assert len(rc.history) == len(list(rc.history))
    with pytest.raises(IndexError):
        rc.history[len(rc.history)]


def test_085_what_is_pending_cannot_be_purged(rc, lview, gate):
    held = lview.apply_async(gate.wait)
    for purge in (
        lambda: rc.purge_local_results("all"),
        rc.purge_everything,
        lambda: rc.purge_local_results([held]),
    ):
        with pytest.raises(RuntimeError, match="not ended"):
            purge()
    gate.open()
    held.get(60)
    rc.purge_local_results([held])


def test_085_what_is_purged_is_gone(rc, lview, other):
    lview.keep = True
    first, second = lview.apply_async(int), lview.apply_async(int)
    rc.wait([first, second], timeout=60)
    rc.purge_results(first)
    with pytest.raises(errors.FurlongError):
        other.get_result(first.msg_ids[0]).get(60)
    assert other.get_result(second.msg_ids[0]).get(60) == 0
    rc.purge_results("all")
    with pytest.raises(errors.FurlongError):
        other.get_result(second.msg_ids[0]).get(60)
    assert first.get() == second.get() == 0
    assert [record for record in rc.records(ended=True) if record["kept"]] == []


def test_085_purge_everything(rc, lview, other):
    lview.keep = True
    result = lview.apply_async(int)
    result.get()
    key = result.msg_ids[0]
    rc.purge_everything()
    assert rc._results().get(key) is None
    with pytest.raises(errors.FurlongError):
        rc.get_result(key).get(60)


def test_087_labels_find_tasks(rc, view, lview):
    view.keep = lview.keep = True
    with view.temp_flags(label="direct one"), lview.temp_flags(label="balanced [x] *"):
        direct, balanced = view.apply_async(int), lview.apply_async(int)
    mapped = lview.map_async(abs, range(3), label="mapped", chunksize=1)
    executed = view.execute("1", label="executed")
    rc.wait([direct, balanced, mapped, executed], timeout=60)

    def found(label):
        return {record["id"] for record in rc.records(label=label)} & set(rc.history)

    assert found("direct*") == set(direct.msg_ids)
    assert found("direct one") == set(direct.msg_ids)
    assert found("balanced [x] *") >= set(balanced.msg_ids)
    assert found("mapped") == set(mapped.msg_ids)
    assert found("exec*ed") == set(executed.msg_ids)
    assert found("*") >= {*direct.msg_ids, *balanced.msg_ids, *mapped.msg_ids}
    assert found("nothing*") == set()
    assert direct.label == ["direct one"] * 4


def test_all_that_is_outstanding_is_waited_for_also_what_nobody_holds(rc, view, gate):
    held = view.apply_async(gate.wait)
    for n in range(4):
        rc[n].apply_async(gate.wait)
    view.push({"a": 1}, block=False)
    del held
    assert rc.wait(timeout=0.05) is False
    assert rc.outstanding
    gate.open()
    assert rc.wait(timeout=60) is True
    assert rc.outstanding == set()
    assert rc.wait(timeout=0) is True


def test_records_are_plain_data(rc, lview):
    result = lview.apply_async(int)
    result.get()
    (record,) = [record for record in rc.records() if record["id"] == result.msg_ids[0]]
    assert record["phase"] == "ended"
    assert json.loads(json.dumps(record)) == record
    assert len(rc.records(limit=1)) <= 1
    status = rc.status()
    assert status["cluster_name"] == rc.cluster_name
    assert len(status["engines"]) == 4


def record_of(client, result):
    """Return the broker's record of a task, as that client sees it."""
    return next(record for record in client.records() if record["id"] == result.msg_ids[0])


def raised(record):
    """Return what the broker knows of a task's error."""
    return record["outcome"]["error"]["raised"]


def test_another_client_sees_what_a_task_is_and_the_type_of_its_error(rc, lview, other):
    lview.keep = True
    failed, named, module = (
        lview.apply_async(lambda: 1 / 0),
        lview.apply_async(fails),
        lview.apply_async(json.dumps, 1),
    )
    again = lview.apply_async(fails)
    rc.wait([failed, named, module, again], timeout=60)
    assert [record_of(other, result)["name"] for result in (failed, named, module)] == [
        "<lambda>",
        f"{__name__}.fails",
        "json.dumps",
    ]
    assert raised(record_of(other, failed))["type_name"] == "ZeroDivisionError"
    first, second = (raised(record_of(other, result)) for result in (named, again))
    assert first["type_name"] == "ValueError"
    assert first["fingerprint"] == second["fingerprint"]
    assert first["fingerprint"] != raised(record_of(other, failed))["fingerprint"]
    assert "always" not in json.dumps(record_of(other, named)), "the message stays sealed"


def test_code_and_failed_items_of_maps_have_names_and_types(rc, view, lview, other):
    lview.keep = view.keep = True
    code = view.execute("1 / 0", block=False)
    items = lview.map_async(lambda x: 1 // x, [1, 0, 2], chunksize=3)
    rc.wait([code, items], timeout=60)
    assert record_of(other, code)["name"] == "execute"
    for result, name in ((code, "execute"), (items, "<lambda>")):
        record = record_of(other, result)
        assert record["name"] == name
        assert raised(record)["type_name"] == "ZeroDivisionError"


@pytest.mark.parametrize("by_environment", [False, True])
def test_a_client_that_hides_names_tells_neither_names_nor_types(
    cluster, other, monkeypatch, by_environment
):
    monkeypatch.setenv("FURLONG_HIDE_NAMES", "1" if by_environment else "")
    hide = None if by_environment else True
    with furlong.Client(cluster=cluster, hide_names=hide) as client:
        lview = client.load_balanced_view(keep=True)
        result = lview.apply_async(fails)
        with pytest.raises(ValueError, match="always"):
            result.get(60)
        record = record_of(other, result)
        assert record["name"] is None
        assert raised(record) is None
        with furlong.Client(cluster=cluster, hide_names=False) as tells:
            named = tells.load_balanced_view(keep=True).apply_async(int)
            named.get(60)
            assert record_of(other, named)["name"] == "int"


class SlowToLoad:
    """Takes its time to be loaded, and to be pickled."""

    def __reduce__(self):
        """Be pickled slowly on engines, and loaded slowly there."""
        time.sleep(0.05)
        return _slowly, ()


def _slowly():
    time.sleep(0.1)
    return SlowToLoad()


def test_the_parts_of_an_attempt_are_told_apart(rc, lview):
    lview.keep = True
    lview.apply(int).get(60)

    def works(value):
        time.sleep(0.2)
        return value

    result = lview.apply_async(works, SlowToLoad())
    result.get(60)
    metadata = result.metadata
    assert metadata.load_time >= 0.1
    assert metadata.store_time >= 0.05
    assert metadata.run_time >= 0.2
    assert metadata.engine_wait_time >= 0
    times = record_of(rc, result)["times"]
    assert times["load_us"] == round(metadata.load_time * 1e6)
    assert times["run_us"] == round(metadata.run_time * 1e6)
    assert times["store_us"] == round(metadata.store_time * 1e6)
    spent = times["began_us"] + times["load_us"] + times["run_us"] + times["store_us"]
    assert spent <= times["finished_us"] - times["assigned_us"]
