# SPDX-License-Identifier: Apache-2.0
"""Tests of shadow models: the design, and what a stop leaves behind."""

import numpy as np
import pytest
from scipy import stats

from tf_privacy.audit import lira
from tf_privacy.audit import roc
from tf_privacy.audit import shadow_models

N = 12


class Trainer:
    """Scores tell which rows a model got, and all calls are recorded."""

    def __init__(self, fail_at=None, shape=(N,)):
        self.calls = []
        self.fail_at = fail_at
        self.shape = shape

    def __call__(self, rows, index):
        if index == self.fail_at:
            raise KeyboardInterrupt
        self.calls.append((index, rows.tolist()))
        scores = np.full(self.shape, float(index))
        scores[..., rows] += 100.0
        return scores


def run(train, directory, **kwargs):
    arguments = {"num_examples": N, "num_models": 6, "seed": 1, **kwargs}
    return shadow_models.train_shadow_models(
        train, directory=directory, **arguments
    )


@pytest.mark.parametrize("num_examples", [2, 7, 100])
@pytest.mark.parametrize("num_models", [2, 6])
def test_every_example_is_in_half_of_the_models(num_examples, num_models):
    table = shadow_models.make_membership_table(
        num_examples=num_examples,
        num_models=num_models,
        rng=np.random.default_rng(0),
    )
    assert table.shape == (num_models, num_examples)
    assert np.all(table.sum(axis=0) == num_models // 2)
    assert np.all(table[0::2] == ~table[1::2])
    assert np.all(table[0::2].sum(axis=1) == num_examples // 2)


def test_halves_are_uniform_and_pairs_independent():
    # 3 of 6 examples: 20 halves, each as likely, in both pairs at once.
    rng = np.random.default_rng(1)
    counts = np.zeros((64, 64))
    for _ in range(8000):
        table = shadow_models.make_membership_table(
            num_examples=6, num_models=4, rng=rng
        )
        codes = table @ (1 << np.arange(6))
        counts[codes[0], codes[2]] += 1
    seen = counts[counts.sum(axis=1) > 0][:, counts.sum(axis=0) > 0]
    assert seen.shape == (20, 20)
    assert stats.chisquare(seen.ravel()).pvalue > 1e-6


def test_models_get_their_rows_and_scores_go_to_their_place(tmp_path):
    trainer = Trainer()
    shadows = run(trainer, tmp_path)
    want = np.arange(6)[:, None] + 100.0 * shadows.is_member
    np.testing.assert_array_equal(shadows.scores, want)
    for (index, rows), is_in in zip(
        trainer.calls, shadows.is_member, strict=True
    ):
        assert rows == np.flatnonzero(is_in).tolist(), index
    assert "12 examples by 6 shadow models" in str(shadows)


def test_a_stopped_run_trains_only_what_is_missing(tmp_path):
    first = Trainer(fail_at=3)
    with pytest.raises(KeyboardInterrupt):
        run(first, tmp_path)
    assert [index for index, _ in first.calls] == [0, 1, 2]
    second = Trainer()
    shown = []
    resumed = run(second, tmp_path, progress=lambda *done: shown.append(done))
    assert [index for index, _ in second.calls] == [3, 4, 5]
    assert shown == [(3, 6), (4, 6), (5, 6), (6, 6)]
    whole = run(Trainer(), tmp_path / "whole")
    np.testing.assert_array_equal(resumed.scores, whole.scores)
    np.testing.assert_array_equal(resumed.is_member, whole.is_member)
    third = Trainer()
    run(third, tmp_path)
    assert third.calls == []
    assert not list(tmp_path.glob("*.draft"))


def test_halves_without_a_seed_are_drawn_once(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(Trainer(fail_at=3), tmp_path, seed=None)
    shadows = run(Trainer(), tmp_path, seed=None)
    want = np.arange(6)[:, None] + 100.0 * shadows.is_member
    np.testing.assert_array_equal(shadows.scores, want)
    again = run(Trainer(), tmp_path, seed=None)
    np.testing.assert_array_equal(again.is_member, shadows.is_member)
    # Two draws of 3 halves of 12 agree with probability 924^-3.
    other = run(Trainer(), tmp_path / "other", seed=None)
    assert np.any(other.is_member != shadows.is_member)


def test_augmentations_and_float32(tmp_path):
    shadows = run(Trainer(shape=(3, N)), tmp_path)
    assert shadows.scores.shape == (6, 3, N)
    again = run(Trainer(), tmp_path)
    np.testing.assert_array_equal(again.scores, shadows.scores)
    low = run(lambda rows, index: np.ones(N, np.float32), tmp_path / "low")
    assert low.scores.dtype == np.float64


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 2},
        {"seed": None},
        {"num_models": 8},
        {"settings": {"epochs": 3}},
    ],
)
def test_other_settings_are_refused_before_training(tmp_path, change):
    run(Trainer(), tmp_path, settings={"epochs": 2, "layers": [8, 8]})
    trainer = Trainer()
    same = {"layers": (8, 8), "epochs": 2}
    run(trainer, tmp_path, settings=same)
    with pytest.raises(
        ValueError, match="^directory must be empty or of the s"
    ):
        run(trainer, tmp_path, **{"settings": same, **change})
    assert trainer.calls == []


