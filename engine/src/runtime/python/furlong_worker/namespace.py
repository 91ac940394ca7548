"""The lasting namespace, as which the module `__main__` lives, and what can be done to it by name."""

from __future__ import annotations

import builtins
import os
import sys
import types
from typing import Any, Sequence


class Namespace:
    """The variables that executed code sees.

    Some are ours: `engine_id`, `rank` where the process has one, `publish`, later what IPython adds.
    """

    def __init__(self) -> None:
        module = types.ModuleType("__main__")
        self.module = module
        self.variables: dict[str, Any] = module.__dict__
        self._seeded: dict[str, Any] = {}
        self.seed("__builtins__", builtins)
        self.seed("engine_id", None)
        rank = find_rank()
        if rank is not None:
            self.seed("rank", rank)
        for name, value in self.variables.items():
            self._seeded.setdefault(name, value)
        sys.modules["__main__"] = module

    def seed(self, name: str, value: Any) -> None:
        """Set a variable that is not the user's."""
        self._seeded[name] = self.variables[name] = value

    def adopt(self, earlier: dict[str, Any]) -> None:
        """Take what was added since for ours, and give the user's variables of before their values back."""
        for name, value in list(self.variables.items()):
            if name not in earlier:
                self._seeded[name] = value
            elif earlier[name] is not value:
                self._seeded[name] = value
                self.variables[name] = earlier[name]

    def push(self, variables: dict[str, Any]) -> None:
        """Set variables; a name with dots sets an attribute of an object that exists."""
        if not isinstance(variables, dict):
            raise TypeError("a push takes one dictionary, of names and values")
        for name in variables:
            if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
                raise ValueError(f"{name!r} is no name for a variable")
        for name, value in variables.items():
            owner, dot, attribute = name.rpartition(".")
            if dot:
                setattr(eval(owner, self.variables), attribute, value)
            else:
                self.variables[name] = value

    def pull(self, expressions: Sequence[str]) -> list[Any]:
        """Evaluate expressions."""
        return [eval(compile(text, "<pull>", "eval", dont_inherit=True), self.variables) for text in expressions]

    def keys(self) -> list[str]:
        """Tell the names that a user has made, sorted."""
        return sorted(
            name
            for name, value in self.variables.items()
            if not name.startswith("_") and not self._is_ours(name, value)
        )

    def clear(self) -> None:
        """Forget everything but what is ours."""
        self.variables.clear()
        self.variables.update(self._seeded)

    def _is_ours(self, name: str, value: Any) -> bool:
        return name in self._seeded and self._seeded[name] is value


def find_rank() -> int | None:
    """Tell which rank of how many the process has in the job of MPI or Slurm that started it."""
    names = ["OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"]
    tasks = os.environ.get("SLURM_NTASKS", "")
    if tasks.isdecimal() and int(tasks) > 1:
        names.append("SLURM_PROCID")
    ranks = (os.environ.get(name, "") for name in names)
    return next((int(rank) for rank in ranks if rank.isdecimal()), None)
