# SPDX-License-Identifier: Apache-2.0
"""tf-privacy-audit: from a file of scores to a report and an exit code."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.audit import reports
from tf_privacy.audit import report as report_lib
from tf_privacy.audit import verdict
from tf_privacy.cli import audit

CLAIM = ["--delta=1e-5", "--claimed_epsilon=3"]


@pytest.fixture
def scores(tmp_path):
    rng = np.random.default_rng(7)
    path = str(tmp_path / "scores.npz")
    np.savez(
        path,
        member_scores=rng.normal(6.0, 1.0, 2000),
        non_member_scores=rng.normal(0.0, 1.0, 2000),
    )
    return path


@pytest.fixture
def calls(monkeypatch):
    """Replaces the audit; its arguments are kept, its report can be set."""
    found = {"report": reports.make_report()}

    def audit_stub(member_scores, non_member_scores, **settings):
        found["sizes"] = member_scores.size, non_member_scores.size
        found["settings"] = settings
        return found["report"]

    monkeypatch.setattr(verdict, "audit", audit_stub)
    return found


def test_prints_the_report_and_passes_the_flags_on(scores, calls, capsys):
    arguments = ["--confidence=0.9", "--method=held_out"]
    command = ["x", f"--scores={scores}", *CLAIM, *arguments]
    assert audit.main([*command, "--membership=fair_coins"]) == 0
    assert capsys.readouterr().out == f"{calls['report']}\n"
    assert calls["sizes"] == (2000, 2000)
    assert calls["settings"] == {
        "delta": 1e-5,
        "claimed_epsilon": 3.0,
        "method": "held_out",
        "membership": "fair_coins",
        "confidence": 0.9,
    }


def test_without_a_word_on_the_coins_there_is_no_bound(scores, calls):
    assert audit.main(["x", f"--scores={scores}", "--delta=1e-5"]) == 0
    assert calls["settings"]["membership"] == "given"
    assert calls["settings"]["claimed_epsilon"] is None


def test_json_is_the_report(scores, calls, capsys):
    assert audit.main(["x", f"--scores={scores}", *CLAIM, "--json"]) == 0
    text = capsys.readouterr().out
    assert json.loads(text) == json.loads(calls["report"].to_json())
    back = report_lib.AuditReport.from_json(text)
    assert str(back) == str(calls["report"])


@pytest.mark.parametrize(
    "lower, is_bound, code",
    [(3.5, True, 1), (3.5, False, 1), (2.5, True, 0), (2.5, False, 0)],
)
def test_exit_code_follows_the_verdict_when_asked(
    scores, calls, capsys, lower, is_bound, code
):
    calls["report"] = reports.make_report(
        epsilon_lower=lower, is_bound=is_bound
    )
    command = ["x", f"--scores={scores}", *CLAIM]
    assert audit.main(command) == 0
    assert audit.main([*command, "--fail_if_rejected"]) == code
    assert capsys.readouterr().out == 2 * f"{calls['report']}\n"


def test_a_check_that_cannot_fail_is_an_error(scores, calls, capsys):
    calls["report"] = reports.make_bare_report()
    command = ["x", f"--scores={scores}", "--delta=1e-5"]
    assert audit.main(command) == 0
    command.append("--fail_if_rejected")
    assert audit.main(command) == 2
    assert "claimed_epsilon must be given" in capsys.readouterr().err
    assert audit.main([*command, "--claimed_epsilon=3"]) == 2
    assert "assert_ok must have something to check" in capsys.readouterr().err


def test_writes_the_files(scores, calls, tmp_path):
    page, plot = tmp_path / "report.html", tmp_path / "plot.svg"
    files = [f"--html={page}", f"--plot={plot}"]
    assert audit.main(["x", f"--scores={scores}", *CLAIM, *files]) == 0
    assert page.read_text("utf-8") == calls["report"].to_html()
    assert b"<svg" in plot.read_bytes()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--delta=1e-5"], "scores must be given"),
        (["--scores=SCORES"], "delta must be given"),
        (["--scores=none.npz", *CLAIM], "[Errno 2]"),
        (["--scores=none.txt", *CLAIM], "scores must be a file that ends"),
        (["--scores=SCORES", *CLAIM, "--method=magic"], "flag --method=magic"),
        (["--scores=SCORES", *CLAIM, "--membership=x"], "flag --membership=x"),
        (["--scores=SCORES", *CLAIM, "--plot=x.doc"], "plot must end in"),
        (["--scores=SCORES", *CLAIM, "--html=/no/such/x"], "[Errno 2]"),
        (["--scores=SCORES", "--delta=x"], "flag --delta=x"),
        (["--scores=SCORES", *CLAIM, "stray"], "arguments must be flags"),
    ],
)
def test_bad_values_are_one_line_and_exit_code_two(
    scores, calls, capsys, arguments, message
):
    arguments = [each.replace("SCORES", scores) for each in arguments]
    assert audit.main(["x", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ") and message in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    "bad", ["--delta=nan", "--claimed_epsilon=nan", "--confidence=nan"]
)
def test_nan_reaches_no_verdict(scores, capsys, bad):
    assert audit.main(["x", f"--scores={scores}", *CLAIM, bad]) == 2
    name = bad[2:].partition("=")[0]
    assert capsys.readouterr().err.startswith(f"error: {name} must be")


def test_help_shows_an_example(capsys):
    assert audit.main(["x", "--help", "--fail_if_rejected"]) == 0
    text = capsys.readouterr().out
    assert "\n  tf-privacy-audit --scores=scores.npz" in text
    assert "--fail_if_rejected" in text and "--membership" in text


def run(*arguments, start=("-m", "tf_privacy.cli.audit")):
    return subprocess.run(
        [sys.executable, *start, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "claim, code, words",
    [("3", 1, "CLAIM REJECTED"), ("50", 0, "CLAIM NOT REJECTED")],
)
def test_runs_as_a_module(scores, claim, code, words):
    done = run(
        f"--scores={scores}",
        "--delta=1e-5",
        f"--claimed_epsilon={claim}",
        "--membership=fair_coins",
        "--fail_if_rejected",
    )
    assert (done.returncode, done.stderr) == (code, "")
    assert words in done.stdout


def test_error_of_the_module_is_exit_code_two():
    done = run("--delta=1e-5")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: scores must be given")


def test_loads_no_tensorflow_and_no_plotting(scores):
    code = (
        "import sys; import tf_privacy.cli.audit as c\n"
        "code = c.main(['x', *sys.argv[1:]])\n"
        "heavy = {'tensorflow', 'keras', 'matplotlib', 'pandas'}\n"
        "sys.exit(code or 3 * bool(heavy & set(sys.modules)))"
    )
    done = run(f"--scores={scores}", *CLAIM, "--json", start=("-c", code))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["num_members"] == 2000
