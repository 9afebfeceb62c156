# SPDX-License-Identifier: Apache-2.0
"""Tests of exposure from given bits."""

import json
import math
import pathlib
import time

import numpy as np
import pytest
from scipy import stats

from tf_privacy.audit import exposure
from tf_privacy.audit import exposure_report

GOLDEN = json.loads(
    (pathlib.Path(__file__).parents[1] / "golden" / "audit.json").read_text()
)
NAN = float("nan")


def test_exact_exposure_is_golden():
    golden = GOLDEN["exposure_exact"]
    everything = np.array(golden["scores_of_all_R"])
    report = exposure.compute_exact_exposure(
        everything[golden["canary_indices"]], everything
    )
    assert list(report.ranks) == golden["rank"]
    np.testing.assert_allclose(report.exposures, golden["exposure"], rtol=1e-12)
    assert report.log2_size == 3.0
    assert report.lower == report.exposures == report.upper
    assert set(report.methods) == {"exact"}


def test_sampled_exposure_is_golden():
    golden = GOLDEN["exposure_rank"]
    report = exposure.estimate_exposure_by_sampling(
        golden["canaries"], golden["references"]
    )
    np.testing.assert_allclose(
        report.exposures,
        golden["exposure_calibrated_(n+1)/(rank)"],
        rtol=1e-12,
        atol=1e-12,
    )
    np.testing.assert_allclose(report.p_values, golden["p_value"], rtol=1e-12)


def test_limits_of_sampling_are_golden():
    for row in GOLDEN["exposure_sampling_ci"]["rows"]:
        references = np.arange(row["n_samples"]) + 1.0
        report = exposure.estimate_exposure_by_sampling(
            [row["n_at_or_below"] + 0.5],
            references,
            confidence=row["confidence"],
        )
        wanted = [
            float(row[f"exposure_{name}"])
            for name in ("lower", "upper", "point_calibrated")
        ]
        got = [report.lower[0], report.upper[0], report.exposures[0]]
        np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_unseen_canaries_are_calibrated_and_covered():
    # P[exposure >= k] <= 2^-k, with and without ties; each count of 2000 is
    # held to 5 standard deviations (false alarm 3e-7). A rank that leaves the
    # canary out (k = 10), or counts ties for it (k = 6), is found.
    rng = np.random.default_rng(0)
    runs, size = 2000, 63
    for integers in (False, True):
        draws = rng.random((runs, size + 1))
        if integers:
            draws = np.floor(draws * 20)
        exposures, covered = [], 0
        for canary, *references in draws:
            report = exposure.estimate_exposure_by_sampling(
                [canary], references, confidence=0.9
            )
            exposures.append(report.exposures[0])
            truth = -math.log2((canary + 1) / 20 if integers else canary)
            covered += report.lower[0] <= truth <= report.upper[0]
        for k in (1, 2, 3, 4, 5, 6, 10):
            most = runs * 2.0**-k
            assert np.sum(np.array(exposures) >= k) <= most + 5 * most**0.5
        assert covered >= runs * 0.9 - 5 * math.sqrt(runs * 0.09)
        if not integers:
            least = runs * 2.0**-6 - 5 * math.sqrt(runs * 2.0**-6)
            assert np.sum(np.array(exposures) >= 6) >= least


def test_mean_exact_exposure_of_unseen_secrets_is_one_over_log_2():
    # The exposure of a uniform rank is exponential, with standard deviation
    # 1 / log 2; the mean of 2000 is held to 5 standard errors.
    rng = np.random.default_rng(1)
    everything = rng.gamma(20.0, size=200_000)
    canaries = rng.choice(everything, size=2000)
    report = exposure.compute_exact_exposure(canaries, everything)
    margin = 5 / math.log(2) / math.sqrt(2000)
    assert np.mean(report.exposures) == pytest.approx(
        1 / math.log(2), abs=margin
    )


