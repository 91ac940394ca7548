"""The variables of a module that were set since its import, as far as its source says what an import gives."""

from __future__ import annotations

import ast
import dis
import functools
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

from furlong.waiting import signals

# A literal or a value with more parts is not looked at.
PARTS_MAX = 1000
_FOLDED = (ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop, ast.expr_context)
_LITERAL = (ast.Constant, ast.Tuple, ast.List, ast.Dict, ast.Set, *_FOLDED)
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
_NAMING = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.ExceptHandler)
# Names by which code can make variables that its text does not show.
_INDIRECT = frozenset(("globals", "vars", "exec", "setattr", "locals", "__getattr__"))
_MUTATORS = {
    "add",
    "append",
    "clear",
    "discard",
    "extend",
    "insert",
    "pop",
    "popitem",
    "remove",
    "reverse",
    "setdefault",
}
_MUTATORS |= {
    "sort",
    "update",
    "difference_update",
    "intersection_update",
    "symmetric_difference_update",
}
# Parts of a tree that have none that matter.
_LEAVES = {int, str, type(None), ast.Load, ast.Constant}
_ATOMS = (int, float, complex, str, bytes, bool, type(None))


# The level of an import, the module's name, and what is taken from it.
_Import = tuple[int, str, tuple[str, ...]]


@functools.lru_cache(maxsize=4096)
def names_imported(source: bytes | types.CodeType, package: str) -> tuple[str, ...]:
    """Return which modules a source or a function may import, by their full names."""
    imports = (
        _imports_of_code(source)
        if isinstance(source, types.CodeType)
        else _source_of(source).imports
    )
    found: dict[str, None] = {}
    for level, name, parts in imports:
        base = _resolved(name, level, package)
        if base is not None:
            found[base] = None
            found.update((f"{base}.{part}" if base else part, None) for part in parts)
    return tuple(name for name in found if name)


def _resolved(name: str, level: int, package: str) -> str | None:
    try:
        return importlib.util.resolve_name("." * level + name, package or None) if level else name
    except ImportError:
        return None


def _imports_of_code(code: types.CodeType) -> Iterator[_Import]:
    """Return each import: its level, the module's name, and what is taken from it."""
    constants: list[Any] = []
    for instruction in dis.get_instructions(code):
        if "CONST" in instruction.opname or instruction.opname == "LOAD_SMALL_INT":
            constants = [*constants[-1:], instruction.argval]
        elif instruction.opname == "IMPORT_NAME":
            level, parts = constants if len(constants) == 2 else (0, None)
            yield (
                level if isinstance(level, int) else 0,
                str(instruction.argval),
                tuple(parts or ()),
            )
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _imports_of_code(constant)


@functools.lru_cache(maxsize=4096)
def writes_globals(code: types.CodeType) -> bool:
    """Return whether a function sets or deletes global names."""
    if any(
        instruction.opname in ("STORE_GLOBAL", "DELETE_GLOBAL")
        for instruction in dis.get_instructions(code)
    ):
        return True
    return any(
        isinstance(constant, types.CodeType) and writes_globals(constant)
        for constant in code.co_consts
    )


