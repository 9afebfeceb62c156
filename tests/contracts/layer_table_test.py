# SPDX-License-Identifier: Apache-2.0
"""Every layer of Keras has its place: by rule, generic, weightless, refused.

The cases named here are those of `tests.models`, which `clipping_test` holds
against the loop over single examples.
"""

import functools
import inspect
import sys

import keras
import numpy as np
import pytest
from keras import layers

from tests import models
from tf_privacy.clipping import explanation
from tf_privacy.clipping import plan_check
from tf_privacy.clipping import row_independence

# Layer -> a case in which all of its weights, and of the layers within it, get
# their gradients by a rule.
_BY_RULE = {
    "AdditiveAttention": "attention_scales",
    "Attention": "attention_scales",
    "Bidirectional": "bidirectional_merges",
    "Conv1D": "conv1d_same",
    "Conv1DTranspose": "conv1d_transpose",
    "Conv2D": "conv2d_same_strides",
    "Conv2DTranspose": "conv2d_transpose",
    "Conv3D": "conv3d",
    "Conv3DTranspose": "conv3d_transpose",
    "ConvLSTM1D": "conv_lstm1d",
    "ConvLSTM2D": "conv_lstm2d",
    "ConvLSTM3D": "conv_lstm3d",
    "Dense": "dense_mlp",
    "DepthwiseConv1D": "depthwise_conv1d",
    "DepthwiseConv2D": "depthwise_conv2d",
    "EinsumDense": "einsum_dense_heads",
    "Embedding": "embedding_mean",
    "GRU": "gru",
    "GRUCell": "gru_cell_by_hand",
    "GroupNormalization": "group_normalization",
    "GroupedQueryAttention": "grouped_attention",
    "LSTM": "masked_lstm_last",
    "LSTMCell": "lstm_cell_by_hand",
    "LayerNormalization": "layer_normalization",
    "MultiHeadAttention": "grouped_attention",
    "PReLU": "prelu",
    "Pipeline": "pipeline",
    "RMSNormalization": "rms_normalization",
    "RNN": "rnn_cells",
    "ReversibleEmbedding": "reversible_embedding",
    "SeparableConv1D": "separable_conv1d",
    "SeparableConv2D": "separable_conv2d",
    "SimpleRNN": "simple_rnn",
    "SimpleRNNCell": "stacked_cells_by_hand",
    "StackedRNNCells": "rnn_cells",
    "TimeDistributed": "time_distributed",
    "Wrapper": "wrapper",
}

# Layers that run code of one framework, and only there -> as in _GENERIC.
_OF_BACKEND = {
    "jax": {"JaxLayer": "jax_layer"},
    "tensorflow": {"TFSMLayer": "saved_model_layer"},
    "torch": {"TorchModuleWrapper": "torch_module"},
}
_BACKEND = keras.backend.backend()

# Layer -> a case in which it takes the generic path or single examples.
_GENERIC = {
    "Layer": "custom_weights",
    "STFTSpectrogram": "trained_spectrogram",
    **_OF_BACKEND[_BACKEND],
}

_WEIGHTLESS = set(
    """
    Activation ActivityRegularization AdaptiveAveragePooling1D
    AdaptiveAveragePooling2D AdaptiveAveragePooling3D AdaptiveMaxPooling1D
    AdaptiveMaxPooling2D AdaptiveMaxPooling3D Add AlphaDropout AugMix
    AutoContrast Average AveragePooling1D AveragePooling2D AveragePooling3D
    CategoryEncoding CenterCrop Concatenate
    ContrastLimitedAdaptiveHistogramEqualization Cropping1D Cropping2D
    Cropping3D Discretization Dot Dropout ELU Equalization Flatten
    GaussianDropout GaussianNoise GlobalAveragePooling1D
    GlobalAveragePooling2D GlobalAveragePooling3D GlobalMaxPooling1D
    GlobalMaxPooling2D GlobalMaxPooling3D HashedCrossing Hashing Identity
    InputLayer IntegerLookup Lambda LeakyReLU Masking MaxNumBoundingBoxes
    MaxPooling1D MaxPooling2D MaxPooling3D Maximum MelSpectrogram Minimum
    Multiply Normalization Permute RandAugment RandomBrightness
    RandomColorDegeneration RandomColorJitter RandomContrast RandomCrop
    RandomElasticTransform RandomErasing RandomFlip RandomGaussianBlur
    RandomGrayscale RandomHue RandomInvert RandomPerspective
    RandomPosterization RandomRotation RandomSaturation RandomSharpness
    RandomShear RandomTranslation RandomZoom ReLU RepeatVector Rescaling
    Reshape Resizing Softmax Solarization SpatialDropout1D SpatialDropout2D
    SpatialDropout3D StringLookup Subtract TextVectorization
    UnitNormalization UpSampling1D UpSampling2D UpSampling3D ZeroPadding1D
    ZeroPadding2D ZeroPadding3D
    """.split()
)

