# SPDX-License-Identifier: Apache-2.0
"""Gradients at taps and weights, and their norms, in JAX."""

import jax
import keras
from jax import numpy as jnp

from tf_privacy.clipping import keras_internals


def pull_back(function):
    """Returns a scalar's value and its cotangents at the tapped tensors.

    `function` runs twice, the first time on shapes alone: what is
    differentiated must be an argument, and the taps are not known before.

    Args:
        function: `function(tap) -> (scalar, aux)`; `tap(tensor)` returns the
            tensor to go on with. Tensors that are used afterwards are in aux.

    Returns:
        `aux`, and a list with the cotangent of each tap in the order of the
        calls.
    """
    specs = _tapped_specs(function)
    outside = []

    def run(handles):
        remaining = iter(handles)
        with keras_internals.InnerScope() as scope:
            scalar, aux = function(lambda z: _attach(z, next(remaining)))
        tensors, rebuild = _separate(aux)
        outside.extend([rebuild, scope.updated])
        values = [scope.get_current_value(v) for v in scope.updated]
        return scalar, (tensors, values)

    handles = [jnp.zeros(spec.shape, spec.dtype) for spec in specs]
    scalar, differentiate, (tensors, values) = jax.vjp(
        run, handles, has_aux=True
    )
    (cotangents,) = differentiate(jnp.ones_like(scalar))
    rebuild, updated = outside
    for variable, value in zip(updated, values, strict=True):
        variable.assign(value)
    return rebuild(tensors), cotangents


def _tapped_specs(function):
    """Returns shape and dtype of what `function` taps; nothing is computed."""
    tapped = []

    def run():
        def tap(tensor):
            tapped.append(jax.ShapeDtypeStruct(tensor.shape, tensor.dtype))
            return tensor

        with keras_internals.InnerScope():
            scalar, _ = function(tap)
        return scalar

    jax.eval_shape(run)
    return tapped


@jax.custom_vjp
def _attach(tensor, handle):
    """Returns the tensor; its cotangent is the handle's, too."""
    del handle
    return tensor


_attach.defvjp(
    lambda tensor, handle: (tensor, None), lambda _, cotangent: (cotangent,) * 2
)


def _separate(structure):
    """Returns a structure's tensors, masks on them too, and what rebuilds it.

    Args:
        structure: Of tensors and other things.

    Returns:
        A list of tensors, and a function from such a list to the structure.
    """
    leaves = keras.tree.flatten(structure)
    places = [i for i, leaf in enumerate(leaves) if _is_tensor(leaf)]
    masks = {i: keras_internals.get_keras_mask(leaves[i]) for i in places}
    masked = [i for i in places if masks[i] is not None]

    def rebuild(tensors):
        found = list(leaves)
        for place, tensor in zip(places, tensors, strict=False):
            found[place] = tensor
        for place, mask in zip(masked, tensors[len(places) :], strict=True):
            keras_internals.set_keras_mask(found[place], mask)
        return keras.tree.pack_sequence_as(structure, found)

    tensors = [leaves[i] for i in places] + [masks[i] for i in masked]
    return tensors, rebuild


def _is_tensor(leaf) -> bool:
    return isinstance(leaf, jax.Array)


def gradient(function, variables):
    """Returns the gradient of `function()` for each variable, never None."""
    gradients, updated, values = _gradient_and_updates(function, variables)
    for variable, value in zip(updated, values, strict=True):
        variable.assign(value)
    return gradients


def isolated_gradient(function, variables):
    """Returns `gradient(function, variables)` without changing any state."""
    return _gradient_and_updates(function, variables)[0]


def _gradient_and_updates(function, variables):
    updated = []

    def run(values):
        mapping = list(zip(variables, values, strict=True))
        with keras_internals.InnerScope(mapping) as scope:
            total = jnp.sum(function())
        updated.extend(scope.updated)
        return total, [scope.get_current_value(v) for v in scope.updated]

    values = [v.value for v in variables]
    gradients, after = jax.grad(run, has_aux=True)(values)
    return gradients, updated, after


def squared_norms(array, axes):
    """Returns squared L2 norms along axes; XLA makes one pass of it.

    Args:
        array: A float32 tensor.
        axes: A tuple of axes.
    """
    return jnp.sum(jnp.square(array), axes)


def products_of_rows(left, right):
    """Returns `[B, C, D]`: left[b]^T right[b].

    Args:
        left: `[B, P, C]`.
        right: `[B, P, D]`.
    """
    return jnp.matmul(jnp.swapaxes(left, 1, 2), right)


def grams_of_rows(array):
    """Returns `[B, T, T]`: array[b] array[b]^T.

    Args:
        array: `[B, T, P]`.
    """
    return jnp.matmul(array, jnp.swapaxes(array, 1, 2))


def densify(tensor):
    """Returns the tensor: all are dense."""
    return tensor


def row_leak(function, inputs, row: int = 0) -> float:
    """Returns how much one output row's gradient touches other rows.

    Args:
        function: Maps a structure of tensors `[B, ...]` to such a structure.
        inputs: Concrete tensors; only the floating ones are differentiated.
        row: Which output row.

    Returns:
        The largest absolute gradient in any row but that one; 0 if none.
    """
    leaves = keras.tree.flatten(inputs)
    places = [i for i, leaf in enumerate(leaves) if _is_float(leaf)]

    def total(floats):
        mixed = list(leaves)
        for place, tensor in zip(places, floats, strict=True):
            mixed[place] = tensor
        with keras_internals.InnerScope():
            outputs = function(keras.tree.pack_sequence_as(inputs, mixed))
        sums = [
            jnp.sum(jnp.sin(o[row].astype("float32")))
            for o in keras.tree.flatten(outputs)
            if _is_float(o) and o.ndim
        ]
        return sum(sums, jnp.zeros(()))

    gradients = jax.grad(total)([leaves[i] for i in places]) if places else []
    others = [
        jnp.abs(jnp.delete(g, row, axis=0).astype("float32")).max(initial=0.0)
        for g in gradients
    ]
    finite = [float(v) for v in others if jnp.isfinite(v)]
    return max(finite, default=0.0)


def _is_float(tensor) -> bool:
    return _is_tensor(tensor) and jnp.issubdtype(tensor.dtype, jnp.floating)