class ModuleVariables:
    """The variables of a module that were set here since it was imported: engines are to have them as well.

    It is known what an import gives for a name that the source sets once, to a literal, a function or a class, or that
    it takes from another module. Of other names it is taken to be what they were at first sight. What the module's own
    code sets, or changes in place, goes along if it is plain data: it may as well be a lock, a connection or a
    cache, which are its own everywhere.
    """

    def __init__(self, module: types.ModuleType, text: bytes) -> None:
        self._variables = vars(module)
        self._name = module.__name__
        self._file = getattr(module, "__file__", None)
        self._source = source = _source_of(text)
        told = source.literals.keys() | source.defined.keys()
        self._first = {
            name: _mark(value)
            for name, value in self._variables.items()
            if name in source.bound - told
        }
        # What has been something else once, and must be told also when it no longer is.
        self._ever: set[str] = set()
        self._values: tuple[Any, ...] = ()
        self._atoms: list[tuple[str, object]] = []
        self._texts: list[tuple[str, str]] = []

    def are_unchanged(self) -> bool:
        """Return whether all is as `changed` has told it last."""
        variables = self._variables
        try:
            # Most are the same objects, which is seen at once; those that are equal only differ by
            # type at most.
            if tuple(variables.values()) != self._values:
                return False
        except Exception as error:  # as of arrays
            signals.reraise(error)
            return False
        if not all(variables[name] is value for name, value in self._atoms):
            return False
        return all(repr(variables[name]) == text for name, text in self._texts)

    def changed(self) -> dict[str, Any]:
        """Return the values that are not what an import gives, or were not once."""
        variables, source = self._variables, self._source
        self._values = tuple(variables.values())
        self._atoms = [
            (name, value)
            for name, value in variables.items()
            if isinstance(value, (int, float, complex))
        ]
        self._texts = [
            (name, repr(value))
            for name, value in variables.items()
            if isinstance(value, (list, dict, set)) and not _is_dunder(name) and is_plain(value)
        ]
        changed = {}
        for name, value in list(variables.items()):
            if (
                _is_dunder(name)
                or isinstance(value, types.ModuleType)
                or (name in source.own and not is_plain(value))
            ):
                continue
            if self._differs(name, value):
                self._ever.add(name)
            if name in self._ever:
                changed[name] = value
        return changed

    def _differs(self, name: str, value: object) -> bool:
        source = self._source
        if name in source.defined:
            return not self._is_defined_here(value, name, source.defined[name])
        if name in source.literals:
            literal = source.literals[name]
            return value is not literal and (
                type(value) is not type(literal) or repr(value) != repr(literal)
            )
        if name in source.taken:
            given = self._given_by_import(*source.taken[name])
            if given is not _UNKNOWN:
                return value is not given and _mark(value) != _mark(given)
        if name in source.bound:
            return name in self._first and _mark(value) != self._first[name]
        # It is none of the source's. What an earlier source has defined stays after a reload, and
        # nobody has set it.
        is_left = isinstance(value, (type, types.FunctionType)) and value.__module__ == self._name
        return not (source.is_open or is_left)

    def _given_by_import(self, level: int, module: str, name: str) -> object:
        """Return what the module that a name is imported from has under it now."""
        package = self._variables.get("__package__") or ""
        origin = sys.modules.get(_resolved(module, level, package) or "")
        return _UNKNOWN if origin is None else vars(origin).get(name, _UNKNOWN)

    def _is_defined_here(self, value: object, name: str, kind: type) -> bool:
        if not isinstance(value, kind):
            return False
        place = (value.__module__, value.__qualname__)  # type: ignore[attr-defined]
        if place != (self._name, name):
            return False
        return not isinstance(value, types.FunctionType) or value.__code__.co_filename == self._file


_UNKNOWN = object()


def _is_dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def _mark(value: object) -> object:
    return repr(value) if is_plain(value) else id(value)


def is_plain(value: Any) -> bool:
    """Return whether a value is plain data, and not much of it."""
    left, count = [value], 0
    while left:
        value = left.pop()
        count += 1
        kind = type(value)
        if kind in (list, tuple, set, frozenset, dict):
            if count + len(left) + len(value) > PARTS_MAX:
                return False
            left += [*value.keys(), *value.values()] if kind is dict else value
        elif kind not in _ATOMS:
            return False
    return True


