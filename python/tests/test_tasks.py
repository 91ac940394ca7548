"""Tasks: taken back, tried again, bounded in time, dependent on others and on engines."""

import math
import os
import time

import pytest
from conftest import eventually

import furlong
from furlong import (
    Dependency,
    EngineError,
    ImpossibleDependency,
    InvalidDependency,
    RemoteError,
    TaskAborted,
    TaskTimeout,
    UnmetDependency,
    depend,
    dependent,
    require,
)


def fails():
    raise ValueError("always")


def where():
    return engine_id  # noqa: F821


def hold(rc, gate):
    """Keep all engines busy until the gate opens; the broker knows that they are when this returns."""
    held = rc[:].execute(gate.code)
    wanted = set(held.msg_ids)

    def is_running():
        return wanted <= {
            record["id"] for record in rc.records(ended=False) if record["phase"] == "running"
        }

    eventually(is_running)
    return held


def test_073_what_has_just_begun_goes_on(rc):
    for _ in range(30):
        begun = rc[0].execute("print('on', flush=True)\nimport time\ntime.sleep(0.2)")
        assert begun._parts[0].task.output().next(60) is not None
        rc.abort(begun)
        begun.get(60)


def test_073_what_is_queued_is_taken_back_and_what_runs_goes_on(rc, view, gate):
    held = hold(rc, gate)
    queued = rc[0].apply_async(int)
    queued.abort()
    with pytest.raises(TaskAborted):
        queued.get(60)
    assert queued.status == "aborted"
    assert not held.done()
    gate.open()
    held.get(60)
    assert rc[0].apply_sync(int) == 0


def test_073_a_view_takes_back_all_that_is_outstanding(rc, view, gate):
    held = hold(rc, gate)
    queued = [view.apply_async(int) for _ in range(3)] + [rc[2].apply_async(int)]
    view.abort()
    for result in queued:
        with pytest.raises((TaskAborted, furlong.CompositeError)) as caught:
            result.get(60)
        for error in getattr(caught.value, "errors", [caught.value]):
            assert isinstance(error, TaskAborted)
    gate.open()
    held.get(60)


def test_073_abort_by_ids_results_and_engines(rc, view, lview, gate):
    held = hold(rc, gate)
    first, second, third, kept = (rc[n].apply_async(int) for n in (0, 1, 2, 3))
    balanced = lview.apply_async(int)
    rc.abort(first.msg_ids[0])
    rc.abort([second, balanced])
    rc.abort(None, targets=[2])
    for result in (first, second, third, balanced):
        with pytest.raises(TaskAborted):
            result.get(60)
    gate.open()
    assert kept.get(60) == 0
    held.get(60)


def test_073_what_is_ready_cannot_be_taken_back(rc):
    result = rc[0].apply_async(int)
    result.get()
    with pytest.raises(RuntimeError, match="ready"):
        result.abort()
    rc.abort(result)
    assert result.get() == 0


def test_074_retries_end_with_the_users_own_error(rc, lview, tmp_path):
    log = tmp_path / "log"

    def fails_and_counts():
        with log.open("a") as file:
            file.write("x")
        raise ValueError("always")

    for retries in (0, 1, 2, 6):
        log.write_text("")
        with lview.temp_flags(retries=retries):
            result = lview.apply_async(fails_and_counts)
        with pytest.raises(ValueError, match="always"):
            result.get(60)
        assert log.read_text() == "x" * (retries + 1)
        assert result.attempts == retries + 1


def test_074_a_retry_may_succeed(lview, tmp_path):
    mark = tmp_path / "mark"

    def second_time():
        if not mark.exists():
            mark.touch()
            raise ValueError("first")
        return "second"

    with lview.temp_flags(retries=1):
        result = lview.apply_async(second_time)
    assert result.get(60) == "second"
    assert result.attempts == 2


def test_074_a_task_that_waits_too_long_times_out(rc, lview, gate):
    held = hold(rc, gate)
    with lview.temp_flags(retries=len(rc), timeout=0.1):
        result = lview.apply_async(fails)
    with pytest.raises(TaskTimeout):
        result.get(60)
    with pytest.raises(TimeoutError):
        result.get()
    assert not held.done()


