"""Engines, as users choose them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeGuard

from furlong import errors

__all__ = ["Chosen", "Targets", "are_ids", "resolve_targets"]

# What users may say: an id or a place, several of them, ``"all"``; None is all, or the view's own.
Targets = int | slice | Iterable[int] | str | None
# What it comes to: one id, several, or those that are online at each call.
Chosen = int | list[int] | Literal["all"]


def are_ids(targets: Targets) -> TypeGuard[int | list[int]]:
    """Return whether it is an id or a list of ids, of engines that may be gone for a while."""
    several = targets if isinstance(targets, list) else [targets]
    return all(
        isinstance(engine, int) and not isinstance(engine, bool) and engine >= 0
        for engine in several
    )


def resolve_targets(targets: Targets, ids: list[int]) -> Chosen:
    """Return ids for what a user says: an int for an int, a list for the others, ``"all"`` as it is.

    Raises
    ------
    IndexError
        For an engine that is not among `ids`, those that are online.
    NoEnginesRegistered
        If there are none at all.
    TypeError
        For what chooses no engines.
    """
    if isinstance(targets, str):
        if targets == "all":
            return "all"
        raise TypeError(f"targets are ids of engines, or 'all', not {targets!r}")
    if targets is None:
        return "all"
    if isinstance(targets, bool):
        raise TypeError("targets are ids of engines, not bool")
    if isinstance(targets, int):
        if targets < 0:
            if not ids:
                raise errors.no_engines(ids)
            if -targets > len(ids):
                raise IndexError(f"there are {len(ids)} engines; none is at {targets}")
            targets = ids[targets]
        if targets not in ids:
            raise IndexError(f"no engine {targets}; there are {ids}")
        return targets
    if isinstance(targets, slice):
        if not ids:
            raise errors.no_engines(ids)
        return ids[targets]
    if not isinstance(targets, Iterable):
        raise TypeError(f"targets are ids of engines, or 'all', not {targets!r}")
    chosen = list(targets)
    for engine in chosen:
        if not isinstance(engine, int) or isinstance(engine, bool):
            raise TypeError(f"targets are ids of engines, not {type(engine).__name__}")
    missing = [engine for engine in chosen if engine not in ids]
    if missing:
        raise IndexError(f"no engines {missing}; there are {ids}")
    return chosen
