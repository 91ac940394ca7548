"""Modules of the user's own: engines run the source that the client has, under the module's own name."""

from __future__ import annotations

import collections
import importlib.machinery
import importlib.util
import io
import linecache
import os
import pickle
import sys
import types
import zlib
from typing import Any, NamedTuple, Sequence

# Loaded libraries; `known.rs` keeps the same list, to know which need not be sent again.
LIBRARIES_MAX = 64
# The beginning of a library; what begins otherwise is the text of cloudpickle alone.
MAGIC = b"furlong library 1\n"
# What follows the pickle of a function that needs a library: settings, this, the library's id, the
# length of the settings, and a line's end.
MARK = b"\nlibrary "
ID_BYTES = 16
LENGTH_BYTES = 4


class Source(NamedTuple):
    """A module as the client has it."""

    name: str
    # Tells it from the same module with another source, or with another source of a module that it
    # imports.
    version: bytes
    file: str
    # Folders of submodules, where it is a package.
    folders: tuple[str, ...] | None
    # None for a namespace package.
    text: bytes | None


class Library:
    """The modules that a client has sent with a function."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = {source.name: source for source in sources}


class Libraries:
    """The libraries that clients have sent along with functions, the latest last.

    The engine keeps the same list in the order of sending, so it is updated in the order of arrival.
    """

    def __init__(self) -> None:
        self._kept: collections.deque[tuple[bytes, Library]] = collections.deque()

    def take(self, text: bytes) -> bytes:
        """Keep a new one, and give the text of cloudpickle that is in it."""
        if not text.startswith(MAGIC):
            digest, support, library = b"", text, Library(())
        else:
            begin = len(MAGIC)
            digest = text[begin : begin + ID_BYTES]
            support, sources = pickle.loads(zlib.decompress(text[begin + ID_BYTES :]))
            library = Library([Source(*source) for source in sources])
        if len(self._kept) == LIBRARIES_MAX:
            self._kept.popleft()
            _Bound.forget([kept for _, kept in self._kept])
        self._kept.append((digest, library))
        return support

    def find(self, blob: bytes) -> Equipment | None:
        """Find the one that the pickle of a function names."""
        end = len(blob) - 1 - LENGTH_BYTES
        begin = end - ID_BYTES
        at = begin - len(MARK)
        # A pickle ends with a full stop.
        if blob[-1:] != b"\n" or blob[at:begin] != MARK:
            return None
        settings = blob[at - int.from_bytes(blob[end:-1], "little") : at]
        library = next((library for known, library in self._kept if known == blob[begin:end]), None)
        return None if library is None else Equipment(library, settings)


class Equipment(NamedTuple):
    """The needs of a function besides its pickle: modules, and the variables that its client has set in them."""

    library: Library
    settings: bytes


class _Bound:
    """The library that imports look into, and the modules that were made of sources."""

    library: Library | None = None
    given = b""
    # The variables that the client has set, by modules.
    set_now: dict[str, bytes] = {}  # noqa: RUF012
    # One for the process.
    modules: dict[tuple[str, bytes], types.ModuleType] = {}  # noqa: RUF012
    # Modules of the same names that the engine had found by itself.
    aside: dict[str, types.ModuleType] = {}  # noqa: RUF012
    # The settings that each module has been given, and what those variables were before.
    settings: dict[tuple[str, bytes], tuple[bytes, dict[str, Any]]] = {}  # noqa: RUF012

    @classmethod
    def forget(cls, kept: Sequence[Library]) -> None:
        """Let go of modules that no library has any more."""
        libraries = [*kept, cls.library] if cls.library is not None else kept
        used = {
            (source.name, source.version)
            for library in libraries
            for source in library.sources.values()
        }
        for key in [key for key in cls.modules if key not in used]:
            del cls.modules[key]
            cls.settings.pop(key, None)


def use(equipment: Equipment) -> None:
    """Let the modules' names mean what they mean to the client whose library this is, from now on."""
    library, settings = equipment
    previous = _Bound.library
    if previous is library and _Bound.given == settings:
        return
    _Bound.given, _Bound.set_now = settings, pickle.loads(settings) if settings else {}
    _adopt(library)
    _Bound.library = library
    for name in previous.sources if previous is not None else ():
        if name not in library.sources:
            _put(name, _Bound.aside.pop(name, None))
    for name, source in library.sources.items():
        module = _Bound.modules.get((name, source.version))
        here = sys.modules.get(name)
        if here is not module:
            if here is not None and not is_of_library(here):
                _Bound.aside[name] = here
            _put(name, module)
        if module is not None:
            _set(module, source)


def globals_read(code: types.CodeType) -> set[str]:
    """Find the global names that code reads and does not set."""
    import dis  # it is needed for modules of users alone

    read, written = set(), set()
    left = [code]
    while left:
        code = left.pop()
        left += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
        for step in dis.get_instructions(code):
            if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                read.add(step.argval)
            elif step.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
                written.add(step.argval)
    return read - written


def _adopt(library: Library) -> None:
    """Take modules that the engine has imported by itself for the library's, where all have the same sources."""
    found: list[tuple[Source, types.ModuleType]] = []
    for name, source in library.sources.items():
        here = sys.modules.get(name)
        if here is None or is_of_library(here) or (name, source.version) in _Bound.modules:
            continue
        if source.text is not None:
            digest = getattr(getattr(here, "__loader__", None), "furlong_digest", None)
            if digest != _digest(source.text):
                return
        found.append((source, here))
    for source, here in found:
        _Bound.modules[source.name, source.version] = here


def is_of_library(module: types.ModuleType) -> bool:
    """Return whether a module was made of a client's source."""
    return any(module is made for made in _Bound.modules.values())


