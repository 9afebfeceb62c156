# SPDX-License-Identifier: Apache-2.0
"""What training spent: epsilon, delta, noise, steps, and the statement."""

from tf_privacy.accounting.budget import calibrate_noise_multiplier
from tf_privacy.accounting.budget import compute_delta
from tf_privacy.accounting.budget import compute_epsilon
from tf_privacy.accounting.composition import compute_delta_of
from tf_privacy.accounting.composition import compute_epsilon_of
from tf_privacy.accounting.composition import compute_max_steps
from tf_privacy.accounting.composition import EpsilonCurve
from tf_privacy.accounting.group_privacy import compute_group_epsilon
from tf_privacy.accounting.mechanism import Mechanism
from tf_privacy.accounting.neighboring_relation import NeighboringRelation
from tf_privacy.accounting.renyi import compute_gaussian_rdp
from tf_privacy.accounting.renyi import compute_sampled_gaussian_rdp
from tf_privacy.accounting.statement import make_privacy_statement
from tf_privacy.accounting.statement import Phase
from tf_privacy.accounting.statement import PrivacyStatement
from tf_privacy.accounting.tensorflow_privacy_names import (
    compute_dp_sgd_privacy,
)
from tf_privacy.accounting.tensorflow_privacy_names import (
    compute_dp_sgd_privacy_statement,
)
from tf_privacy.accounting.tensorflow_privacy_names import compute_noise

__all__ = [
    "EpsilonCurve",
    "Mechanism",
    "NeighboringRelation",
    "Phase",
    "PrivacyStatement",
    "calibrate_noise_multiplier",
    "compute_delta",
    "compute_delta_of",
    "compute_dp_sgd_privacy",
    "compute_dp_sgd_privacy_statement",
    "compute_epsilon",
    "compute_epsilon_of",
    "compute_gaussian_rdp",
    "compute_group_epsilon",
    "compute_max_steps",
    "compute_noise",
    "compute_sampled_gaussian_rdp",
    "make_privacy_statement",
]
