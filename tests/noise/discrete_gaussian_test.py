# SPDX-License-Identifier: Apache-2.0
"""The sampler of the discrete Gaussian, against its exact law.

Every random bound has a false-alarm probability of at most 1e-6. The bits of
statistical tests come from fixed seeds, but for one test of the entropy itself.
"""

import fractions
import random

import mpmath
import numpy as np
import pytest
from scipy import stats

from tests import normality
from tf_privacy.noise import discrete_gaussian

NUM_SAMPLES = 200_000
# Both kinds of widths, 1 and more, and the ends of their ranges.
SCALES = [0.01, 0.3, 0.7, 1.0, 3.3, 15.9, 16.0, 31.9, 100.7]
LARGE_SCALES = [1e4 / 3, 2.0**24 * 1.1, 2.0**30, 2.0**36 - 1]


def make_sampler(scale, seed=1):
    draw_bytes = np.random.default_rng(seed).bytes
    return discrete_gaussian.DiscreteGaussianSampler(
        scale, draw_bytes=draw_bytes
    )


def list_law(scale):
    """Returns values and their probabilities, all that are above 1e-40."""
    last = int(14 * scale) + 2
    values = np.arange(-last, last + 1)
    with mpmath.workdps(60):
        scale = mpmath.mpf(scale)
        weights = [
            mpmath.exp(-((mpmath.mpf(int(x)) / scale) ** 2) / 2) for x in values
        ]
        total = mpmath.fsum(weights)
        return values, np.array([float(w / total) for w in weights])


