"""Modules of the user's own: engines import them by their names, and get the sources that they have here.

What the picklers meet of such a module is named, and the module is noted by `need`. What was noted, with all modules of
the user's own that their sources import, is a `Library`. It goes along with functions, once a session.
"""

from __future__ import annotations

import importlib.machinery
import pickle
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from furlong import _furlong
from furlong.modules.cloudpickle_text import cloudpickle_source, compressed, read_file
from furlong.modules.installed import is_installed, ships
from furlong.shared.definitions import find_here
from furlong.waiting import signals

# As `furlong_worker/modules.py` reads them.
MAGIC = b"furlong library 1\n"
MARK = b"\nlibrary "
ID_BYTES = 16
# Functions whose form with the library is kept.
EQUIPPED_MAX = 256


def is_own_source(module: types.ModuleType) -> bool:
    """Return whether a module is the user's own, and in Python, so that engines can run its source."""
    file = getattr(module, "__file__", None)
    name = module.__name__
    return name != "__main__" and file is not None and file.endswith(".py") and ships(name)


def names(obj: object) -> str | None:
    """Return the module of the user's own which engines can import to have an object by its name."""
    name = getattr(obj, "__module__", None)
    module = sys.modules.get(name) if isinstance(name, str) else None
    if not isinstance(name, str) or module is None or not is_own_source(module):
        return None
    qualname = getattr(obj, "__qualname__", None) or getattr(obj, "__name__", None)
    return name if find_here(name, str(qualname)) is obj else None


def is_binary(obj: object) -> bool:
    """Return whether an object is of a module that is the user's own and not in Python, and that has it by its name."""
    module = sys.modules.get(getattr(obj, "__module__", None) or "")
    file = getattr(module, "__file__", None)
    if file is None or file.endswith(".py") or module is sys.modules.get("__main__"):
        return False
    return find_here(obj.__module__, getattr(obj, "__qualname__", "")) is obj


def uses_variables(function: types.FunctionType, used: set[str]) -> bool:
    """Return whether a function needs its module: something of it that is not just an import from elsewhere."""
    scope = function.__globals__
    from furlong.modules.module_variables import writes_globals

    if used & _INDIRECT or writes_globals(function.__code__):
        return True
    return any(name in scope and not _is_from_elsewhere(scope[name]) for name in used)


def _is_from_elsewhere(value: object) -> bool:
    if isinstance(value, types.ModuleType):
        return True
    place = getattr(value, "__module__", None) if callable(value) else None
    return isinstance(place, str) and not ships(place)


_INDIRECT = frozenset(("globals", "eval", "exec", "vars"))


class ModuleName(str):
    """The name of a module of the user's own: its pickle has the module go along."""

    __slots__ = ()

    def __reduce__(self) -> tuple[object, ...]:
        return str, (str(self),)


def named(name: str) -> str:
    """Return the name of a module for a pickle that is to bring the module along, if it is the user's own."""
    return name if _find(name) is None else ModuleName(name)


class Module:
    """A module of the user's own, as it is here."""

    def __init__(
        self, name: str, module: types.ModuleType | None, file: str | None, folders: Any
    ) -> None:
        from furlong.modules.module_variables import ModuleVariables, names_imported

        self.name = name
        self.file = file or ""
        self.folders = None if folders is None else tuple(map(str, folders))
        self.text = None if file is None else _text_of(file, module)
        self.digest = _digest(self.text or b"")
        self._module = module
        self._spec = getattr(module, "__spec__", None)
        package = name if folders is not None else name.rpartition(".")[0]
        self.imports = names_imported(self.text, package) if self.text else ()
        self.variables = (
            ModuleVariables(module, self.text) if module is not None and self.text else None
        )
        # What was set in it, as engines get it.
        self._dumped = b""

    @property
    def loaded(self) -> tuple[str, types.ModuleType, Any] | None:
        """The state in which it is current, if it is imported here."""
        return None if self._module is None else (self.name, self._module, self._spec)

    def dumped(self, dump: Callable[[object], bytes]) -> bytes:
        """Return what was set in it since its import, as engines get it; every library that has the module needs it."""
        if self.variables is not None and not self.variables.are_unchanged():
            changed = self.variables.changed()
            self._dumped = _dump_variables(self.name, changed, dump) if changed else b""
        return self._dumped

    def is_current(self) -> bool:
        """Return whether nothing has imported it anew."""
        module = sys.modules.get(self.name)
        return (
            module is self._module
            and getattr(module, "__spec__", None) is self._spec
            and self._is_unchanged()
        )

    def _is_unchanged(self) -> bool:
        # What is imported here stays as it is until it is reloaded; other files are read again by
        # whoever imports them.
        return self._module is not None or self.text is None or read_file(self.file) == self.text


