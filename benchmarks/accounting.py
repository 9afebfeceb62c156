# SPDX-License-Identifier: Apache-2.0
"""Time and tightness of the accountants, beside dp-accounting.

    python -m benchmarks.accounting

Each figure is dp-accounting's processor time over ours for the same question,
both on one thread and in turns; medians of --repeats. Nothing is remembered
between repeats. dp-accounting's PLD runs with its default mesh of 1e-4.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import time

import dp_accounting
import numpy as np
from dp_accounting import pld
from dp_accounting import rdp

from tf_privacy import accounting
from tf_privacy.accounting import composition

# sampling_probability, noise_multiplier, num_steps, delta.
ORDINARY = [
    (256 / 60000, 1.1, 14100, 1e-5),
    (256 / 60000, 1.3, 3516, 1e-5),
    (256 / 60000, 0.7, 10547, 1e-5),
    (250 / 60000, 1.3, 3600, 1e-5),
    (0.01, 4.0, 10000, 1e-5),
    (0.01, 4.0, 40000, 1e-5),
    (0.01, 0.7, 10000, 1e-5),
    (0.01, 1.0, 1000, 1e-5),
    (0.01, 1.0, 10000, 1e-12),
    (0.08192, 10.0, 875, 1e-5),
    (0.08192, 6.0, 1125, 1e-5),
    (0.08192, 3.0, 2468, 1e-5),
    (0.0128, 2.5, 71589, 8e-7),
    (0.004, 0.8, 10000, 1e-7),
]
# sampling_probability, num_steps, delta, target_epsilon.
TARGETS = [
    (256 / 60000, 14062, 1e-5, 0.1),
    (256 / 60000, 14062, 1e-5, 3.0),
    (0.08192, 1000, 1e-5, 1.0),
    (0.08192, 1000, 1e-5, 8.0),
    (0.01, 10000, 1e-6, 3.0),
    (0.001, 100000, 1e-7, 1.0),
]


def make_event(q, noise):
    return dp_accounting.PoissonSampledDpEvent(
        q, dp_accounting.GaussianDpEvent(noise)
    )


def compute_peer(runs, delta):
    peer = pld.PLDAccountant()
    for q, noise, steps in runs:
        peer.compose(make_event(q, noise), steps)
    return peer.get_epsilon(delta)


def compute_ours(runs, delta):
    composition._bound_epsilon.cache_clear()
    mechanisms = [
        accounting.SampledGaussianSteps(
            noise_multiplier=noise, sampling_probability=q, num_steps=steps
        )
        for q, noise, steps in runs
    ]
    return accounting.compute_epsilon_of(mechanisms, delta=delta)


def bound_ours(setting):
    q, noise, steps, delta = setting
    return accounting.compute_epsilon_bounds(
        noise_multiplier=noise,
        sampling_probability=q,
        num_steps=steps,
        delta=delta,
    )


def calibrate_peer(q, steps, delta, target):
    return dp_accounting.calibrate_dp_mechanism(
        pld.PLDAccountant,
        lambda noise: dp_accounting.SelfComposedDpEvent(
            make_event(q, noise), steps
        ),
        target,
        delta,
    )


def calibrate_ours(q, steps, delta, target):
    composition._bound_epsilon.cache_clear()
    return accounting.calibrate_noise_multiplier(
        target_epsilon=target,
        target_delta=delta,
        sampling_probability=q,
        num_steps=steps,
    )


def compute_peer_rdp(q, noise):
    """Returns the RDP at order 2, having computed all default orders."""
    peer = rdp.RdpAccountant()
    peer.compose(make_event(q, noise), 1)
    return peer._rdp[list(peer._orders).index(2.0)]


def compute_our_rdp(orders, q, noise):
    found = accounting.compute_sampled_gaussian_rdp(
        orders, noise_multiplier=noise, sampling_probability=q
    )
    return found[list(orders).index(2.0)]


def compare(peer, ours, repeats):
    """Returns both results, both median times in ms, and their ratio."""
    times = [[], []]
    for _ in range(repeats):
        for function, column in zip((peer, ours), times, strict=True):
            start = time.process_time()
            result = function()
            column.append(1e3 * (time.process_time() - start))
            if function is peer:
                theirs = result
    slow, fast = (float(np.median(column)) for column in times)
    return theirs, result, slow, fast, slow / fast


def report(name, found):
    theirs, ours, slow, fast, ratio = found
    print(
        f"{name:44} {theirs:10.6g} {ours:10.6g} {slow:9.1f} {fast:8.2f} "
        f"{ratio:7.1f}x",
        flush=True,
    )
    return ratio


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    compute_ours([ORDINARY[0][:3]], 1e-5)
    print(f"{'':44} {'theirs':>10} {'ours':>10} {'ms':>9} {'ms':>8}  ratio")
    ratios = []
    for q, noise, steps, delta in ORDINARY:
        runs = [(q, noise, steps)]
        found = compare(
            lambda: compute_peer(runs, delta),  # noqa: B023
            lambda: compute_ours(runs, delta),  # noqa: B023
            repeats,
        )
        name = f"epsilon of {q:.5g}, {noise:g}, {steps}, {delta:g}"
        ratios.append(report(name, found))
    print(f"  least {min(ratios):.1f}x, median {np.median(ratios):.1f}x")
    widths = [1.0 - b.lower / b.epsilon for b in map(bound_ours, ORDINARY)]
    print(f"  our two bounds are at most {max(widths):.3%} apart")
    ratios = []
    for target in TARGETS:
        found = compare(
            lambda: calibrate_peer(*target),  # noqa: B023
            lambda: calibrate_ours(*target),  # noqa: B023
            repeats,
        )
        ratios.append(report(f"noise for {target}", found))
    print(f"  least {min(ratios):.1f}x, median {np.median(ratios):.1f}x")
    schedule = [(0.01, float(z), 100) for z in np.linspace(1.0, 2.0, 100)]
    found = compare(
        lambda: compute_peer(schedule, 1e-5),
        lambda: compute_ours(schedule, 1e-5),
        1,
    )
    report("schedule of 100 noise levels", found)
    orders = np.array(rdp.RdpAccountant()._orders, dtype=np.float64)
    ratios = []
    for q, noise, _, _ in ORDINARY:
        found = compare(
            lambda: compute_peer_rdp(q, noise),  # noqa: B023
            lambda: compute_our_rdp(orders, q, noise),  # noqa: B023
            repeats,
        )
        name = f"RDP at {orders.size} orders, {q:.5g}, {noise:g}"
        ratios.append(report(name, found))
    print(f"  least {min(ratios):.1f}x, median {np.median(ratios):.1f}x")


if __name__ == "__main__":
    main()
