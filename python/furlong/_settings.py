"""What the source of a module says that an import gives, and what has been set there since."""

from __future__ import annotations

import ast
import dis
import functools
import importlib.util
import types
import warnings
from collections.abc import Iterator
from typing import Any

# A literal with more parts is not looked at.
PARTS_MAX = 1000
_FOLDED = (ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop, ast.expr_context)
_LITERAL = (ast.Constant, ast.Tuple, ast.List, ast.Dict, ast.Set, *_FOLDED)
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
# Names by which code can make variables that its text does not show.
_INDIRECT = frozenset(("globals", "vars", "exec", "setattr", "locals", "__getattr__"))
_MUTATORS = frozenset(
    "add append clear difference_update discard extend insert intersection_update pop popitem remove reverse setdefault "
    "sort symmetric_difference_update update".split()
)
_ATOMS = (int, float, complex, str, bytes, bool, type(None))


@functools.lru_cache(maxsize=4096)
def names_imported(source: bytes | types.CodeType, package: str) -> tuple[str, ...]:
    """Tell which modules a source or a function may import, by their full names."""
    found: dict[str, None] = {}
    for level, name, parts in _imports_of(source):
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


def _imports_of(source: bytes | types.CodeType) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    """Give each import: its level, the module's name, and what is taken from it."""
    if isinstance(source, types.CodeType):
        yield from _imports_of_code(source)
        return
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield 0, alias.name, ()
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or "", tuple(alias.name for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield 0, node.args[0].value.lstrip("."), ()


def _imports_of_code(code: types.CodeType) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    constants: list[Any] = []
    for instruction in dis.get_instructions(code):
        if "CONST" in instruction.opname or instruction.opname == "LOAD_SMALL_INT":
            constants = [*constants[-1:], instruction.argval]
        elif instruction.opname == "IMPORT_NAME":
            level, parts = constants if len(constants) == 2 else (0, None)
            yield level if isinstance(level, int) else 0, str(instruction.argval), tuple(parts or ())
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _imports_of_code(constant)


@functools.lru_cache(maxsize=4096)
def writes_globals(code: types.CodeType) -> bool:
    """Whether a function sets or deletes global names."""
    if any(instruction.opname in ("STORE_GLOBAL", "DELETE_GLOBAL") for instruction in dis.get_instructions(code)):
        return True
    return any(isinstance(constant, types.CodeType) and writes_globals(constant) for constant in code.co_consts)


class Settings:
    """The variables of a module that others than its own code have set since it was imported.

    What a source sets once, to a literal, a function or a class, and changes nowhere, is a setting: if it is something
    else here, somebody has set it from outside, and engines are to have the same. What the module's own code changes is
    its state, and lives where that code runs.
    """

    def __init__(self, module: types.ModuleType, text: bytes) -> None:
        self._variables = vars(module)
        self._name = module.__name__
        self._file = getattr(module, "__file__", None)
        self._source = _source_of(text)
        self._ever: set[str] = set()
        # What the source does not tell is as it was at first sight.
        self._first = {
            name: value
            for name, value in self._variables.items()
            if isinstance(value, _ATOMS) and self._source.is_untold(name)
        }
        self._seen: list[tuple[str, Any]] = []
        self._texts: list[tuple[str, str]] = []
        self._count = 0
        self._note()
        self._warn_of_state()

    def are_unchanged(self) -> bool:
        """Whether all is as `changed` has told it last."""
        variables = self._variables
        if len(variables) != self._count:
            return False
        for name, value in self._seen:
            if variables.get(name, _MISSING) is not value:
                return False
        return all(repr(variables.get(name)) == text for name, text in self._texts)

    def changed(self) -> dict[str, Any]:
        """Give the values of settings that are not what the source says, or were not once."""
        self._note()
        variables = self._variables
        for name in self._source.settings.keys() & variables.keys():
            if not _is_same(variables[name], self._source.settings[name]):
                self._ever.add(name)
        for name, kind in self._source.defined.items():
            if name in variables and not self._is_defined_here(variables[name], name, kind):
                self._ever.add(name)
        for name, value in self._first.items():
            if name in variables and not _is_same(variables[name], value):
                self._ever.add(name)
        self._ever.update(name for name in variables if self._is_new(name))
        return {name: variables[name] for name in sorted(self._ever) if name in variables}

    def _is_defined_here(self, value: Any, name: str, kind: type) -> bool:
        if not isinstance(value, kind) or value.__module__ != self._name or value.__qualname__ != name:  # type: ignore[attr-defined]
            return False
        return not isinstance(value, types.FunctionType) or value.__code__.co_filename == self._file

    def _is_new(self, name: str) -> bool:
        """Whether the source has nothing of a name that is there."""
        if self._source.is_open or name in self._source.bound or (name.startswith("__") and name.endswith("__")):
            return False
        # What an earlier source has defined stays after a reload, and is nobody's setting.
        value = self._variables[name]
        is_left = isinstance(value, (type, types.FunctionType)) and value.__module__ == self._name
        return not is_left and not isinstance(value, types.ModuleType)

    def _note(self) -> None:
        variables, source = self._variables, self._source
        self._count = len(variables)
        watched = [*source.settings, *source.defined, *self._first, *self._ever]
        self._seen = [(name, variables.get(name, _MISSING)) for name in watched]
        mutable = [name for name in source.settings if isinstance(variables.get(name), (list, dict, set))]
        self._texts = [(name, repr(variables[name])) for name in mutable]

    def _warn_of_state(self) -> None:
        for name, value in self._source.state.items():
            here = self._variables.get(name, value)
            if not name.startswith("_") and isinstance(here, _ATOMS) and not _is_same(here, value):
                text = (
                    f"{self._name}.{name} was changed here by the module's own code; engines begin with {value!r}, as its "
                    "source says. Have the engines change it as well, or hand it over as an argument"
                )
                warnings.warn(text, RuntimeWarning, stacklevel=2)


_MISSING = object()


def _is_same(here: Any, value: Any) -> bool:
    return here is value or (type(here) is type(value) and repr(here) == repr(value))


class _Source:
    """What a module's source says of its variables."""

    def __init__(self) -> None:
        # Set once to a literal, and changed nowhere; the same, changed by functions of the module.
        self.settings: dict[str, Any] = {}
        self.state: dict[str, Any] = {}
        # Defined once, without decorators.
        self.defined: dict[str, type] = {}
        # All names that it sets; whether there may be others.
        self.bound: set[str] = set()
        self.own: set[str] = set()
        self.is_open = False

    def is_untold(self, name: str) -> bool:
        """Whether it sets a name to something that cannot be known without running it."""
        known = name in self.settings or name in self.state or name in self.defined or name in self.own
        return name in self.bound and not known


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
    source.bound = set(stores)
    changed = set(_changed_by(tree))
    globals_of_functions = {name for node in ast.walk(tree) if isinstance(node, ast.Global) for name in node.names}
    source.bound |= globals_of_functions
    source.own = changed | globals_of_functions
    for node in ast.walk(tree):
        is_star = isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names)
        source.is_open |= is_star or (isinstance(node, ast.Name) and node.id in _INDIRECT)
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            if stores[node.name] == 1 and not node.decorator_list and node.name not in source.own:
                source.defined[node.name] = type if isinstance(node, ast.ClassDef) else types.FunctionType
            continue
        name, expression = _assignment(node)
        if name is None or stores[name] != 1 or not _is_literal(expression):
            continue
        try:
            value = eval(compile(ast.Expression(expression), "<literal>", "eval"), {"__builtins__": {}})  # type: ignore[arg-type]
        except Exception:  # as 1 / 0 would, but then the import has failed
            continue
        if name in globals_of_functions:
            source.state[name] = value
        elif name not in changed:
            source.settings[name] = value
    return source


