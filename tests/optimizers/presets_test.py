# SPDX-License-Identifier: Apache-2.0
"""DP counterparts take their counterpart's arguments and take its steps."""

import copy
import inspect
import json
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_privacy
from tests import oracles

PRESETS = {
    "SGD": tf_privacy.DPSGD,
    "Adam": tf_privacy.DPAdam,
    "AdamW": tf_privacy.DPAdamW,
    "RMSprop": tf_privacy.DPRMSprop,
    "Adagrad": tf_privacy.DPAdagrad,
}
PRIVACY = {"l2_norm_clip": 0.5, "noise_multiplier": 1.3}
EVERY_PRESET = pytest.mark.parametrize("name", PRESETS)
# Every argument that the counterparts share, none at its default.
COMMON = {
    "learning_rate": 0.125,
    "weight_decay": 0.01,
    "clipnorm": 2.5,
    "use_ema": True,
    "ema_momentum": 0.75,
    "ema_overwrite_frequency": 3,
}


def counterpart(name):
    return getattr(keras.optimizers, name)


@keras.saving.register_keras_serializable(package="presets_test")
class Halving(keras.optimizers.schedules.LearningRateSchedule):
    """A user's own schedule."""

    def __init__(self, start):
        self.start = start

    def __call__(self, step):
        return self.start * 0.5 ** keras.ops.cast(step, "float32")

    def get_config(self):
        return {"start": self.start}


def through_config(optimizer):
    return type(optimizer).from_config(optimizer.get_config())


def through_keras(optimizer):
    config = keras.saving.serialize_keras_object(optimizer)
    return keras.saving.deserialize_keras_object(json.loads(json.dumps(config)))


def through_optimizers(optimizer):
    return keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))


ROUND_TRIPS = [through_config, through_keras, through_optimizers]


@EVERY_PRESET
@pytest.mark.parametrize("round_trip", ROUND_TRIPS)
def test_round_trip_keeps_every_argument(name, round_trip):
    original = PRESETS[name](
        **COMMON,
        **PRIVACY,
        expected_batch_size=48.0,
        microbatch_size=6,
        name="mine",
    )
    restored = round_trip(original)
    assert type(restored) is PRESETS[name]
    assert type(restored.inner_optimizer) is counterpart(name)
    assert restored.get_config() == original.get_config()
    assert restored.name == "mine"
    assert restored.l2_norm_clip == 0.5
    assert restored.noise_multiplier == 1.3
    assert restored.expected_batch_size == 48.0
    assert restored.microbatch_size == 6
    assert restored.ledger.num_steps() == 0
    inner = restored.inner_optimizer.get_config()
    for key, value in COMMON.items():
        assert inner[key] == pytest.approx(value)


@EVERY_PRESET
@pytest.mark.parametrize("round_trip", ROUND_TRIPS)
@pytest.mark.parametrize(
    "schedule",
    [keras.optimizers.schedules.CosineDecay(0.5, 100), Halving(0.5)],
    ids=["cosine", "own"],
)
def test_round_trip_keeps_a_schedule(name, round_trip, schedule):
    original = PRESETS[name](schedule, **PRIVACY)
    restored = round_trip(original)
    kept = restored.inner_optimizer._learning_rate
    assert type(kept) is type(schedule)
    assert kept.get_config() == schedule.get_config()


@pytest.mark.parametrize("round_trip", ROUND_TRIPS)
def test_round_trip_of_the_general_wrapper(round_trip):
    inner = keras.optimizers.Nadam(Halving(0.25), beta_1=0.7)
    original = tf_privacy.DPOptimizer(inner, **PRIVACY, microbatch_size=3)
    restored = round_trip(original)
    assert type(restored) is tf_privacy.DPOptimizer
    assert type(restored.inner_optimizer) is keras.optimizers.Nadam
    assert restored.get_config() == original.get_config()


@pytest.mark.filterwarnings("ignore:seed=")
@pytest.mark.parametrize("round_trip", ROUND_TRIPS)
def test_a_fixed_seed_stays_known(round_trip):
    restored = round_trip(tf_privacy.DPSGD(0.1, **PRIVACY, seed=4))
    assert restored.step_kind().fixed_seed


def test_custom_objects_reach_the_schedule():
    class Unregistered(Halving):
        pass

    config = tf_privacy.DPSGD(Unregistered(0.5), **PRIVACY).get_config()
    restored = tf_privacy.DPSGD.from_config(
        config, custom_objects={"Unregistered": Unregistered}
    )
    assert type(restored.inner_optimizer._learning_rate) is Unregistered


