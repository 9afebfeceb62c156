# SPDX-License-Identifier: Apache-2.0
"""Tests of the audit of real steps: what is wrong is found, what is right not.

Most of the errors are put into the library itself.
"""

import dataclasses

import keras
import numpy as np
import pytest

import tf_privacy
from tf_privacy import accounting
from tf_privacy.audit import claim as claim_lib
from tf_privacy.audit import keras_pipeline
from tf_privacy.audit import pipeline
from tf_privacy.audit import report as report_lib
from tf_privacy.clipping import styles
from tf_privacy.noise import gaussian

CLIP, NOISE = 2.0, 0.7
REJECTED = report_lib.Verdict.CLAIM_REJECTED
NOT_REJECTED = report_lib.Verdict.CLAIM_NOT_REJECTED
add_noise = gaussian.add_scaled_noise


def make_private(model, loss, **settings):
    model = tf_privacy.privatize(model)
    optimizer = tf_privacy.DPSGD(
        0.5, l2_norm_clip=CLIP, noise_multiplier=NOISE, **settings
    )
    model.compile(optimizer=optimizer, loss=loss)
    return model


def audit(make=make_private, **settings):
    settings = {"num_canaries": 1000, "num_steps": 60} | settings
    return keras_pipeline.audit_pipeline(
        make,
        noise_multiplier=NOISE,
        l2_norm_clip=CLIP,
        delta=1e-5,
        # Each of the four checks fails wrongly once in 4e6 runs.
        confidence=1.0 - 1e-6,
        **settings,
    )


def scale_noise(factor):
    def scaled(clipped, *, stddev, source):
        return add_noise(clipped, stddev=factor * stddev, source=source)

    return scaled


def add_noise_of_two_replicas(clipped, *, stddev, source):
    sums = [add_noise(clipped, stddev=stddev, source=source) for _ in range(2)]
    return dataclasses.replace(
        sums[0],
        gradients=[
            one + other - signal
            for one, other, signal in zip(
                sums[0].gradients,
                sums[1].gradients,
                clipped.gradients,
                strict=True,
            )
        ],
    )


class RepeatedSource:
    """The same numbers in every step, as after a key that never moves on."""

    def normal(self, shapes):
        rng = np.random.default_rng(3)
        return [rng.normal(size=s).astype(np.float32) for s in shapes]


def add_repeated_noise(clipped, *, stddev, source):
    del source
    return add_noise(clipped, stddev=stddev, source=RepeatedSource())


def leave_clipping_out(self, squared_norms, counted=None):
    ones = keras.ops.ones_like(squared_norms[0])
    return [ones] * len(squared_norms), keras.ops.cast(ones, "bool")


@pytest.mark.parametrize("microbatch_size", [None, 16])
def test_the_library_as_it_is_passes(microbatch_size):
    report = audit(
        lambda model, loss: make_private(
            model, loss, microbatch_size=microbatch_size
        )
    )
    assert report.verdict is NOT_REJECTED
    assert report.faults == ()
    assert 0.0 < report.epsilon_lower < report.claimed_epsilon
    report.assert_ok()
    statement = accounting.compute_epsilon(
        noise_multiplier=NOISE,
        sampling_probability=0.1,
        num_steps=60,
        delta=1e-5,
    )
    assert report.claimed_epsilon == pytest.approx(statement, rel=0.05)
    assert report.claimed_epsilon >= statement * (1 - 1e-9)


@pytest.mark.parametrize("factor", [0.5, 0.7, 0.0001])
def test_too_little_noise_is_found(factor, monkeypatch):
    monkeypatch.setattr(gaussian, "add_scaled_noise", scale_noise(factor))
    report = audit()
    assert report.verdict is REJECTED
    assert any("less noise than claimed" in fault for fault in report.faults)
    with pytest.raises(AssertionError, match="less noise than claimed"):
        report.assert_ok()


def test_a_tenth_less_noise_is_a_fault(monkeypatch):
    monkeypatch.setattr(gaussian, "add_scaled_noise", scale_noise(0.9))
    with pytest.raises(AssertionError, match="less noise than claimed"):
        audit().assert_ok()


