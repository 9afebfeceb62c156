# SPDX-License-Identifier: Apache-2.0
"""Tests of the exposure of secrets in a token model."""

import math

import numpy as np
import pytest

from tests.audit import token_models
from tf_privacy.audit import exposure
from tf_privacy.audit import secret_exposure

SECRET = np.array([4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3])


def estimate(model, space, secrets, *, seed=0, **kwargs):
    return secret_exposure.estimate_exposure(
        model,
        space,
        secrets=secrets,
        rng=np.random.default_rng(seed),
        **kwargs,
    )


def make_case(seed=0, size=4, length=5):
    rng = np.random.default_rng(seed)
    model = token_models.make_markov_model(rng, size)
    space = token_models.make_space(size, length)
    return model, space, space.sample(12, rng=rng)


def compute_true_exposures(model, space, secrets):
    everything = token_models.compute_bits_slowly(
        model, space, token_models.list_secrets(space)
    )
    bits = token_models.compute_bits_slowly(model, space, secrets)
    report = exposure.compute_exact_exposure(bits, everything)
    return np.array(report.exposures)


def test_small_space_is_exact_and_keeps_the_order():
    model, space, secrets = make_case()
    report = estimate(
        model, space, secrets, tie_tolerance=0.0, names=list("abcdefghijkl")
    )
    truth = compute_true_exposures(model, space, secrets)
    np.testing.assert_allclose(report.exposures, truth, rtol=0, atol=1e-12)
    assert report.exposures == report.lower == report.upper
    assert set(report.methods) == {"exact"}
    np.testing.assert_allclose(report.p_values, 2.0**-truth, rtol=1e-12)
    assert report.secrets == tuple("abcdefghijkl")
    bits = token_models.compute_bits_slowly(model, space, secrets)
    np.testing.assert_allclose(report.bits, bits, rtol=1e-13)


@pytest.mark.parametrize("method", ["exact", "importance", "sampled", "auto"])
def test_limits_contain_the_truth(method):
    # At confidence 1 - 1e-9 the limits never fail in 120 rows.
    rows = 0
    for seed in range(10):
        model, space, secrets = make_case(seed)
        truth = compute_true_exposures(model, space, secrets)
        report = estimate(
            model,
            space,
            secrets,
            seed=seed,
            method=method,
            max_evaluations=40,
            num_samples=100,
            confidence=1 - 1e-9,
            tie_tolerance=0.0,
        )
        assert np.all(report.lower <= truth + 1e-9)
        assert np.all(truth <= np.array(report.upper) + 1e-9)
        assert np.all(report.lower <= np.array(report.exposures))
        assert np.all(np.array(report.exposures) <= report.upper)
        floor = exposure.compute_exposure_floor(
            report.bits, log2_size=space.log2_size
        )
        assert np.all(floor <= truth + 1e-9)
        assert np.all(report.lower >= floor - 1e-6)
        rows += sum(m not in ("exact", "bracketed") for m in report.methods)
    assert rows > 0 or method == "exact"


def test_bracket_reports_its_certain_end():
    model, space, secrets = make_case()
    report = estimate(model, space, secrets, method="exact", max_evaluations=3)
    assert "bracketed" in report.methods
    assert report.exposures == report.lower


def test_memorised_secret_in_1e16_is_exact_and_beats_every_sample():
    model = token_models.MemorizingModel(SECRET, trust=0.8)
    space = token_models.make_space(10, 16)
    report = estimate(model, space, [SECRET])
    assert report.methods == ("exact",)
    assert report.ranks == (1,)
    assert report.exposures[0] == pytest.approx(16 * math.log2(10))
    assert report.p_values[0] == pytest.approx(1e-16)
    assert report.evaluations[0] < 1000
    sampled = estimate(
        model, space, [SECRET], method="sampled", num_samples=2000
    )
    # 2000 references show 11 bits; the secret's own bits vouch for the floor.
    floor = space.log2_size - math.log2(math.floor(0.8**-16))
    assert sampled.exposures[0] == pytest.approx(floor, abs=1e-9)
    assert sampled.p_values[0] == pytest.approx(1 / 2001)


def test_what_the_budget_leaves_open_is_estimated():
    # Digits 0 to 4 are liked better, so that the rank of the secret is known:
    # those with fewer or as many unliked digits, 3 of 16.
    row = np.array([0.17] * 5 + [0.03] * 5)
    model = token_models.MarkovModel(np.tile(row, (10, 1)))
    space = token_models.make_space(10, 16)
    secret = [9] * 3 + [1] * 13
    rank = sum(math.comb(16, i) for i in range(4)) * 5**16
    truth = space.log2_size - math.log2(rank)
    report = estimate(
        model, space, [secret], max_evaluations=500, confidence=1 - 1e-8
    )
    assert report.methods[0] in ("importance", "sampled")
    assert report.ranks == (None,)
    assert report.lower[0] <= truth <= report.upper[0]
    assert report.upper[0] - report.lower[0] < 1.0
    assert report.exposures[0] == pytest.approx(truth, abs=0.5)
    assert report.evaluations[0] == 16 + 500 + 5000 * 17