def test_075_a_timeout_does_not_end_what_runs(lview):
    with lview.temp_flags(timeout=0.5):
        result = lview.apply_async(time.sleep, 1)
    assert result.get(60) is None


def test_075_a_run_timeout_does(rc, lview):
    with lview.temp_flags(run_timeout=0.2):
        result = lview.apply_async(time.sleep, 120)
    with pytest.raises(TaskTimeout):
        result.get(60)
    assert lview.apply_sync(int) == 0


def test_075_engines_that_know_of_no_end_have_the_time_for_everything(rc, lview):
    with lview.temp_flags(time_request=1e6):
        result = lview.apply_async(int)
    assert result.get(60) == 0


def test_076_a_task_that_does_not_exist_cannot_be_waited_for(rc, lview):
    unknown = f"{rc.session}:999999"
    for flags in (
        {"after": unknown},
        {"follow": [unknown]},
        {"after": Dependency(unknown, all=False)},
    ):
        with lview.temp_flags(**flags):
            result = lview.apply_async(int)
        with pytest.raises(InvalidDependency):
            result.get(60)
    with pytest.raises(ValueError), lview.temp_flags(after="no id at all"):
        lview.apply_async(int)


def test_076_two_engines_cannot_be_followed(rc, lview):
    first, second = rc[0].apply_async(int), rc[1].apply_async(int)
    rc.wait([first, second])
    with lview.temp_flags(follow=[first, second]):
        result = lview.apply_async(int)
    with pytest.raises(ImpossibleDependency):
        result.get(60)


def test_076_what_failed_cannot_be_waited_for(lview):
    failed = lview.apply_async(fails)
    with lview.temp_flags(after=failed):
        result = lview.apply_async(int)
    with pytest.raises(ImpossibleDependency):
        result.get(60)
    with lview.temp_flags(after=Dependency(failed, success=False, failure=True)):
        assert lview.apply_async(int).get(60) == 0
    with lview.temp_flags(after=Dependency([failed, lview.apply_async(int)], all=False)):
        assert lview.apply_async(int).get(60) == 0


def test_077_followers_run_on_the_same_engine(rc, lview):
    for _ in range(4):
        first = lview.apply_async(where)
        with lview.temp_flags(follow=first):
            followers = [lview.apply_async(where) for _ in range(5)]
        assert {result.get(60) for result in followers} == {first.get()}
        assert {result.engine_id for result in followers} == {first.engine_id}


def test_077_what_comes_after_starts_after(lview):
    first = [lview.apply_async(time.sleep, 0.05) for _ in range(3)]
    with lview.temp_flags(after=first):
        last = lview.apply_async(int)
    last.get(60)
    assert last.after == first
    for result in first:
        assert result.done()
        assert last.started >= result.completed


def test_077_dependencies_by_id_and_on_many_tasks(rc, view, lview):
    several = view.apply_async(int)
    with lview.temp_flags(after=several.msg_ids):
        assert lview.apply_sync(int) == 0
    with lview.temp_flags(after=Dependency([several, lview.apply_async(int)])):
        assert lview.apply_sync(int) == 0


S, F = {"s1", "s2"}, {"f1", "f2"}
TRUTHS = [
    # tasks, all, success, failure, met, impossible
    ({"s1", "s2"}, True, True, False, True, False),
    ({"s1", "f1"}, True, True, False, False, True),
    ({"s1", "p"}, True, True, False, False, False),
    ({"f1", "p"}, True, True, False, False, True),
    ({"s1", "f1"}, False, True, False, True, False),
    ({"f1", "f2"}, False, True, False, False, True),
    ({"f1", "p"}, False, True, False, False, False),
    ({"f1", "f2"}, True, False, True, True, False),
    ({"s1", "f1"}, True, False, True, False, True),
    ({"f1", "p"}, True, False, True, False, False),
    ({"s1", "f1"}, False, False, True, True, False),
    ({"s1", "s2"}, False, False, True, False, True),
    ({"s1", "p"}, False, False, True, False, False),
    ({"s1", "f1"}, True, True, True, True, False),
    ({"s1", "p"}, True, True, True, False, False),
    ({"f1", "p"}, False, True, True, True, False),
    ({"p"}, False, True, True, False, False),
    (set(), True, True, False, True, False),
    (set(), False, False, True, True, False),
]


