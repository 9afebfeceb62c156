# SPDX-License-Identifier: Apache-2.0
"""Takes real training steps on canaries with a weight of their own."""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np

from tf_privacy import _checks
from tf_privacy.audit import claim as claim_lib
from tf_privacy.audit import pipeline
from tf_privacy.audit import report

_NOT_IN_PLAIN_SGD = (
    "momentum",
    "weight_decay",
    "use_ema",
    "clipnorm",
    "clipvalue",
    "global_clipnorm",
)
# Between two ways to add up the same steps.
_ROUND_OFF = 1e-6
# What makes a Dirac canary's gradient exceed any clip that is in use.
_GRADIENT_OVER_CLIP = 100.0


class _StepRecorder(keras.callbacks.Callback):
    """Keeps what each step added to the canaries' coordinates."""

    def __init__(self, num_canaries: int):
        super().__init__()
        self._num_canaries = num_canaries
        self.steps = []

    def _read(self):
        (weights,) = self.model.trainable_variables
        return keras.ops.convert_to_numpy(weights)[: self._num_canaries, 0]

    def on_train_begin(self, logs=None):
        self._before = self._read().astype(np.float64)

    def on_train_batch_begin(self, batch, logs=None):
        # After the step a schedule is at the next step's rate.
        self._rate = _get_plain_rate(self.model.optimizer)

    def on_train_batch_end(self, batch, logs=None):
        after = self._read().astype(np.float64)
        self.steps.append((after - self._before) / self._rate)
        self._before = after


def _get_plain_rate(optimizer) -> float:
    """Returns the learning rate of plain SGD, inside of a wrapper or not."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    extras = {name: getattr(inner, name, None) for name in _NOT_IN_PLAIN_SGD}
    extras = {name: value for name, value in extras.items() if value}
    if not isinstance(inner, keras.optimizers.SGD) or extras:
        raise ValueError(
            "make_private must compile with plain SGD inside of the DP "
            f"optimizer. Received: {type(inner).__name__} {extras or ''}. What "
            "is audited is the noised sum, which any inner optimizer gets; "
            "plain SGD shows it as it is."
        )
    return float(keras.ops.convert_to_numpy(inner.learning_rate))


def _check_model(model) -> None:
    """Refuses what would train on anything but the canaries' loss."""
    is_model = isinstance(model, keras.Model)
    if not (is_model and model.compiled and model.loss is _linear_loss):
        received = type(model).__name__
        if is_model:
            received = "one that is not compiled, or with another loss"
        raise ValueError(
            "make_private must return the model it was given, private and "
            f"compiled with the loss it was given. Received: {received}. "
            "Write def make_private(model, loss): ... model.compile(optimizer, "
            "loss=loss); return model."
        )
    _get_plain_rate(model.optimizer)


def _linear_loss(y_true, y_pred):
    return keras.ops.mean(y_true * y_pred, axis=-1)


def _make_dirac_model(num_canaries: int) -> keras.Model:
    """Returns a model in which each canary that is in owns one weight.

    The last row of the table takes the canaries that are out: they are in the
    data as rows that touch no canary's weight.
    """
    return keras.Sequential(
        [
            keras.Input((1,), dtype="int32"),
            keras.layers.Embedding(
                num_canaries + 1, 1, embeddings_initializer="zeros"
            ),
            keras.layers.Reshape((1,)),
        ]
    )


