# SPDX-License-Identifier: Apache-2.0
"""Coins that several processes throw alike."""

from tf_privacy.clipping.backend.replicas import replicas
from tf_privacy.sampling import poisson


def share_coins() -> poisson.CoinState:
    """Returns a new state of coins, the same in all processes that train.

    From the operating system's entropy in the first process, sent to the
    others. To be called by all of them, once for each data set and each start
    of a run: under TensorFlow in the scope of their strategy.
    """
    own = poisson.CoinStream().get_state()
    words = replicas.share_words(list(own.key), replicas.current_scope())
    return poisson.CoinState(key=tuple(words), position=0)
