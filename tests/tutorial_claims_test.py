# SPDX-License-Identifier: Apache-2.0
"""What the tutorials say is so, by their own functions on little data."""

import importlib
import io
import re
import sys
import zipfile

import numpy as np
import pytest
from absl import app
from absl import flags
from scipy import stats

import tf_privacy
from tests import tutorials_test
from tf_privacy.clipping import rules

FOLDER = tutorials_test.ROOT / "tutorials"
SCRIPTS = (
    "choose_budget",
    "custom_loop",
    "layer_rule",
    "probabilistic_model",
    "quickstart",
    "tabular_census",
)
HELPERS = ("checks", "datasets", "tables")


@pytest.fixture
def load(monkeypatch):
    """Imports a script with flags, and forgets both after the test."""
    monkeypatch.syspath_prepend(FOLDER)
    loaded = []

    def load_script(name, *arguments):
        loaded.append(name)
        module = importlib.import_module(name)
        flags.FLAGS(["tutorial", *arguments])
        return module

    yield load_script
    for name in loaded:
        for flag in list(flags.FLAGS.flags_by_module_dict().get(name, ())):
            delattr(flags.FLAGS, flag.name)
    for name in (*loaded, *HELPERS):
        sys.modules.pop(name, None)
    flags.FLAGS.unparse_flags()


# What all of them refuse.


@pytest.mark.parametrize("name", SCRIPTS)
def test_an_argument_that_is_no_flag_is_refused(load, name):
    script = load(name, "--smoke")
    with pytest.raises(app.UsageError, match="^arguments must be flags"):
        script.main([name, "digits"])


@pytest.mark.parametrize("delta", [0.0, -0.1, 0.1, 1.0, np.nan])
def test_a_delta_that_protects_nobody_is_refused(load, delta):
    checks = load("checks")
    with pytest.raises(app.UsageError, match="^delta must be"):
        checks.check_delta(delta, 10)
    checks.check_delta(0.099, 10)


@pytest.mark.parametrize("batch_size", [-1, 0, 11])
def test_a_batch_larger_than_the_data_is_refused(load, batch_size):
    checks = load("checks")
    with pytest.raises(app.UsageError, match="^batch_size must be"):
        checks.check_batch_size(batch_size, 10)
    checks.check_batch_size(10, 10)


@pytest.mark.parametrize(
    "name, flag",
    [
        ("choose_budget", "delta=0.1"),
        ("choose_budget", "target_epsilon=0"),
        ("choose_budget", "steps=0"),
        ("choose_budget", "repeats=0"),
        ("custom_loop", "delta=0.1"),
        ("custom_loop", "noise_multiplier=nan"),
        ("custom_loop", "batch_size=1439"),
        ("layer_rule", "delta=0.1"),
        ("layer_rule", "units=0"),
        ("layer_rule", "rounds=0"),
        ("probabilistic_model", "delta=0.1"),
        ("probabilistic_model", "epochs=-1"),
        ("quickstart", "delta=0.1"),
        ("quickstart", "target_epsilon=inf"),
        ("tabular_census", "delta=0.1"),
        ("tabular_census", "target_epsilon=-1"),
        ("tabular_census", "batch_size=2049"),
    ],
)
def test_a_flag_out_of_range_is_refused(load, name, flag):
    script = load(name, "--smoke", f"--{flag}")
    with pytest.raises(app.UsageError, match=f"^{flag.split('=')[0]} must be"):
        script.main([name])


@pytest.mark.parametrize(
    "epsilon, stated", [(2.0, 2.0), (2.00001, 2.001), (1.9994, 2.0)]
)
def test_epsilon_is_stated_rounded_up(load, epsilon, stated):
    assert load("checks").round_up(epsilon) == stated


# One by one.


def test_quickstart_spends_what_it_was_told(load, capsys):
    load("quickstart", "--smoke", "--target_epsilon=1.5").main(["quickstart"])
    first, second, _, *statement = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"without privacy: accuracy 0\.\d+, no epsilon", first)
    epsilon = re.search(r"epsilon (\S+) at delta 1e-05$", second).group(1)
    assert 1.49 < float(epsilon) <= 1.5
    assert "  epsilon = 1.5 at delta = 1e-05, for each example." in statement


