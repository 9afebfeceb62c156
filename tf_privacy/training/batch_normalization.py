# SPDX-License-Identifier: Apache-2.0
"""Models with BatchNormalization, made fit for private training."""

import math

import keras
import numpy as np
from keras import ops

from tf_privacy.training import frozen_affine
from tf_privacy.training import layer_replacement

# Over few values a normalisation says little: over two, only which is larger.
# 16 channels to a group is among the settings of Wu and He 2018, table 3.
_MIN_VALUES = 16

_LAYER_KEYS = ("name", "trainable", "dtype", "activity_regularizer", "axis")
_AFFINE_KEYS = ("epsilon", "center", "scale") + tuple(
    f"{weight}_{kind}"
    for weight in ("beta", "gamma")
    for kind in ("initializer", "regularizer", "constraint")
)


def replace_batch_normalization(model, *, groups: int = 32):
    """Returns a copy with GroupNormalization for every BatchNormalization.

    GroupNormalization takes its statistics within each example, so that it can
    be trained privately. It keeps the replaced layer's name, axis, epsilon,
    dtype policy, regularizers, constraints, `trainable`, gamma and beta; the
    moving statistics are dropped. All other weights are copied exactly.

    The outputs change, for no statistics of one example are those of a batch:
    train the copy, or fine-tune it if the model was trained before. To keep
    what a trained model predicts, use `fold_batch_normalization`. Where
    inputs are masked, the padding counts in an example's own statistics.

    Weights that were trained before carry what they learnt: unless that was
    public data, the guarantee of private training does not cover it.

    A layer gets as many groups as divide its channels, `groups` at most, so
    that a group has two channels or more and is normalised over 16 values or
    more, channels times places. If no number does, it gets one group: layer
    normalization, over all channels. `[B, 64]` thus gets 4 groups, `[B, 10]`
    one, and `[B, 32, 32, 64]` gets 32. A place of unknown length counts as
    long.

    Args:
        model: A functional or sequential `keras.Model` that knows its inputs,
            with nested models and wrappers; not changed.
        groups: Largest number of groups in a layer; >= 1. 1 is layer
            normalization everywhere.

    Returns:
        A new model with the same graph, not compiled. A `DPModel` or
        `DPSequential` stays one, with its ledger; a class of your own that
        has no `call` becomes a plain functional or sequential model.

    Raises:
        TypeError: If the arguments are of other types.
        ValueError: If the graph cannot be built again: a model with its own
            `call`, or a layer that makes a BatchNormalization itself or is
            not rebuilt by its configuration. If a layer would normalise
            single values, which gives 0 whatever the input.

    Source: Wu and He 2018, arXiv:1803.08494.
    """
    if isinstance(groups, bool) or not isinstance(groups, int):
        raise TypeError(
            f"groups must be an int. Received: {groups!r}. Pass the largest "
            "number of groups that a layer may get."
        )
    if not groups >= 1:
        raise ValueError(
            f"groups must be >= 1. Received: {groups}. For layer normalization "
            "use 1."
        )

    def make(config, input_shape):
        kept = {k: config[k] for k in _LAYER_KEYS + _AFFINE_KEYS if k in config}
        kept["groups"] = _choose_groups(config, input_shape, groups)
        return keras.layers.GroupNormalization.from_config(kept)

    return layer_replacement.copy_model(
        model,
        layer_replacement.Replacement(
            layer_class=keras.layers.BatchNormalization,
            make=make,
            carry_over=_copy_gamma_and_beta,
            keeps_predictions=False,
        ),
    )


def fold_batch_normalization(model):
    """Returns a copy that predicts the same, without BatchNormalization.

    In inference a BatchNormalization is a fixed map of each channel, which
    takes its place here:
        scale = gamma / sqrt(moving_variance + epsilon)
        offset = beta - moving_mean * scale
        result = inputs * scale + offset
    It mixes no examples, in training neither, and has no trainable weights.
    Meant for networks that were trained before, to be fine-tuned privately.

    The moving statistics must come from public data. They are averages of
    activations, taken without noise, and the copy holds them for good: from
    private data, they and all other weights would be released as they are.
    In a model that was never trained they are 0 and 1, and nothing is
    normalised; use `replace_batch_normalization` there.

    Args:
        model: A functional or sequential `keras.Model` that knows its inputs,
            with nested models and wrappers; not changed.

    Returns:
        A new model with the same graph, not compiled, whose predictions
        differ from the model's by rounding. A `DPModel` or `DPSequential`
        stays one, with its ledger; a class of your own that has no `call`
        becomes a plain functional or sequential model. To load what it saves,
        import keras, then tf_privacy.

    Raises:
        TypeError: If it is not a Keras model.
        ValueError: If the graph cannot be built again, as in
            `replace_batch_normalization`, or calls a BatchNormalization with
            training=True.
    """

    def make(config, input_shape):
        kept = {k: config[k] for k in _LAYER_KEYS if k in config}
        return frozen_affine.FrozenAffine.from_config(kept)

    return layer_replacement.copy_model(
        model,
        layer_replacement.Replacement(
            layer_class=keras.layers.BatchNormalization,
            make=make,
            carry_over=_fold,
            keeps_predictions=True,
        ),
    )


def _choose_groups(config, input_shape, groups: int) -> int:
    """Returns how many groups a layer gets."""
    name, axis = config["name"], config["axis"]
    if input_shape is None:
        raise ValueError(
            "model must be built, for its BatchNormalization to have a known "
            f"shape. Received: layer {name!r}, which is not. Call the model on "
            "a few rows first."
        )
    rank = len(input_shape)
    if axis % rank == 0:
        raise ValueError(
            "model must normalise the channels of its examples. Received: "
            f"layer {name!r} with axis={axis}, the axis of the batch. Give it "
            "the channels' axis."
        )
    places = [
        _MIN_VALUES if input_shape[i] is None else input_shape[i]
        for i in range(1, rank)
        if i != axis % rank
    ]
    channels, num_places = input_shape[axis], math.prod(places)
    if not channels * num_places > 1:
        raise ValueError(
            "model must normalise more than one value of each example: over "
            "one value, the result is 0 whatever the input. Received: layer "
            f"{name!r} for inputs of shape {tuple(input_shape)}. Remove it, "
            "or use tf_privacy.fold_batch_normalization."
        )
    suitable = [
        count
        for count in range(1, min(groups, channels // 2) + 1)
        if channels % count == 0
        and channels // count * num_places >= _MIN_VALUES
    ]
    return max(suitable, default=1)


def _copy_gamma_and_beta(layer, new_layer):
    if layer.scale:
        new_layer.gamma.assign(layer.gamma)
    if layer.center:
        new_layer.beta.assign(layer.beta)


def _fold(layer, new_layer):
    """Sets scale and offset; in float64, so that only the result is rounded."""

    mean, variance, gamma, beta = (
        np.asarray(ops.convert_to_numpy(weight), np.float64)
        for weight in (
            layer.moving_mean,
            layer.moving_variance,
            layer.gamma if layer.scale else 1.0,
            layer.beta if layer.center else 0.0,
        )
    )
    scale = gamma / np.sqrt(variance + layer.epsilon)
    new_layer.scale.assign(scale)
    new_layer.offset.assign(beta - mean * scale)
