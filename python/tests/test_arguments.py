"""Wrong arguments are refused where they are given, by one line that says which it is."""

from collections.abc import Callable

import numpy
import pytest

import furlong
from furlong import client
from furlong.errors import RemoteError

FLAGS = [
    ({"retries": -1}, ValueError, "retries is a whole number from 0 to 4294967295, not -1"),
    (
        {"retries": 2**32},
        ValueError,
        "retries is a whole number from 0 to 4294967295, not 4294967296",
    ),
    ({"retries": 1.5}, TypeError, "retries is a whole number from 0 to 4294967295, not 1.5"),
    ({"retries": "a"}, TypeError, "retries is a whole number from 0 to 4294967295, not 'a'"),
    (
        {"error_retries": True},
        TypeError,
        "error_retries is a whole number from 0 to 4294967295, not True",
    ),
    (
        {"priority": "a"},
        TypeError,
        "priority is a whole number from -2147483648 to 2147483647, not 'a'",
    ),
    (
        {"priority": 10**12},
        ValueError,
        "priority is a whole number from -2147483648 to 2147483647, not 1000000000000",
    ),
    ({"label": 5}, TypeError, "label is a str or None, not 5"),
    ({"label": "é" * 129}, ValueError, "label has at most 256 bytes, not 258"),
    (
        {"timeout": "a"},
        TypeError,
        "timeout is a number of seconds, 0 or None for no limit, not 'a'",
    ),
    ({"timeout": -1}, ValueError, "timeout is a number of seconds, 0 or None for no limit, not -1"),
    (
        {"run_timeout": -1},
        ValueError,
        "run_timeout is a number of seconds above 0, or None for no limit, not -1",
    ),
    (
        {"run_timeout": True},
        TypeError,
        "run_timeout is a number of seconds above 0, or None for no limit, not True",
    ),
    (
        {"time_request": 0},
        ValueError,
        "time_request is a number of seconds above 0, or None for no limit, not 0",
    ),
    (
        {"backoff": float("inf")},
        ValueError,
        "backoff is a number of seconds, 0 for no pause, not inf",
    ),
    ({"backoff": None}, TypeError, "backoff is a number of seconds, 0 for no pause, not None"),
    ({"keep": 1}, TypeError, "keep is True or False, not 1"),
    ({"block": "no"}, TypeError, "block is True or False, not 'no'"),
    ({"require": 5}, TypeError, "require is a label of engines, or several of them, not 5"),
    (
        {"require": ["gpu", 5]},
        TypeError,
        "require is a label of engines, or several of them, not ['gpu', 5]",
    ),
    ({"after": 3}, TypeError, "after: tasks are named by their results or ids, not by 3"),
    ({"follow": [3]}, TypeError, "follow: tasks are named by their results or ids, not by 3"),
    (
        {"after": "x"},
        ValueError,
        "after: 'x' is no task's id, which has 32 hexadecimal digits, a colon, a number",
    ),
]


@pytest.mark.parametrize(
    ("flags", "kind", "text"), FLAGS, ids=[str(flags)[:40] for flags, _, _ in FLAGS]
)
def test_a_flag_is_checked_when_it_is_set(
    rc: furlong.Client, flags: dict[str, object], kind: type[Exception], text: str
) -> None:
    lview = rc.load_balanced_view(label="before")

    def as_attribute() -> None:
        for name, value in flags.items():
            setattr(lview, name, value)

    def for_a_while() -> None:
        with lview.temp_flags(**flags):
            pytest.fail("the flags were taken")

    ways = (
        as_attribute,
        for_a_while,
        lambda: lview.set_flags(label="after", **{"priority": 1, **flags}),
    )
    for way in (
        *ways[:2],
        *(ways[2:] if "label" not in flags else ()),
        lambda: rc.load_balanced_view(**flags),
    ):
        with pytest.raises(kind) as caught:
            way()
        assert (type(caught.value), str(caught.value)) == (kind, text)
    # None of the others was set either.
    assert (lview.label, lview.priority) == ("before", 0)
    assert lview.apply_sync(len, "ab") == 2


