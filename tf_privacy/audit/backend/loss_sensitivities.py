# SPDX-License-Identifier: Apache-2.0
"""Derivatives of a whole training run by its examples.

A step of training is a function from one state to the next, through
`stateless_call`: the model stays as it is, at its first weights.
"""

import functools
from collections.abc import Callable

import keras
import numpy as np

from tf_privacy import _checks
from tf_privacy.audit import keras_backend
from tf_privacy.audit.backend import input_gradients


def compute_loss_sensitivities(
    model,
    x,
    y,
    *,
    loss: Callable,
    learning_rate: float,
    num_steps: int,
    batch_size: int,
    rng: np.random.Generator,
    loss_weights=None,
) -> np.ndarray:
    """Returns how much training on each example moves the loss of all.

        result[k, n] = mean over t = 1..num_steps of the L1 norm of
            d L[k, t] / d x[n],  L[k, t] = sum_m loss_weights[k, m] loss_t(m)

    where loss_t(m) is example m's loss after t steps of plain SGD from the
    model's present weights. The derivative is that of the whole training: x[n]
    acts through its own loss and through every step that it took part in.
    Layers train as in `fit` (dropout, moving averages, weight penalties) and
    are measured in inference mode. In TensorFlow, batch, layer and group
    normalization are refused: its derivative of their derivative is wrong.

    A learning rate at which training is unstable lets them grow exponentially
    with the steps: they then say more about that than about the examples.

    Training runs once; its num_steps + 1 states are kept. Then each step t is
    followed backwards, num_steps^2 / 2 steps for each k, in the memory of one
    batch and one gradient of x.

    Args:
        model: A built Keras model of one output.
        x: `[N, ...]` floats.
        y: `[N, ...]` labels.
        loss: As in `compute_loss_input_gradient`; a step takes its mean.
        learning_rate: > 0.
        num_steps: Updates; >= 1.
        batch_size: Examples in an update, at most N; each pass over the data
            is shuffled and ends in a batch of what is left.
        rng: Shuffles.
        loss_weights: `[N]` or `[K, N]` finite; None is the mean, 1 / N each.

    Returns:
        float64 of the shape of `loss_weights`; `[N]` for None.

    Raises:
        TypeError: If `x` are no floats, or `loss` is no function.
        ValueError: If an argument is out of range, training diverges or, in
            TensorFlow, a layer or the loss stops gradients.

    Source: Arpit et al. 2017, arXiv:1706.05394.
    """
    training = _Training(
        model,
        x,
        y,
        loss=loss,
        learning_rate=learning_rate,
        batches=_make_batches(len(x), batch_size, num_steps, rng),
    )
    weights = _check_loss_weights(loss_weights, len(x))
    training.check_derivatives()
    totals = np.zeros_like(weights)
    states = training.run()
    for total, row_weights in zip(totals, weights, strict=True):
        for t in range(1, len(states)):
            cotangents, gradient = training.differentiate_loss(
                states[t], row_weights
            )
            for s in reversed(range(t)):
                cotangents, rows, part = training.pull_back(
                    s, states[s], cotangents
                )
                gradient[rows] += part
            total += _sum_magnitudes(gradient)
    return _mean_over_steps(totals, len(states) - 1, loss_weights)