def test_large_batches_suffer_less_and_all_runs_add_up(load):
    script = load("choose_budget")
    plan = tf_privacy.plan(
        num_examples=4000,
        target_epsilon=2.0,
        target_delta=1e-5,
        num_steps=200,
        expected_batch_sizes=script._BATCH_SIZES,
    )
    noise = [choice.noise_of_mean for choice in plan.choices]
    assert noise == sorted(noise, reverse=True)
    # From 256 on the column is flat: a tenth for four times the work.
    assert noise[1] > 1.5 * noise[2] and noise[3] > 0.89 * noise[2]

    one = plan.choices[2]
    total = script.compute_total([one], repeats=3, delta=1e-5)
    assert total == pytest.approx(
        tf_privacy.compute_epsilon(
            noise_multiplier=one.noise_multiplier,
            sampling_probability=256 / 4000,
            num_steps=600,
            delta=1e-5,
        )
    )
    assert script.compute_total(plan.choices, repeats=3, delta=1e-5) > total


def test_choose_budget_draws_its_tables(load, tmp_path):
    path = tmp_path / "here" / "budget.png"
    script = load("choose_budget")
    script.draw(path, ([16, 64], [0.1, 0.2]), ([1.0, 8.0], [0.3, 0.4]))
    assert path.read_bytes().startswith(b"\x89PNG")


def test_the_own_loop_stops_at_the_budget_and_counts_like_fit(load):
    script = load("custom_loop", "--noise_multiplier=8")
    data = script.datasets.load_images("digits")
    budget = tf_privacy.PrivacyBudget(0.3, 1e-5)
    model = script.make_model(data)
    averages = script.train_by_loop(model, data, budget)
    num_steps = model.optimizer.ledger.num_steps()
    spent = [
        tf_privacy.compute_epsilon(
            noise_multiplier=8.0,
            sampling_probability=256 / 1438,
            num_steps=steps,
            delta=1e-5,
        )
        for steps in (num_steps, num_steps + 1)
    ]
    assert spent[0] <= 0.3 < spent[1]
    before = model.get_weights()
    for average, last in zip(averages, before, strict=True):
        assert average.shape == last.shape and np.any(average != last)
    with pytest.raises(tf_privacy.PrivacyBudgetError):
        script.train_by_loop(model, data, budget)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)

    other = script.make_model(data)
    other.fit(
        data.x_train,
        data.y_train,
        batch_size=256,
        steps_per_epoch=num_steps,
        verbose=0,
    )
    for trained in (model, other):
        statement = trained.privacy_statement(delta=1e-5)
        assert statement.epsilon == pytest.approx(spent[0])


def test_the_layers_rule_is_right_and_is_used(load, monkeypatch):
    monkeypatch.setattr(rules, "_OWN_RULES", [])
    script = load("layer_rule", "--batch_size=16")
    data = script.datasets.load_images("digits").take(16, 1)
    x = np.random.default_rng(0).normal(size=(5, 7)).astype("float32")
    layer = script.GatedDense(3)
    with pytest.raises(ValueError, match="no term for '.*gate_bias'"):
        tf_privacy.check_rule(script.ForgetfulRule(), layer, x)
    tf_privacy.check_rule(script.GatedDenseRule(), layer, x)

    batch = (data.x_train, data.y_train)
    models, paths = [], []
    for _ in range(2):
        models.append(script.make_model(data, 3))
        table = tf_privacy.explain_clipping(models[-1], data.x_train)
        (line,) = [row for row in table.splitlines() if "GatedDense" in row]
        paths.append(line.split()[2])
        models[-1].train_on_batch(*batch)
        tf_privacy.register_rule(script.GatedDenseRule())
    assert paths == ["generic", "rule"]
    assert min(script.time_in_turns(models, batch, rounds=1)) > 0


def test_the_rule_is_not_for_a_subclass_nor_for_sequences(load):
    script = load("layer_rule")
    rule = script.GatedDenseRule()

    class Other(script.GatedDense):
        """It may compute something else."""

    assert rule.supports(script.GatedDense(3), (), ((None, 4),))
    assert not rule.supports(script.GatedDense(3), (), ((None, 2, 4),))
    assert not rule.supports(Other(3), (), ((None, 4),))


@pytest.mark.parametrize("density", ["normal", "Student's t"])
def test_the_loss_is_minus_the_log_density(load, density):
    script = load("probabilistic_model")
    rng = np.random.default_rng(0)
    outputs = rng.normal(size=(400, 2)).astype("float32")
    width = 0.05 + np.log1p(np.exp(outputs[:, 1]))
    laws = {"normal": stats.norm(), "Student's t": stats.t(5)}
    y = outputs[:, 0] + width * laws[density].rvs(400, random_state=rng)
    y = y.astype("float32")
    expected = laws[density].logpdf((y - outputs[:, 0]) / width)
    expected -= np.log(width)
    loss = script.make_loss(density)(y[:, None], outputs)
    np.testing.assert_allclose(loss, -expected, rtol=1e-3, atol=1e-4)

    likelihood, covered = script.judge(density, outputs, y)
    assert likelihood == pytest.approx(expected.mean(), rel=1e-4)
    # Of 400 targets that follow the law, 90%; beyond with chance 1e-6.
    low, high = stats.binom.ppf([0.5e-6, 1 - 0.5e-6], 400, 0.9) / 400
    assert low <= covered <= high
    wide = outputs + np.array([0.0, 8.0], "float32")
    assert script.judge(density, wide, y)[1] > high


