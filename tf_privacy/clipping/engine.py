# SPDX-License-Identifier: Apache-2.0
"""One forward pass, one backward pass, clipped sums: the clipping engine."""

import dataclasses
from typing import Any

import keras
from keras import ops

from tf_privacy import _checks
from tf_privacy.clipping import clipped_sum
from tf_privacy.clipping import keras_internals
from tf_privacy.clipping import plan_check
from tf_privacy.clipping import row_independence
from tf_privacy.clipping import single_examples
from tf_privacy.clipping import taps
from tf_privacy.clipping import thresholds
from tf_privacy.clipping import unit_losses
from tf_privacy.clipping.backend import backend

# Multiplies the loss of a float16 model so that cotangents do not underflow;
# divided out in float32 before the norms. A power of two: exact.
_FLOAT16_LOSS_SCALE = 2.0**10


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ClippedStep:
    """What a private forward and backward pass computed.

    Everything but `clipped_sum` is raw: computed on the data without noise.

    Attributes:
        clipped_sum: The clipped gradients, for `DPOptimizer.apply`.
        y_pred: The model's outputs in training mode.
        norms: `[B]` float32; each unit's gradient norm before clipping; NaN
            or inf where the unit was left out.
    """

    clipped_sum: clipped_sum.ClippedSum
    y_pred: Any
    norms: Any


@backend.runs_as_written
def clipped_gradients(
    model,
    x,
    y=None,
    sample_weight=None,
    *,
    l2_norm_clip: float,
    loss=None,
) -> ClippedStep:
    """Returns the sum of per-example gradients, each clipped on its own.

        sum_b g[b] * min(1, l2_norm_clip / norm(g[b]))
        g[b] = gradient of loss(y[b:b+1], model(x)[b:b+1]) for all weights
    An example whose gradient is not finite contributes nothing. A batch of no
    examples gives zeros. Losses of weights alone (regularisers) are not in it:
    see `regularizer_gradients`.

    Args:
        model: A `keras.Model`; its layers must not mix examples.
        x: A structure of tensors `[B, ...]`.
        y: A structure of tensors `[B, ...]`, or None.
        sample_weight: A structure of tensors `[B, ...]`, or None.
        l2_norm_clip: L2 bound on one example's gradient; gradient units; > 0.
        loss: `loss(y, y_pred, sample_weight)` for a batch of one example, a
            function of nothing else; None takes the one that the model was
            compiled with.

    Returns:
        A ClippedStep.

    Raises:
        ValueError: If a layer mixes examples or changes its state, or there is
            no loss.

    Source: book-keeping, Bu et al. 2023, arXiv:2210.00038.
    """
    l2_norm_clip = _checks.check_l2_norm_clip(l2_norm_clip)
    x, y, sample_weight = _as_tensors((x, y, sample_weight))
    _check_lengths((x, y, sample_weight))
    loss = _without_weights(loss or compiled_loss(model), model)
    keras_internals.build_for(model, x)
    variables = tuple(model.trainable_variables)
    if not variables:
        raise ValueError(
            "model must have trainable variables. Received: none in "
            f"{model.name!r}. Set `trainable = True` on what is to be trained."
        )
    row_independence.check_once(model, x)
    plan = plan_check.confirmed_plan(model, x)
    if plan.loop_reason:
        gradients, y_pred, squared = single_examples.loop_clipped_sum(
            model, x, y, sample_weight, loss=loss, l2_norm_clip=l2_norm_clip
        )
    else:
        gradients, y_pred, squared = _book_keeping(
            model, x, y, sample_weight, plan, loss, l2_norm_clip
        )
    total = clipped_sum.ClippedSum(
        gradients=tuple(gradients),
        variables=variables,
        l2_sensitivity=l2_norm_clip,
    )
    return ClippedStep(
        clipped_sum=total, y_pred=y_pred, norms=ops.sqrt(squared)
    )


