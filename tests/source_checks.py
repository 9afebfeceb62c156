# SPDX-License-Identifier: Apache-2.0
"""Checks of source files against CONVENTIONS.md and DESIGN.md.

A check takes a `Source` and yields a line `path:number: what is wrong` for each
problem.
"""

import ast
import dataclasses
import importlib
import importlib.util
import io
import pathlib
import re
import sys
import tokenize
import types

ROOT = pathlib.Path(__file__).resolve().parents[1]
SPDX = "# SPDX-License-Identifier: Apache-2.0"
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 50

# DESIGN.md, section 3: what a package may import besides itself.
_BELOW_TRAINING = {"optimizers", "noise", "clipping", "sampling", "accounting"}
ARROWS = {
    "": set(),
    "_checks": set(),
    "_neighboring_relation": set(),
    "accounting": {"_checks", "_neighboring_relation"},
    "sampling": {"_checks"},
    "clipping": {"_checks", "_neighboring_relation"},
    "noise": {"_checks", "clipping", "accounting"},
    "optimizers": {"_checks", "clipping", "noise", "sampling"},
    "training": {"_checks", *_BELOW_TRAINING},
    "audit": {"_checks", "accounting"},
    "cli": {"_checks", "accounting", "audit", "training"},
}
# Packages that must work where no TensorFlow is installed.
LIGHT = {
    "",
    "_checks",
    "_neighboring_relation",
    "accounting",
    "sampling",
    "cli",
    "audit",
}
LIGHT_IMPORTS = {"numpy", "scipy", "absl", "tf_privacy"}
BACKENDS = {"tensorflow", "jax", "torch"}
# Modules whose names, not only submodules, are imported.
NAMES_FROM = {"typing", "collections.abc"}

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_DOCUMENTED = (ast.Module, ast.ClassDef, *_FUNCTIONS)


@dataclasses.dataclass(frozen=True)
class Source:
    """A file's place in the repository, and its text."""

    path: str
    text: str

    @property
    def tree(self):
        return ast.parse(self.text)

    @property
    def package(self):
        """Returns the first name below tf_privacy; empty for `__init__`."""
        name = pathlib.PurePosixPath(self.path).parts[1]
        return name.removesuffix(".py").replace("__init__", "")

    def problem(self, line, what):
        return f"{self.path}:{getattr(line, 'lineno', line)}: {what}"


def read_sources(*folders):
    paths = [p for folder in folders for p in (ROOT / folder).rglob("*.py")]
    return [
        Source(path.relative_to(ROOT).as_posix(), path.read_text("utf-8"))
        for path in sorted(paths)
    ]


def imported_modules(source):
    """Yields each imported name in full, with its statement."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node


def public_definitions(node, prefix=""):
    """Yields public classes, functions and methods with their full names."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.ClassDef, *_FUNCTIONS)):
            if not child.name.startswith("_"):
                yield prefix + child.name, child
                if isinstance(child, ast.ClassDef):
                    yield from public_definitions(child, f"{child.name}.")
        elif not isinstance(child, ast.expr):
            yield from public_definitions(child, prefix)


def outermost_functions(node):
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _FUNCTIONS):
            yield child
        else:
            yield from outermost_functions(child)


def code_lines(source):
    """Returns the numbers of lines that are not blank, comment, docstring."""
    silent = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
        if token.type not in silent:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(source.tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node):
            docstring = node.body[0]
            lines -= set(range(docstring.lineno, docstring.end_lineno + 1))
    return lines


def find_missing_licence(source):
    if source.text.split("\n", 1)[0] != SPDX:
        yield source.problem(1, f"the first line must be {SPDX!r}")


def find_long_files(source):
    count = len(source.text.splitlines())
    if count > MAX_FILE_LINES:
        yield source.problem(
            count, f"{count} lines; a file has at most {MAX_FILE_LINES}"
        )


def find_long_functions(source):
    lines = code_lines(source)
    for node in outermost_functions(source.tree):
        count = len(lines & set(range(node.lineno, node.end_lineno + 1)))
        if count > MAX_FUNCTION_LINES:
            yield source.problem(
                node,
                f"{node.name} has {count} lines of code; a function has at "
                f"most {MAX_FUNCTION_LINES}",
            )


def find_forbidden_code(source):
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Assert):
            yield source.problem(
                node, "assert vanishes under python -O; raise an error"
            )
        elif isinstance(node, ast.ExceptHandler) and node.type is None:
            yield source.problem(node, "bare except; name the exception")
        elif "RandomNormal" in (
            getattr(node, "attr", None),
            getattr(node, "id", None),
            getattr(node, "name", None),
            getattr(node, "value", None),
        ):
            yield source.problem(
                node,
                "RandomNormal repeats its draw and follows the global seed; "
                "it is never a noise source",
            )


def find_import_form(source):
    is_init = source.path.endswith("__init__.py")
    for node in ast.walk(source.tree):
        if not isinstance(node, (ast.Import, ast.ImportFrom)):
            continue
        if len(node.names) > 1:
            yield source.problem(node, "one import a line")
        if isinstance(node, ast.Import):
            continue
        if node.level:
            yield source.problem(node, "relative import; write it in full")
        elif node.names[0].name == "*":
            yield source.problem(node, "wildcard import")
        elif not is_init and node.module not in NAMES_FROM:
            for alias in node.names:
                if not is_module(node.module, alias.name):
                    yield source.problem(
                        node,
                        f"{alias.name} is not a module; import "
                        f"{node.module} and write the name after a dot",
                    )