def _assignment(node: ast.stmt) -> tuple[str | None, ast.expr | None]:
    """Give the name and the value of a plain assignment."""
    if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id, node.value
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
        return node.target.id, node.value
    return None, None


def _is_literal(expression: ast.expr | None) -> bool:
    parts = list(ast.walk(expression)) if expression is not None else []
    return 0 < len(parts) <= PARTS_MAX and all(isinstance(part, _LITERAL) for part in parts)


def _bound_by(node: ast.AST) -> Iterator[str]:
    """Give the names that code at the top of a module sets, as often as it does."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Name) and not isinstance(child.ctx, ast.Load):
            yield child.id
        elif isinstance(child, (ast.Import, ast.ImportFrom)):
            yield from ((alias.asname or alias.name).partition(".")[0] for alias in child.names)
        elif isinstance(child, ast.ExceptHandler) and child.name:
            yield child.name
        elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield child.name
        name = getattr(child, "name", None) if type(child).__name__.startswith(("Match", "TypeAlias")) else None
        if isinstance(name, str):
            yield name
        if not isinstance(child, _SCOPES):
            yield from _bound_by(child)


def _changed_by(tree: ast.AST) -> Iterator[str]:
    """Give the names of what the module's own code changes in place: it sets parts of it, or calls its methods."""
    for node in ast.walk(tree):
        part: ast.expr | None = None
        if isinstance(node, (ast.Subscript, ast.Attribute)) and not isinstance(node.ctx, ast.Load):
            part = node.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _MUTATORS:
            part = node.func.value
        elif isinstance(node, ast.AugAssign):
            part = node.target
        while isinstance(part, (ast.Subscript, ast.Attribute)):
            part = part.value
        if isinstance(part, ast.Name):
            yield part.id
