"""Exceptions of engines are here what they were there: type, arguments, attributes, notes, causes and groups."""

import asyncio
import copy
import dataclasses
import functools
import json
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import furlong
from furlong.results import exceptions

has_groups = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="Python has no groups of exceptions before 3.11"
)


class BadInput(ValueError):
    """Its constructor takes something else than what it passes on."""

    def __init__(self, row, text):
        super().__init__(f"row {row}: {text}")
        self.row = row


class Keywords(RuntimeError):
    """Its constructor needs keywords, and passes nothing on."""

    def __init__(self, *, code, detail):
        self.code, self.detail = code, detail


class Unreducible(LookupError):
    """It cannot be pickled."""

    def __reduce__(self):
        raise TypeError("never")


class Slotted(ArithmeticError):
    """It has slots."""

    __slots__ = ("part",)


class Silent(Exception):
    """It has no text."""

    def __str__(self):
        raise ZeroDivisionError


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    """It cannot be changed."""

    code: int


class Meta(type):
    """A metaclass that wants something of each class."""

    def __new__(cls, name, bases, names, **options):
        if bases != (KeyError,) and "needed" not in options:
            raise TypeError("needed is missing")
        return super().__new__(cls, name, bases, names)


class Picky(KeyError, metaclass=Meta):
    """There can be no class that is derived from it as others are."""


class Row:
    """A value of one's own among the attributes."""

    def __init__(self, at):
        self.at = at


def failing(error, **attributes):
    """Make a function that raises an error with attributes."""

    def fail():
        for name, value in attributes.items():
            setattr(error, name, value)
        raise error

    return fail


def raise_bad_input():
    """Raise one whose constructor cannot be called with its args."""
    raise BadInput(7, "no number")


def error_of(rc, call, *args, **kwargs):
    """Return the exception that a call has raised on an engine."""
    return rc.load_balanced_view().apply_async(call, *args, **kwargs).exception()


def test_104_a_class_of_ones_own_is_caught_however_the_work_was_given(rc):
    view, balanced = rc[:], rc.load_balanced_view()
    with pytest.raises(BadInput) as caught:
        balanced.apply_sync(raise_bad_input)
    assert isinstance(caught.value, furlong.RemoteError)
    assert (caught.value.row, caught.value.args) == (7, ("row 7: no number",))
    assert caught.value.evalue == "row 7: no number"
    assert caught.value.ename.endswith("BadInput")
    assert "in raise_bad_input" in caught.value.traceback
    with pytest.raises(ValueError, match="row 7"):
        balanced.map(lambda _: raise_bad_input(), [1], block=True)
    (kept,) = balanced.map(lambda _: raise_bad_input(), [1], return_exceptions=True).get()
    assert isinstance(kept, BadInput)
    assert kept.row == 7
    with pytest.raises(BadInput), rc.executor() as executor:
        executor.submit(raise_bad_input).result()

    async def awaited():
        await balanced.apply_async(raise_bad_input)

    with pytest.raises(BadInput):
        asyncio.run(awaited())
    with pytest.raises(furlong.CompositeError) as composite:
        view.apply_sync(raise_bad_input)
    assert all(isinstance(error, BadInput) and error.row == 7 for error in composite.value.errors)
    assert {error.engine_info["engine_id"] for error in composite.value.errors} == set(rc.ids)
    values = view.apply_async(raise_bad_input).get(return_exceptions=True)
    assert all(isinstance(error, BadInput) for error in values)


def test_104_odd_classes_come_as_they_were(rc):
    def keywords():
        raise Keywords(code=4, detail=[1, (2, b"3"), {"a": None}])

    error = error_of(rc, keywords)
    assert isinstance(error, Keywords)
    assert (error.code, error.detail, error.args) == (4, [1, (2, b"3"), {"a": None}], ())
    error = error_of(rc, failing(Slotted("text"), part=5))
    assert isinstance(error, Slotted)
    assert (error.part, error.args) == (5, ("text",))

    def unreducible():
        raise Unreducible("text")

    assert isinstance(error_of(rc, unreducible), Unreducible)

    def silent():
        raise Silent(1)

    error = error_of(rc, silent)
    assert isinstance(error, Silent)
    assert error.args == (1,)
    assert "str() failed" in str(error)

    def frozen():
        raise Frozen(3)

    error = error_of(rc, frozen)
    assert isinstance(error, Frozen)
    assert error.code == 3

    def picky():
        raise Picky("k")

    error = error_of(rc, picky)
    assert isinstance(error, KeyError)
    assert not isinstance(error, Picky)
    assert (error.args, error.ename.rpartition(".")[2]) == (("k",), "Picky")


