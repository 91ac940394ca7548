"""Functions that came as the text of a source file."""

from __future__ import annotations

import collections
import importlib.util
import linecache
import sys
import types
from typing import Any, Callable, Sequence

from furlong_worker import Buffer

# Loaded sources; `known.rs` keeps the same list, to know which need not be sent again.
SOURCES_MAX = 64
MODULE_PREFIX = "furlong_source_"


class LoadedSource:
    """A source file's text, and its module once a call needed it."""

    def __init__(self, digest: bytes, file: str, text: bytes) -> None:
        self.name = MODULE_PREFIX + digest.hex()[:32]
        self.file = file
        self.text = text
        self.module: types.ModuleType | None = None

    def load(self) -> types.ModuleType:
        """Run the file, the first time."""
        if self.module is None:
            text = importlib.util.decode_source(self.text)
            module = types.ModuleType(self.name)
            module.__file__ = self.file
            linecache.cache[self.file] = (len(text), None, text.splitlines(True), self.file)
            code = compile(self.text, self.file, "exec", dont_inherit=True)
            sys.modules[self.name] = module
            try:
                exec(code, module.__dict__)
            except BaseException:
                sys.modules.pop(self.name, None)
                raise
            self.module = module
        return self.module

    def function(self, name: str) -> Callable[..., Any]:
        """Find a function that the file defines."""
        module = self.load()
        function: Callable[..., Any] | None = module.__dict__.get(name)
        if function is None:
            defined = sorted(
                key
                for key, value in vars(module).items()
                if isinstance(value, types.FunctionType) and value.__module__ == self.name
            )
            known = ", ".join(defined) or "no function"
            raise AttributeError(f"{self.file} has no function {name!r}; it defines {known}")
        return function


class Sources:
    """The sources that the engine has sent most recently, by their hashes.

    The engine keeps the same list in the order of sending, so it is updated in the order of
    arrival, not of execution.
    """

    def __init__(self) -> None:
        self._loaded: collections.OrderedDict[bytes, LoadedSource] = collections.OrderedDict()

    def note(self, buffers: Sequence[Buffer]) -> LoadedSource:
        """Find the source of a request, or keep a new one.

        The buffers are ``[hash, file, source, function, ...]``; a known source comes empty.
        """
        digest = bytes(buffers[0])
        source = self._loaded.get(digest)
        if source is None:
            source = LoadedSource(digest, bytes(buffers[1]).decode("utf-8"), bytes(buffers[2]))
            self._loaded[digest] = source
            if len(self._loaded) > SOURCES_MAX:
                _, old = self._loaded.popitem(last=False)
                sys.modules.pop(old.name, None)
        else:
            self._loaded.move_to_end(digest)
        return source

    def forget_loaded(self) -> None:
        """Have the files run anew: what they import has changed."""
        for source in self._loaded.values():
            source.module = None
