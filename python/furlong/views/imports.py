"""Imports here and on engines at once."""

from __future__ import annotations

import builtins
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from furlong.modules import own_modules

if TYPE_CHECKING:
    from furlong.views.direct import DirectView


@contextlib.contextmanager
def imports_on(view: DirectView, quiet: bool) -> Iterator[None]:
    """Do on engines, too, what is imported within the block by code of the caller."""
    original = builtins.__import__
    is_within = False

    def import_everywhere(
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        nonlocal is_within
        if is_within or level:
            return original(name, globals, locals, fromlist or (), level)
        is_within = True
        try:
            found = original(name, globals, locals, fromlist or (), level)
            code = f"import {name}" if not fromlist else f"from {name} import {', '.join(fromlist)}"
            if not quiet:
                if fromlist:
                    print(f"importing {', '.join(fromlist)} from {name} on engine(s)")
                else:
                    print(f"importing {name} on engine(s)")
            own = own_modules.named(name)
            if type(own) is own_modules.ModuleName:
                view.apply_sync(len, own)  # so that the engines have it
            view.execute(code, block=True)
        finally:
            is_within = False
        return found

    builtins.__import__ = import_everywhere
    try:
        yield
    finally:
        builtins.__import__ = original
