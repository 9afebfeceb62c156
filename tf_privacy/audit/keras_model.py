# SPDX-License-Identifier: Apache-2.0
"""Scores of a Keras model's examples, canaries and texts."""

import dataclasses
import functools
from collections.abc import Callable

import keras
import numpy as np

from tf_privacy import _checks
from tf_privacy.audit import canaries as canaries_lib
from tf_privacy.audit import claim as claim_lib
from tf_privacy.audit import critical_samples
from tf_privacy.audit import membership
from tf_privacy.audit import membership_scores
from tf_privacy.audit import report
from tf_privacy.audit import scores as scores_lib
from tf_privacy.audit import slices as slices_lib
from tf_privacy.audit import verdict
from tf_privacy.audit.backend import input_gradients
from tf_privacy.audit.backend import loss_sensitivities


def compute_losses(
    model: keras.Model,
    x,
    y,
    *,
    loss=None,
    batch_size: int = 256,
) -> np.ndarray:
    """Returns each example's loss, in inference mode.

    Further axes (the tokens of a sequence) are averaged, as `fit` does.

    Args:
        model: Any Keras model of one output.
        x: `[N, ...]`, what `model.predict` takes.
        y: `[N, ...]`, the labels.
        loss: A Keras loss or its name; None takes that of `compile`.
        batch_size: Rows in one call; >= 1.

    Returns:
        `[N]` float64.

    Raises:
        ValueError: If there is no single loss, or an example's loss is not
            finite: it has no place in a ranking.
    """
    loss = model.loss if loss is None and model.compiled else loss
    if loss is None or isinstance(loss, (dict, list, tuple)):
        raise ValueError(
            f"loss must be one Keras loss or its name. Received: {loss!r}. "
            "Give loss=, or compile the model with it."
        )
    function = keras.losses.get(loss)
    if isinstance(function, keras.losses.Loss):
        function = function.call
    if y is None:
        raise ValueError(
            "y must hold the labels. Received: None. Score examples without "
            "labels by a function of your own."
        )
    y = np.asarray(y)
    found = []
    for start in range(0, len(y), batch_size):
        rows = slice(start, start + batch_size)
        outputs = model.predict_on_batch(_take_rows(x, rows))
        if not isinstance(outputs, np.ndarray):
            raise ValueError(
                "model must have one output. Received: "
                f"{type(outputs).__name__}. Pass a model of the output that "
                "the loss is of."
            )
        labels = y[rows]
        if labels.ndim == outputs.ndim - 1:
            labels = labels[..., None] if outputs.shape[-1] == 1 else labels
        losses = keras.ops.convert_to_numpy(function(labels, outputs))
        losses = losses.astype(np.float64)
        found.append(losses.reshape(len(losses), -1).mean(axis=1))
    return scores_lib.check_scores(
        "losses", np.concatenate(found) if found else np.zeros(0)
    )


def _take_rows(x, rows):
    return keras.tree.map_structure(lambda array: array[rows], x)


def audit_canaries(
    model: keras.Model,
    canaries: canaries_lib.Canaries,
    *,
    delta: float,
    claimed_epsilon: float | None = None,
    claim: claim_lib.Claim | None = None,
    score: Callable | None = None,
    loss=None,
    confidence: float = 0.95,
    method: str = "one_run",
) -> report.AuditReport:
    """Returns whether a model gives away which canaries it was trained on.

    A canary's score is minus its loss. The coins of the plan are fair and were
    drawn before training, so that the result of "one_run" is a bound.

    Args:
        model: Any Keras model, trained on what `canaries.insert` returned.
        canaries: The plan, with its coins.
        delta: Probability in [0, 1) of the claim and of the bound.
        claimed_epsilon: Nats, for a group as large as a canary is repeated;
            None takes that of `claim`, or tests no claim.
        claim: The whole claimed curve, where no canary is repeated; or None.
        score: Maps the model and `canaries.values` to `[M]` scores, higher for
            members, for what has no labels, such as `make_text_score`; None
            takes the loss.
        loss: A Keras loss or its name; None takes that of `compile`.
        confidence: In (0, 1).
        method: As in `audit`.

    Raises:
        ValueError: If an argument is out of range, there are no coins, or a
            score is not finite.
    """
    _check_plan(canaries, score)
    if score is not None:
        scores = score(model, canaries.values)
    else:
        scores = membership_scores.compute_loss_scores(
            compute_losses(model, canaries.values, canaries.labels, loss=loss)
        )
    members, others = canaries.split_scores(scores)
    if claim is not None and canaries.max_repetitions > 1:
        raise ValueError(
            "claim must be None for canaries that are put in up to "
            f"{canaries.max_repetitions} times. Received: a claim. Pass the "
            "claimed_epsilon of a group of that size, from "
            "accounting.compute_group_epsilon."
        )
    found = verdict.audit(
        members,
        others,
        delta=delta,
        claimed_epsilon=claimed_epsilon,
        claim=claim,
        method=method,
        membership="fair_coins",
        confidence=confidence,
    )
    warnings = found.warnings
    if canaries.max_repetitions > 1:
        warnings += (
            f"Canaries were put in up to {canaries.max_repetitions} times: "
            "epsilon here is that of a group of that size.",
        )
    return dataclasses.replace(
        found,
        warnings=warnings,
        assumptions=(*found.assumptions, _TRAINED_ON_PLAN),
    )


