# SPDX-License-Identifier: Apache-2.0
"""What training spent: epsilon, delta, noise, steps, and the statement."""

from tf_privacy.accounting.budget import calibrate_expected_batch_size
from tf_privacy.accounting.budget import calibrate_noise_multiplier
from tf_privacy.accounting.budget import calibrate_sampling_probability
from tf_privacy.accounting.budget import compute_delta
from tf_privacy.accounting.budget import compute_epsilon
from tf_privacy.accounting.budget import compute_epsilon_bounds
from tf_privacy.accounting.composition import compute_delta_of
from tf_privacy.accounting.composition import compute_epsilon_bounds_of
from tf_privacy.accounting.composition import compute_epsilon_of
from tf_privacy.accounting.composition import EpsilonBounds
from tf_privacy.accounting.epsilon_curve import compute_max_steps
from tf_privacy.accounting.epsilon_curve import EpsilonCurve
from tf_privacy.accounting.group_privacy import compute_group_epsilon
from tf_privacy.accounting.group_privacy import convert_to_group_epsilon
from tf_privacy.accounting.mechanism import Composed
from tf_privacy.accounting.mechanism import Gaussian
from tf_privacy.accounting.mechanism import Mechanism
from tf_privacy.accounting.mechanism import SampledGaussianSteps
from tf_privacy.accounting.mechanism import SelfComposed
from tf_privacy.accounting.neighboring_relation import NeighboringRelation
from tf_privacy.accounting.noise_mechanisms import AdaptiveClipping
from tf_privacy.accounting.noise_mechanisms import ApproximateDP
from tf_privacy.accounting.noise_mechanisms import ConcentratedDP
from tf_privacy.accounting.noise_mechanisms import Laplace
from tf_privacy.accounting.rdp_accountant import compute_rdp_delta_of
from tf_privacy.accounting.rdp_accountant import compute_rdp_epsilon_of
from tf_privacy.accounting.rdp_accountant import compute_rdp_of
from tf_privacy.accounting.renyi import compute_gaussian_rdp
from tf_privacy.accounting.renyi import compute_sampled_gaussian_rdp
from tf_privacy.accounting.sampled_mechanisms import BallsInBins
from tf_privacy.accounting.sampled_mechanisms import PoissonSampled
from tf_privacy.accounting.sampled_mechanisms import SampledWithoutReplacement
from tf_privacy.accounting.sampled_mechanisms import ShuffledEpochs
from tf_privacy.accounting.sampled_mechanisms import TruncatedPoissonSampled
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
    "AdaptiveClipping",
    "ApproximateDP",
    "BallsInBins",
    "Composed",
    "ConcentratedDP",
    "EpsilonBounds",
    "EpsilonCurve",
    "Gaussian",
    "Laplace",
    "Mechanism",
    "NeighboringRelation",
    "Phase",
    "PoissonSampled",
    "PrivacyStatement",
    "SampledGaussianSteps",
    "SampledWithoutReplacement",
    "SelfComposed",
    "ShuffledEpochs",
    "TruncatedPoissonSampled",
    "calibrate_expected_batch_size",
    "calibrate_noise_multiplier",
    "calibrate_sampling_probability",
    "compute_delta",
    "compute_delta_of",
    "compute_dp_sgd_privacy",
    "compute_dp_sgd_privacy_statement",
    "compute_epsilon",
    "compute_epsilon_bounds",
    "compute_epsilon_bounds_of",
    "compute_epsilon_of",
    "compute_gaussian_rdp",
    "compute_group_epsilon",
    "compute_max_steps",
    "compute_noise",
    "compute_rdp_delta_of",
    "compute_rdp_epsilon_of",
    "compute_rdp_of",
    "compute_sampled_gaussian_rdp",
    "convert_to_group_epsilon",
    "make_privacy_statement",
]
