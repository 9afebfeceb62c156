# SPDX-License-Identifier: Apache-2.0
"""One forward pass, one backward pass, clipped sums: the clipping engine."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tf_privacy import _checks
from tf_privacy.clipping import augmentation as augmentation_module
from tf_privacy.clipping import clipped_sum
from tf_privacy.clipping import keras_internals
from tf_privacy.clipping import plan_check
from tf_privacy.clipping import row_independence
from tf_privacy.clipping import row_selection
from tf_privacy.clipping import scaling
from tf_privacy.clipping import single_examples
from tf_privacy.clipping import styles
from tf_privacy.clipping import taps
from tf_privacy.clipping import unit_losses
from tf_privacy.clipping.backend import backend
from tf_privacy.clipping.backend.batches import batches
from tf_privacy.clipping.backend.execution import execution
from tf_privacy.clipping.backend.replicas import replicas

# Multiplies the loss of a float16 model so that cotangents do not underflow;
# divided out in float32 before the norms. A power of two: exact.
_FLOAT16_LOSS_SCALE = 2.0**10


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ClippedStep:
    """What a private forward and backward pass computed.

    Everything but `clipped_sum` is raw: computed on the data without noise.

    Attributes:
        clipped_sum: The clipped gradients, for `DPOptimizer.apply`.
        y_pred: The model's outputs in training mode, one row for each row
            that went through the model.
        norms: `[U]` float32; each unit's gradient norm before clipping; NaN
            or inf where the unit was left out.
    """

    clipped_sum: clipped_sum.ClippedSum
    y_pred: Any
    norms: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipSettings:
    """What a unit is, and how its gradient is bounded.

    Attributes:
        style: The clipping style.
        loss: `loss(y, y_pred, sample_weight)`; None takes the compiled one.
        examples_per_unit: Consecutive examples that make up one unit.
        augmentation: None, or the views that stand for each example.
    """

    style: styles.ClippingStyle
    loss: Callable | None = None
    examples_per_unit: int = 1
    augmentation: augmentation_module.Augmentation | None = None

    @property
    def rows_per_unit(self) -> int:
        """Rows of the model's batch that belong to one unit."""
        if self.augmentation is None:
            return self.examples_per_unit
        return self.examples_per_unit * self.augmentation.num_views


@execution.runs_as_written
def clipped_gradients(
    model,
    x,
    y=None,
    sample_weight=None,
    *,
    l2_norm_clip: float | styles.ClippingStyle,
    loss=None,
    examples_per_unit: int = 1,
    augment: augmentation_module.Augmentation | None = None,
) -> ClippedStep:
    """Returns the sum of per-unit gradients, each clipped on its own.

        sum_u g[u] * min(1, l2_norm_clip / norm(g[u]))
        g[u] = sum of the gradients of loss(y[b:b+1], model(x)[b:b+1]) for all
               weights, over the examples b of unit u
    A unit whose gradient is not finite contributes nothing. A batch of no
    examples gives zeros. Losses of weights alone (regularisers) are not in it:
    see `regularizer_gradients`.

    Args:
        model: A `keras.Model`; its layers must not mix examples.
        x: A structure of tensors `[B, ...]`.
        y: A structure of tensors `[B, ...]`, or None.
        sample_weight: A structure of tensors `[B, ...]`, or None.
        l2_norm_clip: L2 bound on one unit's gradient; gradient units; > 0. A
            number, or a ClippingStyle that has one; `optimizer.current_clip`
            where the optimizer's clip moves, or it scales gradients, or
            selects rows.
        loss: `loss(y, y_pred, sample_weight)` for a batch of one example, a
            function of nothing else; None takes the one that the model was
            compiled with.
        examples_per_unit: So many consecutive examples are one unit: those of
            one person, for user-level privacy. B is a multiple of it.
        augment: None, or an `Augmentation`: each example is replaced by the
            mean over its views.

    Returns:
        A ClippedStep.

    Raises:
        ValueError: If a layer mixes examples or changes its state, or there is
            no loss.

    Source: book-keeping, Bu et al. 2023, arXiv:2210.00038.
    """
    settings = ClipSettings(
        style=styles.as_style(l2_norm_clip),
        loss=loss,
        examples_per_unit=_checks.check_integer(
            "examples_per_unit", examples_per_unit, at_least=1
        ),
        augmentation=augment,
    )
    replicas.check_shares(keras.tree.flatten(x)[0])
    data = prepare_data((x, y, sample_weight), settings)
    return clip_prepared(model, data, settings)


