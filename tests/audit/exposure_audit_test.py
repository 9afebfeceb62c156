# SPDX-License-Identifier: Apache-2.0
"""Tests of the report of a Secret Sharer experiment."""

import numpy as np
import pytest

from tf_privacy.audit import canary_makers
from tf_privacy.audit import exposure
from tf_privacy.audit import exposure_audit
from tf_privacy.audit import report as report_lib

PLAN = canary_makers.make_exposure_canaries(
    "code {digit:4}", repetitions=[1, 4, 16], seed=3
)


def make_exposures(count=3):
    references = np.random.default_rng(0).normal(20.0, 1.0, 1000)
    return exposure.estimate_exposure_by_sampling(
        np.array([20.0, 18.0, 10.0])[:count], references
    )


def test_report_has_exposures_and_repetitions(tmp_path):
    report = exposure_audit.make_exposure_report(
        make_exposures(), canaries=PLAN
    )
    assert report.verdict is report_lib.Verdict.NO_CLAIM
    assert report.exposures["repetitions"] == [1, 4, 16]
    assert report.exposures["exposure"] == make_exposures().exposures
    assert "4" in str(report)
    report.plot(tmp_path / "plot.png")
    assert report_lib.AuditReport.from_json(report.to_json()).num_members == 3


def test_secrets_left_out_were_in_no_times():
    plan = canary_makers.make_text_canaries(
        "code {digit:4}", num_canaries=3, repetitions=5, seed=1
    )
    report = exposure_audit.make_exposure_report(
        make_exposures(), canaries=plan
    )
    expected = [5 if goes_in else 0 for goes_in in plan.is_member]
    assert report.exposures["repetitions"] == expected


def test_exposures_of_others_are_refused():
    with pytest.raises(ValueError, match="exposures must be of the 3 canaries"):
        exposure_audit.make_exposure_report(make_exposures(2), canaries=PLAN)
