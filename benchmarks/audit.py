# SPDX-License-Identifier: Apache-2.0
"""Time and power of the audits.

    python -m benchmarks.audit

Times are processor times on one thread, medians of --repeats. Power is the
share of --runs in which an error of the training step is found, with 2000
canaries, 100 steps of which each takes one in twenty, at confidence 0.95; the
steps are drawn by numpy, as the real ones are.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import time

import numpy as np

from tf_privacy import audit
from tf_privacy.audit import verdict

_METHODS = ("one_run", "held_out", "fdp_one_run", "membership")
_STEPS = audit.ClaimedSteps(
    noise_multiplier=1.0, sampling_probability=0.05, num_steps=100
)


def measure(function, repeats: int) -> float:
    """Returns the median processor time of a call, in seconds."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return float(np.median(times))


def print_times(repeats: int) -> None:
    rng = np.random.default_rng(0)
    is_member = rng.random(100_000) < 0.5
    scores = rng.normal(size=100_000) + is_member
    members, others = scores[is_member], scores[~is_member]
    for method in _METHODS:
        seconds = measure(
            lambda method=method: verdict.audit(
                members, others, delta=1e-7, method=method
            ),
            repeats,
        )
        print(f"audit of 1e5 scores, {method}: {seconds:.2f} s")
    references = rng.normal(100.0, 15.0, 1_000_000)
    seconds = measure(
        lambda: audit.estimate_exposure_by_sampling(
            references[:10], references
        ),
        repeats,
    )
    print(f"exposure among 1e6 references: {seconds:.2f} s")
    pin = audit.CanaryFormat("card {digit:16}")
    seconds = measure(
        lambda: pin.make_secrets(pin.sample_indices(1_000_000, rng=rng)),
        repeats,
    )
    print(f"1e6 random secrets of 1e16: {seconds:.2f} s")


def draw_steps(rng, *, noise: float, contribution: float):
    is_member = rng.random(2000) < 0.5
    shape = (_STEPS.num_steps, 2000)
    included = rng.random(shape) < _STEPS.sampling_probability
    signal = contribution * included * is_member
    return noise * rng.normal(size=shape) + signal, is_member


def print_power(runs: int) -> None:
    rng = np.random.default_rng(1)
    claim = _STEPS.make_claim()
    for name, noise, contribution in (
        ("as claimed", 1.0, 1.0),
        ("noise x 0.99", 0.99, 1.0),
        ("noise x 0.98", 0.98, 1.0),
        ("noise x 0.95", 0.95, 1.0),
        ("noise x 0.5", 0.5, 1.0),
        ("noise of two replicas", 2.0**0.5, 1.0),
        ("clip x 1.2", 1.0, 1.2),
        ("clip x 1.5", 1.0, 1.5),
    ):
        found = 0
        for _ in range(runs):
            observations, is_member = draw_steps(
                rng, noise=noise, contribution=contribution
            )
            report = audit.make_pipeline_report(
                observations,
                is_member=is_member,
                steps=_STEPS,
                delta=1e-5,
                claim=claim,
            )
            found += bool(report.faults) or report.verdict in (
                audit.Verdict.CLAIM_REJECTED,
            )
        print(f"pipeline, {name}: found in {found} of {runs} runs")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--runs", type=int, default=50)
    arguments = parser.parse_args()
    print_times(arguments.repeats)
    print_power(arguments.runs)


if __name__ == "__main__":
    main()
