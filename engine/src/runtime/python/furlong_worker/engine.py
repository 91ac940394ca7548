"""The names in `furlong_worker` for user code and pickles: the engine, and its namespace by expressions."""

from __future__ import annotations

import marshal
import types
from typing import Any, Sequence

import furlong_worker
from furlong_worker import definitions, given, maps, pickles, scopes
from furlong_worker.namespace import Namespace, find_rank


class Engine:
    """The engine that runs this interpreter.

    Attributes
    ----------
    id : int or None
        Its number in the cluster.
    rank : int or None
        Its process's rank in the job of MPI or Slurm that started it.
    labels : list of str
        What `engine --label` gave it, sorted.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self.id: int | None = None
        self.rank = find_rank()
        self.labels = list(labels)

    def __repr__(self) -> str:
        """Name it."""
        return f"<engine {self.id}>"


class Reference:
    """An expression that stands for its value in the namespace of the engine where it is loaded."""

    def __init__(self, expression: str) -> None:
        self.expression = expression

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        """Be pickled as what it stands for."""
        return evaluate, (self.expression,)

    def __repr__(self) -> str:
        """Name it."""
        return f"<reference to {self.expression!r}>"


class _Bound:
    """The worker's own namespace and engine."""

    names: Namespace
    engine: Engine


def bind(names: Namespace, labels: Sequence[str]) -> Engine:
    """Take the worker's namespace for that of this module, and let pickles find what they name."""
    _Bound.names, _Bound.engine = names, Engine(labels)
    for public in (Reference, current_engine, engine_function, evaluate, pull, push):
        public.__module__ = "furlong_worker"
        setattr(furlong_worker, public.__name__, public)
    functions = (
        maps.call_if,
        maps.call_with,
        maps.map_items,
        scopes.main_function,
        scopes.set_main_function,
    )
    for public in (
        *functions,
        *given.PUBLIC,
        pickles.Anew,
        pickles.Apart,
        *definitions.PUBLIC,
    ):
        setattr(furlong_worker, public.__name__, public)
    return _Bound.engine


def current_engine() -> Engine:
    """Return which engine runs this."""
    return _Bound.engine


def evaluate(expression: str) -> Any:
    """Evaluate an expression in the engine's namespace."""
    _Bound.names.globals.enter()
    return _Bound.names.evaluate(expression, "<reference>")


def push(variables: dict[str, Any]) -> None:
    """Set variables in the engine's namespace; a name with dots sets an attribute of an object that exists."""
    _Bound.names.push(variables)


def pull(expressions: Sequence[str]) -> list[Any]:
    """Evaluate expressions in the engine's namespace."""
    return _Bound.names.pull(expressions)


def engine_function(
    code: bytes,
    name: str,
    defaults: tuple[Any, ...] | None = None,
    kwdefaults: dict[str, Any] | None = None,
    closure: Sequence[Any] | None = None,
    annotations: dict[str, Any] | None = None,
    doc: str | None = None,
) -> types.FunctionType:
    """Make a function whose global names are the engine's namespace.

    Parameters
    ----------
    code : bytes
        Its code object, by `marshal` of the same version of Python.
    name : str
        Its name.
    defaults, kwdefaults, annotations, doc
        As the attributes of a function.
    closure : sequence, optional
        Cells, or what is in them.
    """
    cells = tuple(
        part if isinstance(part, types.CellType) else types.CellType(part) for part in closure or ()
    )
    function = types.FunctionType(
        marshal.loads(code), _Bound.names.variables, name, defaults, cells
    )
    function.__kwdefaults__ = kwdefaults
    function.__annotations__ = dict(annotations or {})
    function.__doc__ = doc
    function.__module__ = "__main__"
    return function
