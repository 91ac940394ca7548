"""Functions that a client's pickles call with other functions: for many items, and with what they need."""

from __future__ import annotations

import functools
import importlib
import io
import pickle
import sys
import time
from typing import Any, Callable, Iterable, Mapping, Sequence

import furlong_worker
from furlong_worker import Buffer, pickles
from furlong_worker.calls import STEPS
from furlong_worker.errors import describe
from furlong_worker.exceptions import details
from furlong_worker.frames import FRAMES
from furlong_worker.pickles import Apart
from furlong_worker.scopes import bound

# Items of a job that are told one by one, and how many quick ones are told at once later.
EXACT_ITEMS = 256
BATCH_ITEMS_MAX = 256
# A batch that takes less has twice as many items next time; one that takes more than four times
# this, half as many.
BATCH_NS = 50_000
# The words of the shared memory that tell which item runs; see `page.rs`.
FIRST, ITEMS = 2, 3
# What tells clients that beside an error stand items, and no details of the error itself.
ITEMS_MARK = b"items"
# Values of these types can be pickled here and read there, whatever they are.
PLAIN = frozenset((int, float, complex, bool, str, bytes, type(None)))
_SEQUENCES = frozenset((list, tuple, set, frozenset))
# So deep are values looked into; what is deeper is pickled at once.
DEPTH_MAX = 4


def _namespace() -> dict[str, Any]:
    """Return the engine's namespace, as which `__main__` lives."""
    return vars(sys.modules["__main__"])


class _Bound:
    """The parts of the worker that maps need."""

    words: Any = [0, 0, 0, 0]
    is_cancelled: Callable[[], bool] = staticmethod(lambda: False)
    streams: Callable[[], Sequence[Any]] = staticmethod(lambda: ())


def bind(
    words: Any, is_cancelled: Callable[[], bool], streams: Callable[[], Sequence[Any]]
) -> None:
    """Let maps tell which item runs, see that their job was cancelled, and follow what is written and displayed."""
    _Bound.words, _Bound.is_cancelled, _Bound.streams = (
        words,
        staticmethod(is_cancelled),
        staticmethod(streams),
    )


def map_items(
    function: Callable[..., Any],
    with_errors: bool,
    *columns: Sequence[Any],
    exact: bool = False,
    apart: Apart | None = None,
    is_apart: Sequence[bool] = (),
    shared: Mapping[str, Any] | None = None,
) -> Any:
    """Call a function with each item: the arguments come as columns of one length.

    Those at the places that `is_apart` tells come as rows of `apart`, each made when its call is due. All calls have the
    `shared` arguments.

    An item that raises, or whose value cannot be sent, fails alone. With `with_errors` its error takes the place of its
    value; otherwise the job fails, and has the other values beside its error. With `exact` it is always known which
    item runs.

    Raises
    ------
    ItemsFailed
        If items have failed.
    furlong.errors.UnmetDependency
        If this engine is not the right one for the first item.
    """
    if shared:
        function = functools.partial(function, **shared)
    run = _Run(function, columns, apart, is_apart)
    run.follow()
    try:
        run.call_all(exact)
    finally:
        run.leave()
    STEPS.returned = time.monotonic_ns()
    if not (run.failed or run.written):
        dump = _dump_plain if run.is_careful else _dump_constants
        parts = dump(run.values)
        if parts is not None:
            return pickles.Pickled(parts)
    told = Items(run.sendable(), run)
    if run.first is not None and not with_errors:
        raise ItemsFailed(run.first, pickles.dump(told))
    return told


