"""Global names of functions that came by value: the engine's namespace, and beside it what came along with them.

The globals of such a function *are* the namespace, the dictionary of `__main__`. Values that its client sent along lie
in the same dictionary and serve where the function's session has put no such name there. `Globals` tells both apart:
`_along` has the values that merely came along, `_owners` the names that other sessions have put.

A name that code has set since the last look is the current session's. Identity tells that it has: the value is not the
one that came along. Pushes, executed code and plain ``global`` statements are told explicitly, since they may set the
very same object.
"""

from __future__ import annotations

import ast
import builtins
import collections
import functools
import opcode
import types
from typing import Any, Callable, Iterable, Iterator, Sequence

# Sessions whose values are kept for them while others' have their places.
SESSIONS_MAX = 8
# Names and sessions that are not told of again.
NOTED_MAX = 10_000
_MISSING = object()
# Names of which a client's values gave way: the next result tells its client.
notes: list[str] = []


class Record:
    """The global names of what one pickle holds.

    Attributes
    ----------
    shipped : dict
        Names and values that came along.
    asked : set of str
        Names that the client does not have.
    stores : tuple of str
        Names that a call sets in any case.
    """

    __slots__ = ("asked", "epoch", "expected", "given_way", "shipped", "stores")

    def __init__(self) -> None:
        self.shipped: dict[str, Any] = {}
        self.asked: set[str] = set()
        self.stores: tuple[str, ...] = ()
        # What must be so for the names to be right still.
        self.epoch = -1
        self.expected: tuple[tuple[str, Any], ...] = ()
        self.given_way: tuple[str, ...] = ()


