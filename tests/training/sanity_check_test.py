# SPDX-License-Identifier: Apache-2.0
"""The sanity check finds planted problems, and nothing in a healthy setting."""

import json

import keras
import numpy as np
import pytest

import tf_privacy
from tests import oracles
from tf_privacy.training import sanity_data
from tf_privacy.training import sanity_plan
from tf_privacy.training import sanity_run
from tf_privacy.training import sanity_trainers

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=16)
X = RNG.normal(size=(1000, 16)).astype("float32")
Y = (X @ WEIGHTS > 0).astype("int64")


def build_model():
    return keras.Sequential([keras.Input((16,)), keras.layers.Dense(2)])


def build_wide_model(num_classes=2):
    """Large enough to learn 100 random labels by heart."""
    return keras.Sequential(
        [
            keras.Input((16,)),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(num_classes),
        ]
    )


def make_plan(**options):
    optimizer = {
        "l2_norm_clip": 1.0,
        "noise_multiplier": 1.0,
        **options.pop("optimizer", {}),
    }
    rate = options.pop("learning_rate", 1.0)
    settings = {"loss": LOSS, "batch_size": 100, "epochs": 3, **options}
    return sanity_plan.SanityPlan(
        optimizer=tf_privacy.DPSGD(rate, **optimizer), **settings
    )


def check(plan, data=(X, Y), build=build_model, **options):
    return sanity_run.sanity_check(
        build, data, plan=plan, **{"verbose": 0, **options}
    )


def rules(report):
    return [finding.rule for finding in report.findings]


@pytest.fixture(scope="module")
def healthy():
    return check(make_plan(alpha=1e-6))


def test_a_healthy_setting_gives_no_finding(healthy):
    assert healthy.findings == ()
    assert healthy.passed
    by_name = {arm.name: arm for arm in healthy.arms}
    users = {n for n, arm in sanity_plan.ARMS.items() if arm.has_patterns}
    assert list(by_name) == [n for n in sanity_plan.ARMS if n not in users]
    assert by_name["ordinary"].test_accuracy > 0.9
    assert by_name["private"].test_accuracy > 0.8
    assert {arm.num_steps for arm in healthy.arms} == {24}
    assert (healthy.num_train, healthy.num_test) == (800, 200)


def test_a_check_that_could_not_fail_says_so(healthy):
    """A linear model of 34 weights cannot learn 800 random labels."""
    (limit,) = healthy.limits
    assert limit.startswith("Not even ordinary training learns random labels")


def test_the_report_says_what_covers_it(healthy):
    text = str(healthy)
    assert text.startswith("Sanity check: Nothing found wrong")
    assert "Not covered by any guarantee" in text
    assert max(map(len, text.splitlines())) <= 80
    for arm in healthy.arms:
        assert arm.title in text
    values = json.loads(healthy.to_json())
    assert values["covered_by_guarantee"] is False
    assert values["passed"] is True
    assert [arm["name"] for arm in values["arms"]] == [
        arm.name for arm in healthy.arms
    ]
    sees = {arm.name: arm.sees_data for arm in healthy.arms}
    assert sees["private_random_labels"] and not sees["private_random_inputs"]


def test_the_plot_shows_every_run_and_layer(healthy, tmp_path):
    path = tmp_path / "sanity.png"
    figure = healthy.plot(path)
    assert path.read_bytes().startswith(b"\x89PNG")
    left, right = figure.axes
    titles = [label.get_text() for label in left.get_yticklabels()]
    assert titles == [arm.title for arm in healthy.arms]
    assert len(right.get_yticklabels()) == 2
    with pytest.raises(ValueError, match="^path must end in one of"):
        healthy.plot("sanity.txt")


def test_a_clip_that_is_far_too_small_is_found():
    report = check(
        make_plan(
            optimizer={"l2_norm_clip": 1e-5},
            arms=("ordinary", "clipping_only"),
        )
    )
    assert rules(report) == ["clipping costs little"]
    (finding,) = report.findings
    median = f"{report.signal_to_noise.median_norm:.3g}"
    assert median in finding.knob and "raise the clip" in finding.knob
    assert not report.passed


def test_noise_that_is_far_too_large_is_found():
    report = check(
        make_plan(
            optimizer={"noise_multiplier": 5000.0},
            arms=("ordinary", "noise_only"),
        )
    )
    assert rules(report) == ["signal above noise", "noise costs little"]
    assert "larger batch" in report.findings[1].knob
    assert "1. " in str(report) and "-> " in str(report)


def test_noise_that_is_far_too_small_learns_random_labels_by_heart():
    rng = np.random.default_rng(1)
    y = np.where(rng.random(1000) < 0.5, Y, 1 - Y)
    report = check(
        make_plan(
            optimizer={"noise_multiplier": 0.01},
            learning_rate=4.0,
            batch_size=20,
            epochs=12,
            num_examples=300,
            validation_split=2 / 3,
            arms=("private", "private_random_labels"),
        ),
        data=(X, y),
        build=build_wide_model,
    )
    assert rules(report) == [
        "random labels are not learned",
        "private training generalizes",
    ]
    assert "too weak" in report.findings[0].knob
    random_labels = report.arms[1]
    assert random_labels.p_value < 1e-6
    assert random_labels.train_accuracy > 0.8


