"""The package itself: what it offers, and under which names."""

import subprocess
import sys

import pytest

import furlong


def test_each_name_is_what_it_is_whatever_was_imported_before():
    # A submodule that is called like a function would take its place in the package once it is
    # imported.
    code = """
import furlong, pkgutil, importlib, types
for module in pkgutil.iter_modules(furlong.__path__):
    if module.name != "__main__":
        try:
            importlib.import_module("furlong." + module.name)
        except ModuleNotFoundError as error:
            assert error.name in ("joblib", "optuna"), error
print([name for name in furlong.__all__ if isinstance(getattr(furlong, name), types.ModuleType)])
"""
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert said.stdout.strip() == "['errors']", said.stderr


def test_names_that_do_not_exist_are_attribute_errors():
    with pytest.raises(AttributeError, match="nothing_of_this_name"):
        furlong.nothing_of_this_name  # noqa: B018
    assert set(furlong.__all__) <= set(dir(furlong))


def test_the_module_client_has_what_ipython_kernel_had_there():
    from furlong import client, ipython_kernel

    assert set(client.__all__) == {"Client", *ipython_kernel.__all__}
    assert all(hasattr(client, name) for name in client.__all__)
    assert client.Client is furlong.Client
    with pytest.raises(AttributeError, match="nothing_of_this_name"):
        client.nothing_of_this_name  # noqa: B018


def test_importing_the_package_imports_little():
    large = {"numpy", "IPython", "cloudpickle", "asyncio"}
    code = f"import furlong, sys; print(sorted({large} & set(sys.modules)))"
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert said.stdout.strip() == "[]"


def test_a_client_is_there_without_what_only_some_calls_need():
    code = """
import sys
before = set(sys.modules)
import furlong
furlong.Client
seldom = {"base64", "datetime", "html", "json", "pathlib", "signal", "zlib", "furlong.waiting.progress"}
print(sorted(seldom & set(sys.modules) - before))
"""
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert said.stdout.strip() == "[]"


def test_code_of_engines_says_that_this_is_none():
    with pytest.raises(RuntimeError, match="no engine"):
        furlong.engine()
    with pytest.raises(RuntimeError, match="no engine"):
        furlong.publish(1)
