# SPDX-License-Identifier: Apache-2.0
"""Every source file keeps to CONVENTIONS.md, and imports point down only."""

import subprocess
import sys

import pytest

import tf_privacy
from tests import source_checks


def find_all(checks, sources):
    return [p for source in sources for check in checks for p in check(source)]


@pytest.mark.parametrize("check", source_checks.CHECKS)
def test_library(check):
    problems = find_all([check], source_checks.read_sources("tf_privacy"))
    assert not problems, "\n".join(["", *problems])


def test_every_file_names_its_licence():
    sources = source_checks.read_sources(
        "tf_privacy", "tests", "tutorials", "benchmarks"
    )
    problems = find_all([source_checks.find_missing_licence], sources)
    assert not problems, "\n".join(["", *problems])


def test_imports_of_light_packages_and_backends():
    problems = []
    for source in source_checks.read_sources("tf_privacy"):
        # What speaks to Keras in the audit says so by its name.
        speaks = source.path.startswith("tf_privacy/audit/keras_")
        allowed = {"keras"} if speaks else frozenset()
        problems += source_checks.find_heavy_imports(source, allowed)
    assert not problems, "\n".join(["", *problems])


def run_python(code):
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=source_checks.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def module_names(*packages):
    for source in source_checks.read_sources("tf_privacy"):
        if source.package in packages:
            name = source.path.removesuffix(".py").replace("/", ".")
            yield name.removesuffix(".__init__")


def test_light_packages_load_no_tensorflow():
    packages = ("accounting", "audit", "cli", "sampling")
    names = ["tf_privacy", *module_names(*packages)]
    speaks = ("tf_privacy.audit.keras_", "tf_privacy.audit.backend.")
    names = [name for name in names if not name.startswith(speaks)]
    code = (
        "import importlib, sys\n"
        f"for name in {names}:\n"
        "    importlib.import_module(name)\n"
        f"    heavy = {sorted(source_checks.BACKENDS | {'keras'})}\n"
        "    loaded = [h for h in heavy if h in sys.modules]\n"
        "    if loaded: sys.exit(f'import {name} loads {loaded}')\n"
    )
    result = run_python(code)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "name", [n for names in tf_privacy._MODULES.values() for n in names]
)
def test_public_name_resolves(name):
    assert getattr(tf_privacy, name) is not None
    assert name in dir(tf_privacy)


def plant(path, *lines):
    return source_checks.Source(
        path, "\n".join([source_checks.SPDX, '"""A module."""', "", *lines, ""])
    )


def in_clipping(*lines):
    return plant("tf_privacy/clipping/planted.py", *lines)


PLANTED = [
    (
        source_checks.find_missing_licence,
        source_checks.Source("tf_privacy/x.py", "x = 1\n"),
        1,
    ),
    (source_checks.find_long_files, in_clipping(*["x = 1"] * 498), 501),
    (
        source_checks.find_long_functions,
        in_clipping("def f():", *["    x = 1"] * 50),
        4,
    ),
    (
        source_checks.find_long_functions,
        in_clipping("class C:", "    def f():", *["        x = 1"] * 50),
        5,
    ),
    (source_checks.find_forbidden_code, in_clipping("assert True"), 4),
    (
        source_checks.find_forbidden_code,
        in_clipping("try: pass", "except: pass"),
        5,
    ),
    (
        source_checks.find_forbidden_code,
        in_clipping("x = init.RandomNormal()"),
        4,
    ),
    (
        source_checks.find_forbidden_code,
        in_clipping("from k import RandomNormal"),
        4,
    ),
    (
        source_checks.find_forbidden_code,
        in_clipping("x = get('RandomNormal')"),
        4,
    ),
    (source_checks.find_import_form, in_clipping("import math, json"), 4),
    (
        source_checks.find_import_form,
        in_clipping("from scipy import stats, special"),
        4,
    ),
    (source_checks.find_import_form, in_clipping("from math import *"), 4),
    (source_checks.find_import_form, in_clipping("from . import engine"), 4),
    (source_checks.find_import_form, in_clipping("from math import sqrt"), 4),
    (source_checks.find_upward_imports, in_clipping("import tf_privacy"), 4),
    (
        source_checks.find_upward_imports,
        in_clipping("def f():", "    from tf_privacy import noise"),
        5,
    ),
    (
        source_checks.find_upward_imports,
        in_clipping("import tf_privacy.accounting.budget"),
        4,
    ),
    (source_checks.find_upward_imports, plant("tf_privacy/new/planted.py"), 1),
    (
        source_checks.find_heavy_imports,
        in_clipping("import tensorflow as tf"),
        4,
    ),
    (source_checks.find_heavy_imports, in_clipping("from jax import numpy"), 4),
    (
        source_checks.find_heavy_imports,
        plant("tf_privacy/accounting/planted.py", "import keras"),
        4,
    ),
    (
        source_checks.find_heavy_imports,
        plant("tf_privacy/cli/planted.py", "import pandas"),
        4,
    ),
    (
        source_checks.find_bad_docstrings,
        source_checks.Source("tf_privacy/x.py", source_checks.SPDX + "\n"),
        1,
    ),
    (source_checks.find_bad_docstrings, in_clipping("def f(): pass"), 4),
    (source_checks.find_bad_docstrings, in_clipping("def f(): 'No period'"), 4),
    (source_checks.find_bad_docstrings, in_clipping("def f(): 'One. Two.'"), 4),
    (
        source_checks.find_bad_docstrings,
        in_clipping("class C:", "    'A.'", "    def f(self): pass"),
        6,
    ),
    (
        source_checks.find_missing_arguments,
        in_clipping(
            "def f(a, *, b):",
            '    """Adds.',
            "",
            "    Args:",
            "        a: A number.",
            "",
            "    Returns:",
            "        b: A number.",
            '    """',
        ),
        4,
    ),
]


@pytest.mark.parametrize("check, source, line", PLANTED)
def test_planted_mistake_is_found(check, source, line):
    (problem,) = check(source)
    assert problem.startswith(f"{source.path}:{line}: ")


def test_good_code_passes():
    source = in_clipping(
        "import math",
        "from collections.abc import Sequence",
        "from typing import Any",
        "",
        "from tf_privacy import _checks",
        "",
        "",
        "def f(a: Any, b: Sequence):",
        '    """Adds; one line is enough here."""',
        "    # A comment.",
        *["    x = 1", "", "    # More."] * 48,
        "    return math.sqrt(_checks.add(a, b))",
    )
    problems = find_all(
        [*source_checks.CHECKS, source_checks.find_missing_licence], [source]
    )
    problems += source_checks.find_heavy_imports(source)
    assert not problems