def test_a_model_that_cannot_learn_is_found_first():
    rng = np.random.default_rng(2)
    report = check(
        make_plan(alpha=1e-6, arms=("ordinary", "clipping_only")),
        data=(X, rng.integers(2, size=1000)),
    )
    assert rules(report) == ["ordinary training learns"]
    assert report.findings[0].knob.startswith("Mend this first")


USER_ARMS = ("private_one_user", "private_all_users")


def check_users(**options):
    """500 users of 8 rows, 4 classes: chance is 10 of 40 patterns."""
    data = np.resize(X, (4000, 16)), np.arange(4000) % 4
    plan = make_plan(arms=USER_ARMS, **options)
    return check(plan, data=data, build=lambda: build_wide_model(4))


def test_a_unit_that_is_not_the_user_is_found():
    report = check_users(
        examples_per_user=8,
        num_examples=1000,
        batch_size=100,
        epochs=12,
        learning_rate=4.0,
        optimizer={"noise_multiplier": 0.1},
    )
    assert rules(report) == [
        "the unit is the user",
        "patterns of one user are not learned",
    ]
    assert "examples_per_unit=8" in report.findings[1].knob
    one_user, all_users = report.arms
    assert one_user.train_accuracy > 0.5 and one_user.num_train == 40
    assert one_user.p_value < 1e-5 and all_users.p_value < 1e-5


def test_a_unit_that_is_the_user_learns_what_users_share_and_no_more():
    report = check_users(
        optimizer={"examples_per_unit": 8, "noise_multiplier": 4.0},
        batch_size=200,
        epochs=20,
        learning_rate=2.0,
        alpha=1e-6,
    )
    assert report.findings == ()
    one_user, all_users = report.arms
    assert one_user.p_value > 1e-6 >= all_users.p_value


def test_an_interrupt_leaves_a_report_of_what_ended():
    calls = []

    def build():
        calls.append(1)
        # One to look at, one for the signal, one for each run.
        if len(calls) == 4:
            raise KeyboardInterrupt
        return build_model()

    report = check(make_plan(), build=build)
    assert report.interrupted and not report.passed
    assert [arm.name for arm in report.arms] == ["ordinary"]
    assert "Interrupted after 1 runs" in str(report)
    assert json.loads(report.to_json())["interrupted"] is True


def test_only_keras_prints_and_only_if_asked(capsys):
    plan = make_plan(arms=("ordinary",), epochs=1)
    check(plan)
    assert capsys.readouterr().out == ""
    check(plan, verbose=1)
    out = capsys.readouterr().out
    assert "8/8" in out and "ordinary training: 0." in out


def make_rows(size=1, weight=None):
    return sanity_data.make_rows(
        (X[:60], Y[:60], weight), name="data", rows_per_block=size
    )


def train(update, *, size=1, build=build_model, **optimizer):
    """Returns the weights before and after a step on all of 60 rows."""
    plan = make_plan(
        batch_size=60 // size,
        epochs=1,
        learning_rate=0.5,
        optimizer={"examples_per_unit": size, **optimizer},
    )
    keras.utils.set_random_seed(3)
    model = build()
    model(X[:1])
    before = model.get_weights()
    sanity_trainers.train(
        model, make_rows(size), plan=plan, update=update, callbacks=[]
    )
    return before, model.get_weights(), plan


def mean_gradients(before, size, clip):
    """Returns the mean over units of their clipped gradients."""
    model = build_model()
    model.set_weights(before)
    model.compile(loss=LOSS)
    rows = oracles.loop_gradients(model, X[:60], Y[:60])
    total = [0.0, 0.0]
    for first in range(0, 60, size):
        unit = [
            sum(row[v] for row in rows[first : first + size]) for v in (0, 1)
        ]
        norm = np.sqrt(sum(np.sum(g**2) for g in unit))
        for v in (0, 1):
            total[v] = total[v] + unit[v] * min(1.0, clip / norm) * size / 60
    return total


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize(
    "update, clip",
    [
        (sanity_plan.ORDINARY, np.inf),
        (sanity_plan.CLIPPED, 0.7),
        (sanity_plan.NOISED, np.inf),
    ],
)
def test_each_update_is_what_it_says(update, clip, size):
    """The noise of NOISED is 1e-7 here, so that the gradient is seen."""
    before, after, _ = train(
        update,
        size=size,
        l2_norm_clip=0.7,
        noise_multiplier=1e-7 if update == sanity_plan.NOISED else 100.0,
    )
    expected = mean_gradients(before, size, clip)
    for a, b, gradient in zip(before, after, expected, strict=True):
        np.testing.assert_allclose(a - b, 0.5 * gradient, 1e-3, 1e-6)


