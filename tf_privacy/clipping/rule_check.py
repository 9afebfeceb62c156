# SPDX-License-Identifier: Apache-2.0
"""A user's own rule: how it joins the others, and how it is checked first."""

import keras
import numpy as np
from keras import ops

from tf_privacy.clipping import keras_internals
from tf_privacy.clipping import probe_rows
from tf_privacy.clipping import rules
from tf_privacy.clipping.backend import backend

_TOLERANCE = 1e-4  # Relative; float32 ways of one gradient agree to 1e-6.


def check_rule(rule, layer, x) -> None:
    """Raises if a rule does not give each example's gradients of a layer.

    The layer's gradients are taken twice on a few rows: by the rule, from the
    batch, and by a tape, from each row alone. Norms, sums and the layer's
    outputs must agree, and a row of NaN must not reach another row.

    Args:
        rule: A `ClippingRule`.
        layer: A `keras.layers.Layer` that the rule is for.
        x: `[B, ...]`, an input of the layer; a few rows are used.

    Raises:
        ValueError: If they differ; the message says where.
    """
    rows = probe_rows.as_tensors(probe_rows.sample_rows(x))
    if not layer.built:
        layer(rows)
    variables = layer.trainable_variables
    shapes = tuple(tuple(t.shape) for t in keras.tree.flatten(rows))
    if not rule.supports(layer, variables, shapes):
        raise ValueError(
            "rule must support the layer. Received: supports() is false for "
            f"{layer.name!r} on {shapes}. Check what supports() compares."
        )
    outputs, terms = _apply_rule(rule, layer, rows)
    expected = [
        _row_gradients(layer, rows, b, variables)
        for b in range(probe_rows.NUM_ROWS)
    ]
    _compare("outputs", outputs, layer(rows), layer)
    seen = {id(v) for v, _ in terms}
    for position, variable in enumerate(variables):
        stack = np.array([row[position] for row in expected])
        if id(variable) not in seen:
            if np.any(stack):
                _refuse(f"no term for {variable.path!r}", layer)
            continue
        _check_terms(terms, variable, stack, layer)
    _check_hostile_row(rule, layer, rows)


def _check_terms(terms, variable, stack, layer):
    mine = [term for v, term in terms if v is variable]
    total = np.zeros(stack.shape[1:])
    factors = np.linspace(0.0, 1.0, len(stack)).astype("float32")
    for term in mine:
        total = total + _to_numpy(term.weighted_sum(ops.array(factors)))
    wanted = np.tensordot(factors, stack, axes=1)
    _compare(f"weighted sum of {variable.path!r}", total, wanted, layer)
    if len(mine) == 1:
        squared = np.sum(stack**2, axis=tuple(range(1, stack.ndim)))
        found = _to_numpy(mine[0].squared_norms())
        _compare(f"norms of {variable.path!r}", found, squared, layer)
    together = sum(_to_numpy(term.instantiate()) for term in mine)
    _compare(f"gradients of {variable.path!r}", together, stack, layer)


def _check_hostile_row(rule, layer, rows):
    """Raises if NaN in the first row shows in the norms of the others."""

    def spoil(tensor):
        if "float" not in ops.dtype(tensor):
            return tensor
        bad = np.array(ops.convert_to_numpy(tensor))
        bad[0] = np.nan
        return ops.convert_to_tensor(bad)

    _, terms = _apply_rule(rule, layer, keras.tree.map_structure(spoil, rows))
    for variable, term in terms:
        if not np.all(np.isfinite(_to_numpy(term.squared_norms())[1:])):
            _refuse(f"NaN of one row in others, for {variable.path!r}", layer)


def _apply_rule(rule, layer, rows):
    """Returns the layer's outputs and terms, for a fixed loss on them."""

    def forward(tap):
        outputs, saved = rule.forward(layer, layer.call, tap, (rows,), {})
        return _loss(outputs), (outputs, saved)

    with keras_internals.CallContext().entered():
        (outputs, saved), cotangents = backend.pull_back(forward)
        cotangents = [ops.cast(g, "float32") for g in cotangents]
        return outputs, rule.terms(layer, saved, cotangents)


def _loss(outputs):
    """Returns a scalar that weighs every output differently."""
    total = 0.0
    for output in keras.tree.flatten(outputs):
        row = ops.reshape(
            ops.cast(output, "float32"), (ops.shape(output)[0], -1)
        )
        weights = ops.cos(ops.arange(row.shape[1], dtype="float32"))
        total = total + ops.sum(ops.sin(row + 0.5) * weights)
    return total


def _row_gradients(layer, rows, b, variables):
    one = keras.tree.map_structure(lambda t: t[b : b + 1], rows)
    gradients = backend.isolated_gradient(
        lambda: _loss(layer.call(one)), variables
    )
    return [_to_numpy(backend.densify(g)) for g in gradients]


def _to_numpy(tensor):
    return np.asarray(ops.convert_to_numpy(tensor), np.float64)


def _compare(what, found, wanted, layer):
    for a, b in zip(
        keras.tree.flatten(found), keras.tree.flatten(wanted), strict=True
    ):
        a, b = _to_numpy(a), _to_numpy(b)
        scale = np.max(np.abs(b), initial=0.0) + 1e-30
        if a.shape != b.shape or not np.all(
            np.abs(a - b) <= _TOLERANCE * scale
        ):
            _refuse(f"other {what}", layer)


def _refuse(received: str, layer):
    raise ValueError(
        "rule must give the gradients that a tape gives for each example "
        f"alone. Received: {received}, of layer {layer.name!r} "
        f"({type(layer).__name__}). Without a rule the layer takes the generic "
        "path, which is exact."
    )


def register_rule(rule) -> None:
    """Makes a user's rule the first one that layers are offered.

    A rule decides what bounds an example's gradient: check it with
    `check_rule` on each kind of input. The first step of every model holds
    the result against a tape again.

    Args:
        rule: A `ClippingRule`.

    Raises:
        TypeError: If it is not one.
    """
    if not isinstance(rule, rules.Rule):
        raise TypeError(
            "rule must be a tf_privacy.ClippingRule. Received: "
            f"{type(rule).__name__}. Derive a class from it."
        )
    rules.add_rule(rule)
