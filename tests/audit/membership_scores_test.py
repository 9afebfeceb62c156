# SPDX-License-Identifier: Apache-2.0
"""Tests of the scores made from a classifier's outputs."""

import time

import mpmath
import numpy as np
import pytest

from tf_privacy.audit import membership_scores

RNG = np.random.default_rng(5)
LOGITS = RNG.normal(scale=3.0, size=(40, 5))
LABELS = RNG.integers(5, size=40)
P = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)

LABELED = [
    membership_scores.compute_confidence_scores,
    membership_scores.compute_modified_entropy_scores,
    membership_scores.compute_logit_scores,
]
UNLABELED = [
    membership_scores.compute_max_confidence_scores,
    membership_scores.compute_entropy_scores,
]


def call(function, predictions, labels, outputs="logits"):
    if function in UNLABELED:
        return function(predictions, outputs=outputs)
    return function(predictions, labels=labels, outputs=outputs)


def compute_exactly(function, logits, label):
    """Returns the score by its formula, in 6000 digits."""
    with mpmath.workdps(6000):
        weights = [mpmath.exp(mpmath.mpf(float(each))) for each in logits]
        total = mpmath.fsum(weights)
        p = [weight / total for weight in weights]
        rest = [
            mpmath.fsum(weights[:c] + weights[c + 1 :]) / total
            for c in range(len(p))
        ]
        name = function.__name__
        if name == "compute_confidence_scores":
            return float(p[label])
        if name == "compute_max_confidence_scores":
            return float(max(p))
        if name == "compute_entropy_scores":
            return float(mpmath.fsum(x * mpmath.log(x) for x in p))
        if name == "compute_logit_scores":
            return float(mpmath.log(p[label]) - mpmath.log(rest[label]))
        total = rest[label] * mpmath.log(p[label])
        for c, x in enumerate(p):
            if c != label:
                total += x * mpmath.log(rest[c])
        return float(total)


@pytest.mark.parametrize("function", LABELED + UNLABELED)
@pytest.mark.parametrize("outputs", ["logits", "probabilities"])
def test_formulas(function, outputs):
    predictions = LOGITS if outputs == "logits" else P
    got = call(function, predictions, LABELS, outputs)
    p_y = P[np.arange(40), LABELS]
    name = function.__name__
    if name == "compute_confidence_scores":
        want = p_y
    elif name == "compute_max_confidence_scores":
        want = P.max(axis=1)
    elif name == "compute_entropy_scores":
        want = (P * np.log(P)).sum(axis=1)
    elif name == "compute_logit_scores":
        want = np.log(p_y / (1 - p_y))
    else:
        others = P * np.log(1 - P)
        others = others.sum(axis=1) - others[np.arange(40), LABELS]
        want = (1 - p_y) * np.log(p_y) + others
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, want, rtol=1e-9)


@pytest.mark.parametrize("function", LABELED + UNLABELED)
@pytest.mark.parametrize("label", [0, 1, 2])
@pytest.mark.parametrize(
    "logits", [[1e4, 0.0, -1e4], [40.0, 0.0, -1.0], [0.0, -2e3, 1e-9]]
)
def test_extreme_logits_lose_no_digits(function, logits, label):
    (got,) = call(function, [logits], [label])
    want = compute_exactly(function, logits, label)
    assert np.isfinite(got)
    assert got == pytest.approx(want, rel=1e-12, abs=1e-307)


def test_logit_scores_rank_where_probabilities_are_all_one():
    logits = [[gap, 0.0, 0.0] for gap in (40.0, 50.0, 1e4)]
    labels = [0, 0, 0]
    confidences = membership_scores.compute_confidence_scores(
        logits, labels=labels, outputs="logits"
    )
    scores = membership_scores.compute_logit_scores(
        logits, labels=labels, outputs="logits"
    )
    assert len(set(confidences)) == 1
    np.testing.assert_allclose(scores, np.array([40.0, 50.0, 1e4]) - np.log(2))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_probabilities_of_exactly_zero_and_one_stay_finite(dtype):
    p = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]], dtype=dtype)
    for function in LABELED + UNLABELED:
        got = call(function, p, [0, 0, 0], "probabilities")
        assert np.all(np.isfinite(got)), function
    one, zero, half = membership_scores.compute_logit_scores(
        p, labels=[0, 0, 0], outputs="probabilities"
    )
    smallest = float(np.finfo(dtype).smallest_subnormal)
    assert one == -zero == pytest.approx(-np.log(smallest))
    assert half == 0.0


def test_zero_counts_as_less_likely_than_any_probability():
    p = np.array([[0.0, 1.0], [1e-44, 1.0], [1e-30, 1.0]], dtype=np.float32)
    for function in LABELED:
        got = call(function, p, [0, 0, 0], "probabilities")
        assert got[0] < got[1] < got[2], function


def test_binary_outputs_are_two_classes():
    logits = RNG.normal(scale=4.0, size=30)
    labels = RNG.integers(2, size=30)
    both = np.stack([np.zeros(30), logits], axis=1)
    sigmoid = 1 / (1 + np.exp(-logits))
    for function in LABELED + UNLABELED:
        want = call(function, both, labels)
        for shape in ((30,), (30, 1)):
            got = call(function, logits.reshape(shape), labels.reshape(shape))
            np.testing.assert_array_equal(got, want)
            got = call(
                function, sigmoid.reshape(shape), labels, "probabilities"
            )
            np.testing.assert_allclose(got, want, rtol=1e-7)