def record_dirac_steps(
    make_private: Callable,
    *,
    is_member: np.ndarray,
    l2_norm_clip: float,
    expected_batch_size: float,
    num_steps: int,
) -> np.ndarray:
    """Returns what each step of real training released about each canary.

    Canary j has a gradient along one weight that no other canary touches, and
    one hundred times the clip long. With a correct step
        result[t, j] = included[t, j] * is_member[j] + N(0, noise_multiplier^2)

    Args:
        make_private: Called with a Keras model and a loss; returns the model,
            private, compiled with that loss and with plain SGD inside of the
            DP optimizer under audit.
        is_member: `[M]` bool; which canaries are in the training data.
        l2_norm_clip: The clip that the optimizer is said to have.
        expected_batch_size: Given to `fit`; in (0, M]. Canaries join a batch
            with probability expected_batch_size / M.
        num_steps: Steps to take; >= 1.

    Returns:
        `[num_steps, M]` float64, in units of the clip.

    Raises:
        ValueError: If an argument is out of range, the model is not compiled
            with plain SGD, or other steps ran than were asked for.
    """
    is_member = np.asarray(is_member, dtype=bool)
    num_canaries = len(is_member)
    l2_norm_clip = _checks.check_l2_norm_clip(l2_norm_clip)
    _checks.check_real(
        "expected_batch_size",
        expected_batch_size,
        above=0.0,
        at_most=num_canaries,
        hint="It is the sampling probability times the number of canaries.",
    )
    num_steps = _checks.check_integer("num_steps", num_steps, at_least=1)
    model = make_private(_make_dirac_model(num_canaries), _linear_loss)
    _check_model(model)
    if expected_batch_size == int(expected_batch_size):
        expected_batch_size = int(expected_batch_size)
    owner = np.where(is_member, np.arange(num_canaries), num_canaries)
    pull = np.full((num_canaries, 1), -_GRADIENT_OVER_CLIP * l2_norm_clip)
    recorder = _StepRecorder(num_canaries)
    model.fit(
        owner.astype(np.int32)[:, None],
        pull.astype(np.float32),
        batch_size=expected_batch_size,
        epochs=1,
        steps_per_epoch=num_steps,
        callbacks=[recorder],
        verbose=0,
    )
    if len(recorder.steps) != num_steps:
        raise ValueError(
            f"make_private must give a model that takes {num_steps} steps, one "
            f"at a time. Received: {len(recorder.steps)} that could be seen. "
            "Make it private, compile with steps_per_execution=1 and without a "
            "budget."
        )
    return np.stack(recorder.steps) * (expected_batch_size / l2_norm_clip)


def audit_pipeline(
    make_private: Callable,
    *,
    noise_multiplier: float,
    l2_norm_clip: float,
    delta: float,
    num_canaries: int = 2000,
    expected_batch_size: float = 100.0,
    num_steps: int = 100,
    confidence: float = 0.95,
    claim: claim_lib.Claim | None = None,
    seed: int | None = None,
) -> report.AuditReport:
    """Returns whether real training steps keep what is claimed for them.

    It trains `num_canaries` canaries, each with a weight of its own, for
    `num_steps` steps: a few seconds on a CPU. See `make_pipeline_report` for
    what is checked, `record_dirac_steps` for the canaries. A model that has a
    `privacy_statement` must state no less than these steps spend; else that is
    a fault.

    Run it on the machines, with the strategy and the versions that will train.

    Args:
        make_private: Called with a Keras model and a loss; returns the model,
            private, compiled with that loss and with plain SGD inside of the
            DP optimizer under audit.
        noise_multiplier: What the optimizer is said to have; > 0.
        l2_norm_clip: What the optimizer is said to have; gradient units.
        delta: Probability in (0, 1), for the epsilons that are shown.
        num_canaries: M >= 2; more see smaller errors.
        expected_batch_size: Given to `fit`; in (0, M].
        num_steps: Steps to take; >= 1.
        confidence: In (0, 1).
        claim: What is claimed for these steps; None takes the accountant's
            curve.
        seed: Of the coins that put canaries in; None takes fresh entropy. The
            noise is the optimizer's own.

    Raises:
        ValueError: If an argument is out of range, or the model cannot be
            audited.
    """
    num_canaries = _checks.check_integer(
        "num_canaries", num_canaries, at_least=2
    )
    steps = pipeline.ClaimedSteps(
        noise_multiplier=noise_multiplier,
        sampling_probability=expected_batch_size / num_canaries,
        num_steps=num_steps,
    )
    is_member = np.random.default_rng(seed).random(num_canaries) < 0.5
    models = []

    def make_and_keep(model, loss):
        models.append(make_private(model, loss))
        return models[-1]

    observations = record_dirac_steps(
        make_and_keep,
        is_member=is_member,
        l2_norm_clip=l2_norm_clip,
        expected_batch_size=expected_batch_size,
        num_steps=num_steps,
    )
    found = pipeline.make_pipeline_report(
        observations,
        is_member=is_member,
        steps=steps,
        delta=delta,
        confidence=confidence,
        claim=claim,
    )
    faults = _check_statement(models[0], steps, delta)
    return dataclasses.replace(found, faults=(*found.faults, *faults))


def _check_statement(model, steps, delta: float) -> tuple[str, ...]:
    """Returns a fault if the model states less than its steps have spent."""
    if not hasattr(model, "privacy_statement"):
        return ()
    stated = model.privacy_statement(delta=delta).epsilon
    spent = steps.compute_epsilon(delta)
    if stated >= spent * (1.0 - _ROUND_OFF):
        return ()
    return (
        f"The statement: the model states epsilon {stated:.6g} at delta "
        f"{delta:g}, the steps that it took spend {spent:.6g}. Look for steps, "
        "noise or sampling that its ledger does not hold.",
    )
