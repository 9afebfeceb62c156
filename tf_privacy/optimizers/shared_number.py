# SPDX-License-Identifier: Apache-2.0
"""Numbers that no two runs have, and all processes of one run."""

import secrets

from tf_privacy.clipping.backend.replicas import replicas


def draw_number() -> float:
    """Returns a number >= 1 from the operating system, exact as a float.

    The same in all processes that train together; all of them must call it.
    """
    own = [secrets.randbelow(2**52)]
    (number,) = replicas.share_words(own, replicas.current_scope())
    return float(number + 1)
