# SPDX-License-Identifier: Apache-2.0
"""The benchmark's language model is trained exactly, and reported truly."""

import dataclasses

import numpy as np
import pytest

import tf_privacy
from benchmarks import language_model
from benchmarks import large_model_process
from tests import oracles

SIZE = language_model.Size(
    layers=2, width=8, vocabulary=13, sequence=6, dropout=0.0
)
MAKERS = [
    False,
    pytest.param(
        True,
        marks=pytest.mark.skipif(
            not language_model.has_keras_hub(), reason="KerasHub is missing."
        ),
    ),
]


def make_model(*, keras_hub, lora_rank=0, size=SIZE):
    """Returns a model whose weights are all at work, and a loss for it."""
    model = language_model.make_model(
        size, lora_rank=lora_rank, keras_hub=keras_hub
    )
    rng = np.random.default_rng(1)
    # Zeros, as adaptations and biases begin, would hide what they multiply.
    for variable in model.weights:
        if "seed" not in variable.name:
            variable.assign(rng.normal(size=variable.shape) * 0.5)
    model.compile(loss=language_model.make_loss())
    return model


@pytest.mark.parametrize("keras_hub", MAKERS)
@pytest.mark.parametrize("lora_rank", [0, 2])
def test_clipped_sum_is_that_of_a_loop_over_rows(keras_hub, lora_rank):
    model = make_model(keras_hub=keras_hub, lora_rank=lora_rank)
    x, y = language_model.make_batch(np.random.default_rng(0), SIZE, 5)
    x["padding_mask"][1, 4:] = 0
    rows = oracles.loop_gradients(model, x, y)
    norms = np.array([oracles.global_norm(row) for row in rows])
    clip = float(np.median(norms))
    step = tf_privacy.clipped_gradients(model, x, y, l2_norm_clip=clip)
    np.testing.assert_allclose(step.norms, norms, rtol=1e-4)
    factors = np.minimum(1.0, clip / norms)
    assert 0 < np.sum(factors < 1.0) < len(factors)
    for i, gradient in enumerate(step.clipped_sum.gradients):
        expected = sum(f * row[i] for f, row in zip(factors, rows, strict=True))
        np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("keras_hub", MAKERS)
def test_every_layer_has_a_path_of_its_own(keras_hub):
    model = make_model(keras_hub=keras_hub)
    x, _ = language_model.make_batch(np.random.default_rng(0), SIZE, 2)
    text = tf_privacy.explain_clipping(model, x)
    generic = [line for line in text.splitlines() if " generic " in line]
    assert len(generic) == 1
    assert "osition" in generic[0]


@pytest.mark.skipif(
    not language_model.has_keras_hub(), reason="KerasHub is missing."
)
@pytest.mark.parametrize("lora_rank", [0, 2])
def test_model_of_keras_layers_is_that_of_keras_hub(lora_rank):
    ours, theirs = (
        language_model.make_model(SIZE, lora_rank=lora_rank, keras_hub=hub)
        for hub in (False, True)
    )
    shapes = [
        sorted(tuple(v.shape) for v in model.trainable_variables)
        for model in (ours, theirs)
    ]
    assert shapes[0] == shapes[1]
    assert ours.count_params() == theirs.count_params()
    if lora_rank:
        return
    mine = [layer for layer in ours.layers if layer.weights]
    for layer, other in zip(mine, _hub_layers(theirs), strict=True):
        layer.set_weights(other.get_weights())
    x, _ = language_model.make_batch(np.random.default_rng(0), SIZE, 3)
    x["padding_mask"][0, 4:] = 0
    np.testing.assert_allclose(ours(x), theirs(x), atol=1e-5)


def _hub_layers(model):
    """Returns the layers with weights, in the order in which they run."""
    embeddings = ["token_embedding", "position_embedding"]
    found = [model.get_layer(name) for name in embeddings]
    for i in range(SIZE.layers):
        layer = model.get_layer(f"transformer_layer_{i}")
        found += [
            layer._self_attention_layer_norm,
            layer._self_attention_layer,
            layer._feedforward_layer_norm,
            layer._feedforward_intermediate_dense,
            layer._feedforward_output_dense,
        ]
    return [*found, model.get_layer("layer_norm")]


class _Pipe:
    """Stands for the other end: tells the process to take steps."""

    def __init__(self, *commands):
        self._commands = list(commands)
        self.sent = []

    def recv(self):
        """Returns the next command."""
        return self._commands.pop(0)

    def send(self, message):
        """Keeps what the process says."""
        self.sent.append(message)


def test_process_reports_the_steps_that_it_took():
    size = dataclasses.replace(SIZE, layers=1)
    case = large_model_process.Case(
        size=size,
        is_private=True,
        keras_hub=False,
        batch_size=4,
        noise_multiplier=2.0,
    )
    pipe = _Pipe("step", "step", "finish")
    large_model_process.serve(pipe, case)
    start, *times, end = pipe.sent
    model = language_model.make_model(size, keras_hub=False)
    assert start.parameters == start.trained == model.count_params()
    assert start.piece_rows == 4
    assert len(times) == 2
    assert all(0 < time.wall and 0 < time.cpu for time in times)
    assert end.num_steps == 4
    # Four Gaussian releases that any row may be in, of noise 2: one of noise 1.
    expected = tf_privacy.compute_epsilon(
        noise_multiplier=1.0, sampling_probability=1.0, num_steps=1, delta=1e-6
    )
    assert end.epsilon == pytest.approx(expected, rel=1e-3)
    assert 0 < end.libraries <= end.held <= end.peak
    assert np.isfinite(end.loss)


def test_work_of_a_row_is_counted_as_by_hand():
    size = dataclasses.replace(SIZE, layers=1)
    case = large_model_process.Case(
        size=size, is_private=True, keras_hub=False, batch_size=1
    )
    model = large_model_process.make_model(case)
    point = large_model_process.make_point(model, case)
    # Two embeddings, a decoder layer of 2 norms, 4 + 2 kernels, norm, head.
    assert point.calls == 2 + 8 + 1 + 1
    kernels = 4 * 8 * 8 + 2 * 8 * 32
    head, positions, norms = 13 * 8, 6 * 8, 3 * 2 * 8
    biases = 4 * 8 + 32 + 8
    assert point.parameters == kernels + head + positions + norms + biases
    # Six tokens forwards, backwards and for the gradients, whose squares and
    # weighted sum take one more each.
    made = kernels + head
    small = positions + norms + biases
    lookups = 6 * 6 * (8 + 1)
    expected = 12 * point.parameters + 8 * made + 2 * small + lookups
    assert point.row_work == expected
    assert point.row_bytes > 4 * point.parameters