def test_patients_are_scaled_by_limits_that_hold(load):
    x, y, x_test, y_test = load("probabilistic_model").load_patients()
    assert (x.shape, y.shape, x_test.shape) == ((354, 10), (354,), (88, 10))
    assert np.abs(y).max() < 2 and np.abs(y_test).max() < 2
    # Plausible ranges, not the largest values of these patients.
    assert 0.8 < np.quantile(np.abs(x), 0.999) < 1.6


# Census records.


def write_csv(tables, rows):
    header = ["fnlwgt", *tables.COLUMNS[1:], "age", "salary_>50K", "nation_X"]
    lines = [",".join(str(row.get(c, 0)) for c in header) for row in rows]
    return "\n".join([",".join(header), *lines, ""])


def make_rows():
    person = {"age": 40, "education-num": 9, "hours-per-week": 40}
    changes = [
        {"age": 17, "capital-gain": 99999, "salary_>50K": 1},
        {"age": 200, "capital-gain": -5, "sex_Female": 1},
        {"hours-per-week": 7, "nation_X": 1, "fnlwgt": 3},
        {},
        {},
    ]
    return [{**person, **change} for change in changes]


def find_person(data, column, value):
    x = np.concatenate([data.x_train, data.x_test])
    y = np.concatenate([data.y_train, data.y_test])
    (index,) = np.flatnonzero(np.isclose(x[:, column], value))
    return x[index], y[index]


@pytest.mark.parametrize("wrapping", ["csv", "zip", "zip in zip"])
def test_records_are_read_by_the_code_book(load, tmp_path, wrapping):
    tables = load("tables")
    content = write_csv(tables, make_rows()).encode()
    for name in {"csv": [], "zip": ["adult.csv"]}.get(
        wrapping, ["adult.csv", "p/adult.csv.zip"]
    ):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("p/adult_old.csv", "no")
            archive.writestr(name, content)
        content = packed.getvalue()
    path = tmp_path / "records"
    path.write_bytes(content)
    data = tables.load_census(path)
    assert data.x_train.shape == (4, len(tables.COLUMNS))
    assert data.x_test.shape == (1, len(tables.COLUMNS))

    column = {name: i for i, name in enumerate(tables.COLUMNS)}
    rich, label = find_person(data, column["age"], 17.0)
    assert label == 1
    assert rich[column["capital-gain"]] == pytest.approx(np.log(100000))
    old, label = find_person(data, column["age"], 90.0)  # Brought into range.
    assert label == 0
    assert old[column["capital-gain"]] == 0
    assert old[column["sex_Female"]] == 1
    # An answer that the code book does not know leaves no trace.
    strange, _ = find_person(data, column["hours-per-week"], 7.0)
    assert strange[len(tables.RANGES) :].sum() == 0


def test_other_files_are_refused(load, tmp_path):
    tables = load("tables")
    path = tmp_path / "other.csv"
    path.write_text("age,income\n40,1\n")
    with pytest.raises(ValueError, match="^data must hold the columns"):
        tables.load_census(path)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("german.csv", "age\n1\n")
    with pytest.raises(ValueError, match="^data must hold adult.csv"):
        tables.load_census(tmp_path / "other.zip")


def test_what_prepares_the_records_does_not_come_from_them(load):
    script = load("tabular_census")
    tables = script.tables
    low, high = np.array(list(tables.RANGES.values())).T
    x = np.zeros((2, len(tables.COLUMNS)), "float32")
    x[:, : len(low)] = low, high
    x[1, len(low) :] = 1.0
    layer = script.make_normalization()
    prepared = np.asarray(layer(x))
    np.testing.assert_allclose(prepared[:, : len(low)], [[-1] * 5, [1] * 5])
    np.testing.assert_array_equal(prepared[:, len(low) :], x[:, len(low) :])
    assert not layer.weights

    one, other = tables.make_census(50, seed=1), tables.make_census(70, seed=2)
    assert one.x_train.shape == (40, len(tables.COLUMNS))
    assert other.x_test.shape == (14, len(tables.COLUMNS))
    for data in (one, other):
        assert np.abs(layer(data.x_train)).max() <= 1.0
        assert data.x_train[:, len(low) :].sum() == len(tables.ANSWERS) * len(
            data.x_train
        )