def through_pickle(optimizer):
    return pickle.loads(pickle.dumps(optimizer))


@pytest.mark.parametrize("make_copy", [copy.deepcopy, through_pickle])
def test_copies_count_for_themselves(make_copy):
    """Two objects with one name in the ledger would count as one."""
    original = tf_privacy.DPAdam(**PRIVACY, expected_batch_size=4)
    other = make_copy(original)
    assert type(other) is tf_privacy.DPAdam
    variable = keras.Variable(np.zeros(3, "float32"))
    for optimizer in (original, other):
        apply_sum(optimizer, variable, np.zeros(3, "float32"))
    original.ledger.merge(other.ledger.to_numpy())
    assert original.ledger.num_steps() == 2
    assert other.ledger.num_steps() == 1


@EVERY_PRESET
def test_signature_is_the_counterparts_and_the_private_one(name):
    ours = inspect.signature(PRESETS[name]).parameters
    theirs = inspect.signature(counterpart(name)).parameters
    for key, parameter in theirs.items():
        if key in ("loss_scale_factor", "gradient_accumulation_steps"):
            assert key not in ours
        elif parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            assert ours[key].default == parameter.default
    for key in PRIVACY:
        assert ours[key].default is inspect.Parameter.empty
        assert ours[key].kind is inspect.Parameter.KEYWORD_ONLY


@EVERY_PRESET
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"l2_norm_clip": 1.0},
        {"noise_multiplier": 1.0},
        {**PRIVACY, "num_microbatches": 2},
        {**PRIVACY, "gradient_accumulation_steps": 2},
        {**PRIVACY, "loss_scale_factor": 2.0},
    ],
)
def test_missing_and_unknown_arguments_are_refused(name, arguments):
    with pytest.raises(TypeError, match=f"^DP{name}: "):
        PRESETS[name](0.1, **arguments)


def test_epsilon_is_adams_constant():
    optimizer = tf_privacy.DPAdam(0.1, epsilon=0.25, **PRIVACY)
    assert optimizer.inner_optimizer.epsilon == 0.25
    assert not hasattr(optimizer, "epsilon")


def apply_sum(optimizer, variable, gradient):
    optimizer.apply(
        tf_privacy.ClippedSum(
            gradients=(tf.constant(gradient),),
            variables=(variable,),
            l2_sensitivity=optimizer.l2_norm_clip,
        )
    )


STEPS = {
    "sgd": ("SGD", {}),
    "sgd_nesterov": ("SGD", {"momentum": 0.9, "nesterov": True}),
    "sgd_clipvalue": ("SGD", {"clipvalue": 0.2}),
    "adam": ("Adam", {}),
    "adam_amsgrad": ("Adam", {"amsgrad": True, "weight_decay": 0.1}),
    "adamw": ("AdamW", {"weight_decay": 0.2}),
    "adamw_norm": ("AdamW", {"global_clipnorm": 0.5}),
    "rmsprop": ("RMSprop", {"centered": True, "momentum": 0.5}),
    "adagrad": ("Adagrad", {"initial_accumulator_value": 0.5}),
    "ema": ("Adam", {"use_ema": True, "ema_momentum": 0.5}),
    "ema_overwrites": ("SGD", {"use_ema": True, "ema_overwrite_frequency": 2}),
    "schedule": ("SGD", {"learning_rate": Halving(0.5)}),
}


@pytest.mark.parametrize("case", STEPS)
def test_steps_are_the_counterparts(case):
    """With next to no noise: gradient = sum / expected_batch_size."""
    name, arguments = STEPS[case]
    arguments = {"learning_rate": 0.1, **arguments}
    ours = PRESETS[name](
        **arguments,
        l2_norm_clip=1.0,
        noise_multiplier=1e-9,
        expected_batch_size=16,
    )
    theirs = counterpart(name)(**arguments)
    rng = np.random.default_rng(0)
    start = rng.normal(size=(5, 4)).astype("float32")
    variables = [keras.Variable(start), keras.Variable(start)]
    for _ in range(4):
        gradient = rng.normal(size=(5, 4)).astype("float32")
        apply_sum(ours, variables[0], 16 * gradient)
        theirs.apply([tf.constant(gradient)], [variables[1]])
    ours.finalize_variable_values([variables[0]])
    theirs.finalize_variable_values([variables[1]])
    moved = [v.numpy() - start for v in variables]
    assert np.linalg.norm(moved[1]) > 0.01
    assert oracles.relative_error(moved[:1], moved[1:]) < 1e-5
    assert int(ours.iterations) == ours.ledger.num_steps() == 4
