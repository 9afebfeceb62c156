# SPDX-License-Identifier: Apache-2.0
"""The budget is met to the step, and after it nothing is released."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_privacy
from tf_privacy import accounting
from tf_privacy.training import ledger as training_ledger

DELTA = 1e-5
RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 4)).astype("float32")
Y = RNG.normal(size=(64, 1)).astype("float32")
POISSON = tf_privacy.PoissonSampling(
    num_examples=64, sampling_probability=0.125
)
REFUSED = pytest.raises(
    tf_privacy.PrivacyBudgetError, match="^a noisy step must fit"
)


def make_model(noise_multiplier=1.0, **options):
    model = tf_privacy.DPSequential([keras.Input((4,)), keras.layers.Dense(1)])
    optimizer = tf_privacy.DPAdam(
        0.1,
        l2_norm_clip=1.0,
        noise_multiplier=noise_multiplier,
        expected_batch_size=8,
    )
    model.compile(optimizer, "mse", **options)
    return model


def fit(model, target_epsilon=None, data=(X, Y), callbacks=(), **arguments):
    callbacks = list(callbacks)
    if target_epsilon:
        callbacks.append(tf_privacy.PrivacyBudget(target_epsilon, DELTA))
    settings = {"epochs": 1, "verbose": 0, **arguments}
    return model.fit(*data, callbacks=callbacks, **settings)


def epsilon_of(num_steps, sampling_probability=0.125):
    return tf_privacy.compute_epsilon(
        noise_multiplier=1.0,
        sampling_probability=sampling_probability,
        num_steps=num_steps,
        delta=DELTA,
    )


def state_of(model):
    variables = [*model.variables, *model.optimizer.inner_optimizer.variables]
    return [np.array(keras.ops.convert_to_numpy(v)) for v in variables]


def check_unchanged(before, model):
    for a, b in zip(before, state_of(model), strict=True):
        np.testing.assert_array_equal(a, b)


def num_steps(model):
    counted = model.optimizer.ledger.num_steps()
    assert counted == int(model.optimizer.iterations)
    return counted


def check_spent_to_the_step(model, target_epsilon):
    """Within the target, and one step more would not be."""
    taken = num_steps(model)
    assert epsilon_of(taken) <= target_epsilon < epsilon_of(taken + 1)
    statement = model.privacy_statement(DELTA)
    assert statement.num_steps == taken
    assert statement.epsilon == pytest.approx(epsilon_of(taken), rel=1e-9)


@pytest.mark.parametrize(
    "target_epsilon, options",
    [
        (2.7, {}),
        (2.7, {"run_eagerly": True}),
        (4.0, {}),
        (4.0, {"steps_per_execution": 7}),
    ],
    ids=str,
)
def test_training_stops_with_the_last_step_that_fits(target_epsilon, options):
    """Targets of 1 and 9 steps: at once, and one step into an epoch of 8."""
    model = make_model(**options)
    history = fit(
        model, target_epsilon, epochs=9, validation_data=(X, Y)
    ).history
    check_spent_to_the_step(model, target_epsilon)
    epsilons = history["epsilon"]
    assert (
        len(epsilons) == len(history["val_loss"]) == -(-num_steps(model) // 8)
    )
    assert epsilons == sorted(epsilons)
    assert epsilons[-1] == pytest.approx(epsilon_of(num_steps(model)))


def test_epsilon_is_in_the_logs_of_every_batch():
    seen = []
    model = make_model()
    note = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(logs["epsilon"])
    )
    budget = tf_privacy.PrivacyBudget(4.0, DELTA)
    fit(model, callbacks=[budget, note], epochs=9)
    expected = [epsilon_of(n + 1) for n in range(num_steps(model))]
    assert seen == pytest.approx(expected, rel=1e-9)


@pytest.fixture(scope="module")
def spent(tmp_path_factory):
    """A model that has spent its budget of 4.0, and files of it."""
    model = make_model()
    fit(model, 4.0, epochs=9)
    folder = tmp_path_factory.mktemp("spent")
    model.save(folder / "model.keras")
    model.save_weights(folder / "model.weights.h5")
    return model, folder


def batches():
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)


def clip(model):
    return tf_privacy.clipped_gradients(
        model, X[:8], Y[:8], l2_norm_clip=1.0
    ).clipped_sum


WAYS_TO_TRAIN = {
    "fit": lambda model: fit(model),
    "fit_batches": lambda model: fit(model, data=(batches(),)),
    "fit_a_budget_that_is_spent_too": lambda model: fit(model, 3.9),
    "train_on_batch": lambda model: model.train_on_batch(X[:8], Y[:8]),
    "poisson_loop": lambda model: model.optimizer.apply(
        clip(model), sampling=POISSON
    ),
    "loop": lambda model: model.optimizer.apply(clip(model)),
}


@pytest.mark.parametrize("way", WAYS_TO_TRAIN)
def test_past_the_budget_nothing_is_released(spent, way):
    model, _ = spent
    before = state_of(model)
    for _ in range(2):
        with pytest.raises(tf_privacy.PrivacyBudgetError):
            WAYS_TO_TRAIN[way](model)
    check_unchanged(before, model)
    check_spent_to_the_step(model, 4.0)


@pytest.mark.parametrize("sampling", [POISSON, None], ids=["poisson", "user"])
def test_past_the_budget_a_compiled_loop_releases_nothing(spent, sampling):
    model, _ = spent
    before = state_of(model)

    @tf.function
    def step():
        model.optimizer.apply(clip(model), sampling=sampling)

    step()
    check_unchanged(before, model)
    with REFUSED:
        model.optimizer.check_budget()
    check_spent_to_the_step(model, 4.0)


@pytest.mark.parametrize(
    "way, file",
    [
        ("fit", "model.keras"),
        ("poisson_loop", "model.keras"),
        ("train_on_batch", "model.weights.h5"),
        ("loop", "model.weights.h5"),
    ],
)
def test_a_spent_budget_survives_a_file(spent, way, file):
    if file == "model.keras":
        model = keras.models.load_model(spent[1] / file)
    else:
        model = make_model()
        model.optimizer.build(model.trainable_variables)
        model.load_weights(spent[1] / file)
    assert model.optimizer.budget == (4.0, DELTA)
    before = state_of(model)
    with pytest.raises(tf_privacy.PrivacyBudgetError):
        WAYS_TO_TRAIN[way](model)
    check_unchanged(before, model)
    check_spent_to_the_step(model, 4.0)


def test_a_larger_budget_goes_on_where_the_old_one_ended(spent):
    model = keras.models.load_model(spent[1] / "model.keras")
    history = fit(model, 5.0, epochs=9).history
    assert history["epsilon"][0] > 4.0
    check_spent_to_the_step(model, 5.0)


def test_an_execution_of_several_steps_is_refused_aloud():
    """Also one that is cut short by the end of the epoch."""
    model = make_model(steps_per_execution=7)
    fit(model, 4.0, epochs=9)
    before = state_of(model)
    for steps_per_epoch in (8, 7, 3):
        with pytest.raises(tf_privacy.PrivacyBudgetError):
            fit(model, steps_per_epoch=steps_per_epoch)
    check_unchanged(before, model)


def test_a_batch_is_refused_aloud_whatever_the_steps_per_execution():
    model = make_model(steps_per_execution=7, run_eagerly=True)
    fit(model, 2.7, epochs=9)
    before = state_of(model)
    with pytest.raises(tf_privacy.PrivacyBudgetError):
        model.train_on_batch(X[:8], Y[:8])
    check_unchanged(before, model)


# One step costs 1.921.
@pytest.mark.parametrize("target_epsilon", [1e-3, 1.92])
def test_a_target_without_room_for_a_step_is_refused(target_epsilon):
    model = make_model()
    before = model.get_weights()
    for _ in range(2):
        with pytest.raises(
            tf_privacy.PrivacyBudgetError, match="^target_epsilon must leave"
        ):
            fit(model, target_epsilon)
    np.testing.assert_array_equal(before[0], model.get_weights()[0])
    assert num_steps(model) == 0


def test_several_fits_share_one_budget():
    """Of different kinds: the rest is worth less without amplification."""
    model = make_model(noise_multiplier=4.0)
    budget = tf_privacy.PrivacyBudget(4.0, DELTA)
    fit(model, callbacks=[budget], epochs=2)
    history = fit(model, callbacks=[budget], data=(batches(),), epochs=99)
    ran = [
        accounting.SampledGaussianSteps(
            noise_multiplier=4.0, sampling_probability=q, num_steps=n
        )
        for q, n in ((0.125, 16), (1.0, num_steps(model) - 16))
    ]
    spent = accounting.compute_epsilon_of(ran, delta=DELTA)
    one_more = accounting.SampledGaussianSteps(
        noise_multiplier=4.0, sampling_probability=1.0, num_steps=1
    )
    assert spent <= 4.0
    assert accounting.compute_epsilon_of([*ran, one_more], delta=DELTA) > 4.0
    assert history.history["epsilon"][-1] == pytest.approx(spent)
    assert model.privacy_statement(DELTA).epsilon == pytest.approx(spent)


def test_a_step_within_a_callback_is_seen():
    """The logs say what was spent in all, not by `fit` alone."""

    class Replay(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.train_on_batch(X[:8], Y[:8])

    model = make_model(noise_multiplier=4.0)
    history = fit(model, 30.0, callbacks=[Replay()], steps_per_epoch=3).history
    assert num_steps(model) == 6
    epsilon = model.privacy_statement(DELTA).epsilon
    assert history["epsilon"] == [pytest.approx(epsilon)]


def test_a_refusal_nobody_asked_about_does_not_spoil_the_next_fit(spent):
    """A loop that stopped without `check_budget`, then a larger budget."""
    model = keras.models.load_model(spent[1] / "model.keras")
    with pytest.raises(tf_privacy.PrivacyBudgetError):
        model.optimizer.apply(clip(model))

    @tf.function
    def step():
        model.optimizer.apply(clip(model))

    step()
    before = num_steps(model)
    fit(model, 9.0, steps_per_epoch=2)
    assert num_steps(model) == before + 2


# Custom loops.


@pytest.mark.parametrize(
    "sampling, compiled",
    [(POISSON, True), (None, False)],
    ids=["poisson", "user"],
)
def test_a_loop_can_be_limited(sampling, compiled):
    model = make_model()
    optimizer = model.optimizer
    target = 3.0 if sampling else 9.0
    budget = tf_privacy.PrivacyBudget(target, DELTA)
    allowed = budget.limit(optimizer, sampling=sampling)
    probability = 0.125 if sampling else 1.0
    assert epsilon_of(allowed, probability) <= target
    assert epsilon_of(allowed + 1, probability) > target

    def step():
        optimizer.apply(clip(model), sampling=sampling)

    if compiled:
        step = tf.function(step)
    for _ in range(allowed):
        step()
    before = state_of(model)
    with REFUSED:
        step()
        optimizer.check_budget()
    check_unchanged(before, model)
    assert num_steps(model) == allowed
    other = None if sampling else POISSON
    with REFUSED:
        optimizer.apply(clip(model), sampling=other)
    with pytest.raises(
        tf_privacy.PrivacyBudgetError, match="^target_epsilon must leave"
    ):
        budget.limit(optimizer, sampling=sampling)


# Arguments.


@pytest.mark.parametrize("value", [0, 0.0, -1.0, np.nan, np.inf])
def test_the_target_is_checked(value):
    with pytest.raises(ValueError, match="^target_epsilon must be"):
        tf_privacy.PrivacyBudget(value, DELTA)


@pytest.mark.parametrize("value", [True, "3", None])
def test_the_types_of_the_targets_are_checked(value):
    with pytest.raises(TypeError, match="^target_epsilon must be"):
        tf_privacy.PrivacyBudget(value, DELTA)
    with pytest.raises(TypeError, match="^target_delta must be"):
        tf_privacy.PrivacyBudget(1.0, value)


def test_a_plain_model_is_refused():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(TypeError, match="^model must be compiled with a DP"):
        fit(model, 3.0)


# What the accountant makes of the ledger.


def test_no_step_spends_nothing():
    statement = make_model().privacy_statement(DELTA)
    assert statement.epsilon == 0.0 and statement.num_steps == 0
    assert statement.is_private


def test_batches_of_the_user_are_said_to_be_unsampled():
    model = make_model()
    model.train_on_batch(X[:8], Y[:8])
    statement = model.privacy_statement(DELTA)
    assert statement.epsilon == pytest.approx(epsilon_of(1, 1.0))
    assert "no amplification" in " ".join(str(statement).split())
    (phase,) = statement.phases
    assert phase.sampling_probability is None


@pytest.mark.parametrize(
    "change",
    [{"noise_multiplier": 1e6}, {"sampling_probability": 1e-12}],
    ids=str,
)
def test_more_privacy_than_the_accountant_knows_is_rounded_up(change):
    settings = {
        "noise_multiplier": 1.0,
        "sampling_probability": 0.1,
        "num_examples": 100,
        "l2_norm_clip": 1.0,
        "expected_batch_size": 10.0,
        "fixed_seed": False,
        **change,
    }
    model = make_model()
    kind = type(model.optimizer.step_kind())(**settings)
    # At a larger delta the rare example is hidden already: epsilon is 0.
    statement = training_ledger.make_statement([(kind, 10)], delta=1e-9)
    assert 0 < statement.epsilon < 1


class RestoreBudget(keras.callbacks.Callback):
    """Writes a budget into the tracked variables, as a checkpoint may."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_begin(self, batch, logs=None):
        """Restore in mid-run."""
        if batch == self.step:
            (budget,) = (
                v
                for v in self.model.optimizer.variables
                if v.path.endswith("budget")
            )
            budget.assign(np.array([1.0, DELTA]).view(np.int32))


def test_a_budget_restored_in_mid_run_is_not_passed_over_in_silence():
    model = make_model()
    with REFUSED:
        fit(model, callbacks=[RestoreBudget(3)], steps_per_epoch=6)
    assert num_steps(model) == 3


def test_the_limit_is_worked_out_once_for_equal_steps(monkeypatch):
    counted = []
    compute = accounting.EpsilonCurve.compute_max_steps

    def count(self, **arguments):
        counted.append(1)
        return compute(self, **arguments)

    monkeypatch.setattr(accounting.EpsilonCurve, "compute_max_steps", count)
    model = make_model(noise_multiplier=4.03)
    budget = tf_privacy.PrivacyBudget(40.0, DELTA)
    fit(model, callbacks=[budget], epochs=1, data=(batches(),))
    for _ in range(3):
        model.train_on_batch(X[:8], Y[:8])
    assert num_steps(model) > 3 and len(counted) == 1


def test_statement_takes_a_relation():
    model = make_model()
    fit(model)
    relation = tf_privacy.NeighboringRelation.REPLACE_ONE
    made = model.privacy_statement(DELTA, neighboring_relation=relation)
    assert made.neighboring_relation is relation
    assert made.epsilon > model.privacy_statement(DELTA).epsilon