def test_half_the_noise_contradicts_the_claimed_curve_itself(monkeypatch):
    monkeypatch.setattr(gaussian, "add_scaled_noise", scale_noise(0.5))
    report = audit(num_canaries=4000, expected_batch_size=400.0)
    figures = dict(report.figures)
    assert report.verdict is REJECTED
    # Not by the size of the noise alone: canaries are told apart too well.
    claimed, found = figures["closest to a contradiction"].split(", found")
    assert float(found.split()[-1]) > float(claimed.split()[2])


def test_clipping_left_out_is_found(monkeypatch):
    monkeypatch.setattr(
        styles.FlatClipping, "compute_factors", leave_clipping_out
    )
    report = audit()
    assert report.verdict is REJECTED
    assert any("times the clip" in fault for fault in report.faults)


def test_clip_that_is_another_than_claimed_is_found():
    def make(model, loss):
        model = tf_privacy.privatize(model)
        # The absolute noise is as claimed.
        optimizer = tf_privacy.DPSGD(
            0.5, l2_norm_clip=2 * CLIP, noise_multiplier=NOISE / 2
        )
        model.compile(optimizer=optimizer, loss=loss)
        return model

    report = audit(make)
    assert report.verdict is REJECTED
    assert any("times the clip" in fault for fault in report.faults)


def test_canaries_that_do_not_move_the_sums_are_told():
    rng = np.random.default_rng(23)
    observations = rng.normal(size=(20, 1000))
    report = pipeline.make_pipeline_report(
        observations,
        is_member=rng.random(1000) < 0.5,
        steps=pipeline.ClaimedSteps(
            noise_multiplier=1.0, sampling_probability=0.1, num_steps=20
        ),
        delta=1e-5,
    )
    assert any("steps were not tested" in fault for fault in report.faults)
    with pytest.raises(AssertionError, match="steps were not tested"):
        report.assert_ok()


