# SPDX-License-Identifier: Apache-2.0
"""Reads the targets of the BUILD file and holds them against the files.

A check takes targets, and the texts of all files by path, and yields a line for
each problem.
"""

import dataclasses
import functools
import os
import pathlib
import re

from tests import source_checks

ROOT = source_checks.ROOT
FOLDERS = (".ci", "benchmarks", "tests", "tf_privacy", "tutorials")
BUILD_NAMES = ("BUILD", "BUILD.bazel")


@dataclasses.dataclass(frozen=True, kw_only=True, order=True)
class Target:
    """A rule of Bazel, with labels as paths from the root of the tree."""

    name: str
    kind: str
    srcs: tuple[str, ...] = ()
    main: str = ""
    deps: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    args: tuple[str, ...] = ()


def read_files(root: pathlib.Path):
    """Returns the texts of the tree's files by path, without build output."""
    paths = [path for path in root.iterdir() if path.is_file()]
    for folder in FOLDERS:
        for parent, folders, names in os.walk(root / folder):
            folders[:] = [name for name in folders if name != "__pycache__"]
            paths += [pathlib.Path(parent, name) for name in names]
    return {
        path.relative_to(root).as_posix(): path.read_text("utf-8", "replace")
        for path in sorted(paths)
    }


def read_build(text, files):
    """Returns the targets of a BUILD file, or of what Bazel answers.

    Starlark is a subset of Python but for its built-in functions, so the file
    is run, with functions that note what they are given.

    Raises:
        ValueError: If a glob or an exclusion fits no file.
    """
    targets = []

    def add(kind, **attributes):
        known = {field.name for field in dataclasses.fields(Target)}
        values = {
            name: _path(value) if isinstance(value, str) else _paths(value)
            for name, value in attributes.items()
            if name in known
        }
        targets.append(Target(kind=kind, **values))

    kinds = ("py_binary", "py_library", "py_test")
    ignored = ("exports_files", "licenses", "load", "package")
    names = {
        "__builtins__": {"len": len},
        "glob": functools.partial(_glob, sorted(files)),
        **{kind: functools.partial(add, kind) for kind in kinds},
        **{name: lambda *_, **__: None for name in ignored},
    }
    exec(compile(text, "BUILD", "exec"), names)
    return sorted(targets)


def _path(label):
    return label.removeprefix("//").removeprefix(":")


def _paths(labels):
    return tuple(sorted(map(_path, labels)))


def _glob(paths, include, exclude=()):
    """Returns what Bazel's glob does: hidden files are named in full."""
    fitting = {
        pattern: {path for path in paths if _fits(path, pattern)}
        for pattern in (*include, *exclude)
    }
    for pattern, found in fitting.items():
        if not found:
            raise ValueError(f"BUILD: {pattern!r} fits no file")
    chosen = set().union(*(fitting[pattern] for pattern in include))
    return sorted(chosen.difference(*(fitting[p] for p in exclude)))


def _fits(path, pattern):
    steps = {"**/": r"(?:[^/]+/)*", "*": r"[^/]*"}
    parts = re.split(r"(\*\*/|\*)", pattern)
    expression = "".join(steps.get(part, re.escape(part)) for part in parts)
    shown = "/." in f"/{pattern}" or "/." not in f"/{path}"
    return shown and re.fullmatch(expression, path) is not None


def find_bad_labels(targets, files):
    """Finds names that are given twice, or to nothing."""
    names = [target.name for target in targets]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"{name}: two targets have this name"
    for target in targets:
        main = [target.main] if target.main else []
        for path in (*main, *target.srcs, *target.data):
            if path not in files:
                yield f"{target.name}: there is no file {path}"
        for name in set(target.deps).difference(names):
            yield f"{target.name}: there is no target {name}"
        if target.main and target.main not in target.srcs:
            yield f"{target.name}: {target.main} must be in srcs"


def find_sources_without_target(targets, files):
    """Finds modules that no target owns."""
    owned = {path for target in targets for path in target.srcs}
    for path in files:
        if path.endswith(".py") and "/" in path and path not in owned:
            yield f"{path}: no target has it in srcs"
        folder, _, name = path.rpartition("/")
        if folder and name in BUILD_NAMES:
            yield f"{path}: it hides {folder} from the globs of BUILD"


def find_scripts_without_target(targets, files):
    """Finds scripts that are no py_binary, and a py_binary that is none."""
    mains = [target.main for target in targets if target.kind == "py_binary"]
    for path, text in files.items():
        if not path.endswith(".py") or path.startswith("tests/"):
            continue
        if '\nif __name__ == "__main__":' in text:
            if mains.count(path) != 1:
                yield f"{path}: a script, so one py_binary must run it"
        elif path in mains:
            yield f"{path}: no script, so no py_binary may run it"


def find_tests_without_target(targets, files):
    """Finds tests that are not run by one py_test, which runs pytest."""
    tests = [target for target in targets if target.kind == "py_test"]
    run = [path for test in tests for path in test.args]
    for path in files:
        is_test = path.startswith("tests/") and path.endswith("_test.py")
        if run.count(path) != is_test:
            yield f"{path}: {run.count(path)} py_test rules run it"
    for test in tests:
        if test.main != "tests/run_pytest.py":
            yield f"{test.name}: main must be tests/run_pytest.py"
        if len(test.args) != 1 or test.args[0] not in test.srcs:
            yield f"{test.name}: args must be the one test in srcs"


def find_missing_dependencies(targets, files):
    """Finds imports of modules of the tree that a target does not reach."""
    by_name = {target.name: target for target in targets}
    own = _modules(files, targets)
    for target in targets:
        reached = _reach(target, by_name)
        paths = {path for each in reached for path in each.srcs}
        modules = _modules(paths, reached)
        for path in target.srcs:
            for name in _imports(path, files.get(path, "")):
                # The last part may be a name in the module.
                either = {name, name.rpartition(".")[0]}
                if either & own and not either & modules:
                    yield f"{target.name}: {path} imports {name}: not in deps"


def _reach(target, by_name):
    """Returns a target and all that it depends on."""
    reached = {target}
    for name in target.deps:
        if name in by_name:
            reached |= _reach(by_name[name], by_name)
    return reached


def _modules(paths, targets):
    """Returns the names of files from the folders that `targets` search."""
    names = set()
    for root in {root for target in targets for root in target.imports}:
        prefix = "" if root == "." else f"{root}/"
        for path in paths:
            if path.startswith(prefix) and path.endswith(".py"):
                name = path.removeprefix(prefix).removesuffix(".py")
                names.add(name.removesuffix("/__init__").replace("/", "."))
    return names


@functools.cache
def _imports(path, text):
    source = source_checks.Source(path, text)
    return [name for name, _ in source_checks.imported_modules(source)]


CHECKS = [
    find_bad_labels,
    find_sources_without_target,
    find_scripts_without_target,
    find_tests_without_target,
    find_missing_dependencies,
]


def find_problems(targets, files):
    """Returns all that is wrong, a line each."""
    return [line for check in CHECKS for line in check(targets, files)]