def test_104_a_class_made_in_a_function_is_that_class(rc):
    class Local(ValueError):
        def __init__(self, a, b):
            super().__init__()
            self.both = a, b

        def sum(self):
            return sum(self.both)

    def fail():
        raise Local(1, 2)

    error = error_of(rc, fail)
    assert isinstance(error, Local)
    assert error.sum() == 3


def test_104_of_a_class_that_only_engines_have_come_its_nearest_bases(rc):
    view = rc[0]
    view.execute(
        "class There(KeyError, ValueError):\n    def __init__(self, a, *, b): super().__init__(a); self.b = b"
    )
    view.execute("def raise_there(): raise There(1, b=[2])")
    for error in [
        view.execute("raise There(1, b=[2])").exception(),
        view.apply_async("raise_there").exception(),
    ]:
        assert isinstance(error, KeyError)
        assert error.ename.endswith("There")
        assert (error.args, error.b) == ((1,), [2])


def test_104_attributes_that_cannot_come_are_named_and_the_others_come(rc):
    def fail():
        error = ValueError("text", threading.Lock(), 2)
        error.lock, error.name = threading.Lock(), "mine"
        error.much = b"x" * (3 << 20)
        error.row, error.later = Row(8), float("inf")
        raise error

    error = error_of(rc, fail)
    assert (error.name, error.row.at, error.later) == ("mine", 8, float("inf"))
    assert isinstance(error.row, Row)
    assert error.args[::2] == ("text", 2)
    assert "lock object" in error.args[1]
    assert sorted(error.not_carried) == ["lock", "much"]
    assert "too large" in error.not_carried["much"]
    assert not hasattr(error, "lock")


@pytest.mark.parametrize(
    ("call", "kind", "attributes"),
    [
        (lambda: {}["k"], KeyError, {"args": ("k",)}),
        (lambda: json.loads("{"), json.JSONDecodeError, {"pos": 1, "lineno": 1, "doc": "{"}),
        (
            lambda: subprocess.run(["false"], check=True),
            subprocess.CalledProcessError,
            {"returncode": 1},
        ),
        (
            lambda: Path("/nowhere/at all").read_text(),
            FileNotFoundError,
            {"errno": 2},
        ),
        (
            lambda: __import__("os").rename("/no/a", "/no/b"),
            OSError,
            {"filename": "/no/a", "filename2": "/no/b"},
        ),
        (
            lambda: b"\xff".decode(),
            UnicodeDecodeError,
            {"start": 0, "object": b"\xff", "encoding": "utf-8"},
        ),
        (lambda: "é".encode("ascii"), UnicodeEncodeError, {"object": "é", "end": 1}),
        (lambda: __import__("nowhere.at_all"), ModuleNotFoundError, {"name": "nowhere"}),
        (
            lambda: compile("a = = b", "f.py", "exec"),
            SyntaxError,
            {"lineno": 1, "offset": 5, "filename": "f.py"},
        ),
        (lambda: int("x"), ValueError, {}),
        (lambda: next(iter(())), furlong.RemoteError, {"ename": "StopIteration", "value": None}),
        (lambda: sys.exit(3), furlong.RemoteError, {"ename": "SystemExit", "code": 3}),
    ],
)
def test_104_exceptions_of_python_have_what_they_had(rc, call, kind, attributes):
    error = error_of(rc, call)
    assert isinstance(error, kind)
    assert isinstance(error, furlong.RemoteError)
    assert not isinstance(error, (StopIteration, SystemExit))
    assert {name: getattr(error, name, None) for name in attributes} == attributes


def test_104_causes_contexts_and_notes_come_along(rc):
    def caused():
        try:
            {}["k"]
        except KeyError as key:
            raise BadInput(1, "x") from key

    error = error_of(rc, caused)
    assert isinstance(error.__cause__, KeyError)
    assert error.__cause__.args == ("k",)
    assert error.__suppress_context__
    assert "KeyError: 'k'" in error.traceback

    def in_handler():
        try:
            {}["k"]
        except KeyError:
            raise BadInput(1, "x")  # noqa: B904 - that is what is tried

    error = error_of(rc, in_handler)
    assert isinstance(error.__context__, KeyError)
    assert not error.__suppress_context__

    def circle():
        first, second = ValueError(1), TypeError(2)
        first.__cause__, second.__cause__ = second, first
        raise first

    error = error_of(rc, circle)
    assert isinstance(error.__cause__, TypeError)
    assert error.__cause__.__cause__ is error

    def noted():
        error = ValueError("x")
        error.__notes__ = ["first", "second"]
        raise error

    assert error_of(rc, noted).__notes__ == ["first", "second"]

    def holds_one():
        error = ValueError("x")
        error.inner = [BadInput(2, "y")]
        raise error

    (inner,) = error_of(rc, holds_one).inner
    assert isinstance(inner, BadInput)
    assert inner.row == 2