# They mix the examples of a batch, or change their state while they train.
_REFUSED = {
    "BatchNormalization": lambda: layers.BatchNormalization(),
    "CutMix": lambda: layers.CutMix(),
    "MixUp": lambda: layers.MixUp(),
    "SpectralNormalization": lambda: layers.SpectralNormalization(
        layers.Conv2D(2, 2)
    ),
}

# Layers that run code of what is not there -> the package.
_ELSEWHERE = {
    "FlaxLayer": "flax",
    **{
        name: backend
        for backend, names in _OF_BACKEND.items()
        for name in names
        if backend != _BACKEND
    },
}

_TABLE = (_BY_RULE, _GENERIC, _WEIGHTLESS, _REFUSED, _ELSEWHERE)


def _all_layers():
    """Return each layer class of Keras by the name of the class."""
    classes = [c for _, c in inspect.getmembers(keras.layers, inspect.isclass)]
    return {c.__name__: c for c in classes if issubclass(c, keras.layers.Layer)}


def test_every_layer_is_in_one_place():
    names = [name for part in _TABLE for name in part]
    known = set(names)
    assert len(names) == len(known)
    new = sorted(set(_all_layers()) - known)
    assert not new, (
        f"Keras has new layers: {new}. Put each in a part of this table: where "
        "it has trainable weights, write a rule in tf_privacy/clipping/rules "
        "if there is a fast one, and a case in tests/models.py."
    )
    gone = sorted(known - set(_all_layers()))
    assert not gone, f"Keras has no longer {gone}: take them out of this table."


@functools.cache
def _plan(case_name):
    """Return a case's model and plan, and what is said of it."""
    (case,) = (c for c in models.CASES if c.name == case_name)
    model, x, _, _ = case.make(0)
    x = keras.tree.map_structure(keras.ops.convert_to_tensor, x)
    plan = plan_check.confirmed_plan(model, x)
    return model, plan, explanation.explain_clipping(model, x)


def _find_layers(model, layer_class):
    """Return the layers of a class; of subclasses only if there are none."""
    found = list(model._flatten_layers())
    own = [layer for layer in found if type(layer) is layer_class]
    return own or [layer for layer in found if isinstance(layer, layer_class)]


def _tapped_calls(plan, layer):
    """Return the tapped calls within a layer, or of what it is within."""
    return [
        call
        for call in plan.calls.values()
        if call.layer in layer._flatten_layers()
        or layer in call.layer._flatten_layers()
    ]


@pytest.mark.parametrize("name", _BY_RULE)
def test_layer_takes_its_rule(name):
    model, plan, text = _plan(_BY_RULE[name])
    found = _find_layers(model, _all_layers()[name])
    found = [layer for layer in found if layer.trainable_weights]
    assert found
    for layer in found:
        calls = _tapped_calls(plan, layer)
        assert calls and all(call.rule is not None for call in calls), text


@pytest.mark.parametrize("name", _GENERIC)
def test_layer_has_no_rule(name):
    model, plan, text = _plan(_GENERIC[name])
    (layer, *_) = _find_layers(model, _all_layers()[name])
    calls = _tapped_calls(plan, layer)
    assert plan.loop_reason or any(call.rule is None for call in calls), (
        f"{name} has a rule by now. Move it to _BY_RULE.\n{text}"
    )


def _owners(layer_class):
    """Yield the classes of Keras that a layer class is made of."""
    for base in layer_class.__mro__:
        if base is keras.layers.Layer:
            return
        yield base


@pytest.mark.parametrize("name", sorted(_WEIGHTLESS))
def test_layer_adds_no_trainable_weight(name):
    source = "".join(inspect.getsource(c) for c in _owners(_all_layers()[name]))
    added = source.count("add_weight(") + source.count("Variable(")
    assert source.count("trainable=False") >= added


@pytest.mark.parametrize("name", _REFUSED)
def test_layer_is_refused_by_name(name):
    model = keras.Sequential(
        [keras.Input((6, 6, 3)), _REFUSED[name](), layers.Flatten()]
    )
    model.add(layers.Dense(2))
    x = np.random.default_rng(0).normal(size=(7, 6, 6, 3)).astype("float32")
    with pytest.raises(ValueError, match="model must hold no ") as refusal:
        row_independence.check_model(model, x)
    assert name in str(refusal.value)


@pytest.mark.parametrize("name", sorted(_ELSEWHERE))
def test_layer_needs_another_framework(name, monkeypatch):
    def function(*args):
        return args[0]

    # Two frameworks in one process may end it.
    monkeypatch.setitem(sys.modules, _ELSEWHERE[name], None)
    with pytest.raises((ImportError, NotImplementedError, ValueError)):
        _all_layers()[name](function)(np.zeros((2, 3), "float32"))