class _Run:
    """The calls of one job, and what became of them."""

    def __init__(
        self,
        function: Callable[..., Any],
        columns: Sequence[Sequence[Any]],
        apart: Apart | None,
        is_apart: Sequence[bool],
    ) -> None:
        self._function = function
        self._columns = columns
        self._apart = apart
        self._is_apart = is_apart
        self.values: list[Any] = []
        # By the place of the item; and the first of them as it was raised.
        self.failed: dict[int, Failed] = {}
        self.first: BaseException | None = None
        self._count = min(map(len, columns), default=0) if apart is None else len(apart)
        # Whether there are values that later calls may change. The latest is held here alone: its
        # references tell.
        self.is_careful = False
        self._slot: list[Any] = [None]
        # Characters that each item has written to standard output and error, and how often it has
        # displayed something.
        self.written: dict[int, list[int]] = {}

    def call_all(self, exact: bool) -> None:
        """Call the function with all items."""
        values, words, is_cancelled = self.values, _Bound.words, _Bound.is_cancelled
        count = self._count
        batch = 1
        while True:
            at = len(values)
            if at >= count:
                return
            one_by_one = exact or at < EXACT_ITEMS
            words[FIRST] = at
            words[ITEMS] = 1 if one_by_one else batch
            begun = time.perf_counter_ns()
            try:
                if one_by_one:
                    self._call_each(at, min(at + EXACT_ITEMS, count), True)
                else:
                    self._call(at, min(at + batch, count))
            except BaseException as error:
                if is_cancelled() or (isinstance(error, UnmetDependency) and not values):
                    raise
                if len(values) < count:
                    self._fail(len(values), error)
                    values.append(None)
                continue
            if is_cancelled():  # the item has caught its interrupt
                raise KeyboardInterrupt("cancelled")
            if len(values) == at:
                raise RuntimeError(f"the items end at {at} of {count}")
            if not one_by_one:
                took = time.perf_counter_ns() - begun
                if took < BATCH_NS:
                    batch = min(batch * 2, BATCH_ITEMS_MAX)
                elif took > 4 * BATCH_NS and batch > 1:
                    batch //= 2

    def _fail(self, at: int, error: BaseException) -> None:
        if self.first is None or at < min(self.failed):
            self.first = error
        self.failed[at] = Failed(error)

    def _call_each(self, begin: int, end: int, one_by_one: bool) -> None:
        """Call with some items, and look at each value; `one_by_one`, each item is told before its call."""
        words, is_cancelled = _Bound.words, _Bound.is_cancelled
        for arguments in self._arguments(begin, end):
            if one_by_one:
                words[FIRST] = len(self.values)
            self._slot[0] = self._function(*arguments)
            del arguments  # nobody else has what was made for this call
            self._take()
            if one_by_one and is_cancelled():
                return

    def _arguments(self, begin: int, end: int) -> Iterable[Sequence[Any]]:
        if self._apart is None:
            return zip(*[column[begin:end] for column in self._columns])
        return map(self._made_anew, range(begin, end))

    def _made_anew(self, at: int) -> list[Any]:
        """Return the arguments of a call, made for it where they come as rows of pickles."""
        made, columns = iter(self._apart.load(at)), iter(self._columns)  # type: ignore[union-attr]
        return [next(made) if is_apart else next(columns)[at] for is_apart in self._is_apart]

    def _call(self, begin: int, end: int) -> None:
        if self.is_careful or self._apart is not None:
            return self._call_each(begin, end, False)
        columns = [column[begin:end] for column in self._columns]
        function, values, last = self._function, self.values, int  # it is a hot loop
        if len(columns) == 1:
            for item in columns[0]:
                value = function(item)
                if type(value) is not last:
                    if type(value) not in PLAIN:
                        break
                    last = type(value)
                values.append(value)
            else:
                return None
        else:
            for arguments in zip(*columns):
                value = function(*arguments)
                if type(value) is not last:
                    if type(value) not in PLAIN:
                        break
                    last = type(value)
                values.append(value)
            else:
                return None
        self._slot[0] = value
        del value
        self._take()
        return None

    def _take(self) -> None:
        """Note the value that has come, as it is now: a later call may change what others hold too."""
        slot, at = self._slot, len(self.values)
        if type(slot[0]) not in PLAIN:
            self.is_careful = True
            if at + 1 < self._count and not _are_fresh(slot, DEPTH_MAX):
                slot[0] = self._kept(at, slot[0], True)
        self.values.append(slot[0])
        slot[0] = None

    def follow(self) -> None:
        """Note from now on which item writes how much."""
        for at, stream in enumerate(_Bound.streams()):
            stream.note = lambda size, at=at: self._note(at, size)

    def _note(self, stream: int, size: int) -> None:
        self.written.setdefault(len(self.values), [0, 0, 0])[stream] += size

    def leave(self) -> None:
        """Report that no item runs."""
        _Bound.words[ITEMS] = 0
        for stream in _Bound.streams():
            stream.note = None

    def sendable(self) -> list[Any]:
        """Return what is sent for the items: values as they are, or each in a pickle of its own, and errors."""
        values = self.values
        if not PLAIN.issuperset(map(type, values)):
            values = [
                value if type(value) in PLAIN or type(value) is Kept else self._kept(at, value)
                for at, value in enumerate(values)
            ]
        for at, failed in self.failed.items():
            values[at] = failed
        return values

    def _kept(self, at: int, value: Any, as_it_is: bool = False) -> Any:
        try:
            return Kept(value, as_it_is)
        except Exception as error:
            self._fail(at, error)
            return None


def _references(holder: list[Any]) -> int:
    for value in holder:
        return sys.getrefcount(value)
    return 0


# What is counted in a loop over the only one who holds it.
_ALONE = _references([[]])


def _are_fresh(held: Iterable[Any], depth: int) -> bool:
    """Return whether nobody else holds these values, or what they hold, so that no later call can change them."""
    for value in held:
        kind = type(value)
        if kind in PLAIN:
            continue
        is_alone = sys.getrefcount(value) <= _ALONE
        if kind in _SEQUENCES or kind is dict:
            inner: Iterable[Any] = value.values() if kind is dict else value
            is_plain = PLAIN.issuperset(map(type, inner))
            if is_plain and (is_alone or kind is tuple):
                continue
            if is_plain or not is_alone or depth == 0 or not _are_fresh(inner, depth - 1):
                return False
        elif not _is_number_of_numpy(value) and not (is_alone and _owns_numbers(value)):
            return False
    return True


