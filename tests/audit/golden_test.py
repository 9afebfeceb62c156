# SPDX-License-Identifier: Apache-2.0
"""Golden numbers that no other test of the audit compares with.

Each entry of golden/audit.json says how it was computed, and by what.
"""

import json
import math
import pathlib

import numpy as np
import pytest
from scipy import stats

from tf_privacy import accounting
from tf_privacy import audit

HERE = pathlib.Path(__file__).parent
GOLDEN = json.loads((HERE.parent / "golden" / "audit.json").read_text())
COMPARED_IN = {
    "exposure_rank": ("exposure", "golden"),
    "exposure_exact": ("exposure",),
    "exposure_extrapolation_given_params": ("exposure",),
    "exposure_extrapolation_fit_a=4": ("exposure", "golden"),
    "exposure_sampling_ci": ("exposure",),
    "epsilon_lb_clopper_pearson": ("threshold_epsilon",),
    "one_run": ("one_run", "gaussian_epsilon", "golden"),
    "gdp_eps": ("gaussian_epsilon", "golden"),
    "roc": ("roc", "membership"),
    "lira": ("lira",),
    "gini": ("memorization",),
    "csr_linear": ("critical_samples",),
    "noise_split": ("golden",),
    "calibration_property_tests": ("golden",),
}
# Properties in words, and the tests that hold the library to them.
PROPERTIES = {
    "null_coverage": [
        ("one_run", "scores_that_say_nothing_raise_no_alarm"),
        ("threshold_epsilon", "scores_that_say_nothing_raise_no_alarm"),
        ("gaussian_epsilon", "scores_that_say_nothing_raise_no_alarm"),
        ("gaussian_epsilon", "held_out_raises_no_alarm"),
        ("peer_faults", "bounds_keep_their_confidence"),
    ],
    "null_auc": [("roc", "auc_of_scores_that_say_nothing_is_one_half")],
    "null_exposure": [
        ("exposure", "unseen_canaries_are_calibrated_and_covered"),
        ("exposure", "mean_exact_exposure_of_unseen_secrets_is_one_over_log_2"),
    ],
    "canary_uniformity": [
        ("canary_format", "every_position_of_the_secrets_is_uniform"),
        ("peer_faults", "secrets_of_which_some_came_twice_are_uniform"),
    ],
    "certified_floor": [
        ("exposure", "floor_holds_for_every_distribution"),
        ("secret_exposure", "limits_contain_the_truth"),
    ],
    "reject_true_claim": [
        ("golden", "true_claim_of_1000_canaries_is_not_rejected"),
        ("golden", "half_the_claimed_noise_is_rejected_always"),
    ],
}


def read_test(module):
    return (HERE / f"{module}_test.py").read_text(encoding="utf-8")


def test_every_golden_entry_is_compared():
    assert set(GOLDEN) - {"_about"} == set(COMPARED_IN)
    for entry, modules in COMPARED_IN.items():
        for module in modules:
            assert f'["{entry}"]' in read_test(module)


def test_every_golden_property_is_tested():
    assert set(GOLDEN["calibration_property_tests"]) == set(PROPERTIES)
    for tests in PROPERTIES.values():
        for module, name in tests:
            assert f"def test_{name}(" in read_test(module)


def test_rank_is_the_conservative_one():
    golden = GOLDEN["exposure_rank"]
    report = audit.estimate_exposure_by_sampling(
        golden["canaries"], golden["references"]
    )
    size = len(golden["references"])
    ranks = np.array(report.p_values) * (size + 1)
    np.testing.assert_allclose(ranks, golden["rank_conservative"], rtol=1e-12)
    # Ties count for the canary in the optimistic rank, as they must not.
    optimistic = np.array(golden["rank_optimistic"])
    assert np.all(ranks >= optimistic) and np.any(ranks > optimistic + 0.5)
    # TensorFlow Privacy's log2(n / rank) can be negative; log2((n + 1) / rank)
    # cannot, and is the larger one by a constant.
    np.testing.assert_allclose(
        np.subtract(report.exposures, golden["exposure_interpolation_tfp"]),
        math.log2((size + 1) / size),
        rtol=1e-12,
    )
    assert min(golden["exposure_interpolation_tfp"]) < 0
    assert min(report.exposures) == 0


def test_extrapolated_curve_is_the_true_one(monkeypatch):
    golden = GOLDEN["exposure_extrapolation_fit_a=4"]
    quantiles = (np.arange(1, 2001) - 0.5) / 2000
    references = stats.skewnorm.ppf(quantiles, a=4, loc=100, scale=15)
    fit, fitted = stats.skewnorm.fit, []

    def record(*arguments):
        fitted.append(fit(*arguments))
        return fitted[-1]

    monkeypatch.setattr(stats.skewnorm, "fit", record)
    report = audit.estimate_exposure_by_extrapolation(
        golden["canaries"], references, log2_size=60.0
    )
    np.testing.assert_allclose(
        report.exposures, golden["exposure_true_params"], rtol=0.02, atol=0.05
    )
    np.testing.assert_allclose(
        fitted, [golden["fitted_params_scipy"]], rtol=1e-2
    )


@pytest.mark.parametrize(
    "row",
    [
        row
        for row in GOLDEN["one_run"]["rows"]
        if row["eps_lb_fdp_gaussian"] is None
    ],
)
def test_there_is_no_gaussian_epsilon_at_delta_0(row):
    with pytest.raises(ValueError, match="^delta must be"):
        audit.compute_fdp_one_run_epsilon(
            num_canaries=row["m"],
            num_guesses=row["guesses"],
            num_correct=row["correct"],
            delta=row["delta"],
            confidence=1 - row["alpha"],
        )


@pytest.mark.parametrize("row", GOLDEN["gdp_eps"]["rows"])
def test_epsilon_of_gdp(row):
    epsilon = accounting.compute_gdp_epsilon(row["mu"], delta=row["delta"])
    assert epsilon == pytest.approx(row["eps"], rel=1e-8, abs=6e-9)


@pytest.mark.parametrize("row", GOLDEN["noise_split"]["rows"])
def test_noise_of_sum_and_count_together(row):
    # A count of terms -1/2 and 1/2 has sensitivity 1/2: z_l2 = 2 count_stddev.
    both = accounting.AdaptiveClipping(
        row["z_g"], row["z_l2"] / 2 if "z_l2" in row else row["sigma_b"]
    )
    wanted = row["z_eff"] if "z_eff" in row else row["z"]
    assert both.effective_noise_multiplier == pytest.approx(wanted, abs=6e-9)


CLAIM = audit.make_claim([accounting.Gaussian(1.0)])


def count_rejections(noise, num_runs):
    """Returns how often 1000 Dirac canaries reject the claim of noise 1."""
    rng = np.random.default_rng(0)
    rejected = 0
    for _ in range(num_runs):
        is_member = rng.random(1000) < 0.5
        scores = noise * rng.standard_normal(1000) + is_member
        result = audit.estimate_claim_violation(
            scores[is_member],
            scores[~is_member],
            claim=CLAIM,
            confidence=0.95,
            rng=rng,
        )
        rejected += result.rejected
    return rejected


def test_true_claim_of_1000_canaries_is_not_rejected():
    # At a rate of 5%, more than 87 of 1000 have a probability below 1e-6.
    assert count_rejections(1.0, 1000) <= stats.binom.isf(1e-6, 1000, 0.05)


def test_half_the_claimed_noise_is_rejected_always():
    assert count_rejections(0.5, 200) == 200