def _put(name: str, module: types.ModuleType | None) -> None:
    """Have a name mean this module, also as an attribute of its package."""
    package, _, last = name.rpartition(".")
    parent = sys.modules.get(package) if package else None
    if module is None:
        sys.modules.pop(name, None)
        if parent is not None:
            vars(parent).pop(last, None)
        return
    sys.modules[name] = module
    if parent is not None:
        setattr(parent, last, module)


def _set(module: types.ModuleType, source: Source) -> None:
    """Set what the client has set since its import, unless it was done before, and undo what another one has set."""
    key = source.name, source.version
    given, before = _Bound.settings.get(key, (b"", {}))
    settings = _Bound.set_now.get(source.name, b"")
    if settings == given:
        return
    variables = vars(module)
    for name, value in before.items():
        if value is _MISSING:
            variables.pop(name, None)
        else:
            variables[name] = value
    new = pickle.loads(settings) if settings else {}
    _Bound.settings[key] = settings, {name: variables.get(name, _MISSING) for name in new}
    variables.update(new)


_MISSING = object()


class _NamespaceLoader:
    """Makes a package that has no source of its own."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def create_module(self, _spec: importlib.machinery.ModuleSpec) -> None:
        """Leave it to Python to make the module."""

    def exec_module(self, module: types.ModuleType) -> None:
        """Note it as its client's."""
        _note(module, self._source)


class _Loader(importlib.machinery.SourceFileLoader):
    """Runs a source as it was sent: neither the file of its name nor what was compiled of it earlier."""

    def __init__(self, source: Source, file: str) -> None:
        super().__init__(source.name, file)
        self._source = source

    def path_stats(self, path: Any) -> Any:
        """Refuse: there is no file that a compiled one could be of."""
        raise OSError(path)

    def get_data(self, path: Any) -> bytes:
        """Return the source, or another file beside it."""
        text = self._source.text
        return text if path == self.path and text is not None else super().get_data(path)

    def exec_module(self, module: types.ModuleType) -> None:
        """Run it as its client's module, and show its lines in tracebacks."""
        source = self._source
        text = importlib.util.decode_source(source.text or b"")
        linecache.cache[self.path] = (len(text), None, text.splitlines(True), self.path)
        _note(module, source)
        _let_processes_find(source, self.path)
        try:
            super().exec_module(module)
        except BaseException:
            _Bound.modules.pop((source.name, source.version), None)
            raise
        _set(module, source)


def _let_processes_find(source: Source, file: str) -> None:
    """Have processes that start with this one's path find a module of this machine, where nothing goes before it."""
    if "." in source.name or not _has(file, source.text or b""):
        return
    folder, _ = os.path.split(file)
    root = folder if source.folders is None else os.path.split(folder)[0]
    if root not in sys.path:
        sys.path.append(root)


def _note(module: types.ModuleType, source: Source) -> None:
    """Note a module that is about to run, and have it hold those of its submodules that are there already."""
    _Bound.modules[source.name, source.version] = module
    _Bound.settings.pop((source.name, source.version), None)
    for name, child in list(sys.modules.items()):
        package, _, last = name.rpartition(".")
        if package == source.name:
            setattr(module, last, child)


class _FileLoader(importlib.machinery.SourceFileLoader):
    """Runs a file of this machine as Python does, and notes what was in it."""

    furlong_digest = b""

    def exec_module(self, module: types.ModuleType) -> None:
        """Run it."""
        self.furlong_digest = _digest(self.get_data(self.path))
        super().exec_module(module)


class _Finder:
    """Finds modules in the library, then as Python does."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> Any:
        """Find one."""
        found = importlib.machinery.PathFinder.find_spec(name, path, target)
        source = _Bound.library.sources.get(name) if _Bound.library is not None else None
        if source is not None:
            return _spec(source, found)
        if found is not None and type(found.loader) is importlib.machinery.SourceFileLoader:
            origin = found.origin or ""
            if not (
                origin.startswith(_INSTALLED)
                or "site-packages/" in origin
                or "dist-packages/" in origin
            ):
                found.loader = _FileLoader(name, origin)
        return found

    @staticmethod
    def invalidate_caches() -> None:
        """Have nothing to forget."""


def _spec(source: Source, found: Any) -> Any:
    folders = [*(source.folders or ())]
    folders += [
        folder
        for folder in (found and found.submodule_search_locations) or ()
        if folder not in folders
    ]
    if source.text is None:
        loader: Any = _NamespaceLoader(source)
        spec = importlib.machinery.ModuleSpec(source.name, loader, is_package=True)
        spec.submodule_search_locations = folders
        return spec
    file = source.file
    if (
        found is not None
        and found.origin != file
        and _has(found.origin, source.text)
        and not _has(file, source.text)
    ):
        file = found.origin
        if source.folders is not None:
            folders.insert(0, os.path.split(file)[0])
    return importlib.util.spec_from_file_location(
        source.name,
        file,
        loader=_Loader(source, file),
        submodule_search_locations=None if source.folders is None else folders,
    )


def _has(file: str | None, text: bytes) -> bool:
    try:
        with io.FileIO(file or "") as opened:
            return opened.readall() == text
    except OSError:
        return False


def _digest(text: bytes) -> bytes:
    import hashlib

    return hashlib.sha256(text).digest()


_INSTALLED = os.path.split(os.__file__)[0] + os.sep


def install() -> None:
    """Let imports look into libraries."""
    finders: list[Any] = sys.meta_path
    at = (
        finders.index(importlib.machinery.PathFinder)
        if importlib.machinery.PathFinder in finders
        else len(finders)
    )
    finders.insert(at, _Finder)