def test_a_ledger_that_forgets_steps_is_told():
    def make(model, loss):
        model = make_private(model, loss)
        ledger = type(model.optimizer.ledger)
        entries = ledger.entries

        def forget(self):
            return [(kind, count // 2) for kind, count in entries(self)]

        patch.setattr(ledger, "entries", forget)
        return model

    with pytest.MonkeyPatch.context() as patch:
        report = audit(make)
    assert report.verdict is NOT_REJECTED
    assert any("The statement: the model states" in f for f in report.faults)


def test_noise_once_for_each_replica_is_found(monkeypatch):
    monkeypatch.setattr(gaussian, "add_scaled_noise", add_noise_of_two_replicas)
    report = audit()
    # More noise contradicts no promise of privacy: it is a fault.
    assert report.verdict is NOT_REJECTED
    assert any("more noise than claimed" in fault for fault in report.faults)
    with pytest.raises(AssertionError, match="more noise than claimed"):
        report.assert_ok()


def test_noise_that_is_repeated_is_found(monkeypatch):
    monkeypatch.setattr(gaussian, "add_scaled_noise", add_repeated_noise)
    report = audit()
    assert report.faults
    with pytest.raises(AssertionError):
        report.assert_ok()


def test_plain_training_is_found():
    def make(model, loss):
        model.compile(keras.optimizers.SGD(0.5), loss=loss)
        return model

    report = audit(make, expected_batch_size=100, num_steps=5)
    assert report.verdict is REJECTED


def draw_observations(rng, *, noise=1.0, steps=20, canaries=300):
    is_member = rng.random(canaries) < 0.5
    included = rng.random((steps, canaries)) < 0.1
    values = noise * rng.normal(size=(steps, canaries)) + included * is_member
    return values, is_member


def test_true_claims_pass_at_the_stated_rate():
    steps = pipeline.ClaimedSteps(
        noise_multiplier=1.0, sampling_probability=0.1, num_steps=20
    )
    claim = steps.make_claim()
    rng = np.random.default_rng(17)
    bad = 0
    for _ in range(100):
        observations, is_member = draw_observations(rng)
        report = pipeline.make_pipeline_report(
            observations,
            is_member=is_member,
            steps=steps,
            delta=1e-5,
            claim=claim,
            confidence=0.9,
        )
        bad += bool(report.faults) or report.verdict is REJECTED
    # 10 expected at most; more than 27 with probability below 1e-6.
    assert bad <= 27


STEPS = {"sampling_probability": 0.1, "num_steps": 20}


def test_a_looser_claim_than_the_steps_is_not_rejected():
    # The steps are not as said, and yet they keep what is claimed.
    rng = np.random.default_rng(29)
    observations, is_member = draw_observations(rng, noise=0.8, canaries=1000)
    loose = pipeline.ClaimedSteps(noise_multiplier=0.5, **STEPS)
    report = pipeline.make_pipeline_report(
        observations,
        is_member=is_member,
        steps=pipeline.ClaimedSteps(noise_multiplier=1.0, **STEPS),
        delta=1e-5,
        claim=loose.make_claim(),
    )
    assert report.verdict is NOT_REJECTED
    assert any("less noise than claimed" in fault for fault in report.faults)


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_a_wrong_unit_is_a_fault_and_contradicts_nothing(scale):
    rng = np.random.default_rng(31)
    observations, is_member = draw_observations(rng, canaries=1000)
    report = pipeline.make_pipeline_report(
        scale * observations,
        is_member=is_member,
        steps=pipeline.ClaimedSteps(noise_multiplier=1.0, **STEPS),
        delta=1e-5,
    )
    assert report.verdict is NOT_REJECTED
    assert len(report.faults) == 2


def test_a_claim_of_ones_own_is_tested():
    steps = pipeline.ClaimedSteps(
        noise_multiplier=1.0, sampling_probability=0.1, num_steps=20
    )
    rng = np.random.default_rng(19)
    observations, is_member = draw_observations(rng, canaries=4000)
    report = pipeline.make_pipeline_report(
        observations,
        is_member=is_member,
        steps=steps,
        delta=1e-5,
        claim=claim_lib.Claim.from_pair(0.05, 1e-5),
    )
    assert report.verdict is REJECTED
    assert report.faults == ()
    assert report.epsilon_lower > report.claimed_epsilon == 0.05


@pytest.mark.parametrize(
    "change, message",
    [
        ({"is_member": np.ones(300, dtype=bool)}, "is_member must be 300"),
        ({"is_member": np.zeros(300, dtype=bool)}, "is_member must be 300"),
        ({"is_member": np.ones(300)}, "is_member must be 300"),
        ({"is_member": np.ones(299, dtype=bool)}, "is_member must be 300"),
        ({"observations": np.full((20, 300), np.nan)}, "observations must be"),
        ({"observations": np.zeros((19, 300))}, "observations must have"),
        ({"delta": 0.0}, "delta must be"),
        ({"confidence": 1.0}, "confidence must be"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    observations, is_member = draw_observations(np.random.default_rng(0))
    arguments = {
        "observations": observations,
        "is_member": is_member,
        "delta": 1e-5,
        "steps": pipeline.ClaimedSteps(
            noise_multiplier=1.0, sampling_probability=0.1, num_steps=20
        ),
    }
    arguments |= change
    with pytest.raises(ValueError, match=message):
        pipeline.make_pipeline_report(
            arguments.pop("observations"), **arguments
        )


@pytest.mark.parametrize(
    "change, message",
    [
        ({"noise_multiplier": 0.0}, "noise_multiplier must be"),
        ({"sampling_probability": 1.5}, "sampling_probability must be"),
        ({"num_steps": 0}, "num_steps must be"),
    ],
)
def test_bad_steps_are_refused(change, message):
    settings = {
        "noise_multiplier": 1.0,
        "sampling_probability": 0.1,
        "num_steps": 20,
    }
    with pytest.raises(ValueError, match=message):
        pipeline.ClaimedSteps(**(settings | change))