def check_counts(observed, expected):
    """Checks counts by a chi-squared test; rare ones are put together."""
    rare = expected < 10.0
    observed = np.append(observed[~rare], observed[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    used = expected > 0.0
    statistic = np.sum((observed - expected)[used] ** 2 / expected[used])
    freedom = max(1, used.sum() - 1)
    # A remainder that is hardly ever expected is judged by itself.
    if 0.0 < expected[-1] < 10.0:
        most = stats.poisson.isf(normality.FALSE_ALARM / 2, expected[-1])
        assert observed[-1] <= most
        kept = statistic - (observed[-1] - expected[-1]) ** 2 / expected[-1]
        statistic, freedom = kept, max(1, freedom - 1)
    assert statistic < stats.chi2.isf(normality.FALSE_ALARM / 2, freedom)


def check_law(samples, scale):
    values, chances = list_law(scale)
    assert samples.dtype == np.int64
    assert np.abs(samples).max() <= values[-1]
    counts = np.bincount(samples + values[-1], minlength=values.size)
    check_counts(counts, samples.size * chances)


@pytest.mark.parametrize("scale", SCALES)
def test_samples_have_the_exact_law(scale):
    check_law(make_sampler(scale).sample(NUM_SAMPLES), scale)


@pytest.mark.parametrize("scale", [0.7, 31.9])
def test_the_test_of_the_law_finds_a_scale_that_is_wrong_by_2_percent(scale):
    with pytest.raises(AssertionError):
        check_law(make_sampler(scale * 1.02).sample(NUM_SAMPLES), scale)


@pytest.mark.parametrize("scale", LARGE_SCALES)
def test_samples_of_a_large_scale_look_normal(scale):
    """The law is within 1e-3 / scale of the rounded normal one."""
    samples = make_sampler(scale).sample(NUM_SAMPLES)
    normality.check_stddev(samples / scale, 1.0)
    z = stats.norm.isf(normality.FALSE_ALARM / 2)
    assert abs(samples.mean()) < z * scale / np.sqrt(samples.size)
    # Spread over the unit that each integer stands for.
    spread = samples + np.random.default_rng(5).uniform(-0.5, 0.5, samples.size)
    pvalue = stats.kstest(spread / scale, "norm").pvalue
    assert pvalue > normality.FALSE_ALARM


@pytest.mark.parametrize("scale", LARGE_SCALES)
def test_low_bits_of_a_large_scale_are_uniform(scale):
    """And do not depend on the sign."""
    samples = make_sampler(scale).sample(NUM_SAMPLES)
    for part in (samples[samples > 0], samples[samples < 0]):
        counts = np.bincount(part % 64, minlength=64)
        check_counts(counts, np.full(64, part.size / 64))


@pytest.mark.parametrize("scale", [3.3, 2.0**30])
def test_samples_are_independent(scale):
    values = make_sampler(scale).sample(NUM_SAMPLES) / scale
    z = stats.norm.isf(normality.FALSE_ALARM / 2)
    for lag in (1, 2, 2**14, 2**15, 100_000):
        for transform in (lambda v: v, np.square):
            a, b = transform(values)[lag:], transform(values)[:-lag]
            assert abs(np.corrcoef(a, b)[0, 1]) < z / np.sqrt(a.size)


def test_a_sampler_goes_on_and_does_not_repeat():
    sampler = make_sampler(1e9)
    first, second = sampler.sample(1000), sampler.sample(1000)
    assert len(np.unique([first, second])) > 1990


@pytest.mark.parametrize("size", [0, 1, 2, 2**15, 2**15 + 1, 100_003])
def test_there_are_as_many_samples_as_asked_for(size):
    samples = make_sampler(100.7).sample(size)
    assert samples.shape == (size,) and samples.dtype == np.int64


def test_default_bits_are_fresh_whatever_the_global_seeds():
    draws = []
    for _ in range(2):
        np.random.seed(0)
        random.seed(0)
        sampler = discrete_gaussian.DiscreteGaussianSampler(1e9)
        draws.append(sampler.sample(1000))
    assert np.mean(draws[0] == draws[1]) < 0.01
    check_law(
        discrete_gaussian.DiscreteGaussianSampler(3.3).sample(NUM_SAMPLES), 3.3
    )


DECAYS = [
    fractions.Fraction(1, 2) / fractions.Fraction(scale) ** 2
    for scale in (0.01, 0.7, 1.0, 3.3, 15.99)
]


def compute_cumulative(decay, count):
    """Returns F(0), ..., F(count - 1) by mpmath, at its precision."""
    rate = mpmath.mpf(decay.numerator) / decay.denominator
    theta = (mpmath.jtheta(3, 0, mpmath.exp(-rate)) + 1) / 2
    sums, total = [], mpmath.mpf(0)
    for j in range(count):
        total += mpmath.exp(-rate * j**2)
        sums.append(total / theta)
    return sums


@pytest.mark.parametrize("decay", DECAYS, ids=float)
@pytest.mark.parametrize("bits", [1, 5, 32, 63, 127, 400])
def test_bounds_of_the_blocks_hold(decay, bits):
    low = discrete_gaussian.bound_cumulative(decay, bits)
    assert low == sorted(low)
    with mpmath.workdps(bits // 3 + 60):
        wanted = compute_cumulative(decay, len(low))
        for bound, chance in zip(low, wanted, strict=True):
            assert bound <= 2**bits * chance <= bound + 2


@pytest.mark.parametrize("bits", [1, 32, 96, 400])
@pytest.mark.parametrize("exponent", ["0", "1/10000000000", "1/3", "27/10"])
def test_bounds_of_an_exponential_hold(exponent, bits):
    exponent = fractions.Fraction(exponent)
    low = discrete_gaussian.bound_exponential(exponent, bits)
    with mpmath.workdps(bits // 3 + 60):
        argument = mpmath.mpf(exponent.numerator) / exponent.denominator
        assert low <= 2**bits * mpmath.exp(-argument) <= low + 2


class Bits:
    """Given bytes, one word after the other; counts what is asked for."""

    def __init__(self, word=None, seed=3):
        self.word, self.calls = word, 0
        self.rng = np.random.default_rng(seed)

    def __call__(self, count):
        self.calls += 1
        if self.word is None:
            return self.rng.bytes(count)
        return (self.word * count)[:count]


def make_scripted(scale, bits):
    return discrete_gaussian.DiscreteGaussianSampler(scale, draw_bytes=bits)


@pytest.mark.parametrize("word", [b"\0", b"\xfe"])
@pytest.mark.parametrize("scale", [0.7, 9.7, 2.0**30])
def test_a_block_that_63_bits_leave_open_is_decided_exactly(scale, word):
    """Next to every threshold, and past the table's end."""
    bits, more = Bits(word), int.from_bytes(word * 8, "little")
    sampler = make_scripted(scale, bits)
    decay = sampler._decay
    low = discrete_gaussian.bound_cumulative(decay, 63)
    values = {v + d for v in low[::7] + low[-2:] for d in (0, 1)}
    with mpmath.workdps(120):
        chances = compute_cumulative(decay, len(low) + 200)
        for value in sorted(values - {2**63}):
            before = bits.calls
            (block,) = sampler._choose_blocks(np.array([value], np.uint64))
            assert bits.calls > before
            drawn = (mpmath.mpf(value) * 2**64 + more) / mpmath.mpf(2) ** 127
            assert block == sum(chance <= drawn for chance in chances)


def test_blocks_that_63_bits_decide_need_no_more():
    bits = Bits()
    sampler = make_scripted(9.7, bits)
    values = np.random.default_rng(0).integers(0, 2**63, 150, dtype=np.uint64)
    blocks = sampler._choose_blocks(values)
    assert bits.calls == 0
    exact = [sampler._find_block(int(value), 63) for value in values]
    np.testing.assert_array_equal(blocks, exact)
    assert bits.calls == 0


def test_blocks_from_few_bits_have_the_exact_law():
    """The path of the rare open cases, forced: it starts with 2 bits."""
    bits = Bits()
    sampler = make_scripted(0.9, bits)
    first = np.random.default_rng(4).integers(0, 4, 4000)
    blocks = np.array([sampler._find_block(int(v), 2) for v in first])
    assert bits.calls > 1000
    chances = np.diff([0.0, *compute_cumulative(sampler._decay, 12)])
    observed = np.bincount(blocks, minlength=12)
    check_counts(observed, blocks.size * chances.astype(float))


def test_every_value_of_few_bits_is_decided_as_the_law_demands():
    """Decided values take up no more than a block's probability."""
    bits, opened = 12, []

    class OpenError(Exception):
        pass

    def refuse(count):
        raise OpenError

    sampler = make_scripted(3.3, refuse)
    decided = np.zeros(40, int)
    for value in range(2**bits):
        try:
            decided[sampler._find_block(value, bits)] += 1
        except OpenError:
            opened.append(value)
    chances = np.diff([0.0, *compute_cumulative(sampler._decay, 40)])
    chances = chances.astype(float) * 2**bits
    assert 0 < len(opened) < 100
    assert np.all(decided <= chances + 1e-9)
    assert np.all(chances - decided <= 4.0)


def list_near_thresholds(sampler, rng, count):
    """Returns blocks, offsets, U's first 32 bits near what keeps them."""
    block = rng.integers(0, 60, count)
    offset = rng.integers(1, sampler._width, count)
    width, rate = sampler._width, float(sampler._rate)
    exponent = rate * offset.astype(float) * (2.0 * width * block + offset)
    value = np.floor(np.exp(-exponent) * 2.0**32).astype(np.int64)
    value += rng.integers(-3, 4, count)
    return block, offset, np.clip(value, 0, 2**32 - 1)


@pytest.mark.parametrize("word", [b"\0", b"\xfe"])
@pytest.mark.parametrize("scale", [31.9, 2.0**30 * 1.3, 2.0**36 - 1])
def test_what_is_kept_is_decided_exactly(scale, word):
    bits, more = Bits(word), int.from_bytes(word * 8, "little")
    sampler = make_scripted(scale, bits)
    rng = np.random.default_rng(0)
    block, offset, value = list_near_thresholds(sampler, rng, 400)
    kept = sampler._choose_kept(block, offset, value)
    assert bits.calls > 0
    with mpmath.workdps(60):
        for k, j, r, v in zip(kept, block, offset, value, strict=True):
            x, start = (sampler._width * int(j) + int(i) for i in (r, 0))
            exponent = (mpmath.mpf(x) ** 2 - mpmath.mpf(start) ** 2) / (
                2 * mpmath.mpf(scale) ** 2
            )
            drawn = (mpmath.mpf(int(v)) * 2**64 + more) / mpmath.mpf(2) ** 96
            assert k == (drawn < mpmath.exp(-exponent))


def test_a_candidate_is_kept_from_few_bits_with_its_exact_probability():
    """The path of the rare open cases, forced: it starts with one bit."""
    bits = Bits()
    sampler = make_scripted(1000.0, bits)
    block, offset = 80, 60
    first = np.random.default_rng(4).integers(0, 2, 20_000)
    kept = [sampler._decide(block, offset, int(v), 1) for v in first]
    assert bits.calls >= 20_000
    x, start = sampler._width * block + offset, sampler._width * block
    chance = np.exp(-(x**2 - start**2) / 2e6)
    assert 0.6 < chance < 0.8
    pvalue = stats.binomtest(sum(kept), len(kept), chance).pvalue
    assert pvalue > normality.FALSE_ALARM


def test_sampling_with_all_blocks_left_open_gives_the_same():
    """The fast path is only a fast path."""
    fast, slow = make_sampler(9.7), make_sampler(9.7)
    slow._proved = np.full_like(slow._proved, 2**64 - 1)
    np.testing.assert_array_equal(fast.sample(100), slow.sample(100))


@pytest.mark.parametrize(
    "scale", [0.0, -1.0, 1e-4, 2.0**36, np.nan, np.inf, -np.inf]
)
def test_a_scale_out_of_range_is_refused(scale):
    with pytest.raises(ValueError, match="^scale must be a finite number >= "):
        discrete_gaussian.DiscreteGaussianSampler(scale)


@pytest.mark.parametrize("scale", [None, "1", True])
def test_a_scale_that_is_no_number_is_refused(scale):
    with pytest.raises(TypeError, match="^scale must be"):
        discrete_gaussian.DiscreteGaussianSampler(scale)