def test_noise_only_has_the_noise_of_private_training():
    """1944 weights: 5.3 standard errors of the spread are 8.5%."""
    before, after, _ = train(
        sanity_plan.NOISED,
        build=lambda: keras.Sequential(
            [
                keras.Input((16,)),
                keras.layers.Dense(108, use_bias=False),
                keras.layers.Dense(2, use_bias=False),
            ]
        ),
        l2_norm_clip=2.0,
        noise_multiplier=3000.0,
    )
    deviations = [
        ((a - b) / 0.5).ravel() for a, b in zip(before, after, strict=True)
    ]
    # Gradients of norm 1 or so are far below the noise, 2 * 3000 / 60 = 100.
    spread = np.concatenate(deviations).std() / 100.0
    assert 0.915 < spread < 1.085


def test_runs_share_weights_and_optimizer_and_use_nothing_up():
    plan = make_plan(
        learning_rate=1e-9,
        arms=("ordinary", "clipping_only", "noise_only", "private"),
        epochs=1,
    )
    seen = []

    def build():
        seen.append(build_model())
        return seen[-1]

    report = check(plan, build=build)
    assert len(seen) == 6 and len(report.arms) == 4
    for model in seen[1:]:
        for a, b in zip(
            seen[0].get_weights(), model.get_weights(), strict=True
        ):
            np.testing.assert_allclose(a, b, atol=1e-6)
    assert not plan.optimizer.built
    assert plan.optimizer.ledger.num_steps() == 0
    assert plan.optimizer.expected_batch_size is None
    inner = plan.make_inner_optimizer()
    assert type(inner) is keras.optimizers.SGD
    assert float(inner.learning_rate) == pytest.approx(1e-9)
    assert inner is not plan.optimizer.inner_optimizer


def test_weights_of_zero_do_not_count():
    weight = np.ones(1000, "float32")
    weight[::2] = 0.0
    wrong = np.where(weight > 0, Y, 1 - Y)
    report = check(make_plan(arms=("ordinary",)), data=(X, wrong, weight))
    (arm,) = report.arms
    assert arm.num_train + arm.num_test == 500
    assert arm.test_accuracy > 0.85


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"optimizer": "sgd"}, TypeError, "optimizer must be a DP optimizer"),
        ({"loss": None}, ValueError, "loss must be"),
        ({"batch_size": 0}, ValueError, "batch_size must be"),
        ({"epochs": 1.5}, ValueError, "epochs must be"),
        ({"num_examples": 1}, ValueError, "num_examples must be"),
        ({"validation_split": np.nan}, ValueError, "validation_split must be"),
        ({"alpha": 0.5}, ValueError, "alpha must be"),
        ({"seed": -1}, ValueError, "seed must be"),
        ({"examples_per_user": 3}, ValueError, "examples_per_user must be"),
        ({"arms": ("public",)}, ValueError, "arms must be one of"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_plan_checks_itself(options, error, message):
    settings = {
        "optimizer": tf_privacy.DPSGD(
            0.1, l2_norm_clip=1.0, noise_multiplier=1.0, examples_per_unit=2
        ),
        "loss": LOSS,
        "batch_size": 8,
        "epochs": 1,
        **options,
    }
    with pytest.raises(error, match=f"^{message}"):
        sanity_plan.SanityPlan(**settings)


def test_the_batch_size_is_the_optimizers():
    with pytest.raises(ValueError, match="^batch_size must be the optimizer's"):
        make_plan(optimizer={"expected_batch_size": 50})


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"plan": None}, TypeError, "plan must be a SanityPlan"),
        ({"verbose": 2}, ValueError, "verbose must be"),
        ({"build": lambda: None}, TypeError, "build_model must return a new"),
        ({"plan": make_plan(batch_size=900)}, ValueError, "batch_size must be"),
        ({"plan": make_plan(num_examples=2)}, ValueError, "validation_split"),
        (
            {"validation_data": (X, np.eye(2)[Y])},
            ValueError,
            "validation_data must have labels",
        ),
        (
            {"data": (X, Y, np.zeros(1000))},
            ValueError,
            "sample_weight must be above 0",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refusals(options, error, message):
    settings = {"plan": make_plan(), "data": (X, Y), **options}
    with pytest.raises(error, match=f"^{message}"):
        check(settings.pop("plan"), **settings)


def test_a_model_that_mixes_examples_is_refused_before_any_run():
    def build():
        return keras.Sequential(
            [
                keras.Input((16,)),
                keras.layers.BatchNormalization(),
                keras.layers.Dense(2),
            ]
        )

    with pytest.raises(ValueError, match="BatchNormalization"):
        check(make_plan(), build=build)


def test_validation_data_take_the_place_of_held_out_rows():
    report = check(
        make_plan(arms=("ordinary",)), validation_data=(X[:70], Y[:70])
    )
    assert (report.num_train, report.num_test) == (1000, 70)
