# SPDX-License-Identifier: Apache-2.0
"""The cost model of a private step: its fit, its ring, its shards."""

import dataclasses
import heapq
import math

import numpy as np
import pytest

from benchmarks import scaling_model

COST = scaling_model.StepCost(call=0.001, work=2e-11, traffic=1e-9, update=3e-9)


def make_points(cost, noise=0.0):
    """Returns points that a machine with these constants would measure."""
    rng = np.random.default_rng(0)
    points = []
    for num_rows in (1, 4, 16, 64):
        for calls, row_work, row_bytes, parameters in (
            (5, 1e6, 1e7, 10**5),
            (10, 1e8, 1e5, 10**6),
            (20, 1e9, 1e6, 10**8),
        ):
            point = scaling_model.Point(
                num_rows=num_rows,
                calls=calls,
                row_work=row_work,
                row_bytes=row_bytes,
                parameters=parameters,
            )
            seconds = cost.predict(point) * (1 + noise * rng.normal())
            points.append(dataclasses.replace(point, seconds=seconds))
    return points


def test_cost_is_the_sum_of_its_parts():
    point = scaling_model.Point(
        num_rows=8, calls=10, row_work=1e9, row_bytes=5e6, parameters=10**7
    )
    seconds = 0.01 + 8 * (0.02 + 0.005) + 0.03
    assert COST.predict(point) == pytest.approx(seconds)
    assert COST.divided_by(4.0).predict(point) == pytest.approx(seconds / 4)


def test_fit_finds_the_constants_again():
    found = scaling_model.fit_cost(make_points(COST))
    assert found.call == pytest.approx(COST.call, rel=1e-6)
    assert found.work == pytest.approx(COST.work, rel=1e-6)
    assert found.traffic == pytest.approx(COST.traffic, rel=1e-6)
    assert found.update == pytest.approx(COST.update, rel=1e-6)


def test_fit_weighs_relative_errors_and_stays_positive():
    points = make_points(COST, noise=0.05)
    found = scaling_model.fit_cost(points)
    for point in points:
        assert found.predict(point) == pytest.approx(point.seconds, rel=0.2)
    # Where calls cost nothing, none below zero makes up for errors.
    free = scaling_model.StepCost(
        call=0.0, work=2e-11, traffic=1e-9, update=3e-9
    )
    assert scaling_model.fit_cost(make_points(free, noise=0.2)).call >= 0.0


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan])
def test_fit_refuses_points_that_were_not_measured(seconds):
    points = make_points(COST)[:4]
    points[1] = dataclasses.replace(points[1], seconds=seconds)
    with pytest.raises(ValueError, match="points must be at least 4, with"):
        scaling_model.fit_cost(points)
    with pytest.raises(ValueError, match="points must be at least 4, with"):
        scaling_model.fit_cost(points[:1])


def simulate_messages(ready, hop):
    """Returns when each replica is done, message by message.

    A replica sends its chunk of a round once it has finished the round before;
    it finishes a round when its own chunk is away and its neighbour's is here.
    """
    num_replicas = len(ready)
    num_rounds = 2 * (num_replicas - 1)
    events = [(time, r, 0) for r, time in enumerate(ready)]
    heapq.heapify(events)
    waiting = {}
    done = [None] * num_replicas
    while events:
        time, replica, finished = heapq.heappop(events)
        if finished == num_rounds:
            done[replica] = time
            continue
        for receiver in (replica, (replica + 1) % num_replicas):
            key = receiver, finished + 1
            if key in waiting:
                latest = max(time, waiting.pop(key)) + hop
                heapq.heappush(events, (latest, *key))
            else:
                waiting[key] = time
    return done


@pytest.mark.parametrize("num_replicas", [2, 3, 8])
def test_ring_is_that_of_single_messages(num_replicas):
    ready = np.random.default_rng(num_replicas).exponential(size=num_replicas)
    hop = 0.01 + 4e6 / num_replicas / 1e9
    found = scaling_model.compute_ring_seconds(
        ready, parameters=10**6, bandwidth=1e9, latency=0.01
    )
    np.testing.assert_allclose(found, simulate_messages(ready, hop))


@pytest.mark.parametrize("num_replicas", [1, 2, 7, 64])
def test_ring_takes_its_formula_after_the_slowest(num_replicas):
    ready = np.random.default_rng(0).exponential(size=(5, num_replicas))
    found = scaling_model.compute_ring_seconds(
        ready, parameters=10**6, bandwidth=1e9, latency=0.0
    )
    passes = 2 * (num_replicas - 1) / num_replicas
    expected = ready.max(axis=1, keepdims=True) + passes * 4e6 / 1e9
    np.testing.assert_allclose(found, np.broadcast_to(expected, ready.shape))


def draw(split, num_replicas=16, num_steps=4000):
    """Returns shards of a batch of 256."""
    return scaling_model.draw_shards(
        np.random.default_rng(0),
        batch_size=256.0,
        num_replicas=num_replicas,
        split=split,
        num_steps=num_steps,
    )


@pytest.mark.parametrize("split", ["even", "coin"])
def test_shards_make_up_a_poisson_batch(split):
    totals = draw(split).sum(axis=1)
    # 4000 draws: five standard deviations of their mean and their variance.
    assert abs(totals.mean() - 256.0) < 5 * 16.0 / np.sqrt(4000)
    assert abs(totals.var() / 256.0 - 1.0) < 5 * np.sqrt(2 / 4000)


def test_even_shards_differ_by_one_row_and_coins_by_many():
    even, coin = draw("even"), draw("coin")
    assert np.all(even.max(axis=1) - even.min(axis=1) <= 1)
    # The largest of 16 Poisson variables of mean 16 is about 24.
    assert 22.5 < coin.max(axis=1).mean() < 25.0
    assert 16.0 < even.max(axis=1).mean() < 17.0


def test_unknown_split_is_refused():
    with pytest.raises(ValueError, match="split must be"):
        draw("other")


def test_slowest_shard_rules_the_step():
    shards = np.array([[4, 4, 4, 4], [1, 1, 1, 13]])
    point = scaling_model.Point(
        num_rows=1, calls=10, row_work=1e9, row_bytes=0, parameters=10**6
    )
    even, skewed = scaling_model.simulate_steps(
        COST, point, shards, bandwidth=1e9, latency=0.0
    )
    ring = 1.5 * 4e6 / 1e9
    assert even == pytest.approx(0.01 + 4 * 0.02 + ring + 0.003)
    assert skewed == pytest.approx(0.01 + 13 * 0.02 + ring + 0.003)