def test_ties_count_and_order_is_kept():
    report = exposure.estimate_exposure_by_sampling(
        [9.0, 1.0, 2.0, 1.0], [2.0, 2.0, 3.0], names=["d", "a", "c", "b"]
    )
    np.testing.assert_allclose(report.p_values, [1.0, 0.25, 0.75, 0.25])
    assert report.secrets == ("d", "a", "c", "b")
    assert report.bits == (9.0, 1.0, 2.0, 1.0)
    assert list(report.to_frame()["secret"]) == ["d", "a", "c", "b"]


def test_known_size_caps_the_exposure():
    references = np.arange(1000) + 10.0
    for estimate in (
        exposure.estimate_exposure_by_sampling,
        exposure.estimate_exposure_by_extrapolation,
    ):
        report = estimate([0.0], references, log2_size=4.0)
        assert report.exposures == (4.0,)
        assert report.upper == (4.0,)


def test_a_million_references_take_less_than_a_second():
    rng = np.random.default_rng(0)
    references = rng.random(1_000_000)
    start = time.process_time()
    exposure.estimate_exposure_by_sampling(references[:1000], references)
    assert time.process_time() - start < 1.0


def test_extrapolation_fits_as_golden():
    golden = GOLDEN["exposure_extrapolation_fit_a=4"]
    references = stats.skewnorm.ppf(
        (np.arange(1, 2001) - 0.5) / 2000, a=4, loc=100, scale=15
    )
    report = exposure.estimate_exposure_by_extrapolation(
        golden["canaries"], references, log2_size=60.0
    )
    np.testing.assert_allclose(
        report.exposures, golden["exposure_fitted"], rtol=0.02, atol=0.05
    )
    assert set(report.methods) == {"extrapolated"}
    assert report.ks_statistic < 0.01
    assert report.ks_p_value > 0.99
    # Two of the canaries are far below what 2000 references can see.
    assert report.upper[-1] == 60.0
    assert report.p_values[-1] == pytest.approx(1 / 2001)


def test_extrapolated_tail_is_the_curve_to_60_digits(monkeypatch):
    cases = GOLDEN["exposure_extrapolation_given_params"]["cases"]
    references = np.linspace(1.0, 2.0, 200)
    for case in cases:
        monkeypatch.setattr(
            stats.skewnorm, "fit", lambda _, a=case["shape_a"]: (a, 100.0, 1.0)
        )
        report = exposure.estimate_exposure_by_extrapolation(
            [100.0 + case["z"]], references, log2_size=1000.0
        )
        np.testing.assert_allclose(
            report.exposures, [case["exposure_bits"]], rtol=1e-6, atol=1e-7
        )


def test_wrong_curve_is_refuted():
    rng = np.random.default_rng(0)
    two_humps = np.concatenate([rng.normal(20, 1, 500), rng.normal(60, 1, 500)])
    report = exposure.estimate_exposure_by_extrapolation(
        [10.0], two_humps, log2_size=30.0
    )
    assert report.ks_p_value < 1e-6
    assert "do not trust" in str(report)


def test_no_curve_is_an_error():
    for references in (np.ones(200), np.arange(99.0)):
        with pytest.raises(ValueError, match="reference_bits must hold 100"):
            exposure.estimate_exposure_by_extrapolation(
                [1.0], references, log2_size=9.0
            )


def test_floor_is_size_less_bits_and_never_negative():
    got = exposure.compute_exposure_floor([0.0, 3.5, 20.0], log2_size=10.0)
    np.testing.assert_array_equal(got, [10.0, 6.5, 0.0])


def test_floor_holds_for_every_distribution():
    rng = np.random.default_rng(0)
    for concentration in (0.01, 0.1, 1.0, 100.0):
        bits = -np.log2(rng.dirichlet(np.full(256, concentration)) + 1e-300)
        bits = np.maximum(bits, 0.0)
        report = exposure.compute_exact_exposure(bits, bits)
        floor = exposure.compute_exposure_floor(bits, log2_size=8.0)
        assert np.all(floor <= np.array(report.exposures) + 1e-9)
    # A model that is sure of one secret reaches it.
    assert np.max(floor) < 1.0
    sure = exposure.compute_exposure_floor([0.0], log2_size=8.0)
    assert sure[0] == 8.0


