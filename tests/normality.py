# SPDX-License-Identifier: Apache-2.0
"""Is it Gaussian noise of a given size? Shared by the tests of noise."""

import numpy as np
from scipy import stats

FALSE_ALARM = 1e-6


def check_stddev(values, stddev):
    """Check the size of noise: a sum of n squares is chi-squared."""
    n = values.size
    bounds = stats.chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], n)
    low, high = stddev * np.sqrt(bounds / n)
    assert low < np.sqrt(np.mean(np.square(values, dtype=np.float64))) < high