_TRAINED_ON_PLAN = "The model was trained on what the plan's insert returned."


def _check_plan(canaries, score) -> None:
    if not isinstance(canaries, canaries_lib.Canaries):
        raise TypeError(
            "canaries must be the plan that make_..._canaries returned. "
            f"Received: {type(canaries).__name__}. Canaries.load reads a plan "
            "from its file."
        )
    if not canaries.has_coins:
        raise ValueError(
            "canaries must have coins to be audited. Received: a plan in which "
            "all are members. Measure their exposure, or make canaries with "
            "coins."
        )
    if score is None and canaries.labels is None:
        raise ValueError(
            "score must be given for canaries without labels. Received: None. "
            "For texts, pass make_text_score(encode, outputs=...)."
        )


def _score_by_entropy(predictions, *, labels, outputs: str) -> np.ndarray:
    del labels
    return membership_scores.compute_entropy_scores(
        predictions, outputs=outputs
    )


_SCORES = {
    "entropy": _score_by_entropy,
    "logit": membership_scores.compute_logit_scores,
    "confidence": membership_scores.compute_confidence_scores,
    "modified_entropy": membership_scores.compute_modified_entropy_scores,
}


def audit_membership(
    model: keras.Model,
    members: tuple,
    non_members: tuple,
    *,
    outputs: str,
    attack: str = "logit",
    confidence: float = 0.95,
    false_positive_rate: float = 0.01,
    num_loss_groups: int = 4,
    batch_size: int = 256,
) -> membership.MembershipResult:
    """Returns how well a classifier's members are told from other examples.

    Slices by class, by loss and by whether the model is right are looked at
    too, and the worst are named. An estimate, not a bound: see
    `audit_canaries` for that. It is computed from real members, so that no
    epsilon covers the figures themselves.

    Args:
        model: A Keras classifier of one output.
        members: (x, y) with `[M]` integer labels; from the training data.
        non_members: (x, y), `[N]`; from the same source, not trained on.
        outputs: What the model returns, "logits" or "probabilities".
        attack: "logit" or "confidence" (both rank as the loss does),
            "modified_entropy", or "entropy", which needs no label.
        confidence: Of the intervals; in (0, 1).
        false_positive_rate: At which slices are compared; in (0, 1).
        num_loss_groups: Slices by loss; >= 2.
        batch_size: Rows in one call; >= 1.

    Raises:
        ValueError: If an argument is out of range, or the model's outputs are
            no class scores or not finite.
    """
    attack = _checks.check_choice("attack", attack, tuple(_SCORES))
    score = functools.partial(_SCORES[attack], outputs=outputs)
    scores, losses, groups = [], [], []
    for name, pair in (("members", members), ("non_members", non_members)):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise TypeError(
                f"{name} must be (x, y), arrays. Received: "
                f"{type(pair).__name__}. Put both into one tuple."
            )
        x, y = pair
        labels = np.asarray(y).reshape(-1)
        predicted = model.predict(x, batch_size=batch_size, verbose=0)
        scores.append(score(predicted, labels=labels))
        losses.append(
            -membership_scores.compute_logit_scores(
                predicted, labels=labels, outputs=outputs
            )
        )
        guessed = _get_classes(predicted, outputs)
        correct = slices_lib.make_correctness_groups(guessed, labels)
        groups.append({"class": labels, "prediction": correct})
    by_loss = slices_lib.make_loss_groups(*losses, num_groups=num_loss_groups)
    for grouping, labels in zip(groups, by_loss, strict=True):
        grouping["loss"] = labels
    return membership.estimate_membership(
        *scores,
        attack=attack,
        confidence=confidence,
        slices=slices_lib.estimate_slices(
            *scores,
            member_groups=groups[0],
            non_member_groups=groups[1],
            confidence=confidence,
            false_positive_rate=false_positive_rate,
        ),
    )


def _get_classes(predicted, outputs: str) -> np.ndarray:
    if predicted.ndim == 2 and predicted.shape[1] > 1:
        return np.argmax(predicted, axis=1)
    middle = 0.0 if outputs == "logits" else 0.5
    return (predicted.reshape(-1) > middle).astype(int)


def make_shadow_trainer(
    make_model: Callable,
    x,
    y,
    *,
    outputs: str,
    epochs: int,
    batch_size: int = 32,
) -> Callable[[np.ndarray, int], np.ndarray]:
    """Returns the function that `train_shadow_models` calls for each model.

    Args:
        make_model: Called without arguments; returns a new, compiled Keras
            classifier, made as the audited one was.
        x: `[N, ...]`, all examples, of shadow models and of the audited one.
        y: `[N]` integer labels.
        outputs: What the model returns, "logits" or "probabilities".
        epochs: Passes over a shadow model's part of the data; >= 1.
        batch_size: As the audited model had it; >= 1.

    Returns:
        A function of the rows to train on and of the model's number, that
        returns `[N]` logit scores of all examples.

    Raises:
        ValueError: If a number is out of range.
    """
    epochs = _checks.check_integer("epochs", epochs, at_least=1)
    batch_size = _checks.check_integer("batch_size", batch_size, at_least=1)
    labels = np.asarray(y).reshape(-1)

    def train(rows, index):
        del index
        model = make_model()
        model.fit(
            _take_rows(x, rows),
            labels[rows],
            epochs=epochs,
            batch_size=batch_size,
            verbose=0,
        )
        predicted = model.predict(x, batch_size=256, verbose=0)
        return membership_scores.compute_logit_scores(
            predicted, labels=labels, outputs=outputs
        )

    return train