def test_draws_without_a_hit_narrow_the_certain_limits():
    # After 7 a 9 comes once in 2^10 times, and then only 8 and 9: there are
    # 2^12 secrets of 22 bits, and no likelier ones. The walk cannot finish,
    # and 200 draws of either kind see none of them.
    probabilities = np.zeros((10, 10))
    probabilities[:8, :7] = 1 / 7
    probabilities[8:, 8:] = 1 / 2
    probabilities[7, :7] *= 1 - 2.0**-10
    probabilities[7, 9] = 2.0**-10
    model = token_models.MarkovModel(probabilities)
    space = token_models.secret_space.SecretSpace(
        prefix=(7,), choices=(tuple(range(10)),) * 13
    )
    secret = [9] * 13
    settings = {"max_evaluations": 1000, "num_samples": 200, "seed": 1}
    walked = estimate(model, space, [secret], method="exact", **settings)
    report = estimate(model, space, [secret], **settings)
    assert walked.methods == ("bracketed",)
    assert report.methods == ("importance",)
    assert report.lower[0] > walked.lower[0] + 4.0
    assert report.upper[0] <= walked.upper[0]
    truth = space.log2_size - 12
    assert report.lower[0] <= truth <= report.upper[0]


def test_unseen_secrets_are_calibrated_by_every_method():
    # 2000 secrets that the model knows nothing of, held to 5 standard
    # deviations of P[exposure >= k] <= 2^-k (false alarm 3e-7).
    rng = np.random.default_rng(3)
    model = token_models.make_markov_model(rng, 6, concentration=5.0)
    space = token_models.make_space(6, 5)
    secrets = space.sample(2000, rng=rng)
    for method in ("auto", "sampled"):
        report = estimate(
            model,
            space,
            secrets,
            method=method,
            num_samples=2000,
            max_evaluations=200,
        )
        p_values = np.array(report.p_values)
        for k in (1, 2, 4, 6, 8):
            most = 2000 * 2.0**-k
            assert np.sum(p_values <= 2.0**-k) <= most + 5 * most**0.5 + 1
    exact = estimate(model, space, secrets, tie_tolerance=0.0)
    assert np.mean(exact.exposures) == pytest.approx(
        1 / math.log(2), abs=5 / math.log(2) / math.sqrt(2000)
    )


def test_extrapolation_stays_within_the_certain_limits():
    model = token_models.MemorizingModel(SECRET[:8], trust=0.9)
    space = token_models.make_space(10, 8)
    report = estimate(
        model, space, [SECRET[:8]], method="extrapolated", num_samples=500
    )
    assert report.methods == ("extrapolated",)
    floor = space.log2_size + 8 * math.log2(0.9)
    assert floor - 1e-3 <= report.exposures[0] <= space.log2_size
    assert report.ks_p_value is not None
    assert "estimate" in str(report)


def test_secret_of_probability_0_is_not_exposed():
    model = token_models.MarkovModel([[0.5, 0.5, 0.0]] * 3)
    space = token_models.make_space(3, 4)
    report = estimate(model, space, [[0, 0, 2, 0], [1, 1, 0, 0]])
    assert report.exposures[0] == 0.0
    assert report.bits[0] == math.inf
    assert report.exposures[1] == pytest.approx(math.log2(81 / 16))
    assert '"inf"' in report.to_json()


def test_references_of_probability_0_rank_last():
    model = token_models.MarkovModel([[0.5, 0.5, 0.0]] * 3)
    space = token_models.make_space(3, 4)
    report = estimate(
        model, space, [[0, 1, 1, 0]], method="sampled", num_samples=4000
    )
    assert report.exposures[0] == pytest.approx(math.log2(81 / 16), abs=0.3)


def test_bad_arguments_are_refused():
    model, space, secrets = make_case()
    for kwargs, name in [
        ({"method": "guess"}, "method"),
        ({"confidence": 1.0}, "confidence"),
        ({"num_samples": 1}, "num_samples"),
        ({"max_evaluations": float("nan")}, "max_evaluations"),
        ({"names": ["a"]}, "names"),
    ]:
        with pytest.raises(ValueError, match=f"{name} must"):
            estimate(model, space, secrets, **kwargs)
    with pytest.raises(ValueError, match="secrets must be whole numbers"):
        estimate(model, space, np.zeros((0, 5), int))
    broken = token_models.MarkovModel(np.full((4, 4), np.nan))
    with pytest.raises(ValueError, match="model must return"):
        estimate(broken, space, secrets)