@pytest.mark.parametrize("name", ["plan.npz", "model_00002.npz"])
@pytest.mark.parametrize("harm", ["cut", "empty", "text"])
def test_damaged_file_is_refused_before_training(tmp_path, name, harm):
    with pytest.raises(KeyboardInterrupt):
        run(Trainer(fail_at=5), tmp_path)
    path = tmp_path / name
    content = path.read_bytes()
    harmed = {"cut": content[: len(content) // 2], "empty": b"", "text": b"?"}
    path.write_bytes(harmed[harm])
    trainer = Trainer()
    with pytest.raises(ValueError, match="^directory must hold whole files"):
        run(trainer, tmp_path)
    assert trainer.calls == []


def test_any_flipped_bit_is_refused_or_harmless(tmp_path):
    whole = run(Trainer(), tmp_path)
    path = tmp_path / "model_00004.npz"
    content = path.read_bytes()
    refused = 0
    for place in range(0, len(content), 5):
        changed = bytearray(content)
        changed[place] ^= 1 << (place % 7)
        path.write_bytes(changed)
        try:
            got = run(Trainer(), tmp_path)
        except ValueError as error:
            assert str(error).startswith("directory must hold whole files")
            refused += 1
        else:
            np.testing.assert_array_equal(got.scores, whole.scores)
    assert refused > 100


def test_deleting_a_damaged_file_trains_its_model_again(tmp_path):
    whole = run(Trainer(), tmp_path)
    (tmp_path / "model_00004.npz").unlink()
    trainer = Trainer()
    again = run(trainer, tmp_path)
    assert [index for index, _ in trainer.calls] == [4]
    np.testing.assert_array_equal(again.scores, whole.scores)


def test_file_of_another_run_is_refused(tmp_path):
    run(Trainer(), tmp_path / "one")
    run(Trainer(), tmp_path / "two", seed=2)
    moved = tmp_path / "two" / "model_00001.npz"
    moved.replace(tmp_path / "one" / "model_00001.npz")
    with pytest.raises(ValueError, match="^directory must hold the models of"):
        run(Trainer(), tmp_path / "one")


def test_file_of_no_model_is_refused(tmp_path):
    run(Trainer(), tmp_path)
    path = tmp_path / "model_00001.npz"
    path.replace(tmp_path / "model_00006.npz")
    with pytest.raises(ValueError, match="^directory must hold the models of"):
        run(Trainer(), tmp_path)


@pytest.mark.parametrize(
    "scores, error, message",
    [
        (np.zeros(N - 1), ValueError, "train must return scores"),
        (np.zeros((N, 2)), ValueError, "train must return scores"),
        (None, ValueError, "train must return scores"),
        (np.full(N, np.nan), ValueError, "scores that train returned for mode"),
        (["a"] * N, TypeError, "scores that train returned for model 0 must"),
    ],
)
def test_bad_scores_of_train_are_refused_and_not_kept(
    tmp_path, scores, error, message
):
    with pytest.raises(error, match=f"^{message}"):
        run(lambda rows, index: scores, tmp_path)
    assert not list(tmp_path.glob("model_*"))


def test_models_of_two_shapes_are_refused(tmp_path):
    shapes = {0: (2, N), 1: (3, N)}
    with pytest.raises(ValueError, match=r"^train must .* models: \(2, 12\)"):
        run(lambda rows, index: np.zeros(shapes[index]), tmp_path)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"num_models": 3}, "num_models must be even"),
        ({"num_models": 0}, "num_models must be a whole number"),
        ({"num_examples": 1}, "num_examples must be a whole number"),
    ],
)
def test_bad_numbers_are_refused_before_any_file(tmp_path, change, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        run(Trainer(), tmp_path / "new", **change)
    assert not (tmp_path / "new").exists()


def test_setting_that_cannot_be_written_is_refused_before_any_file(tmp_path):
    with pytest.raises(TypeError, match="^value"):
        run(Trainer(), tmp_path / "new", settings={"model": object()})
    assert not (tmp_path / "new").exists()


def test_table_of_another_design_is_refused():
    with pytest.raises(
        ValueError, match="^is_member must have each example in"
    ):
        shadow_models.ShadowScores(
            scores=np.zeros((2, 3)), is_member=np.ones((2, 3), dtype=bool)
        )
    with pytest.raises(ValueError, match="^scores must be"):
        shadow_models.ShadowScores(
            scores=np.zeros((3, 3)), is_member=np.ones((3, 3), dtype=bool)
        )


def make_noise(num_models, num_examples, seed):
    rng = np.random.default_rng(seed)
    return shadow_models.ShadowScores(
        scores=rng.normal(size=(num_models, num_examples)),
        is_member=shadow_models.make_membership_table(
            num_examples=num_examples, num_models=num_models, rng=rng
        ),
    )


def test_left_out_model_takes_its_partner_along():
    shadows = make_noise(num_models=6, num_examples=10, seed=0)
    left = list(shadow_models.leave_one_model_out(shadows))
    assert [each.index for each in left] == list(range(6))
    for each, others in zip(left, [[2, 3, 4, 5]] * 2, strict=False):
        np.testing.assert_array_equal(
            each.target_scores, shadows.scores[each.index]
        )
        np.testing.assert_array_equal(
            each.is_target_member, shadows.is_member[each.index]
        )
        np.testing.assert_array_equal(
            each.shadow_scores, shadows.scores[others]
        )
        np.testing.assert_array_equal(each.is_member, shadows.is_member[others])
    assert str(left[5]) == "Model 5 as the target, 4 shadow models"
    np.testing.assert_array_equal(left[5].is_member, shadows.is_member[:4])


@pytest.mark.parametrize("variance", lira.VARIANCES)
def test_left_out_model_gives_nothing_away_where_scores_say_nothing(variance):
    # Were the numbers of models in and out to depend on the target, as where
    # each example is in half of all models in no pairs, the AUC would be 0.43
    # or 0.476: 17 or 6 deviations away. 4.9 have probability 1e-6.
    shadows = make_noise(num_models=8, num_examples=20_000, seed=5)
    left = next(shadow_models.leave_one_model_out(shadows))
    scores = lira.compute_lira_scores(
        left.target_scores,
        shadow_scores=left.shadow_scores,
        is_member=left.is_member,
        variance=variance,
    )
    is_in = left.is_target_member
    deviation = np.sqrt((20_000 + 1) / (12 * 10_000 * 10_000))
    auc = roc.compute_roc(scores[is_in], scores[~is_in]).auc
    assert abs(auc - 0.5) < 4.9 * deviation


def test_two_models_leave_nothing_to_attack_with():
    shadows = make_noise(num_models=2, num_examples=10, seed=0)
    with pytest.raises(
        ValueError, match="^shadows must be of 4 models or more"
    ):
        shadow_models.leave_one_model_out(shadows)