def _is_number_of_numpy(value: Any) -> bool:
    return type(value).__module__ == "numpy" and isinstance(value, sys.modules["numpy"].generic)


def _owns_numbers(value: Any) -> bool:
    """Return whether it is an array with memory of its own."""
    numpy = sys.modules.get("numpy")
    return (
        numpy is not None
        and type(value) is numpy.ndarray
        and value.base is None
        and not value.dtype.hasobject
    )


class _PlainPickler(pickle.Pickler):
    """Refuses what is made by a function when it is loaded."""

    def reducer_override(self, value: Any) -> Any:
        """Be asked of all that is no plain value, list, tuple, dictionary or set."""
        if str(getattr(value, "__module__", "")).partition(".")[0] == "numpy":
            return NotImplemented
        raise _NotPlainError


class _NotPlainError(Exception):
    """A value is to be pickled by itself."""


def _dump_constants(values: list[Any]) -> list[Buffer]:
    """Pickle values of the types in `PLAIN`."""
    return pickles.dump_with(pickle.dumps, values)


def _dump_plain(values: list[Any]) -> list[Buffer] | None:
    """Pickle values at once, if standard types and NumPy's are all that there is in them."""
    try:
        return pickles.dump_with(_plain_dumps, values)
    except Exception:
        return None


def _plain_dumps(values: list[Any], protocol: int, buffer_callback: Callable[[Any], Any]) -> bytes:
    file = io.BytesIO()
    _PlainPickler(file, protocol, buffer_callback=buffer_callback).dump(values)
    return file.getvalue()


class Items:
    """The values of a job's items, which of them have failed, and what was written for each."""

    def __init__(self, values: list[Any], run: _Run) -> None:
        self._parts = values, sorted(run.failed), run.written

    def __reduce__(self) -> tuple[Any, ...]:
        """Be pickled as a call of the client's own function."""
        return _ITEMS, self._parts


class ItemsFailed(Exception):  # noqa: N818 - several of them
    """Items have failed. The job's error is that of the first; beside it are the pickled `Items`."""

    def __init__(self, first: BaseException, data: list[Buffer]) -> None:
        super().__init__(first)
        self.parts: list[Buffer] = [*describe(first), ITEMS_MARK, *data]


class Kept:
    """A value in a pickle of its own: where it cannot be read, others can."""

    def __init__(self, value: Any, as_it_is: bool = False) -> None:
        data, *views = pickles.dump(value)
        if as_it_is:  # later calls may change the memory
            views = [view if memoryview(view).readonly else bytearray(view) for view in views]
        self._parts = bytes(data), *map(pickle.PickleBuffer, views)

    def __reduce__(self) -> tuple[Any, ...]:
        """Be pickled as a call of the client's own function."""
        return _KEPT, self._parts


class Failed:
    """An exception in the place of a value. A client loads it as its own kind of error."""

    def __init__(self, error: BaseException) -> None:
        self._parts = tuple(bytes(part).decode("utf-8") for part in describe(error))
        frames = FRAMES.keep(error)
        self._details = [bytes(part) for part in details(error, True, frames)]

    def __reduce__(self) -> tuple[Any, ...]:
        """Be pickled as a call of the client's own function."""
        # Users may set the variable.
        engine = furlong_worker.current_engine().id  # type: ignore[attr-defined]
        return _FAILED, (*self._parts, engine, self._details)


_FAILED, _KEPT, _ITEMS = (pickles.ClientFunction(name) for name in ("failed", "kept", "items"))


def call_with(
    function: Callable[..., Any],
    modules: Sequence[str],
    names: Mapping[str, Any],
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Import modules into the namespace, and set names there, then call.

    Raises
    ------
    furlong.errors.UnmetDependency
        If a module is not there: another engine may have it.
    """
    variables = _namespace()
    for name in modules:
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            raise UnmetDependency(str(error)) from error
        variables.setdefault(
            name.partition(".")[0], importlib.import_module(name.partition(".")[0])
        )
        if "." not in name:
            variables[name] = module
    variables.update(names)
    own = bound()
    own.enter()
    own.claim([*modules, *names])
    return function(*args, **kwargs)


def call_if(
    function: Callable[..., Any],
    condition: Callable[..., Any],
    condition_args: Sequence[Any],
    condition_kwargs: Mapping[str, Any],
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Call, unless a condition says that this engine is not the right one.

    Raises
    ------
    furlong.errors.UnmetDependency
        If it is false.
    """
    if condition(*condition_args, **condition_kwargs) is False:
        raise UnmetDependency("the task's condition is not met on this engine")
    return function(*args, **kwargs)


class UnmetDependency(Exception):  # noqa: N818 - as clients call it
    """The task is for another engine."""


UnmetDependency.__module__ = "furlong.errors"