def sum_over_microbatches(clip, data, microbatch_size: int, model, observe):
    """Returns the ClippedSum of one logical batch, sent through in pieces.

    The pieces are consecutive rows of one draw, and their sums add up before
    any noise: the result is that of the whole batch, in the memory of a piece.

    Args:
        clip: `clip(x, y, sample_weight) -> ClippedStep` for one piece.
        data: `(x, y, sample_weight)`, structures of tensors `[B, ...]`.
        microbatch_size: Rows of a piece; the last one may have fewer.
        model: The model whose trainable variables `clip` clips for.
        observe: Called with each piece's ClippedStep and data.
    """
    microbatch_size = _checks.check_integer(
        "microbatch_size", microbatch_size, at_least=1
    )
    data = _as_tensors(data)
    _check_lengths(data)
    keras_internals.build_for(model, data[0])
    leaf = next(t for t in keras.tree.flatten(data) if t is not None)
    variables = tuple(model.trainable_variables)
    sensitivities = []

    def clip_piece(start, stop):
        piece = keras.tree.map_structure(
            lambda t: None if t is None else t[start:stop], data
        )
        step = clip(*piece)
        observe(step, piece)
        sensitivities.append(step.clipped_sum.l2_sensitivity)
        return list(step.clipped_sum.gradients)

    gradients = backend.sum_over_pieces(
        clip_piece,
        ops.shape(leaf)[0],
        microbatch_size,
        [ops.zeros(v.shape, "float32") for v in variables],
    )
    if not sensitivities:  # An eager batch of no rows has no piece.
        gradients = clip_piece(0, 0)
    return clipped_sum.ClippedSum(
        gradients=tuple(gradients),
        variables=variables,
        l2_sensitivity=max(sensitivities),
    )


def _book_keeping(model, x, y, sample_weight, plan, loss, l2_norm_clip):
    variables = model.trainable_variables
    scale = _loss_scale(model)
    recorders = []

    def forward(tap):
        recorder = taps.TapRecorder(plan, tap, variables)
        recorders.append(recorder)
        y_pred = recorder.run(model, x)
        losses = unit_losses.compute_unit_losses(loss, y, y_pred, sample_weight)
        return ops.sum(losses) * scale, (y_pred, losses)

    (y_pred, losses), cotangents = backend.pull_back(forward)
    terms = taps.collect_terms(
        recorders[0].records, cotangents, 1.0 / scale, variables
    )
    squared = ops.zeros_like(losses)
    for term in terms.values():
        squared = squared + term.squared_norms()
    factors, finite = thresholds.compute_clip_factors(squared, l2_norm_clip)

    def sums(keep):
        return [
            terms[id(v)].weighted_sum(factors, keep)
            if id(v) in terms
            else ops.zeros(v.shape, "float32")
            for v in variables
        ]

    # A factor of 0 does not silence NaN or inf (0 * inf is NaN): where a unit
    # is not finite its rows are set to zero. Rare, so only then.
    gradients = ops.cond(
        ops.all(finite), lambda: sums(None), lambda: sums(finite)
    )
    return gradients, y_pred, squared


def _loss_scale(model) -> float:
    dtypes = {
        layer.compute_dtype for layer in keras_internals.flatten_layers(model)
    }
    return _FLOAT16_LOSS_SCALE if "float16" in dtypes else 1.0


def _check_lengths(data):
    """Raises if tensors that go together are known to differ in length."""
    leaves = [t for t in keras.tree.flatten(data) if t is not None]
    lengths = {t.shape[0] if len(t.shape) else 0 for t in leaves} - {None}
    if len(lengths) > 1:
        raise ValueError(
            "x, y and sample_weight must have the same number of rows. "
            f"Received: {sorted(lengths)} rows. Row i of each must belong to "
            "the same example."
        )


def _without_weights(loss, model):
    """Returns the loss, which raises if it reads the model's weights."""
    trainable = {id(v) for v in model.trainable_variables}

    def check_read(variable):
        if id(variable) in trainable:
            raise ValueError(
                "loss must be a function of its arguments alone. Received: a "
                f"loss that reads {variable.path!r}: that part of its gradient "
                "would not be clipped. Use a regularizer, or make what it "
                "reads an output of the model."
            )

    def checked(y, y_pred, sample_weight):
        with keras_internals.ObservedState(check_read, lambda v, value: None):
            return loss(y, y_pred, sample_weight)

    return checked


def _as_tensors(structure):
    return keras.tree.map_structure(
        lambda a: None if a is None else ops.convert_to_tensor(a), structure
    )


def compiled_loss(model):
    """Returns the loss that a model was compiled with, for one example.

    Args:
        model: A compiled `keras.Model`.

    Raises:
        ValueError: If it was compiled without one.
    """
    loss = keras_internals.get_compiled_loss(model)
    if loss is None:
        raise ValueError(
            "loss must be given to model.compile() or to this call. Received: "
            "None. A loss added inside of a layer cannot be clipped."
        )
    return loss


def regularizer_gradients(model):
    """Returns the gradient of the weight regularisers for each variable.

    They see no data, so adding them after the noise costs no privacy.

    Args:
        model: A `keras.Model`.

    Returns:
        A list aligned with `model.trainable_variables`, or None if there is
        no regulariser.
    """
    variables = model.trainable_variables
    if all(v.regularizer is None for v in variables):
        return None

    def total():
        return sum(
            v.regularizer(v) for v in variables if v.regularizer is not None
        )

    return backend.gradient(total, variables)
