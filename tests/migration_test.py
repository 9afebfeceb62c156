# SPDX-License-Identifier: Apache-2.0
"""The guide for users of other libraries: its names exist, its code runs."""

import ast
import importlib
import inspect
import math
import re

import keras
import numpy as np
import pytest

import tf_privacy
from tests import tutorials_test
from tf_privacy import accounting
from tf_privacy import audit

TEXT = (tutorials_test.ROOT / "tutorials" / "migration.md").read_text("utf-8")
ROOTS = {
    "tf_privacy": tf_privacy,
    "accounting": accounting,
    "audit": audit,
    "keras": keras,
}
# What the guide calls a model or an optimizer.
KINDS = {"model": "DPModel", "optimizer": "DPOptimizer"}
HEADER = ("there", "here", "what is different")


def read_rows():
    """Returns the cells of every row of a table, headers too."""
    lines = [line for line in TEXT.splitlines() if line.startswith("|")]
    rows = [tuple(c.strip() for c in line[1:-1].split("|")) for line in lines]
    return [row for row in rows if set(row) != {"---"}]


ROWS = [row for row in read_rows() if row != HEADER]


def find_quoted(text):
    return re.findall(r"`([^`]+)`", text)


def find_names():
    """Returns every name of ours, with the keywords it is shown with."""
    ours = {q for row in ROWS for q in find_quoted(row[1])}
    prose = re.sub(r"^```.*?^```$", "", TEXT, flags=re.M | re.S)
    prefixes = tuple(f"{root}." for root in (*ROOTS, *KINDS))
    ours |= {q for q in find_quoted(prose) if q.startswith(prefixes)}
    return sorted(ours)


def resolve(name):
    root, *rest = name.split(".")
    value = ROOTS.get(root)
    if root in KINDS:
        value = getattr(tf_privacy, KINDS[root])
    assert value is not None, f"{name} begins with none of ours"
    for part in rest:
        value = getattr(value, part)
    return value


def read_signature(value):
    function = value.__init__ if inspect.isclass(value) else value
    return inspect.signature(function).parameters


def read_blocks(marker):
    pattern = rf"^<!-- {marker} -->\n```python\n(.*?)^```$"
    return re.findall(pattern, TEXT, re.M | re.S)


# Names.


def test_there_is_a_table_for_each_library():
    assert read_rows().count(HEADER) == 3
    assert len(ROWS) > 60
    for row in ROWS:
        assert len(row) == 3, row
        assert row[0] and (row[1] in ("none", "the same") or "`" in row[1]), row


def test_no_row_comes_twice():
    there = [row[0] for row in ROWS]
    assert len(set(there)) == len(there)


@pytest.mark.parametrize("shown", find_names())
def test_name_resolves_and_takes_what_is_shown(shown):
    if shown.startswith("tf-privacy-"):
        setup = (tutorials_test.ROOT / "setup.py").read_text("utf-8")
        module, function = re.search(
            f'"{shown} = ([^:]+):(.*)"', setup
        ).groups()
        assert callable(getattr(importlib.import_module(module), function))
        return
    name, opened, arguments = shown.partition("(")
    if not opened:
        assert resolve(name) is not None
        return
    inside, _, further = arguments.partition(")")
    value = resolve(name)
    known = read_signature(value)
    for argument in inside.split(", "):
        keyword, equals, _ = argument.partition("=")
        assert not equals or keyword in known, f"{shown}: no {keyword}"
    if further:
        assert hasattr(value, further.removeprefix(".")), shown


def test_names_that_do_not_exist_would_be_found():
    for name in ("tf_privacy.DPAdamMax", "model.train", "audit.audit.now"):
        with pytest.raises(AttributeError):
            resolve(name)
    with pytest.raises(AssertionError, match="begins with none of ours"):
        resolve("opacus.PrivacyEngine")


# Code.