def _text_of(file: str, module: types.ModuleType | None) -> bytes:
    try:
        text = read_file(file)
    except OSError:  # it may be in an archive
        source = getattr(getattr(module, "__loader__", None), "get_source", lambda _: None)(
            getattr(module, "__name__", "")
        )
        if source is None:
            raise
        return bytes(source.encode("utf-8"))
    if module is not None and type(module.__loader__) is importlib.machinery.SourceFileLoader:
        _check_is_as_loaded(module, file, text)
    return text


def _check_is_as_loaded(module: types.ModuleType, file: str, text: bytes) -> None:
    """Warn if a file has changed since it was imported here."""
    try:
        codes = set(_codes_in(compile(text, file, "exec", dont_inherit=True)))
    except (SyntaxError, ValueError):
        return
    known = {code.co_name for code in codes}
    for value in list(vars(module).values()):
        code = value.__code__ if isinstance(value, types.FunctionType) else None
        # What an earlier source has defined stays after a reload.
        if (
            code is not None
            and code.co_filename == file
            and code.co_name in known
            and code not in codes
        ):
            what = (
                f"{file} has changed since {module.__name__} was imported here, "
                "and engines run it as it is now"
            )
            warnings.warn(f"{what}: importlib.reload() it", RuntimeWarning, stacklevel=2)
            return