class _Source:
    """The statements of a module's source about its variables."""

    def __init__(self) -> None:
        # Set once, to a literal; defined once, without decorators.
        self.literals: dict[str, object] = {}
        self.defined: dict[str, type] = {}
        # Imported once from another module, by that module and the name there.
        self.taken: dict[str, tuple[int, str, str]] = {}
        # All names that it sets; those that functions set or that it changes in place; whether
        # there may be others.
        self.bound: set[str] = set()
        self.own: set[str] = set()
        self.is_open = False
        self.imports: list[_Import] = []

    def look_at(self, node: ast.AST) -> None:
        """Note what one part of the source says, wherever it stands."""
        kind = type(node)
        if kind is ast.Name:
            self.is_open |= node.id in _INDIRECT  # type: ignore[attr-defined]
        elif kind is ast.Global:
            self.own.update(node.names)  # type: ignore[attr-defined]
        elif kind is ast.Import:
            aliases = node.names  # type: ignore[attr-defined]
            self.imports += [(0, alias.name, ()) for alias in aliases]
        elif isinstance(node, ast.ImportFrom):
            parts = tuple(alias.name for alias in node.names)
            self.is_open |= "*" in parts
            self.imports.append((node.level, node.module or "", parts))
        elif isinstance(node, ast.Call):
            self._look_at_call(node)
        elif kind is ast.AugAssign:
            self._note_changed(node.target)  # type: ignore[attr-defined]
        elif isinstance(node, (ast.Subscript, ast.Attribute)) and type(node.ctx) is not ast.Load:
            self._note_changed(node.value)

    def _look_at_call(self, node: ast.Call) -> None:
        function = node.func
        called = (
            function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        )
        if isinstance(function, ast.Attribute) and called in _MUTATORS:
            self._note_changed(function.value)
        if (
            called in ("import_module", "__import__")
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            self.imports.append((0, str(node.args[0].value).lstrip("."), ()))

    def _note_changed(self, part: ast.expr) -> None:
        while isinstance(part, (ast.Subscript, ast.Attribute)):
            part = part.value
        if isinstance(part, ast.Name):
            self.own.add(part.id)


@functools.lru_cache(maxsize=1024)
def _source_of(text: bytes) -> _Source:
    source = _Source()
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        source.is_open = True
        return source
    stores: dict[str, int] = {}
    for name in _bound_by(tree):
        stores[name] = stores.get(name, 0) + 1
    _walk(tree, source.look_at)
    source.bound = stores.keys() | source.own
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            if stores[node.name] == 1 and not node.decorator_list:
                source.defined[node.name] = (
                    type if isinstance(node, ast.ClassDef) else types.FunctionType
                )
            continue
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if stores.get(alias.asname or alias.name) == 1:
                    source.taken[alias.asname or alias.name] = (
                        node.level,
                        node.module or "",
                        alias.name,
                    )
            continue
        target, expression = _assignment(node)
        if target is not None and stores[target] == 1 and _is_literal(expression):
            try:
                literal = ast.Expression(expression)  # type: ignore[arg-type]
                source.literals[target] = eval(compile(literal, "<literal>", "eval"), {})
            except Exception as error:  # as of 1 / 0, but then the import has failed
                signals.reraise(error)
    return source


def _assignment(node: ast.stmt) -> tuple[str | None, ast.expr | None]:
    """Return the name and the value of a plain assignment."""
    if (
        isinstance(node, ast.Assign)
        and len(node.targets) == 1
        and isinstance(node.targets[0], ast.Name)
    ):
        return node.targets[0].id, node.value
    if (
        isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and node.value is not None
    ):
        return node.target.id, node.value
    return None, None


def _is_literal(expression: ast.expr | None) -> bool:
    parts = list(ast.walk(expression)) if expression is not None else []
    return 0 < len(parts) <= PARTS_MAX and all(isinstance(part, _LITERAL) for part in parts)


def _bound_by(node: ast.AST) -> Iterator[str]:
    """Return the names that code at the top of a module sets, as often as it does."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Name) and not isinstance(child.ctx, ast.Load):
            yield child.id
        elif isinstance(child, (ast.Import, ast.ImportFrom)):
            yield from ((alias.asname or alias.name).partition(".")[0] for alias in child.names)
        elif isinstance(child, _NAMING):
            if child.name:
                yield child.name
        elif type(child).__name__ in ("MatchAs", "MatchStar") and isinstance(
            getattr(child, "name", None), str
        ):
            yield child.name  # type: ignore[attr-defined]
        if not isinstance(child, _SCOPES):
            yield from _bound_by(child)


def _walk(node: ast.AST, look_at: Callable[[ast.AST], None]) -> None:
    """Visit all parts of a tree that can matter; much faster than `ast.walk`.

    Trees share nodes such as `ast.Store`, and other libraries give them attributes that lead back: to `executing`, with
    which IPython shows tracebacks, each has a `parent`. Only the fields are parts.
    """
    left: list[Any] = [node]
    while left:
        node = left.pop()
        look_at(node)
        for field in node._fields:
            value: Any = getattr(node, field, None)
            kind = type(value)
            if kind is list:
                left += [each for each in value if isinstance(each, ast.AST)]
            elif kind not in _LEAVES and isinstance(value, ast.AST):
                left.append(value)