@pytest.mark.parametrize(("tasks", "all_of", "success", "failure", "met", "impossible"), TRUTHS)
def test_078_truth_table(tasks, all_of, success, failure, met, impossible):
    dependency = Dependency(tasks, all=all_of, success=success, failure=failure)
    assert dependency.check(S, F) is met
    assert dependency.unreachable(S, F) is impossible


def test_078_nothing_satisfies_a_dependency_on_nothing():
    with pytest.raises(ValueError, match="neither"):
        Dependency(["a"], success=False, failure=False)
    assert repr(Dependency(["b", "a"], all=False, failure=True)) == (
        "<Dependency on success or failure of any of ['a', 'b']>"
    )


@pytest.mark.parametrize("row", range(len(TRUTHS)))
def test_078_the_broker_has_the_same_table(rc, lview, gate, row):
    tasks, all_of, success, failure, met, impossible = TRUTHS[row]
    held = lview.apply_async(gate.wait)
    made = {"s1": lview.apply_async(int), "f1": lview.apply_async(fails), "p": held}
    made["s2"], made["f2"] = lview.apply_async(int), lview.apply_async(fails)
    rc.wait([result for name, result in made.items() if name != "p"], timeout=60)
    dependency = Dependency(
        [made[name] for name in tasks], all=all_of, success=success, failure=failure
    )
    with lview.temp_flags(after=dependency):
        result = lview.apply_async(int)
    if met:
        assert result.get(60) == 0
    elif impossible:
        with pytest.raises(ImpossibleDependency):
            result.get(60)
    else:
        (record,) = [
            record for record in rc.records(ended=False) if record["id"] == result.msg_ids[0]
        ]
        assert record["phase"] not in ("running", "ended")
        result.cancel()
    gate.open()
    held.get(60)


def triple(x):
    return 3 * x


def test_079_required_modules_are_imported(view, rc):
    view.execute("import sys; sys.modules.pop('colorsys', None)", block=True)

    @furlong.interactive
    def uses():
        return colorsys.rgb_to_hsv(1, 1, 1)  # noqa: F821

    with pytest.raises(furlong.CompositeError, match="NameError"):
        view.apply_sync(uses)
    assert view.apply_sync(require("colorsys")(uses)) == [(0.0, 0.0, 1)] * 4
    view.clear(block=True)
    assert rc[0].apply_sync(require(math)(furlong.interactive(lambda: math.pi))) == math.pi

    @require("os.path", "json")
    def dotted():
        return os.path.join("a", "b"), json.dumps([1])  # noqa: F821

    assert rc[1].apply_sync(dotted) == ("a/b", "[1]")


def test_079_required_functions_and_objects_are_there(lview, rc):
    @require(triple)
    def with_function(x):
        return triple(x)

    assert lview.apply_sync(with_function, 2) == 6

    @require(f=triple, factor=7)
    def with_names(x):
        return f(x) * factor  # noqa: F821

    assert lview.apply_sync(with_names, 2) == 42
    assert with_names.__name__ == "with_names"
    with pytest.raises(TypeError, match="name"):
        require(5)
    rc[:].clear(block=True)

    @furlong.interactive
    def without(x):
        return factor * x  # noqa: F821

    with pytest.raises(NameError):
        lview.apply_sync(without, 1)


def test_079_a_module_that_is_nowhere_is_an_impossible_dependency(lview):
    @require("no_such_module_anywhere")
    def uses():
        return 1

    result = lview.apply_async(uses)
    with pytest.raises(ImpossibleDependency, match="no_such_module_anywhere"):
        result.get(60)
    assert isinstance(result.exception(), ImpossibleDependency)


def test_079_dependent_functions_run_where_they_may(rc, view, lview):
    view.push({"may": False}, block=True)
    rc[2].push({"may": True}, block=True)

    @furlong.interactive
    def condition():
        return may  # noqa: F821

    @depend(condition)
    def f(x):
        return x, engine_id  # noqa: F821

    results = [lview.apply_async(f, n) for n in range(6)]
    assert [result.get(60) for result in results] == [(n, 2) for n in range(6)]
    assert {result.engine_id for result in results} == {2}
    view.push({"may": False}, block=True)
    with pytest.raises(ImpossibleDependency):
        lview.apply_async(f, 1).get(60)
    twice = dependent(triple, lambda wanted, **more: more["b"] == wanted, 5, b=5)
    assert twice(2) == 6
    assert lview.apply_sync(twice, 2) == 6
    with pytest.raises(UnmetDependency):
        dependent(triple, lambda: False)(1)