def compute_direct_loss_sensitivities(
    model,
    x,
    y,
    *,
    loss: Callable,
    learning_rate: float,
    num_steps: int,
    batch_size: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Returns each example's effect on its own loss, weights held fixed.

        result[n] = mean over t = 1..num_steps of the L1 norm of
            d loss_t(n) / d x[n] / N

    The first of the two terms of `compute_loss_sensitivities`, without what
    the example does to the weights: num_steps passes over the data instead of
    num_steps^2 / 2 steps back.

    Args:
        model, x, y, loss: As in `compute_loss_sensitivities`.
        learning_rate, num_steps, batch_size, rng: As there.

    Returns:
        `[N]` float64.

    Raises:
        TypeError: If `x` are no floats, or `loss` is no function.
        ValueError: If an argument is out of range, or training diverges.
    """
    training = _Training(
        model,
        x,
        y,
        loss=loss,
        learning_rate=learning_rate,
        batches=_make_batches(len(x), batch_size, num_steps, rng),
    )
    weights = _check_loss_weights(None, len(x))
    totals = np.zeros_like(weights)
    states = training.run()
    for state in states[1:]:
        _, gradient = training.differentiate_loss(state, weights[0])
        totals[0] += _sum_magnitudes(gradient)
    return _mean_over_steps(totals, len(states) - 1, None)


class _Training:
    """Plain SGD as a function of a state: all weights, then all else."""

    def __init__(self, model, x, y, *, loss, learning_rate, batches):
        self._model = model
        self._x, self._y = input_gradients.check_inputs(x, y)
        self._loss = input_gradients.check_loss(loss)
        self._learning_rate = _checks.check_real(
            "learning_rate", learning_rate, above=0.0
        )
        self._batches = batches
        self._num_weights = len(model.trainable_variables)
        self._framework = keras_backend.load("_unrolled")
        self._examples = [self._get_first_state(), self._x, self._y]
        self._step = self._compile(self._compute_step)
        self._loss_gradient = self._compile(
            self._compute_loss_gradient, np.zeros(1)
        )

    @functools.cached_property
    def _step_gradient(self):
        # Not every operation has a second derivative: compiled if it is needed.
        return self._compile(
            self._compute_step_gradient, _floats(self._examples[0])
        )

    def check_derivatives(self):
        """Refuses a step whose second derivatives are wrong."""
        self._framework.check_derivatives(self._step)

    def run(self):
        """Returns the states before, between and after the steps."""
        states = [self._get_first_state()]
        for rows in self._batches:
            states.append(self._step(states[-1], *self._take(rows)))
        last = map(keras.ops.convert_to_numpy, _floats(states[-1]))
        if not all(np.all(np.isfinite(value)) for value in last):
            raise ValueError(
                "learning_rate must keep the weights finite. Received: "
                f"{self._learning_rate}; after {len(self._batches)} steps some "
                "are not. Lower it."
            )
        return states

    def pull_back(self, step, state, cotangents):
        """Takes a derivative from after a step to before it.

        Returns:
            The derivative by the state before; the rows in the step's batch,
            and the derivative by each of them.
        """
        rows = self._batches[step]
        *cotangents, by_x = self._step_gradient(
            state, *self._take(rows), cotangents
        )
        return cotangents, rows, keras.ops.convert_to_numpy(by_x)

    def differentiate_loss(self, state, weights):
        """Returns the weighted loss's derivative by the state, and by x."""
        sums = [keras.ops.zeros_like(v) for v in _floats(state)]
        by_rows = []
        size = len(self._batches[0])
        for start in range(0, len(weights), size):
            rows = slice(start, start + size)
            *parts, by_x = self._loss_gradient(
                state,
                *self._take(rows),
                keras.ops.convert_to_tensor(weights[rows]),
            )
            sums = [a + b for a, b in zip(sums, parts, strict=True)]
            by_x = keras.ops.convert_to_numpy(by_x)
            by_rows.append(by_x.astype(np.float64))
        return sums, np.concatenate(by_rows)

    def _compile(self, function, *examples):
        return self._framework.compile_step(
            function, *self._examples, *examples
        )

    def _get_first_state(self):
        model = self._model
        variables = [*model.trainable_variables, *model.non_trainable_variables]
        return [keras.ops.stop_gradient(v) for v in variables]

    def _take(self, rows):
        return [
            keras.ops.convert_to_tensor(array[rows])
            for array in (self._x, self._y)
        ]

    def _call(self, state, x, y, *, training):
        outputs, others, penalties = self._model.stateless_call(
            state[: self._num_weights],
            state[self._num_weights :],
            x,
            training=training,
            return_losses=True,
        )
        return (
            input_gradients.compute_row_losses(self._loss, y, outputs),
            others,
            penalties,
        )

    def _compute_step(self, state, x, y):
        weights, others = state[: self._num_weights], state[self._num_weights :]

        def compute_total(weights):
            losses, updated, penalties = self._call(
                [*weights, *others], x, y, training=True
            )
            total = keras.ops.mean(losses)
            for penalty in penalties:
                total = total + keras.ops.cast(penalty, total.dtype)
            return total, list(updated)

        gradients, updated = self._framework.gradient(compute_total, weights)
        return [
            w - keras.ops.convert_to_tensor(self._learning_rate, w.dtype) * g
            for w, g in zip(weights, gradients, strict=True)
        ] + [keras.ops.convert_to_tensor(v) for v in updated]

    def _compute_step_gradient(self, state, x, y, cotangents):
        def step(inputs):
            *floats, x = inputs
            return _floats(self._compute_step(_replace(state, floats), x, y))

        return self._framework.pull_back(step, [*_floats(state), x], cotangents)

    def _compute_loss_gradient(self, state, x, y, weights):
        def compute_total(inputs):
            *floats, x = inputs
            losses, _, _ = self._call(
                _replace(state, floats), x, y, training=False
            )
            return [
                keras.ops.sum(keras.ops.cast(weights, losses.dtype) * losses)
            ]

        return self._framework.pull_back(
            compute_total, [*_floats(state), x], None
        )


def _is_float(tensor):
    """Returns whether it has derivatives: counters and seeds have none."""
    return keras.backend.is_float_dtype(
        keras.backend.standardize_dtype(tensor.dtype)
    )


def _floats(tensors):
    return [t for t in tensors if _is_float(t)]


def _replace(state, floats):
    """Returns the state with other floats."""
    floats = iter(floats)
    return [next(floats) if _is_float(t) else t for t in state]


def _make_batches(num_examples, batch_size, num_steps, rng):
    """Returns the rows of each step."""
    size = _checks.check_integer(
        "batch_size", batch_size, at_least=1, at_most=num_examples
    )
    num_steps = _checks.check_integer("num_steps", num_steps, at_least=1)
    batches = []
    while len(batches) < num_steps:
        order = rng.permutation(num_examples)
        batches += [
            order[start : start + size]
            for start in range(0, num_examples, size)
        ]
    return batches[:num_steps]


def _sum_magnitudes(gradient):
    return np.abs(gradient).reshape(len(gradient), -1).sum(axis=1)


def _mean_over_steps(totals, num_steps, loss_weights):
    if not np.all(np.isfinite(totals)):
        raise ValueError(
            "learning_rate must keep the sensitivities finite. Received: some "
            f"that are not, after {num_steps} steps. Lower it or num_steps."
        )
    means = totals / num_steps
    return means[0] if np.ndim(loss_weights) < 2 else means


def _check_loss_weights(loss_weights, num_examples):
    """Returns `[K, N]` float64."""
    if loss_weights is None:
        return np.full((1, num_examples), 1.0 / num_examples)
    weights = np.asarray(loss_weights, np.float64)
    if not (
        weights.ndim in (1, 2)
        and weights.shape[-1] == num_examples
        and np.all(np.isfinite(weights))
    ):
        raise ValueError(
            f"loss_weights must be finite, [{num_examples}] or [K, "
            f"{num_examples}], one for each row of x. Received: shape "
            f"{weights.shape}."
        )
    return np.atleast_2d(weights)
