"""The lasting namespace, as which the module `__main__` lives, and what can be done to it by name."""

from __future__ import annotations

import builtins
import os
import sys
import types
from typing import Any, Callable, Sequence

from furlong_worker.scopes import Globals


class Namespace:
    """The variables that executed code sees.

    Some are ours: `engine_id`, `rank` where the process has one, `publish`, later what IPython adds.
    """

    def __init__(self) -> None:
        module = types.ModuleType("__main__")
        self.module = module
        self.variables: dict[str, Any] = module.__dict__
        self._seeded: dict[str, Any] = {}
        self.globals = Globals(self.variables, self._seeded)
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
        self._seeded[name] = value
        self.globals.seed(name, value)

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
            if not isinstance(name, str) or not all(
                part.isidentifier() for part in name.split(".")
            ):
                raise ValueError(f"{name!r} is no name for a variable")
        self.globals.enter()
        for name, value in variables.items():
            owner, dot, attribute = name.rpartition(".")
            if dot:
                setattr(eval(owner, self.variables), attribute, value)
            else:
                self.set({name: value})

    def set(self, variables: dict[str, Any]) -> None:
        """Set variables as the current session's own."""
        self.variables.update(variables)
        self.globals.claim(variables)

    def pull(self, expressions: Sequence[str]) -> list[Any]:
        """Evaluate expressions."""
        self.globals.enter()
        return [self.evaluate(text, "<pull>") for text in expressions]

    def evaluate(self, expression: str, file: str) -> Any:
        """Evaluate one. A name alone is a variable, not what came along with a function."""
        for value in self.globals.own_value(expression):
            return value
        return eval(compile(expression, file, "eval", dont_inherit=True), self.variables)

    # Builtins that look at their caller: they are called for code of the namespace, which has no
    # frame here.

    def eval_here(self, source: Any, *scopes: Any) -> Any:
        """Evaluate as `eval` does, by default in the namespace."""
        self.globals.enter()
        return eval(source, *(scopes or (self.variables,)))

    def exec_here(self, source: Any, *scopes: Any, **options: Any) -> None:
        """Execute as `exec` does, by default in the namespace."""
        self.globals.enter()
        before = dict(self.variables)
        exec(source, *(scopes or (self.variables,)), **options)
        missing = object()
        self.globals.claim(
            [
                name
                for name, value in self.variables.items()
                if before.get(name, missing) is not value
            ]
        )

    def variables_here(self, *objects: Any) -> Any:
        """Return the namespace, as `globals` and `locals` do, and `vars` without an object."""
        self.globals.enter()
        return vars(*objects) if objects else dict(self.variables)

    def names_here(self, *objects: Any) -> list[str]:
        """Return the names of the namespace, or of an object, as `dir` does."""
        self.globals.enter()
        return dir(*objects) if objects else sorted(self.variables)

    def of_caller(self) -> dict[str, Callable[..., Any]]:
        """Return those builtins by their names."""
        variables = self.variables_here
        found = {"eval": self.eval_here, "exec": self.exec_here, "dir": self.names_here}
        return {**found, "globals": variables, "locals": variables, "vars": variables}

    def keys(self) -> list[str]:
        """Return the names that a user has made, sorted."""
        self.globals.enter()
        return sorted(
            name
            for name, value in self.globals.put_items()
            if not name.startswith("_") and not self._is_ours(name, value)
        )

    def clear(self) -> None:
        """Forget everything but what is ours."""
        self.globals.clear()
        self._seeded.pop(
            "_", None
        )  # the last value is the user's, but for functions that have a `_` of their own
        self.variables.clear()
        self.variables.update(self._seeded)

    def _is_ours(self, name: str, value: Any) -> bool:
        return name in self._seeded and self._seeded[name] is value


def find_rank() -> int | None:
    """Return which rank of how many the process has in the job of MPI or Slurm that started it."""
    names = ["OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"]
    tasks = os.environ.get("SLURM_NTASKS", "")
    if tasks.isdecimal() and int(tasks) > 1:
        names.append("SLURM_PROCID")
    ranks = (os.environ.get(name, "") for name in names)
    return next((int(rank) for rank in ranks if rank.isdecimal()), None)