def clip_prepared(model, data, settings: ClipSettings, counted=None):
    """Returns the ClippedStep of one batch.

    A batch of no rows, which Poisson sampling makes now and then, goes through
    the model as one unit of zeros that does not count: TensorFlow's own
    convolutions return a wrong shape for no rows on some processors.

    Args:
        model: A `keras.Model`.
        data: From `prepare_data`.
        settings: What a unit is and how it is clipped.
        counted: `[U]` bool; false for padding, which adds nothing. None counts
            every unit.
    """
    rows = _first_leaf(data)
    if rows.shape[0]:
        return _clip_rows(model, data, settings, counted)
    num_rows = ops.shape(rows)[0]
    num_units = num_rows // settings.rows_per_unit
    data = batches.fill_if_empty(data, settings.rows_per_unit)
    num_filled = ops.shape(_first_leaf(data))[0] // settings.rows_per_unit
    present = ops.arange(num_filled, dtype="int32") < num_units
    if counted is not None:
        present = present & batches.fill_if_empty(counted, 1)
    step = _clip_rows(model, data, settings, present)
    return ClippedStep(
        clipped_sum=step.clipped_sum,
        y_pred=keras.tree.map_structure(lambda t: t[:num_rows], step.y_pred),
        norms=step.norms[:num_units],
    )


def _first_leaf(data):
    return next(t for t in keras.tree.flatten(data) if t is not None)


def _clip_rows(model, data, settings, counted):
    x, y, sample_weight = data
    loss = _without_weights(settings.loss or compiled_loss(model), model)
    keras_internals.build_for(model, x)
    variables = tuple(model.trainable_variables)
    if not variables:
        raise ValueError(
            "model must have trainable variables. Received: none in "
            f"{model.name!r}. Set `trainable = True` on what is to be trained."
        )
    row_independence.check_once(model, x)
    plan = plan_check.confirmed_plan(model, x)
    tables = (
        row_selection.find_tables(model) if settings.style.selects_rows else []
    )
    counts = []
    if plan.loop_reason:
        row_selection.check_no_tables(tables, plan.loop_reason)
        gradients, y_pred, squared = single_examples.loop_clipped_sum(
            model,
            (x, y, sample_weight),
            counted,
            loss=loss,
            style=settings.style,
            rows_per_unit=settings.rows_per_unit,
            unscale=1.0 / _num_views(settings),
        )
    else:
        gradients, y_pred, squared, counts = _book_keeping(
            model, (x, y, sample_weight), counted, plan, loss, settings, tables
        )
    total = clipped_sum.ClippedSum(
        gradients=tuple(gradients),
        variables=variables,
        l2_sensitivity=settings.style.l2_norm_clip,
        examples_per_unit=settings.examples_per_unit,
        query_sum=settings.style.sum_query(squared, counted),
        query_sensitivity=settings.style.query_sensitivity,
        row_counts=row_selection.align(counts, tables, variables),
        scale=settings.style.scale,
        scales=settings.style.scales,
    )
    return ClippedStep(
        clipped_sum=total, y_pred=y_pred, norms=ops.sqrt(squared)
    )


def prepare_data(data, settings: ClipSettings):
    """Returns what goes through the model: tensors, each example's views.

    Args:
        data: `(x, y, sample_weight)`, structures of arrays `[B, ...]`.
        settings: For its units and views.

    Raises:
        ValueError: If lengths differ, or are no whole number of units.
    """
    data = as_units(data, settings.examples_per_unit)
    if settings.augmentation is None:
        return data
    return settings.augmentation.make_views(*data)


def as_units(data, examples_per_unit: int):
    """Returns tensors that hold whole units.

    Args:
        data: A structure of arrays `[B, ...]`.
        examples_per_unit: What B must be a multiple of.

    Raises:
        ValueError: If lengths differ, or leave a unit incomplete; where they
            are known only in the step, the step fails.
    """
    data = as_tensors(data)
    _check_lengths(data, examples_per_unit)
    if examples_per_unit == 1:
        return data
    return batches.check_multiple(data, examples_per_unit)