def find_critical_samples(
    model: keras.Model,
    x,
    *,
    outputs: str,
    radius: float,
    rng: np.random.Generator | None = None,
    num_iterations: int = 10,
    step_size: float | None = None,
    noise_size: float | None = None,
    lower=None,
    upper=None,
    batch_size: int = 256,
    confidence: float = 0.95,
) -> critical_samples.CriticalSampleResult:
    """Returns which examples have another prediction close by.

    Args:
        model: A Keras classifier of one float input.
        x: `[N, ...]` floats; held-out data.
        outputs: What the model returns, "logits" or "probabilities".
        radius: Of the box around each example, in units of x; > 0.
        rng: Draws the noise; None takes fresh entropy.
        num_iterations: The most updates of an example; >= 1.
        step_size: In units of x; > 0. None is 5/6 of the radius.
        noise_size: Standard deviation in units of x; >= 0. None is 2/3 of the
            radius.
        lower, upper: Least and largest valid entries of x, numbers or arrays
            that broadcast to one example; None for no limit.
        batch_size: The most rows in one call; >= 1.
        confidence: Of the ratio's interval; in (0, 1).

    Raises:
        ValueError: If an argument is out of range, or the model's outputs are
            no class scores or not finite.
    """
    return critical_samples.search_critical_samples(
        x,
        predict=functools.partial(
            input_gradients.compute_class_scores, model, outputs=outputs
        ),
        input_gradient=functools.partial(
            input_gradients.compute_input_gradient, model, outputs=outputs
        ),
        radius=radius,
        rng=np.random.default_rng() if rng is None else rng,
        num_iterations=num_iterations,
        step_size=step_size,
        noise_size=noise_size,
        lower=lower,
        upper=upper,
        batch_size=batch_size,
        confidence=confidence,
    )


def compute_loss_slopes(
    model: keras.Model, x, y, *, loss: Callable, batch_size: int = 256
) -> np.ndarray:
    """Returns how steeply each example's loss changes with the example.

        result[n] = L1 norm of d loss(n) / d x[n]

    Of the model as it is; `compute_loss_sensitivities` goes through training.

    Args:
        model: A built Keras model of one output.
        x: `[N, ...]` floats.
        y: `[N, ...]` labels.
        loss: A Keras loss.
        batch_size: Rows in one call; >= 1.

    Returns:
        `[N]` float64 >= 0.

    Raises:
        ValueError: If shapes do not fit.
    """
    compute = input_gradients.compute_loss_input_gradient
    found = [np.zeros(0)]
    for start in range(0, len(x), batch_size):
        rows = slice(start, start + batch_size)
        slopes = np.abs(compute(model, x[rows], y[rows], loss=loss))
        found.append(slopes.reshape(len(slopes), -1).sum(axis=1))
    return np.concatenate(found).astype(np.float64)


def compute_loss_sensitivities(
    model: keras.Model,
    x,
    y,
    *,
    loss: Callable,
    learning_rate: float,
    num_steps: int,
    batch_size: int,
    rng: np.random.Generator | None = None,
    loss_weights=None,
) -> np.ndarray:
    """Returns how much training on each example moves the loss of all.

        result[k, n] = mean over t = 1..num_steps of the L1 norm of
            d L[k, t] / d x[n],  L[k, t] = sum_m loss_weights[k, m] loss_t(m)

    through every step of plain SGD that x[n] took part in.

    Args:
        model: A built Keras model of one output; its weights do not change.
        x: `[N, ...]` floats.
        y: `[N, ...]` labels.
        loss: A Keras loss.
        learning_rate: > 0.
        num_steps: Updates; >= 1. The cost grows with its square.
        batch_size: Examples in an update, at most N.
        rng: Shuffles; None takes fresh entropy.
        loss_weights: `[N]` or `[K, N]` finite; None is the mean, 1 / N each.

    Returns:
        `[N]` float64 >= 0, or `[K, N]` with K rows of loss_weights.

    Raises:
        ValueError: If an argument is out of range, or the model has layers
            whose derivative of a derivative is not available.

    Source: Arpit et al. 2017, arXiv:1706.05394.
    """
    return loss_sensitivities.compute_loss_sensitivities(
        model,
        x,
        y,
        loss=loss,
        learning_rate=learning_rate,
        num_steps=num_steps,
        batch_size=batch_size,
        rng=np.random.default_rng() if rng is None else rng,
        loss_weights=loss_weights,
    )
