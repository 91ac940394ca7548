"""Everything that a `__main__` can define goes to engines and comes back, with each Python of the machine."""

from __future__ import annotations

import ast
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import cloudpickle
import pytest

import furlong

PROGRAM = Path(__file__).parent / "everything_in_main.py"
#: The oldest and the newest that may be here.
VERSIONS = range(10, 16)
PROBE = "import sys; print(sys.version_info[1], sys.executable)"
SECONDS = 50


@functools.cache
def pythons() -> dict[str, str]:
    """Find an interpreter of each version."""
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep)]
    folders += sorted(Path.home().glob(".pyenv/versions/*/bin")) + sorted(
        Path.home().glob(".local/share/uv/python/*/bin")
    )
    found = {f"3.{sys.version_info[1]}": sys.executable}
    for minor in VERSIONS:
        for python in [folder / f"python3.{minor}" for folder in folders]:
            if f"3.{minor}" not in found and python.exists():
                told = subprocess.run(
                    [python, "-Ic", PROBE], capture_output=True, text=True, check=False
                ).stdout
                if told.startswith(f"{minor} "):
                    found[f"3.{minor}"] = str(python)
    return found


def entries() -> list[str]:
    """Return the names of all entries, those of newer versions as well."""
    trees = [
        ast.parse(file.read_text()) for file in (PROGRAM, PROGRAM.with_name("more_in_main.py"))
    ]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    texts = [
        node.value
        for node in nodes
        if isinstance(node, ast.Constant) and "@entry" in str(node.value)
    ]
    names = []
    for each in [*trees, *(ast.parse(text) for text in texts if sys.version_info >= (3, 12))]:
        for node in ast.walk(each):
            is_entry = isinstance(node, ast.FunctionDef) and any(
                ast.unparse(d) == "entry" for d in node.decorator_list
            )
            names += [node.name] if is_entry else []
    return names


@functools.cache
def outcome(version: str, home: str) -> dict[str, str | None]:
    """Run the program, and give what was wrong with each entry."""
    python = pythons()[version]
    packages = Path(home) / f"packages-{version}"
    packages.mkdir()
    (packages / "cloudpickle").symlink_to(Path(cloudpickle.__file__).parent)
    path = [str(Path(furlong.__file__).parent.parent), str(packages)]
    assert not any((Path(folder) / "main_trial.py").exists() for folder in path), (
        "engines have no such module"
    )
    with furlong.Cluster(n=1, python=python) as rc:
        done = subprocess.run(
            [python, PROGRAM, str(rc.cluster.capability)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    wrong: dict[str, str | None] = json.loads(done.stdout)
    return wrong


@pytest.mark.parametrize("version", pythons())
@pytest.mark.parametrize("name", entries())
def test_it_goes_there_and_comes_back(
    name: str, version: str, tmp_path_factory: pytest.TempPathFactory, session_home: Path
) -> None:
    wrong = outcome(version, str(tmp_path_factory.getbasetemp()))
    if name not in wrong:
        pytest.skip(f"Python {version} has no such thing, or a package is missing there")
    assert wrong[name] is None, wrong[name]


def test_the_program_has_the_entries_that_the_table_has(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    wrong = outcome(f"3.{sys.version_info[1]}", str(tmp_path_factory.getbasetemp()))
    assert set(wrong) <= {
        *entries(),
        "generic_class_of_the_new_syntax",
        "generic_function_of_the_new_syntax",
        "type_alias",
    }
    assert len(wrong) > 60