def test_rounded_sigmoid_is_no_outlier():
    # float32 rounds sigmoid(z) to 1 from z = 17.33 = -log(2^-25) on.
    z = np.array([16.0, 17.5, 30.0], dtype=np.float32)
    p = 1 / (1 + np.exp(-z))
    assert p.dtype == np.float32 and p[1] == p[2] == 1.0
    got = membership_scores.compute_logit_scores(
        p, labels=[1, 1, 1], outputs="probabilities"
    )
    assert got[0] < got[1] == got[2] == pytest.approx(25 * np.log(2))


def test_loss_scores():
    losses = np.array([0.5, 0.0, 3.0], dtype=np.float32)
    np.testing.assert_array_equal(
        membership_scores.compute_loss_scores(losses), [-0.5, 0.0, -3.0]
    )


def test_logit_scores_of_losses_are_those_of_logits():
    p_y = P[np.arange(40), LABELS]
    got = membership_scores.compute_logit_scores_of_losses(-np.log(p_y))
    want = membership_scores.compute_logit_scores(
        LOGITS, labels=LABELS, outputs="logits"
    )
    np.testing.assert_allclose(got, want, rtol=1e-7, atol=1e-9)


def test_logit_scores_of_losses_at_the_ends():
    got = membership_scores.compute_logit_scores_of_losses([0.0, 1e4, 1e-6])
    assert got[0] == pytest.approx(25 * np.log(2))
    assert got[1] == -1e4
    assert got[2] == pytest.approx(-np.log(np.expm1(1e-6)))


def test_modified_entropy_ranks_a_confident_mistake_lowest():
    logits = [[5.0, 0.0], [5.0, 0.0], [0.0, 0.0]]
    right, wrong, unsure = membership_scores.compute_modified_entropy_scores(
        logits, labels=[0, 1, 0], outputs="logits"
    )
    assert wrong < unsure < right
    right, wrong, unsure = membership_scores.compute_entropy_scores(
        logits, outputs="logits"
    )
    assert unsure < wrong == right


@pytest.mark.parametrize("function", LABELED + UNLABELED)
@pytest.mark.parametrize(
    "predictions, outputs, error, message",
    [
        ([[0.1, np.nan]], "logits", ValueError, "predictions must be finite"),
        ([[0.1, np.inf]], "logits", ValueError, "predictions must be finite"),
        ([[1e308, 0]], "logits", ValueError, "predictions must be finite"),
        ([[0.1, np.nan]], "probabilities", ValueError, "predictions must be f"),
        ([[0.7, 0.7]], "probabilities", ValueError, "predictions must be prob"),
        ([[1.5, -0.5]], "probabilities", ValueError, "predictions must be p"),
        ([1.01], "probabilities", ValueError, "predictions must be probabil"),
        (np.zeros((0, 3)), "logits", ValueError, "predictions must be \\[N, C"),
        (np.zeros((1, 2, 2)), "logits", ValueError, "predictions must be \\["),
        (0.5, "logits", ValueError, "predictions must be \\[N, C\\]"),
        ([["a", "b"]], "logits", TypeError, "predictions must be real numbers"),
        ([[0.5, 0.5]], "softmax", ValueError, "outputs must be one of"),
    ],
)
def test_bad_predictions_are_refused(
    function, predictions, outputs, error, message
):
    with pytest.raises(error, match=f"^{message}"):
        call(function, predictions, [0], outputs)


@pytest.mark.parametrize("function", LABELED)
@pytest.mark.parametrize(
    "labels, error, message",
    [
        ([0.0, 1.0], TypeError, "labels must be integers"),
        ([0], ValueError, "labels must be one for each of 2 predictions"),
        ([[0, 1], [1, 0]], ValueError, "labels must be one for each"),
        ([0, 3], ValueError, r"labels must be in \[0, 3\)"),
        ([-1, 0], ValueError, r"labels must be in \[0, 3\)"),
    ],
)
def test_bad_labels_are_refused(function, labels, error, message):
    with pytest.raises(error, match=f"^{message}"):
        function(np.zeros((2, 3)), labels=labels, outputs="logits")


def test_bad_losses_are_refused():
    for function in (
        membership_scores.compute_loss_scores,
        membership_scores.compute_logit_scores_of_losses,
    ):
        with pytest.raises(ValueError, match="^losses must be finite"):
            function([1.0, np.nan])
        with pytest.raises(ValueError, match="^losses must hold at least 1"):
            function([])
    with pytest.raises(ValueError, match="^losses must be cross-entropies"):
        membership_scores.compute_logit_scores_of_losses([0.1, -0.1])


def test_hundred_thousand_examples_take_less_than_a_second():
    logits = np.random.default_rng(0).normal(size=(100_000, 10))
    labels = np.zeros(100_000, dtype=int)
    start = time.process_time()
    membership_scores.compute_logit_scores(
        logits, labels=labels, outputs="logits"
    )
    assert time.process_time() - start < 1.0