@pytest.mark.parametrize("bad", [NAN, math.inf, -1.0])
@pytest.mark.parametrize("place", ["canary_bits", "reference_bits"])
def test_numbers_that_have_no_rank_are_refused(bad, place):
    given = {"canary_bits": [1.0, 2.0], "reference_bits": np.arange(200.0)}
    given[place] = np.array(given[place], dtype=float)
    given[place][1] = bad
    for estimate in (
        exposure.estimate_exposure_by_sampling,
        exposure.estimate_exposure_by_extrapolation,
    ):
        with pytest.raises(ValueError, match=f"{place} must be"):
            estimate(**given, log2_size=20.0)
    with pytest.raises(ValueError, match="canary_bits must be"):
        exposure.compute_exposure_floor([bad], log2_size=20.0)
    with pytest.raises(ValueError, match="all_bits must be"):
        exposure.compute_exact_exposure([1.0], [1.0, bad])


def test_bad_arguments_are_refused():
    sample = exposure.estimate_exposure_by_sampling
    with pytest.raises(ValueError, match="all_bits must hold the bits of"):
        exposure.compute_exact_exposure([0.5], [1.0, 2.0])
    with pytest.raises(ValueError, match="reference_bits must hold at least"):
        sample([1.0], [])
    with pytest.raises(ValueError, match="canary_bits must be a vector"):
        sample([[1.0]], [1.0])
    with pytest.raises(TypeError, match="canary_bits must be real"):
        sample(["a"], [1.0])
    with pytest.raises(ValueError, match="confidence must be"):
        sample([1.0], [1.0], confidence=1.0)
    with pytest.raises(ValueError, match="log2_size must be"):
        sample([1.0], [1.0], log2_size=NAN)
    with pytest.raises(ValueError, match="names must hold one text"):
        sample([1.0], [1.0], names=["a", "b"])
    with pytest.raises(TypeError, match="log2_size must be"):
        exposure.compute_exposure_floor([1.0], log2_size=None)


def make_report(**kwargs):
    fields = {
        "secrets": ["pin", "card"],
        "bits": [17.456, 40.0],
        "ranks": [26, None],
        "exposures": [48.449, 12.0],
        "lower": [48.449, 11.456],
        "upper": [48.449, math.inf],
        "methods": ["exact", "sampled"],
        "p_values": [2.6e-15, 0.00123],
        "evaluations": [31_812, 5000],
        "log2_size": 53.151,
        "confidence": 0.95,
        **kwargs,
    }
    return exposure_report.ExposureReport(**fields)


def test_text_rounds_limits_outwards_and_explains_methods():
    text = str(make_report())
    assert "at most log2 |R| = 53.16" in text
    pin, card = text.splitlines()[3:5]
    assert (
        pin.split()
        == "pin 17.46 26 48.45 48.44 48.45 exact 2.6e-15 31,812".split()
    )
    assert card.split() == "card 40 - 12 11.45 inf sampled 0.0013 5,000".split()
    assert "exact: " in text
    assert "sampled: estimate" in text
    assert "confidence 0.95" in text
    certain = str(make_report(methods=["exact", "exact"], confidence=None))
    assert "confidence" not in certain


def test_json_and_columns_hold_everything():
    report = make_report(secrets=None)
    read = json.loads(report.to_json())
    assert read["ranks"] == [26, None]
    assert read["upper"] == [48.449, "inf"]
    assert report.columns()["secret"] == ["0", "1"]
    assert len(report.to_frame()) == 2


def test_report_refuses_nan_and_ragged_columns():
    with pytest.raises(ValueError, match="exposures must be numbers"):
        make_report(exposures=[NAN, 1.0])
    with pytest.raises(ValueError, match="ranks must hold one value"):
        make_report(ranks=[1])