@pytest.fixture
def names():
    """What the blocks take for given: data, a model and its loss."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(512, 4)).astype(np.float32)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    return {
        "keras": keras,
        "tf_privacy": tf_privacy,
        "accounting": accounting,
        "x": x,
        "y": np.argmax(x[:, :3], axis=1),
        "model": model,
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    }


def test_every_block_is_shown_as_before_or_after():
    before, after = read_blocks("before"), read_blocks("after")
    assert len(before) == 3 and len(after) == 4
    assert len(before) + len(after) == TEXT.count("```python")
    for block in before:
        ast.parse(block)
        assert "tf_privacy." not in block.replace("tensorflow_privacy.", "")


@pytest.mark.parametrize(
    "number, library",
    enumerate(["tensorflow", "opacus", "jax_keras", "jax_banded"]),
)
def test_block_trains_within_its_budget(number, library, names, capsys):
    before = names["model"].get_weights()
    exec(read_blocks("after")[number], names)
    model = names["model"]
    statement = model.privacy_statement(delta=1e-5)
    assert statement.num_steps == 10
    assert not np.allclose(model.get_weights()[0], before[0])
    if library == "tensorflow":
        assert "epsilon" in capsys.readouterr().out
        expected = tf_privacy.compute_epsilon(
            noise_multiplier=1.1,
            sampling_probability=0.5,
            num_steps=10,
            delta=1e-5,
        )
        assert statement.epsilon == pytest.approx(expected)
    else:
        # The noise is the least that meets the target.
        assert 2.99 < statement.epsilon <= 3.0


# Formulas.


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_fraction_of_row_selection_gives_the_noise_known_from_there(fraction):
    """TensorFlow Privacy's split, for noise multiplier 1 and one table.

    At 0.1 it was measured there: 1.006 for the selection, 9.06 for gradients.
    """
    ratio = fraction / (1 - fraction)
    selection, gradients = math.hypot(1, ratio), math.hypot(1, 1 / ratio)
    if fraction == 0.1:
        assert selection == pytest.approx(1.006, abs=1e-3)
        assert gradients == pytest.approx(9.06, abs=1e-2)
    (formula,) = re.findall(r"budget_fraction `([^`]+)`", TEXT)
    share = eval(formula, {"f": fraction})
    assert 1 / math.sqrt(share) == pytest.approx(selection)
    assert 1 / math.sqrt(1 - share) == pytest.approx(gradients)


def test_adaptive_clip_leaves_the_sum_the_noise_known_from_there():
    z, s, batch_size = 1.3, 5.0, 64
    clipping = tf_privacy.QuantileClipping(l2_norm_clip=1.0, count_stddev=s)
    optimizer = tf_privacy.DPSGD(
        0.1,
        l2_norm_clip=clipping,
        noise_multiplier=accounting.AdaptiveClipping(
            z, s
        ).effective_noise_multiplier,
        expected_batch_size=batch_size,
    )
    found = optimizer._noise.compute_gradient_multiplier(0, batch_size)
    assert found == pytest.approx(z, rel=1e-5)


def test_separation_of_a_tree_is_one_more_than_there():
    """There, 0 steps between: a unit in all four steps of a tree.

    Its nodes hold 4 x 1, 2 x 2 and 1 x 4 participations; with one step
    between, 2 x 1, 2 x 1 and 1 x 2.
    """
    for between, squares in ((0, 4 * 1 + 2 * 4 + 16), (1, 2 + 2 + 4)):
        tree = accounting.TreeAggregation(
            noise_multiplier=1.0,
            steps_per_tree=4,
            max_participations=4 // (between + 1),
            min_separation=between + 1,
        )
        assert tree.compute_sensitivity() == pytest.approx(math.sqrt(squares))


def test_banded_noise_over_the_norm_of_its_coefficients_is_that_of_there():
    """Two participations, two steps apart: each is one Gaussian release."""
    noise = tf_privacy.ToeplitzNoise.banded(
        noise_multiplier=3.0, num_steps=4, num_bands=2, min_separation=2
    )
    theirs = 3.0 / np.linalg.norm(noise.coefficients)
    run = accounting.SelfComposed(accounting.Gaussian(theirs), 2)
    ours = accounting.MatrixMechanism(
        noise_multiplier=3.0, sensitivity=noise.sensitivity
    )
    assert accounting.compute_epsilon_of([ours], delta=1e-5) == pytest.approx(
        accounting.compute_epsilon_of([run], delta=1e-5), rel=1e-3
    )