def test_flags_take_what_numpy_has(lview: furlong.LoadBalancedView) -> None:
    lview.set_flags(
        retries=numpy.int64(2),
        priority=numpy.int8(-3),
        timeout=numpy.float32(30),
        keep=numpy.bool_(True),
    )
    assert lview.apply_async(len, "ab").get() == 2
    assert [type(getattr(lview, name)) for name in ("retries", "priority", "timeout", "keep")] == [
        int,
        int,
        float,
        bool,
    ]


def test_tasks_of_an_iterator_are_asked_once_and_last(lview: furlong.LoadBalancedView) -> None:
    first = [lview.apply_async(len, "ab") for _ in range(2)]
    lview.set_flags(after=iter(first), require=iter(()))
    assert lview.apply_async(len, "ab").get() == 2
    assert lview.apply_async(len, "ab").after == first


@pytest.mark.parametrize("flag", ["retries", "error_retries"])
def test_a_direct_view_refuses_at_once_what_its_calls_refuse(rc: furlong.Client, flag: str) -> None:
    text = (
        f"{flag}=2 is for the shared queue: the tasks of a direct view run once, in the order of their queues; "
        f"use `rc.load_balanced_view({flag}=2)`"
    )
    for way in (lambda: rc[0].set_flags(**{flag: 2}), lambda: rc.direct_view("all", **{flag: 2})):
        with pytest.raises(ValueError) as caught:
            way()
        assert str(caught.value) == text
    assert rc[0].set_flags(**{flag: 0}).apply_sync(len, "ab") == 2


@pytest.mark.parametrize("flag", ["retries", "error_retries"])
@pytest.mark.parametrize(
    ("other", "text"),
    [
        (
            {"at_most_once": True},
            "{}=2 and at_most_once=True contradict each other; leave one of them out",
        ),
        (
            {"targets": [0, 1]},
            "{0}=2 is for the shared queue: tasks for chosen engines run once, in the order of their queues; "
            "leave out {0} or targets",
        ),
    ],
    ids=["at_most_once", "targets"],
)
def test_flags_that_contradict_retries_are_told_as_the_user_wrote_them(
    rc: furlong.Client, flag: str, other: dict[str, object], text: str
) -> None:
    lview = rc.load_balanced_view(**{flag: 2}, **other)
    for call in (
        lview.apply_async,
        lview.apply_sync,
        lview.map_async,
        lambda f, x: next(lview.imap(f, x)),
    ):
        with pytest.raises(ValueError) as caught:
            call(len, ["ab"])
        assert (type(caught.value), str(caught.value)) == (ValueError, text.format(flag))
    assert not rc.history
    assert lview.set_flags(**{flag: 0}).apply_sync(len, "ab") == 2


def _undecorated(view: furlong.LoadBalancedView) -> int:
    return len(view)


def _bare_require() -> None:
    @furlong.require
    def f(x: int) -> int:
        return x


def _bare_depend() -> None:
    @furlong.depend
    def f() -> bool:
        return True