class Globals:
    """The owner of each name in the namespace, and what merely came along.

    Attributes
    ----------
    session : int
        The session of the job that runs; the worker sets it.
    """

    def __init__(self, variables: dict[str, Any], seeded: dict[str, Any]) -> None:
        self.variables = variables
        self.session = 0
        self._seeded = seeded
        self._entered = 0  # the session whose names can be seen
        self._epoch = 0  # counts what may make a record wrong
        # Values that came along, each with its session; and what they stand in front of.
        self._along: dict[str, tuple[Any, int]] = {}
        self._hidden: dict[str, Any] = {}
        # Names that a session has put which is not the current one, with the value's identity.
        self._owners: dict[str, tuple[int, int]] = {}
        self._parked: collections.OrderedDict[int, dict[str, Any]] = collections.OrderedDict()
        self._record: Record | None = None
        self._noted: set[tuple[int, str]] = set()
        _Bound.globals = self

    # Functions.

    def load(self, load: Callable[[], Any]) -> tuple[Any, Record | None]:
        """Load a function, and give the record of its names if it has any."""
        self._record = record = Record()
        try:
            value = load()
        finally:
            self._record = None
        record.asked -= record.shipped.keys()
        record.stores = tuple(_certain_stores(value))
        return value, record if record.shipped or record.asked or record.stores else None

    def arrive(self, shipped: dict[str, Any], asked: Iterable[str]) -> None:
        """Take the names of a function that is being loaded."""
        self.enter()
        for name, value in shipped.items():
            if not self._offer(name, value):
                self._note(name, value)
        if self._record is not None:
            self._record.shipped.update(shipped)
            self._record.asked.update(asked)

    def serve(self, record: Record) -> None:
        """Let a function that is called next find its names."""
        variables = self.variables
        if record.epoch == self._epoch and self.session == self._entered:
            get = variables.get
            for name, value in record.expected:
                if get(name, _MISSING) is not value:
                    break
            else:
                for name in record.given_way:
                    if name not in variables:
                        break
                else:
                    return
        self._look_up(record)

    def _look_up(self, record: Record) -> None:
        self.enter()
        expected, given_way = [], []
        for name, value in record.shipped.items():
            if self._offer(name, value):
                expected.append((name, value))
            else:
                given_way.append(name)
                self._note(name, value)
        for name in record.asked:
            self._ask(name)
        record.expected, record.given_way, record.epoch = (
            tuple(expected),
            tuple(given_way),
            self._epoch,
        )

    def _offer(self, name: str, value: Any) -> bool:
        """Let a value serve, unless the session has put one there; whether it serves."""
        variables = self.variables
        current = variables.get(name, _MISSING)
        along = self._along.get(name)
        if along is not None:
            if current is along[0]:
                if along[1] != self._entered:
                    self._park(name, *along)
                variables[name] = value
                self._along[name] = value, self._entered
                return True
            self._forget(name, current is not _MISSING)  # code has set or deleted it since
        if current is not _MISSING:
            if self._is_own(name, current):
                self._owners.pop(name, None)
                return False
            self._hidden[name] = current
        variables[name] = value
        self._along[name] = value, self._entered
        self._epoch += 1
        return True

    def _is_own(self, name: str, value: Any) -> bool:
        """Return whether the current session has put it there."""
        if self._seeded.get(name, _MISSING) is value:
            return False
        owner = self._owners.get(name)
        return owner is None or owner[0] == self._entered or owner[1] != id(value)

    def _ask(self, name: str) -> None:
        """Let a name mean what is there, not what came along; a builtin, unless the session has put it."""
        along = self._along.get(name)
        if along is not None:
            if self._came_along(name):
                self._withdraw(name)
                if along[1] != self._entered:
                    self._park(name, *along)
            else:
                self._forget(name, name in self.variables)
        current = self.variables.get(name, _MISSING)
        if name in self._owners and hasattr(builtins, name) and not self._is_own(name, current):
            self._hidden[name] = self.variables.pop(name)

    def _withdraw(self, name: str) -> None:
        """Take what came along away, and show what it stood in front of."""
        del self._along[name]
        before = self._hidden.pop(name, _MISSING)
        if before is _MISSING:
            del self.variables[name]
        else:
            self.variables[name] = before

    def _forget(self, name: str, is_set: bool) -> None:
        """Note that code has set a name since a value came along, or has deleted it."""
        del self._along[name]
        if is_set:
            self._hidden.pop(name, None)
            self._owners.pop(name, None)

    def _park(self, name: str, value: Any, session: int) -> None:
        """Keep a value for its session, which may come back."""
        self._parked.setdefault(session, {})[name] = value
        self._parked.move_to_end(session)
        if len(self._parked) > SESSIONS_MAX:
            self._parked.popitem(last=False)

    # Sessions.

    def enter(self) -> None:
        """Show the namespace as the session of the job that runs sees it."""
        if self.session == self._entered:
            return
        variables = self.variables
        for name, (value, session) in list(self._along.items()):
            if not self._came_along(name):
                self._forget(name, name in variables)
            elif name in self._hidden or hasattr(builtins, name):
                self._park(name, value, session)
                self._withdraw(name)
        for name, value in self._hidden.items():
            variables.setdefault(name, value)
        self._hidden.clear()
        self._note_owners()
        self._entered = self.session
        self._epoch += 1
        for name, value in self._parked.pop(self.session, {}).items():
            self._offer(name, value)

    def _note_owners(self) -> None:
        """Take what was put since the session was entered for its own."""
        owners, variables = self._owners, self.variables
        for name in owners.keys() - variables.keys():
            del owners[name]
        for name, value in variables.items():
            if self._came_along(name) or self._seeded.get(name, _MISSING) is value:
                continue
            owner = owners.get(name)
            if owner is None or owner[1] != id(value):
                owners[name] = self._entered, id(value)

    def claim(self, names: Iterable[str]) -> None:
        """Take names for the current session's that code has set, be it to the same objects."""
        for name in names:
            if name in self.variables:
                self._along.pop(name, None)
                self._hidden.pop(name, None)
                self._owners.pop(name, None)

    @property
    def is_shared(self) -> bool:
        """True if there is anything that is not the current session's own."""
        return bool(self._along or self._owners)

    # What users may ask of names.

    def _came_along(self, name: str) -> bool:
        along = self._along.get(name)
        return along is not None and self.variables.get(name, _MISSING) is along[0]

    def own_value(self, name: str) -> tuple[Any, ...]:
        """Return what somebody has put under a name that something else stands in front of.

        Nothing, if evaluating the name gives the right answer.
        """
        if name in self._hidden and (name not in self.variables or self._came_along(name)):
            return (self._hidden[name],)
        if not self._came_along(name):
            return ()
        if not hasattr(builtins, name):
            raise NameError(f"name {name!r} is not defined")
        return (getattr(builtins, name),)

    def put_items(self) -> Iterator[tuple[str, Any]]:
        """Return the variables, without what merely came along."""
        for name, value in self.variables.items():
            if not self._came_along(name):
                yield name, value
        for name, value in self._hidden.items():
            if name not in self.variables or self._came_along(name):
                yield name, value

    def seed(self, name: str, value: Any) -> None:
        """Set a variable that is nobody's."""
        (self._hidden if name in self._hidden else self.variables)[name] = value

    def clear(self) -> None:
        """Forget all names."""
        for table in (self._along, self._hidden, self._owners, self._parked, self._noted):
            table.clear()
        self._epoch += 1

    def _note(self, name: str, value: Any) -> None:
        """Note that a client's value gave way to another one: once a name and session."""
        key = self._entered, name
        if key not in self._noted and not _same(self.variables[name], value):
            if len(self._noted) == NOTED_MAX:
                self._noted.clear()
            self._noted.add(key)
            notes.append(name)