def _num_views(settings) -> int:
    return settings.augmentation.num_views if settings.augmentation else 1


def _book_keeping(model, data, counted, plan, loss, settings, tables):
    x, y, sample_weight = data
    variables = model.trainable_variables
    scale = _loss_scale(model)
    recorders = []

    def forward(tap):
        recorder = taps.TapRecorder(plan, tap, variables)
        recorders.append(recorder)
        y_pred = recorder.run(model, x)
        losses = unit_losses.compute_unit_losses(
            loss, y, y_pred, sample_weight, scale=scale
        )
        return ops.sum(losses), (y_pred, recorder.tensors())

    (y_pred, tensors), cotangents = backend.pull_back(forward)
    recorder = recorders[-1]
    recorder.keep(tensors)
    num_rows = ops.shape(keras.tree.flatten(x)[0])[0]
    num_units = num_rows // settings.rows_per_unit
    # Norms and sums must be of the same numbers to the last digits.
    with execution.full_precision():
        terms = taps.collect_terms(
            recorder.records,
            cotangents,
            1.0 / (scale * _num_views(settings)),
            variables,
            rows_per_unit=settings.rows_per_unit,
        )
        gradients, total, present = _clip_terms(
            terms, variables, counted, settings, num_units
        )
    counts = row_selection.count_rows(tables, terms, present) if tables else []
    return gradients, y_pred, total, counts


def _clip_terms(terms, variables, counted, settings, num_units):
    """Returns the clipped sums, squared norms, and which units are in them."""
    if settings.style.scales is not None:
        pairs = zip(variables, settings.style.scales, strict=True)
        terms = scaling.scale_terms(terms, {id(v): s for v, s in pairs})
    zero = ops.zeros((num_units,), "float32")
    groups = settings.style.group_variables(variables)
    squared = [zero] * len(set(groups))
    for variable, group in zip(variables, groups, strict=True):
        if id(variable) in terms:
            norms = terms[id(variable)].squared_norms()
            squared[group] = squared[group] + norms
    factors, present = settings.style.compute_factors(squared, counted)

    def sums(keep):
        return [
            terms[id(v)].weighted_sum(factors[group], keep)
            if id(v) in terms
            else ops.zeros(v.shape, "float32")
            for v, group in zip(variables, groups, strict=True)
        ]

    # A factor of 0 does not silence NaN or inf (0 * inf is NaN): where a unit
    # is not finite its rows are set to zero. Rare, so only then.
    total = sum(squared)
    gradients = ops.cond(
        ops.all(ops.isfinite(total)),
        lambda: sums(None),
        lambda: sums(present),
    )
    return gradients, total, present


def _loss_scale(model) -> float:
    dtypes = {
        layer.compute_dtype for layer in keras_internals.flatten_layers(model)
    }
    return _FLOAT16_LOSS_SCALE if "float16" in dtypes else 1.0


def _check_lengths(data, examples_per_unit: int):
    """Raises if lengths are known to differ or to leave a unit incomplete."""
    leaves = [t for t in keras.tree.flatten(data) if t is not None]
    lengths = {t.shape[0] if len(t.shape) else 0 for t in leaves} - {None}
    if len(lengths) > 1:
        raise ValueError(
            "x, y and sample_weight must have the same number of rows. "
            f"Received: {sorted(lengths)} rows. Row i of each must belong to "
            "the same example."
        )
    if lengths and lengths.pop() % examples_per_unit:
        raise ValueError(
            "x must hold whole units: a multiple of examples_per_unit="
            f"{examples_per_unit} rows. Received: {leaves[0].shape[0]} rows. "
            "Fill up with rows of sample_weight 0 (tf_privacy.arrange_units "
            "does it)."
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
        observed = keras_internals.ObservedState(check_read, lambda *_: None)
        with observed, replicas.as_one_replica():
            return loss(y, y_pred, sample_weight)

    return checked


def as_tensors(structure):
    """Returns a structure of tensors; None stays None.

    Args:
        structure: A structure of arrays.
    """
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
