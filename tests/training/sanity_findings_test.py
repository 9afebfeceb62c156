# SPDX-License-Identifier: Apache-2.0
"""Each rule finds its own fault, and nothing that luck or a trifle explains."""

import dataclasses
import types

import keras
import numpy as np
import pytest

import tf_privacy
from tf_privacy.clipping import moving_clips
from tf_privacy.training import sanity_arms
from tf_privacy.training import sanity_data
from tf_privacy.training import sanity_findings
from tf_privacy.training import sanity_plan
from tf_privacy.training import sanity_statistics

NUM_ROWS = 2000
# Guessing is right on half of the rows: those of class 0.
CLASSES = np.arange(NUM_ROWS) % 2
SIGNALS = types.SimpleNamespace(
    median_norm=3.0,
    num_steps=50,
    drowned_layers=(),
    suggest=lambda: ("Use more.",),
)


def make_hits(accuracy):
    """Returns rows of which that share is right, spread over both classes."""
    return (np.arange(NUM_ROWS) // 2 % 100 < round(100 * accuracy)) * 1.0


def make_result(name, train, test=None, num_train=NUM_ROWS, chance=0.5):
    arm = sanity_plan.ARMS[name]
    return sanity_arms.ArmResult(
        name=name,
        title=arm.title,
        sees_data=arm.sees_data,
        train_accuracy=train,
        train_stderr=np.sqrt(train * (1 - train) / num_train),
        num_train=num_train,
        test_accuracy=test,
        test_stderr=None
        if test is None
        else np.sqrt(test * (1 - test) / NUM_ROWS),
        num_test=0 if test is None else NUM_ROWS,
        chance=chance,
        p_value=sanity_statistics.compute_p_value(
            round(train * num_train), num_train, chance=chance
        )
        if test is None
        else None,
        num_steps=50,
        seconds=1.0,
    )


def make_evidence(
    signals=SIGNALS, optimizer=None, examples_per_user=None, rows=2000, **runs
):
    """Returns evidence of runs: name to held-out or random accuracy."""
    optimizer = {"l2_norm_clip": 1.0, "noise_multiplier": 1.0} | (
        optimizer or {}
    )
    plan = sanity_plan.SanityPlan(
        optimizer=tf_privacy.DPSGD(0.1, **optimizer),
        loss="mse",
        batch_size=10,
        epochs=1,
        examples_per_user=examples_per_user,
    )
    part = sanity_data.Rows(
        x=np.zeros((NUM_ROWS, 1)),
        y=CLASSES,
        sample_weight=None,
        classes=CLASSES,
        num_classes=2,
    )
    bench = sanity_arms.Bench(
        build_model=None,
        plan=plan,
        train=part,
        test=part,
        initial_weights=[],
        predict_classes=None,
        verbose=0,
    )
    outcomes = {}
    for name, reached in runs.items():
        train, test = reached if isinstance(reached, tuple) else (reached,) * 2
        if sanity_plan.ARMS[name].data == sanity_plan.REAL:
            outcomes[name] = sanity_arms.Outcome(
                result=make_result(name, train, test),
                test_hits=make_hits(test),
            )
        else:
            count = 40 if sanity_plan.ARMS[name].has_patterns else rows
            outcomes[name] = sanity_arms.Outcome(
                result=make_result(name, train, num_train=count)
            )
    return sanity_findings.Evidence(
        bench=bench, outcomes=outcomes, signals=signals
    )


def rules(**options):
    found = sanity_findings.find_problems(make_evidence(**options))
    for finding in found:
        assert finding.problem.endswith(".") and finding.knob.endswith(".")
        assert str(finding) == f"{finding.problem} {finding.knob}"
    return [finding.rule for finding in found]


HEALTHY = {
    "ordinary": 0.9,
    "clipping_only": 0.88,
    "noise_only": 0.87,
    "private": 0.85,
    "private_random_labels": 0.52,
    "private_random_inputs": 0.51,
}


def test_nothing_is_found_in_a_healthy_setting():
    assert rules(**HEALTHY) == []
    assert rules() == []


@pytest.mark.parametrize(
    "change, expected",
    [
        # A lead of 0.4 over guessing: 80% of it is an accuracy of 0.82.
        (
            {"private": 0.81, "clipping_only": 0.75},
            ["clipping costs little"],
        ),
        ({"private": 0.81, "clipping_only": 0.81}, []),
        ({"private": 0.81, "noise_only": 0.75}, ["noise costs little"]),
        ({"private": 0.81, "noise_only": 0.81}, []),
        # What works as a whole works in its parts.
        ({"private": 0.88, "noise_only": 0.1, "clipping_only": 0.5}, []),
        # 60% of it is 0.74.
        ({"private": 0.68}, ["privacy costs little"]),
        ({"private": 0.73}, []),
        # What is explained is not found twice.
        ({"private": 0.5, "noise_only": 0.5}, ["noise costs little"]),
        (
            {"private": 0.5, "clipping_only": 0.5},
            ["clipping costs little"],
        ),
        ({"private_random_labels": 0.65}, ["random labels are not learned"]),
        # 0.55 is 10% of the way; luck has a standard error of 0.011.
        ({"private_random_labels": 0.57}, []),
        ({"private_random_inputs": 0.65}, ["random labels are not learned"]),
        ({"private": (0.97, 0.85)}, ["private training generalizes"]),
        ({"private": (0.91, 0.85)}, []),
        ({"ordinary": 0.505}, ["ordinary training learns"]),
    ],
    ids=str,
)
def test_rules_at_their_limits(change, expected):
    assert rules(**{**HEALTHY, **change}) == expected


def test_few_random_labels_prove_nothing():
    """0.65 of 40 is luck at 1e-3, of 2000 it is not."""
    assert rules(private_random_labels=0.65, rows=40) == []
    assert rules(private_random_labels=0.65) == [
        "random labels are not learned"
    ]


def test_rows_of_users_count_as_users():
    """A run that fails on one user of four: that may be this user."""
    failing = {}
    for size in (1, 500):
        evidence = make_evidence(
            optimizer={"examples_per_unit": size},
            **{**HEALTHY, "private": 0.75},
        )
        hits = evidence.outcomes["clipping_only"].test_hits
        hits[:500] = 0.0
        failing[size] = len(sanity_findings.find_problems(evidence))
    assert failing == {1: 1, 500: 0}


def test_the_median_norm_is_named_if_it_is_known():
    runs = {**HEALTHY, "private": 0.7, "clipping_only": 0.6}
    (found,) = sanity_findings.find_problems(make_evidence(**runs))
    assert "l2_norm_clip is 1, the median gradient norm" in found.knob
    (found,) = sanity_findings.find_problems(
        make_evidence(signals=None, **runs)
    )
    assert "l2_norm_clip is 1. A smaller" in found.knob


def test_drowned_layers_are_found_unless_private_training_works():
    signals = types.SimpleNamespace(
        **{
            **vars(SIGNALS),
            "drowned_layers": (types.SimpleNamespace(layer="dense"),),
        }
    )
    assert rules(signals=signals) == ["signal above noise"]
    assert rules(signals=signals, **HEALTHY) == []
    assert rules(signals=signals, **{**HEALTHY, "private": 0.5}) == [
        "signal above noise",
        "privacy costs little",
    ]


def test_the_unit_must_be_the_user():
    assert rules(examples_per_user=5) == ["the unit is the user"]
    assert rules(optimizer={"examples_per_unit": 5}) == []
    assert rules(optimizer={"examples_per_unit": 5}, examples_per_user=1) == []


@pytest.mark.parametrize(
    "one, everyone, possible, expected",
    [
        (0.5, 0.95, 0.95, []),
        (0.95, 0.95, 0.95, ["patterns of one user are not learned"]),
        (0.5, 0.5, 0.95, ["patterns of all users are learned"]),
        (0.5, 0.5, 0.5, []),
    ],
)
def test_patterns_of_users(one, everyone, possible, expected):
    runs = {
        "private_one_user": one,
        "private_all_users": everyone,
        "ordinary_all_users": possible,
    }
    options = {"optimizer": {"examples_per_unit": 5}}
    assert rules(**options, **runs) == expected


def test_the_remedy_depends_on_the_unit():
    runs = {"private_one_user": 0.95}
    wrong = sanity_findings.find_problems(
        make_evidence(examples_per_user=5, **runs)
    )
    right = sanity_findings.find_problems(
        make_evidence(optimizer={"examples_per_unit": 5}, **runs)
    )
    assert "examples_per_unit=5" in wrong[-1].knob
    assert "too weak for a user" in right[-1].knob


@pytest.mark.parametrize(
    "options, begins",
    [
        ({"ordinary_random_labels": 0.9}, []),
        (
            {"ordinary_random_labels": 0.55},
            ["Not even ordinary training learns random labels"],
        ),
        (
            {"ordinary_all_users": 0.6},
            ["Not even ordinary training learns patterns"],
        ),
        (
            {
                "optimizer": {
                    "l2_norm_clip": moving_clips.QuantileClipping(
                        l2_norm_clip=1.0
                    )
                }
            },
            ["The clip moves"],
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_limits_of_the_check(options, begins):
    limits = sanity_findings.find_limits(make_evidence(**options))
    assert len(limits) == len(begins)
    for limit, begin in zip(limits, begins, strict=True):
        assert limit.startswith(begin)


def test_evidence_is_never_changed():
    evidence = make_evidence(**HEALTHY)
    before = keras.tree.map_structure(
        np.copy, [o.test_hits for o in evidence.outcomes.values()][:4]
    )
    sanity_findings.find_problems(evidence)
    for old, outcome in zip(before, evidence.outcomes.values(), strict=False):
        np.testing.assert_array_equal(old, outcome.test_hits)
    with pytest.raises(dataclasses.FrozenInstanceError):
        evidence.signals = None
