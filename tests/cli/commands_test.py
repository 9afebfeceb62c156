# SPDX-License-Identifier: Apache-2.0
"""Tests of the commands, in one process and in processes of their own."""

import json
import subprocess
import sys

import pytest

from tf_privacy.cli import delta
from tf_privacy.cli import epsilon
from tf_privacy.cli import noise
from tf_privacy.cli import plan
from tf_privacy.cli import statement

DATA = ["--num_examples=60000", "--expected_batch_size=256", "--num_epochs=60"]
RUN = ["--noise_multiplier=1.1", *DATA]
GOOD = {
    epsilon: [*RUN, "--delta=1e-5"],
    delta: [*RUN, "--epsilon=2.6"],
    noise: [*DATA, "--target_epsilon=3", "--target_delta=1e-5"],
    statement: [*RUN, "--delta=1e-5"],
    plan: [
        "--num_examples=60000",
        "--num_epochs=30",
        "--target_epsilon=3",
        "--target_delta=1e-5",
    ],
}


def run_json(capsys, command, arguments):
    assert command.main(["x", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_answers(capsys):
    assert epsilon.main(["x", *GOOD[epsilon]]) == 0
    assert capsys.readouterr().out.startswith(
        "epsilon = 2.383 at delta = 1e-05"
    )
    assert delta.main(["x", *GOOD[delta]]) == 0
    assert capsys.readouterr().out.startswith("delta = 2.08")
    assert noise.main(["x", *GOOD[noise]]) == 0
    assert capsys.readouterr().out.startswith("noise_multiplier = 0.968")
    assert statement.main(["x", *GOOD[statement]]) == 0
    assert "for each example" in capsys.readouterr().out


def test_json(capsys):
    fields = run_json(capsys, epsilon, GOOD[epsilon])
    assert fields["num_steps"] == 14063
    assert fields["epsilon_rdp"] == pytest.approx(2.597, abs=1e-3)
    assert fields["epsilon"] == pytest.approx(2.3817, rel=5e-4)
    assert 0.999 < fields["epsilon_lower"] / fields["epsilon"] < 1
    assert 0 < run_json(capsys, delta, GOOD[delta])["delta"] < 1e-5
    assert run_json(capsys, noise, GOOD[noise])["noise_multiplier"] < 1.0146
    fields = run_json(capsys, statement, [*GOOD[statement], "--nopoisson"])
    assert fields["epsilon"] == fields["epsilon_without_amplification"]


def test_both_ways_of_describing_a_run_agree(capsys):
    other = ["--noise_multiplier=1.1", "--num_steps=14063", "--delta=1e-5"]
    other.append(f"--sampling_probability={256 / 60000!r}")
    assert isinstance(run_json(capsys, epsilon, other)["num_steps"], int)
    assert run_json(capsys, epsilon, other) == run_json(
        capsys, epsilon, GOOD[epsilon]
    )


def test_flags_of_an_earlier_call_are_forgotten(capsys):
    assert epsilon.main(["x", *GOOD[epsilon]]) == 0
    assert epsilon.main(["x", *RUN]) == 2
    assert "error: delta must be given" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command, extra, message",
    [
        (epsilon, ["--delta=nan"], "delta must be"),
        (epsilon, ["--delta=abc"], "flag --delta=abc"),
        (epsilon, ["--noise_multiplier=0"], "noise_multiplier must be"),
        (epsilon, ["--noise_multiplier=nan"], "noise_multiplier must be"),
        (epsilon, ["--no_such_flag=1"], "Unknown command line flag"),
        (epsilon, ["stray"], "arguments must be flags"),
        (epsilon, ["--sampling_probability=0.1"], "sampling_probability must"),
        (epsilon, ["--num_steps=5"], "num_steps must be given once"),
        (epsilon, ["--expected_batch_size=0"], "expected_batch_size must be"),
        (epsilon, ["--num_examples=nan"], "expected_batch_size must be"),
        (epsilon, ["--num_epochs=nan"], "num_epochs must be"),
        (epsilon, ["--num_epochs=1e300"], "num_steps must be"),
        (delta, ["--epsilon=-1"], "epsilon must be"),
        (noise, ["--target_epsilon=1e-12"], "target_epsilon must be attain"),
        (noise, ["--target_epsilon=0"], "target_epsilon must be"),
        (statement, ["--delta=1"], "delta must be"),
        (epsilon, ["--group_size=0"], "flag --group_size=0"),
        (epsilon, ["--sampling=magic"], "flag --sampling=magic"),
        (epsilon, ["--sampling=shuffled"], "neighboring_relation of"),
        (epsilon, ["--sampling=none"], "num_steps must be given"),
        (epsilon, ["--sampling=fixed_size"], "neighboring_relation of"),
        (epsilon, ["--plot=x.doc"], "plot must end in"),
        (delta, ["--plot=/no/such/folder/x.png"], "[Errno 2]"),
        (plan, ["--num_steps=10"], "num_epochs must be given"),
        (plan, ["--target_epsilon=nan"], "target_epsilon must be"),
        (plan, ["--expected_batch_sizes=a,b"], "expected_batch_sizes must"),
        (plan, ["--expected_batch_sizes=60001"], "expected_batch_sizes must"),
        (plan, ["--target_epsilon=1e-12"], "target_epsilon must be attain"),
        (statement, ["--l2_norm_clip=0"], "l2_norm_clip must be"),
    ],
)
def test_bad_values_are_one_line_and_exit_code_two(
    capsys, command, extra, message
):
    assert command.main(["x", *GOOD[command], *extra]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ") and message in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("command", list(GOOD))
def test_help(capsys, command):
    assert command.main(["x", "--help"]) == 0
    assert "--num_examples" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name", ["epsilon", "delta", "noise", "plan", "statement"]
)
def test_runs_as_a_module_without_tensorflow(name):
    code = (
        f"import sys; import tf_privacy.cli.{name} as c\n"
        "code = c.main(['x', *sys.argv[1:]])\n"
        "sys.exit(code or 3 * ('tensorflow' in sys.modules))"
    )
    command = next(c for c in GOOD if c.__name__.endswith(name))
    for start in (["-c", code], ["-m", f"tf_privacy.cli.{name}"]):
        done = subprocess.run(
            [sys.executable, *start, *GOOD[command]],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout and not done.stderr


def test_plan_lists_what_meets_the_target(capsys):
    sizes = "--expected_batch_sizes=256,1024,4096"
    fields = run_json(capsys, plan, [*GOOD[plan], sizes])
    choices = fields["choices"]
    assert [c["expected_batch_size"] for c in choices] == [256, 1024, 4096]
    assert all(2.99 < c["epsilon"] <= 3.0 for c in choices)
    assert plan.main(["x", *GOOD[plan], sizes]) == 0
    lines = capsys.readouterr().out.splitlines()
    whole = run_json(
        capsys, plan, [*GOOD[plan][:1], *GOOD[plan][2:], "--num_steps=300"]
    )
    assert isinstance(whole["choices"][0]["num_steps"], int)
    assert lines[2].split()[:2] == ["256", "7032"]
    assert all(len(line) <= 80 for line in lines)


def test_other_ways_to_sample(capsys):
    noise_and_delta = ["--noise_multiplier=1.1", "--delta=1e-5"]
    shuffled = run_json(
        capsys,
        epsilon,
        [
            *noise_and_delta,
            "--num_epochs=60",
            "--sampling=shuffled",
            "--neighboring_relation=zero_out_one",
        ],
    )
    unsampled = run_json(
        capsys, epsilon, [*noise_and_delta, "--num_steps=60", "--sampling=none"]
    )
    assert shuffled["epsilon"] == unsampled["epsilon"] > 54
    assert shuffled["epsilon_lower"] == 0 < unsampled["epsilon_lower"]
    fixed = run_json(
        capsys,
        epsilon,
        [
            *GOOD[epsilon],
            "--sampling=fixed_size",
            "--neighboring_relation=replace_one",
        ],
    )
    assert 2.4 < fixed["epsilon"] < fixed["epsilon_rdp"]


def test_groups_cost_more(capsys):
    group = run_json(capsys, epsilon, [*GOOD[epsilon], "--group_size=3"])
    # Three examples of one person; the lemma for groups gives 10.347.
    assert 2.383 < group["epsilon"] < 10.0


@pytest.mark.parametrize("command", [epsilon, delta, plan, statement])
def test_plots_to_a_file(command, tmp_path, capsys):
    path = tmp_path / "plot.png"
    assert command.main(["x", *GOOD[command], f"--plot={path}"]) == 0
    assert path.read_bytes()[:4] == b"\x89PNG"


def test_help_shows_an_example(capsys):
    for command in GOOD:
        assert command.main(["x", "--help"]) == 0
        name = command.__name__.rsplit(".", 1)[1]
        text = capsys.readouterr().out
        assert f"\n  tf-privacy-{name} --num_examples=60000" in text


def test_plot_without_matplotlib_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert epsilon.main(["x", *GOOD[epsilon], "--plot=x.png"]) == 2
    assert 'pip install "tf-privacy[report]"' in capsys.readouterr().err
