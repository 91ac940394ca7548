"""The maps that a client has begun."""

from __future__ import annotations

from typing import TYPE_CHECKING

from furlong.results.subtasks import remaining

if TYPE_CHECKING:
    from furlong.maps.feeders import Feeder

__all__ = ["OpenMaps"]


class OpenMaps:
    """The maps of a client that have not ended, whoever holds their results."""

    def __init__(self) -> None:
        self._feeders: set[Feeder] = set()

    def add(self, feeder: Feeder) -> None:
        """Take one that begins."""
        self._feeders.add(feeder)

    def discard(self, feeder: Feeder) -> None:
        """Forget one that has ended."""
        self._feeders.discard(feeder)

    def submit_rest(self, only_retained: bool = False) -> None:
        """Submit what was not submitted yet: somebody asks for all that there is to do."""
        for feeder in list(self._feeders):
            if feeder.is_retained or not only_retained:
                feeder.submit_rest()

    def give_up(self, is_abort: bool) -> None:
        """Submit nothing more."""
        for feeder in list(self._feeders):
            feeder.give_up(is_abort)

    def wait(self, deadline: float | None) -> bool:
        """Wait until all have ended; whether they have by that time of the monotonic clock."""
        return all(feeder.wait(remaining(deadline)) for feeder in list(self._feeders))