def _codes_in(code: types.CodeType) -> Iterator[types.CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield constant
            yield from _codes_in(constant)


class Library:
    """The modules that engines are to have for a call."""

    def __init__(self, modules: dict[str, Module], wanted: int) -> None:
        self.modules = modules
        self._wanted = wanted
        self._loaded = [module.loaded for module in modules.values() if module.loaded is not None]
        self._others = [module for module in modules.values() if module.loaded is None]
        self._variables: dict[str, bytes] = {}
        self._mark = b""
        self._equipped: dict[int, tuple[_furlong.Function, bytes, _furlong.Function]] = {}
        sources = [
            (name, _version(modules, module), module.file, module.folders, module.text)
            for name, module in sorted(modules.items())
        ]
        content = pickle.dumps((cloudpickle_source(), sources), 4)
        self._id = _digest(content)[:ID_BYTES]
        self._support = _furlong.Support(MAGIC + self._id + compressed(content))

    def is_current(self, wanted: int) -> bool:
        """Return whether it is what engines should have now."""
        if wanted != self._wanted:
            return False
        modules = sys.modules
        for name, module, spec in self._loaded:
            if modules.get(name) is not module or module.__spec__ is not spec:
                return False
        return all(module.is_current() for module in self._others)

    def equip(
        self, function: _furlong.Function, dump: Callable[[object], bytes]
    ) -> _furlong.Function | None:
        """Return a pickled function that comes with the library and with what was set in its modules.

        None if it is no pickled one. `dump` pickles what was set.
        """
        mark = self._marked(dump)
        known = self._equipped.get(id(function))
        if known is not None and known[0] is function and known[1] is mark:
            return known[2]
        made = function.with_support(mark, self._support)
        if made is not None:
            if len(self._equipped) >= EQUIPPED_MAX:
                self._equipped.clear()
            self._equipped[id(function)] = (function, mark, made)
        return made

    def _marked(self, dump: Callable[[object], bytes]) -> bytes:
        """Return what follows the function's pickle: variables, a mark, the library's id, the variables' length."""
        is_same = bool(self._mark)
        for name, module in self.modules.items():
            dumped = module.dumped(dump)
            if dumped is not self._variables.get(name):
                is_same = is_same and dumped == self._variables.get(name, b"")
                self._variables[name] = dumped
        if not is_same:
            given = {name: dumped for name, dumped in sorted(self._variables.items()) if dumped}
            variables = pickle.dumps(given, 4) if given else b""
            self._mark = variables + MARK + self._id + len(variables).to_bytes(4, "little") + b"\n"
        return self._mark


def _digest(data: bytes) -> bytes:
    import hashlib  # it loads a library

    return hashlib.sha256(data).digest()


def _version(modules: dict[str, Module], module: Module) -> bytes:
    """Return a digest of a module's source and of the sources of what it imports."""
    reached, left = {module.name}, [module.name]
    while left:
        for name in modules[left.pop()].imports:
            if name in modules and name not in reached:
                reached.add(name)
                left.append(name)
    return _digest(
        b"".join(name.encode() + b"\0" + modules[name].digest for name in sorted(reached))
    )[:ID_BYTES]


def _dump_variables(
    module: str, changed: dict[str, object], dump: Callable[[object], bytes]
) -> bytes:
    sent = {}
    for name, value in changed.items():
        try:
            dump(value)
        except Exception as error:
            signals.reraise(error)
            text = (
                f"{module}.{name} was changed here after the import, "
                f"and engines cannot have it: {error}"
            )
            warnings.warn(text, RuntimeWarning, stacklevel=2)
        else:
            sent[name] = value
    return dump(sent) if sent else b""


class _State:
    """The library of this process."""

    lock = threading.Lock()
    wanted: set[str] = set()
    known: dict[str, Module] = {}
    library: Library | None = None


def need(name: str) -> None:
    """Note that engines need a module."""
    _State.wanted.add(str(name))


def need_imports(code: types.CodeType, package: str) -> bool:
    """Note the modules of the user's own that a function imports when it runs; tell whether there are any."""
    from furlong.modules.module_variables import names_imported

    found = False
    for name in names_imported(code, package):
        if name not in _State.wanted and _find(name) is None:
            continue
        _State.wanted.add(name)
        found = True
    return found


def current() -> Library:
    """Return what engines are to have now."""
    library = _State.library
    if library is None or not library.is_current(len(_State.wanted)):
        with _State.lock:
            wanted = set(_State.wanted)
            library = _State.library = Library(_closure(wanted), len(wanted))
    return library


def _closure(wanted: set[str]) -> dict[str, Module]:
    """Find modules, their packages, and all modules of the user's own that they import."""
    found: dict[str, Module] = {}
    left, seen = sorted(wanted), set(wanted)
    while left:
        name = left.pop()
        module = _find(name)
        if module is None:
            continue
        found[name] = module
        more = [name.rpartition(".")[0], *module.imports]
        if module.folders is not None:
            more += [each for each in list(sys.modules) if each.startswith(f"{name}.")]
        for each in more:
            if each and each not in seen:
                seen.add(each)
                left.append(each)
    return found


def _find(name: str) -> Module | None:
    """Find a module of the user's own, be it imported here or not."""
    if name == "__main__" or (name not in sys.modules and is_installed(name, "")):
        return None
    known = _State.known.get(name)
    if known is not None and known.is_current():
        return known
    made = _make(name)
    if made is not None:
        _State.known[name] = made
    return made


def _make(name: str) -> Module | None:
    module = sys.modules.get(name)
    if module is not None:
        file, folders = getattr(module, "__file__", None), getattr(module, "__path__", None)
        if isinstance(module, types.ModuleType) and (
            is_own_source(module) or (file is None and folders is not None)
        ):
            try:
                return Module(name, module, file, folders)
            except OSError:
                return None
        return None
    parent, _, _ = name.rpartition(".")
    package = _find(parent) if parent else None
    if parent and (package is None or package.folders is None):
        return None
    try:
        spec = importlib.machinery.PathFinder.find_spec(
            name, None if package is None else list(package.folders or ())
        )
    except (ImportError, ValueError):
        return None
    if spec is None or is_installed(name, spec.origin):
        return None
    if spec.origin is None or not spec.origin.endswith(".py"):
        return None
    try:
        return Module(name, None, spec.origin, spec.submodule_search_locations)
    except OSError:
        return None