class _Bound:
    """The worker's own."""

    globals: Globals


def bound() -> Globals:
    """Return the worker's own."""
    return _Bound.globals


# What pickles call.


def main_function(
    code: types.CodeType, closure: tuple[types.CellType, ...] | None
) -> types.FunctionType:
    """Make a function whose globals are the namespace. Its state comes later: it may hold the function itself."""
    return types.FunctionType(code, _Bound.globals.variables, code.co_name, None, closure)


def set_main_function(
    function: types.FunctionType, state: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    """Set such a function's attributes, the contents of its closure, and what came along."""
    attributes, slots = state
    function.__dict__.update(attributes)
    _Bound.globals.arrive(slots.pop("__globals__"), slots.pop("__asked__"))
    slots.pop("_cloudpickle_submodules", None)  # they are imported: that is all they are for
    for own, cell in zip(function.__closure__ or (), slots.pop("__closure__") or ()):
        if cell != types.CellType():  # it has contents
            own.cell_contents = cell.cell_contents
    for name, value in slots.items():
        setattr(function, name, value)


# Code that sets names.


def bound_names(nodes: Sequence[ast.AST]) -> Iterator[str]:
    """Return the global names that code of a module binds, as it stands there."""
    for node in nodes:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
            continue
        if isinstance(node, ast.Lambda):
            continue
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                yield alias.asname or alias.name.partition(".")[0]
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        yield from bound_names(list(ast.iter_child_nodes(node)))


_NO_BODY_FLAGS = 0x20 | 0x80 | 0x200  # generators and coroutines: a call does not run them


def _certain_stores(value: Any) -> Iterator[str]:
    """Return the global names that a call of a function sets before anything can go another way."""
    code = getattr(_innermost(value), "__code__", None)
    if not isinstance(code, types.CodeType) or code.co_flags & _NO_BODY_FLAGS:
        return
    if opcode.opmap["STORE_GLOBAL"] not in code.co_code[::2]:
        return
    import dis  # few functions need it

    for step in dis.get_instructions(code):
        if step.opname == "STORE_GLOBAL":
            yield str(step.argval)
        elif (
            step.opcode in dis.hasjrel
            or step.opcode in dis.hasjabs
            or step.opname.startswith("RETURN")
        ):
            return


def _innermost(value: Any) -> Any:
    """Return the function that a chain of partials calls, through what this package puts around it too."""
    while True:
        if isinstance(value, functools.partial):
            inner = value.func
            is_ours = _is_of_worker(inner) and value.args
            value = value.args[0] if is_ours else inner
        elif _is_of_worker(type(value)) and hasattr(value, "sample"):
            value = value.sample()
        else:
            return value


def _is_of_worker(value: Any) -> bool:
    return str(getattr(value, "__module__", "")).startswith("furlong_worker")


def _same(one: Any, other: Any) -> bool:
    """Return whether two values are as good as one, as far as plain types can tell."""
    if one is other:
        return True
    cls = type(one)
    if cls is not type(other):
        return False
    if cls is types.FunctionType:
        return bool(one.__code__ == other.__code__)
    if cls.__module__ not in ("builtins", "numpy"):
        return False
    try:
        equal = one == other
        return equal if isinstance(equal, bool) else bool(equal.all())
    except Exception:
        return False