@has_groups
def test_104_a_large_group_and_a_long_chain_come_within_bounds(rc):
    from builtins import ExceptionGroup

    def many():
        raise ExceptionGroup("many", [ValueError(at) for at in range(3000)])

    error = error_of(rc, many)
    assert [one.args for one in error.exceptions[:3]] == [(0,), (1,), (2,)]
    assert "of 3000 are too many" in error.not_carried["exceptions"]

    def long():
        error = None
        for at in range(500):
            following = ValueError(at)
            following.__cause__ = error
            error = following
        raise error

    error, count = error_of(rc, long), 0
    while isinstance(error, ValueError):
        error, count = error.__cause__, count + 1
    assert count == 500


@has_groups
def test_104_groups_come_with_their_members(rc):
    from builtins import BaseExceptionGroup, ExceptionGroup

    def fail():
        inner = ExceptionGroup("inner", [BadInput(3, "z"), KeyboardInterrupt()][:1])
        raise ExceptionGroup("outer", [TypeError("t"), inner])

    error = error_of(rc, fail)
    assert isinstance(error, ExceptionGroup)
    assert isinstance(error, furlong.RemoteError)
    assert (error.message, len(error.exceptions)) == ("outer", 2)
    of_mine, rest = error.split(BadInput)
    assert of_mine.exceptions[0].exceptions[0].row == 3
    assert [type(one).__name__ for one in rest.exceptions] == ["TypeError"]
    assert isinstance(pickle.loads(pickle.dumps(error)).exceptions[1].exceptions[0], BadInput)

    def of_any():
        raise BaseExceptionGroup("any", [KeyboardInterrupt(), ValueError(1)])

    error = error_of(rc, of_any)
    assert isinstance(error, ExceptionGroup)
    assert [one.ename for one in error.exceptions] == ["KeyboardInterrupt", "ValueError"]


def test_104_an_error_can_be_pickled_and_copied(rc):
    error = error_of(rc, raise_bad_input)
    error.__notes__ = ["mine"]
    for same in [pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)]:
        assert isinstance(same, BadInput)
        assert (same.row, same.args, same.__notes__) == (7, error.args, ["mine"])
        assert (str(same), same.traceback, same.engine_info) == (
            str(error),
            error.traceback,
            error.engine_info,
        )


def test_104_why_something_cannot_be_pickled_keeps_its_cause(rc):
    class Stubborn:
        def __reduce__(self):
            raise PermissionError("not this one")

    view, stubborn = rc.load_balanced_view(), Stubborn()
    for call in [
        lambda: view.apply_async(len, stubborn),
        lambda: view.apply_async(functools.partial(len, stubborn)),
        lambda: view.apply_async(lambda: stubborn),
        lambda: view.map(len, [1, stubborn], block=True),
        lambda: rc[0].push({"x": stubborn}, block=True),
        lambda: rc[:].scatter("x", [stubborn] * 4, block=True),
    ]:
        with pytest.raises(furlong.errors.PicklingError) as caught:
            call()
        assert isinstance(caught.value.__cause__, PermissionError)
    error = error_of(rc, Stubborn)
    assert isinstance(error, TypeError)
    assert isinstance(error.__cause__, PermissionError)
    assert error.__cause__.args == ("not this one",)


def test_104_where_no_pickles_are_due_none_is_read_and_no_module_is_loaded():
    class Armed:
        def __reduce__(self):
            return exec, ("raise SystemExit('a pickle was read')",)

    armed = pickle.dumps(Armed())
    nodes = [
        {
            "classes": [["antigravity", "X"], ["builtins", "ValueError"]],
            "lost": {},
            "suppress": False,
            "args": [{"pickle": [[0, len(armed)]]}],
            "attributes": {"a": 1, "b": {"pickle": [[0, len(armed)]]}},
        }
    ]
    buffers = [json.dumps(nodes).encode(), armed]
    error = exceptions.remake(("X", "text", ""), None, furlong.RemoteError, buffers, False)
    assert isinstance(error, ValueError)
    assert "antigravity" not in sys.modules
    assert error.a == 1
    assert "b" in error.not_carried
    for broken in [b"", b"{", b"[]", b"[1]", b'[{"classes": 3}]']:
        error = exceptions.remake(
            ("KeyError", "'k'", ""), None, furlong.RemoteError, [broken], True
        )
        assert isinstance(error, KeyError)
        assert error.evalue == "'k'"
