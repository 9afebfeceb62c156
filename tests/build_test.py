# SPDX-License-Identifier: Apache-2.0
"""BUILD covers every file once, and Bazel reads it as we do."""

import os
import platform
import re
import subprocess
import sys

import pytest

from tests import build_targets

CI_BAZEL = build_targets.ROOT / ".ci" / "bazel"
UNAVAILABLE = 69
SCRIPT = '\nif __name__ == "__main__":\n    pass\n'


@pytest.fixture(scope="module")
def files():
    return build_targets.read_files(build_targets.ROOT)


def find_problems(files):
    targets = build_targets.read_build(files["BUILD"], files)
    return build_targets.find_problems(targets, files)


def test_build_fits_the_files(files):
    problems = find_problems(files)
    assert not problems, "\n".join(["", *problems])


def test_installed_commands_are_targets(files):
    commands = re.findall(r'"(tf-privacy-\w+) = ', files["setup.py"])
    targets = build_targets.read_build(files["BUILD"], files)
    names = {target.name for target in targets if target.kind == "py_binary"}
    assert len(commands) >= 6
    assert {command.replace("-", "_") for command in commands} <= names


def test_new_files_are_covered(files):
    new = {
        "benchmarks/new/module.py": "",
        "tests/new/module.py": "",
        "tests/new/module_test.py": "from tests.new import module\n",
        "tf_privacy/new/backend/new/jax.py": "",
        "tutorials/new_script.py": f"import checks\n{SCRIPT}",
    }
    files = {**files, **new}
    assert find_problems(files) == []
    targets = build_targets.read_build(files["BUILD"], files)
    assert {"new_script", "tests_new_module_test"} <= {t.name for t in targets}


@pytest.mark.parametrize(
    "path, text, problem",
    [
        ("tf_privacy/cli/new.py", SCRIPT, "a script, so one py_binary must"),
        ("benchmarks/new.py", SCRIPT, "a script, so one py_binary must"),
        ("tutorials/new.py", "", "no script, so no py_binary may run it"),
        ("tutorials/new/script.py", SCRIPT, "no target has it in srcs"),
        ("tf_privacy/noise/BUILD", "", "it hides tf_privacy/noise from"),
        ("tf_privacy/noise/new.py", "import checks\n", "imports checks: not"),
        (
            "tests/noise/new_test.py",
            "from tests.noise import gaussian_test\n",
            "imports tests.noise.gaussian_test: not in deps",
        ),
    ],
)
def test_file_that_build_does_not_fit_is_found(files, path, text, problem):
    found = find_problems({**files, path: text})
    assert any(path in line and problem in line for line in found), found


@pytest.mark.parametrize(
    "old, new, problem",
    [
        ("tf_privacy/**/*.py", "tf_privacy/*.py", "no target has it in srcs"),
        ('        "plan",\n', "", "tf_privacy/cli/plan.py: a script"),
        ('        "growth",\n', "", "benchmarks/growth.py: a script"),
        ('"setup.py"', '"setup.cfg"', "testing: there is no file setup.cfg"),
        ('[":benchmarks"]', '[":benchmark"]', "there is no target benchmark"),
        ('name = "testing"', 'name = "quickstart"', "quickstart: two targets"),
        ("main = script,", 'main = "setup.py",', "setup.py must be in srcs"),
        (' + ["tests/tutorials_test.py"]', "", "imports tests.tutorials_test"),
        ('":tutorial_data",\n        ],', "],", "imports checks: not in deps"),
        ("args = [test]", 'args = ["tests"]', "0 py_test rules run it"),
        ("tests/run_pytest.py", "tests/models.py", "main must be tests/run_"),
        ("tests/**/*_test.py", "tests/*_test.py", "0 py_test rules run it"),
    ],
)
def test_mistake_in_build_is_found(files, old, new, problem):
    assert old in files["BUILD"]
    found = find_problems({**files, "BUILD": files["BUILD"].replace(old, new)})
    assert any(problem in line for line in found), found


@pytest.mark.parametrize(
    "call, expected",
    [
        ('["*.py"]', ["a.py"]),
        ('["b/*.py"]', ["b/c.py"]),
        ('["**/*.py"]', ["a.py", "b/c.py", "b/d/e.py"]),
        ('["b/**/*.py"]', ["b/c.py", "b/d/e.py"]),
        ('["**/*.py"], exclude = ["b/c.py"]', ["a.py", "b/d/e.py"]),
        ('[".ci/*"]', [".ci/run"]),
    ],
)
def test_glob(call, expected):
    paths = [".ci/run", ".x.py", "a.py", "a_py", "b/c.py", "b/d/e.py"]
    text = f'py_library(name = "all", srcs = glob({call}))'
    (target,) = build_targets.read_build(text, dict.fromkeys(paths, ""))
    assert target.srcs == tuple(expected)


@pytest.mark.parametrize("call", ['["b*"]', '["a*"], exclude = ["b.py"]'])
def test_glob_that_fits_no_file(call):
    text = f'py_library(name = "all", srcs = glob({call}))'
    with pytest.raises(ValueError, match="^BUILD: 'b.* fits no file"):
        build_targets.read_build(text, {"a.py": ""})


def test_answer_of_bazel_is_read_as_the_file_is():
    answer = """# a/BUILD:1:1
py_test(
  name = "x_test",
  generator_function = "py_test",
  deps = ["//:z", "//:y"],
  main = "//:a/x.py",
  args = ["a/x.py"],
  srcs = ["//:a/x.py"],
)
"""
    text = """load("@rules_python//python:defs.bzl", "py_test")
py_test(
    name = "x_test",
    srcs = glob(["a/*.py"]),
    args = ["a/x.py"],
    main = "a/x.py",
    deps = [":y", ":z"],
)
"""
    files = {"a/x.py": ""}
    targets = build_targets.read_build(answer, files)
    assert targets == build_targets.read_build(text, files)
    assert [target.deps for target in targets] == [("y", "z")]


# The tools of the real thing.


def run_ci(*arguments, **settings):
    return subprocess.run(
        [sys.executable, CI_BAZEL, *arguments],
        capture_output=True,
        text=True,
        check=False,
        **settings,
    )


def test_tools_that_cannot_be_had_have_a_status_of_their_own(tmp_path):
    result = run_ci(
        "--fetch", f"--tools={tmp_path}", env={**os.environ, "PATH": ""}
    )
    assert result.returncode == UNAVAILABLE, result.stderr
    assert result.stderr.startswith("error: ")


@pytest.mark.skipif(
    (platform.system(), platform.machine()) != ("Linux", "x86_64"),
    reason="the tools are for Linux on x86-64",
)
def test_archive_that_is_not_the_known_one_is_refused(tmp_path):
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho other > other.tgz\n", "utf-8")
    npm.chmod(0o755)
    tools = tmp_path / "tools"
    result = run_ci(
        "--fetch",
        f"--tools={tools}",
        env={**os.environ, "PATH": str(tmp_path)},
    )
    assert result.returncode == 1
    assert "wrong sha512" in result.stderr
    assert list(tools.iterdir()) == []


def test_bazel_and_buildifier_agree(tmp_path):
    """Needs npm's registry and some 10 s: the one test that does."""
    for seconds, more in ((20, ["--fetch"]), (40, [])):
        result = run_ci(f"--tools={tmp_path}", f"--seconds={seconds}", *more)
        if result.returncode == UNAVAILABLE:
            pytest.skip(" ".join(result.stderr.split()[:30]))
        assert result.returncode == 0, result.stderr
    assert "buildifier: BUILD is formatted" in result.stdout
    assert "every target can be built" in result.stdout