def is_module(parent, name):
    """Returns whether `from parent import name` gives a module."""
    if parent == "__future__":
        return True
    if _is_file(*parent.split("."), name):
        return True
    module = importlib.import_module(parent)
    return isinstance(getattr(module, name, None), types.ModuleType)


def _is_file(top, *names):
    """Returns whether there is a file of a module; imports nothing.

    Frameworks that are loaded into one process can bring each other down.
    """
    spec = importlib.util.find_spec(top)
    for folder in (spec and spec.submodule_search_locations) or ():
        path = pathlib.Path(folder, *names)
        if path.is_dir() or path.with_suffix(".py").is_file():
            return True
    return False


def find_upward_imports(source):
    allowed = ARROWS.get(source.package)
    if allowed is None:
        yield source.problem(
            1,
            f"package {source.package} has no arrows in DESIGN.md, section 3; "
            "add them there and to ARROWS",
        )
        return
    for name, node in imported_modules(source):
        parts = name.split(".")
        if parts[0] != "tf_privacy":
            continue
        target = parts[1] if len(parts) > 1 else "(the top level)"
        if target not in {source.package, *allowed}:
            listed = ", ".join(sorted(allowed)) or "nothing"
            yield source.problem(
                node,
                f"{source.package or 'the top level'} may import {listed} of "
                f"tf_privacy, not {target}",
            )


def find_heavy_imports(source, allowed=frozenset()):
    in_backend = "/backend/" in source.path
    light = source.package in LIGHT and not in_backend
    for name, node in imported_modules(source):
        top = name.split(".")[0]
        if top in BACKENDS and not in_backend:
            yield source.problem(
                node, f"only modules in a backend folder may import {top}"
            )
        elif light and top not in {
            *sys.stdlib_module_names,
            *LIGHT_IMPORTS,
            *allowed,
        }:
            yield source.problem(
                node,
                f"{source.package} may import numpy, scipy, absl and the "
                f"standard library, not {top}",
            )


def find_bad_docstrings(source):
    definitions = [("module", source.tree), *public_definitions(source.tree)]
    for name, node in definitions:
        if is_setter(node):
            continue
        line = getattr(node, "lineno", 1)
        docstring = ast.get_docstring(node)
        if not docstring:
            yield source.problem(line, f"{name} has no docstring")
            continue
        first, _, rest = docstring.partition("\n")
        if not first.endswith(".") or re.search(r"[.!?] [A-Z]", first):
            yield source.problem(
                line,
                f"{name}: a docstring's first line must be one sentence and "
                f"end in a period: {first!r}",
            )
        if rest.split("\n")[0]:
            yield source.problem(
                line, f"{name}: a blank line must follow the first line"
            )


def is_setter(node):
    return any(
        isinstance(each, ast.Attribute) and each.attr in ("setter", "deleter")
        for each in getattr(node, "decorator_list", [])
    )


def find_missing_arguments(source):
    for name, node in public_definitions(source.tree):
        docstring = ast.get_docstring(node) or ""
        if isinstance(node, ast.ClassDef):
            arguments, section = class_arguments(node)
        else:
            arguments, section = argument_names(node), "Args"
        # One line may do where the signature says the rest.
        if is_setter(node) or "\n" not in docstring:
            continue
        described = described_names(docstring, section)
        for argument in arguments:
            if argument not in described:
                yield source.problem(
                    node,
                    f"{name}: {argument} is missing under {section}: in the "
                    "docstring",
                )


def class_arguments(node):
    """Returns what a class takes, and the section that must name it."""
    for child in node.body:
        if isinstance(child, _FUNCTIONS) and child.name == "__init__":
            return argument_names(child), "Args"
    if not any("dataclass" in ast.unparse(d) for d in node.decorator_list):
        return [], "Args"
    fields = [c for c in node.body if isinstance(c, ast.AnnAssign)]
    names = [c.target.id for c in fields if "ClassVar" not in ast.unparse(c)]
    return [n for n in names if not n.startswith("_")], "Attributes"


def argument_names(function):
    arguments = function.args
    every = [
        *arguments.posonlyargs,
        *arguments.args,
        *([arguments.vararg] if arguments.vararg else []),
        *arguments.kwonlyargs,
        *([arguments.kwarg] if arguments.kwarg else []),
    ]
    return [a.arg for a in every if a.arg not in ("self", "cls")]


def described_names(docstring, section):
    """Returns the names that a section of a docstring describes."""
    match = re.search(
        rf"^{section}:\n((?:[ \t].*\n|\n)*)", docstring + "\n", re.MULTILINE
    )
    if not match:
        return []
    names = []
    for line in match.group(1).splitlines():
        entry = re.match(r" {4}(\*{0,2}\w+(?:, \*{0,2}\w+)*):", line)
        if entry:
            names += [n.strip(" *") for n in entry.group(1).split(",")]
    return names


CHECKS = [
    find_long_files,
    find_long_functions,
    find_forbidden_code,
    find_import_form,
    find_upward_imports,
    find_bad_docstrings,
    find_missing_arguments,
]
