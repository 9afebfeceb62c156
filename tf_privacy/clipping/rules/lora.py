# SPDX-License-Identifier: Apache-2.0
"""Low-rank adaptation: a frozen kernel plus `scale * A B`, A and B trained.

Hu et al. 2021, arXiv:2106.09685. The gradients of A and B are products too:
each is that of a kernel in an einsum in which the other one has been applied
to the inputs or to the cotangents.
"""

import keras
from keras import ops

from tf_privacy.clipping.rules import einsum_products


def factors(layer) -> tuple:
    """Returns a layer's A and B, or () if it is not adapted.

    Args:
        layer: A Dense, EinsumDense or Embedding.
    """
    if not layer.lora_enabled:
        return ()
    if isinstance(layer, keras.layers.Embedding):
        return layer.lora_embeddings_a, layer.lora_embeddings_b
    return layer.lora_kernel_a, layer.lora_kernel_b


def scaled_values(layer):
    """Returns A, and B times the adaptation's scale, both float32.

    Args:
        layer: A layer whose `factors` are not empty.
    """
    a, b = factors(layer)
    return ops.cast(a, "float32"), scale(layer) * ops.cast(b, "float32")


def scale(layer) -> float:
    """Returns what the product of A and B is multiplied with.

    Args:
        layer: A layer whose `factors` are not empty.
    """
    return layer.lora_alpha / layer.lora_rank


def product_pairs(layer, inputs, cotangents, letters):
    """Returns A and B with their terms; [] if the layer is not adapted.

    A has all axes of the kernel but the last, B has the last: either one is
    applied to the operand that shares its axes, and the other's gradient is
    taken with the result.

    Args:
        layer: A Dense, EinsumDense or Embedding.
        inputs: What multiplied the kernel, of the axes `letters.inputs`.
        cotangents: Of the axes `letters.outputs`; float32.
        letters: An `einsum_products.Letters`.
    """
    if not factors(layer):
        return []
    a, b = factors(layer)
    first = (ops.cast(inputs, "float32"), letters.inputs)
    second = (cotangents, letters.outputs)
    if letters.kernel[-1] not in letters.outputs:
        first, second = second, first
    a_value, b_value = scaled_values(layer)
    term_a = _first_term(a.shape, b_value, first, second, letters)
    term_b = _second_term(
        b.shape, scale(layer) * a_value, first, second, letters
    )
    return [
        (a, term_a),
        (b, term_b),
    ]


def _first_term(shape, b_value, first, second, letters):
    """Returns A's term: of `first`, and of `second` once B is applied to it."""
    rest, last = letters.kernel[:-1], letters.kernel[-1]
    rank = einsum_products.spare_letter(letters)
    array, axes = second
    narrowed = axes if last in first[1] else axes.replace(last, "")
    narrow = ops.einsum(
        f"{axes},{rank}{last}->{narrowed}{rank}", array, b_value
    )
    return einsum_products.product_term(
        first[0],
        narrow,
        einsum_products.Letters(
            inputs=first[1], kernel=rest + rank, outputs=narrowed + rank
        ),
        shape,
    )


def _second_term(shape, a_value, first, second, letters):
    """Returns B's term: of `second`, and of `first` once A is applied to it."""
    rest, last = letters.kernel[:-1], letters.kernel[-1]
    rank = einsum_products.spare_letter(letters)
    array, axes = first
    narrowed = "".join(c for c in axes if c not in rest)
    narrowed += "".join(c for c in rest if c in second[1])
    narrow = ops.einsum(
        f"{axes},{rest}{rank}->{narrowed}{rank}", array, a_value
    )
    return einsum_products.product_term(
        narrow,
        second[0],
        einsum_products.Letters(
            inputs=narrowed + rank, kernel=rank + last, outputs=second[1]
        ),
        shape,
    )
