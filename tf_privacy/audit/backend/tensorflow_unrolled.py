# SPDX-License-Identifier: Apache-2.0
"""Derivatives of a whole training run by its examples, in TensorFlow.

A step of training is a function from one state to the next, through
`stateless_call`: the model stays as it is, at its first weights.
"""

import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tf_privacy import _checks
from tf_privacy.audit.backend import tensorflow as input_gradients


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
    are measured in inference mode. Batch, layer and group normalization are
    refused: TensorFlow's derivative of their derivative is wrong.

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
        ValueError: If an argument is out of range, a layer or the loss stops
            gradients, or training diverges.

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
        self._specs = [
            [tf.TensorSpec(v.shape, v.dtype) for v in self._get_first_state()],
            input_gradients.make_spec(self._x),
            input_gradients.make_spec(self._y),
        ]
        self._step = input_gradients.trace(self._compute_step, *self._specs)
        self._loss_gradient = input_gradients.trace(
            self._compute_loss_gradient,
            *self._specs,
            tf.TensorSpec([None], tf.float64),
        )

    @functools.cached_property
    def _step_gradient(self):
        # Not every operation has a second derivative: traced if it is needed.
        return input_gradients.trace(
            self._compute_step_gradient, *self._specs, _floats(self._specs[0])
        )

    def check_derivatives(self):
        """Refuses a step whose second derivatives are wrong.

        A stopped gradient is one that the step does not follow and the chain
        of steps would have to. `tf.nn.moments` stops one that is zero, whose
        derivative is not.
        """
        graph = self._step.graph.as_graph_def()
        for part in (graph.node, *(f.node_def for f in graph.library.function)):
            for node in part:
                if node.op == "StopGradient":
                    raise ValueError(
                        "model must train without stopped gradients, as "
                        "batch, layer and group normalization have them. "
                        f"Received: {node.name!r}. Take a model without them, "
                        "or compute_direct_loss_sensitivities."
                    )

    def run(self):
        """Returns the states before, between and after the steps."""
        states = [self._get_first_state()]
        for step in range(len(self._batches)):
            states.append(self._step(states[-1], *self._take(step)))
        last = _floats(states[-1])
        if not all(bool(tf.reduce_all(tf.math.is_finite(v))) for v in last):
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
        cotangents, by_x = self._step_gradient(
            state, *self._take(step), cotangents
        )
        return cotangents, self._batches[step], by_x.numpy()

    def differentiate_loss(self, state, weights):
        """Returns the weighted loss's derivative by the state, and by x."""
        sums = [tf.zeros_like(v) for v in _floats(state)]
        by_rows = []
        size = len(self._batches[0])
        for start in range(0, len(weights), size):
            rows = slice(start, start + size)
            parts, by_x = self._loss_gradient(
                state, self._x[rows], self._y[rows], tf.constant(weights[rows])
            )
            sums = [a + b for a, b in zip(sums, parts, strict=True)]
            by_rows.append(by_x.numpy().astype(np.float64))
        return sums, np.concatenate(by_rows)

    def _get_first_state(self):
        model = self._model
        variables = [*model.trainable_variables, *model.non_trainable_variables]
        return [tf.convert_to_tensor(v) for v in variables]

    def _take(self, step):
        rows = self._batches[step]
        return tf.gather(self._x, rows), tf.gather(self._y, rows)

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
        weights = state[: self._num_weights]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            losses, others, penalties = self._call(state, x, y, training=True)
            mean = tf.reduce_mean(losses)
            total = tf.add_n(
                [mean, *(tf.cast(p, mean.dtype) for p in penalties)]
            )
        gradients = tape.gradient(
            total, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        return [
            w - tf.constant(self._learning_rate, w.dtype) * g
            for w, g in zip(weights, gradients, strict=True)
        ] + [tf.convert_to_tensor(v) for v in others]

    def _compute_step_gradient(self, state, x, y, cotangents):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([*_floats(state), x])
            after = _floats(self._compute_step(state, x, y))
        return _gradients(tape, after, state, x, cotangents)

    def _compute_loss_gradient(self, state, x, y, weights):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([*_floats(state), x])
            losses, _, _ = self._call(state, x, y, training=False)
            total = tf.reduce_sum(tf.cast(weights, losses.dtype) * losses)
        return _gradients(tape, [total], state, x, None)


def _gradients(tape, targets, state, x, cotangents):
    *by_state, by_x = tape.gradient(
        targets,
        [*_floats(state), x],
        output_gradients=cotangents,
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    return by_state, by_x


def _floats(tensors):
    """Returns those that have derivatives: counters and seeds have none."""
    return [t for t in tensors if t.dtype.is_floating]


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