def test_079_a_task_may_refuse_its_engine(rc, lview):
    def only_on_3():
        if engine_id != 3:  # noqa: F821
            raise furlong.UnmetDependency("not here")
        return engine_id  # noqa: F821

    results = [lview.apply_async(only_on_3) for _ in range(4)]
    assert [result.get(60) for result in results] == [3] * 4
    told = []
    result = lview.apply_async(only_on_3)
    result.add_done_callback(lambda r: told.append(r.result()))
    assert rc.wait(result, timeout=60)
    assert rc.load_balanced_view([3]).apply_sync(only_on_3) == 3
    with pytest.raises(ImpossibleDependency):
        rc.load_balanced_view([0, 1]).apply_sync(only_on_3)


def test_080_resubmitted_tasks_run_again(rc, lview, view):
    lview_random = lview.apply_async(os.urandom, 8)
    first = lview_random.get()
    again = rc.resubmit(lview_random)
    assert again.get(60) != first
    assert again.msg_ids != lview_random.msg_ids
    direct = rc[2].apply_async(where)
    assert rc.resubmit(direct.msg_ids, block=True).get() == 2
    several = view.apply_async(where)
    several.get()
    assert rc.resubmit([several]).get(60) == [0, 1, 2, 3]


def test_080_a_chain_of_resubmits(rc, lview):
    result = lview.apply_async(os.urandom, 8)
    values = {result.get()}
    for _ in range(10):
        result = rc.resubmit(result.msg_ids[0])
        values.add(result.get(60))
    assert len(values) == 11


def test_080_of_what_was_aborted_and_of_what_runs(rc, lview, gate):
    held = hold(rc, gate)
    aborted = lview.apply_async(int)
    aborted.abort()
    with pytest.raises(TaskAborted):
        aborted.get(60)
    again = rc.resubmit(aborted)
    running = lview.apply_async(gate.wait, 7)
    twin = rc.resubmit(running)
    gate.open()
    assert again.get(60) == 0
    assert running.get(60) == twin.get(60) == 7
    held.get(60)


def test_080_options_are_those_of_the_first_submit(rc, lview):
    with lview.temp_flags(label="labelled", retries=2):
        result = lview.apply_async(fails)
    result.wait(60)
    again = rc.resubmit(result)
    with pytest.raises(ValueError, match="always"):
        again.get(60)
    assert again.attempts == 3
    assert again.label == "labelled"


def test_080_what_is_not_known_cannot_be_resubmitted(rc):
    with pytest.raises(KeyError):
        rc.resubmit(f"{rc.session}:999999")
    with pytest.raises(KeyError):
        rc.resubmit(["no such task"])


def test_labels_of_engines_that_nobody_has_wait(rc, lview):
    with lview.temp_flags(require=["no such label"], timeout=0.1):
        result = lview.apply_async(int)
    with pytest.raises(RemoteError) as caught:
        result.get(60)
    assert not isinstance(caught.value, EngineError)


def test_priorities_go_first(rc, gate):
    held = hold(rc, gate)
    some = rc.load_balanced_view()

    def new():
        """Have never run: of what is known to be short engines have very many ahead."""

    low = [some.apply_async(new) for _ in range(2000)]
    some.priority = 5
    high = [some.apply_async(new) for _ in range(2000)]
    rc.flush()  # else those of low priority run while the others are on their way
    gate.open()
    held.get(60)
    assert rc.wait(low + high, timeout=60)
    # Engines have some tasks ahead, which stay where they are.
    middle = sorted(result.started for result in low + high)[2000]
    assert sum(result.started < middle for result in high) > 1200


def test_a_view_of_some_engines_uses_those_only(rc):
    some = rc.load_balanced_view([1, 2])
    assert len(some) == 2
    assert set(some.map_sync(lambda x: engine_id, range(40))) == {1, 2}  # noqa: F821
    assert {some.apply_sync(where) for _ in range(6)} == {1, 2}
    assert rc.load_balanced_view(-1).targets == [3]