WRONG: list[tuple[str, Callable[[furlong.Client], object], type[Exception], str]] = [
    (
        "StringTask",
        lambda rc: client.StringTask("a", retries=-1),
        ValueError,
        "retries is a whole number from 0",
    ),
    (
        "push of a task",
        lambda rc: client.StringTask("a", push={"a b": 1}),
        ValueError,
        "'a b' is no name for a var",
    ),
    (
        "recovery",
        lambda rc: client.MapTask(len, recovery_task=len),
        TypeError,
        "recovery_task is a StringTask or a Map",
    ),
    (
        "depend",
        lambda rc: client.MapTask(len, depend=5),
        TypeError,
        "depend is asked with .* an int object cannot be",
    ),
    (
        "label",
        lambda rc: rc[0].execute("a = 1", label=5),
        TypeError,
        "label is a str or None, not 5",
    ),
    (
        "direct_view",
        lambda rc: rc.direct_view(1.0),
        TypeError,
        "targets are ids of engines, or 'all', not 1.0",
    ),
    (
        "load_balanced",
        lambda rc: rc.load_balanced_view(1.0),
        TypeError,
        "targets are ids of engines, .* not 1.0",
    ),
    (
        "pull",
        lambda rc: rc[0].pull(3),
        TypeError,
        "what is pulled are names: a str, or a sequence of such, not 3",
    ),
    ("push", lambda rc: rc[0].push({1: 2}), TypeError, "names of variables are str, not int: 1"),
    (
        "push blank",
        lambda rc: rc[0].push({"a b": 2}),
        ValueError,
        "'a b' is no name for a variable",
    ),
    (
        "push dots",
        lambda rc: rc[0].push({"a..b": 2}),
        ValueError,
        "'a..b' is no name for a variable",
    ),
    (
        "push int",
        lambda rc: rc[0].push(5),
        TypeError,
        "dictionary of names and values, not an int object",
    ),
    ("execute", lambda rc: rc[0].execute(5), TypeError, "code is a str, not an int object"),
    (
        "get_result",
        lambda rc: rc.get_result("abc:def"),
        ValueError,
        "abc:def.* is no task's id, which has 32 hexa",
    ),
    (
        "apply nothing",
        lambda rc: rc[0].apply(),
        TypeError,
        "missing 1 required positional argument: 'f'",
    ),
    ("apply", lambda rc: rc[0].apply(5), TypeError, "an int object cannot be called"),
    ("map", lambda rc: rc[0].map({}, [1]), TypeError, "a dict object cannot be called"),
    (
        "Cluster",
        lambda rc: furlong.Cluster(n="a"),
        TypeError,
        "n is a whole number from 0 to 1024, not 'a'",
    ),
    (
        "Cluster -1",
        lambda rc: furlong.Cluster(n=-1),
        ValueError,
        "n is a whole number from 0 to 1024, not -1",
    ),
    (
        "engines",
        lambda rc: rc.wait_for_engines("a"),
        TypeError,
        "n is a whole number from 0 to .*, not 'a'",
    ),
    (
        "Client",
        lambda rc: furlong.Client(cluster=5),
        TypeError,
        "cluster is a Cluster, or the name of one, not 5",
    ),
    (
        "Dependency",
        lambda rc: furlong.Dependency(5),
        TypeError,
        "tasks are named by their results or ids, not by 5",
    ),
    (
        "depend(5)",
        lambda rc: furlong.depend(5),
        TypeError,
        "`depend` takes a condition, and an int object cannot be",
    ),
    (
        "dependent",
        lambda rc: furlong.dependent(len, 5),
        TypeError,
        "a condition: an int object cannot be called",
    ),
    ("@depend", lambda rc: _bare_depend(), TypeError, r"write @depend\(condition\)"),
    ("@require", lambda rc: _bare_require(), TypeError, r"write @require\('module'\)"),
    (
        "require",
        lambda rc: furlong.require(_undecorated)(5),
        TypeError,
        r"an int object .*: write @require\('module'\)",
    ),
]


@pytest.mark.parametrize(
    ("call", "kind", "text"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG]
)
def test_wrong_arguments(
    rc: furlong.Client, call: Callable[[furlong.Client], object], kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text) as caught:
        call(rc)
    assert type(caught.value) is kind and "\n" not in str(caught.value)


def test_functions_that_have_names_are_what_decorators_take(rc: furlong.Client) -> None:
    def condition() -> bool:
        return True

    @furlong.depend(condition)
    @furlong.require(_undecorated, condition)
    def ask() -> object:
        return condition()

    assert ask() is True
    assert furlong.require(condition)(len)("ab") == 2


def test_names_with_dots_are_pushed_as_the_engine_has_them(rc: furlong.Client) -> None:
    rc[0].execute("class a: pass", block=True)
    rc[0]["a.b"] = 5
    assert rc[0]["a.b"] == 5
    with pytest.raises(RemoteError):
        rc[0].push({"nothing.b": 5}, block=True)
