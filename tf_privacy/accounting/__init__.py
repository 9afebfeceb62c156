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
from tf_privacy.accounting.concentrated import bound_gdp_mu_of_gaussians
from tf_privacy.accounting.concentrated import compute_gaussian_rho
from tf_privacy.accounting.concentrated import compute_gdp_delta
from tf_privacy.accounting.concentrated import compute_gdp_epsilon
from tf_privacy.accounting.concentrated import compute_zcdp_epsilon
from tf_privacy.accounting.concentrated import estimate_clt_mu
from tf_privacy.accounting.correlated_calibration import (
    calibrate_correlated_noise_multiplier,
)
from tf_privacy.accounting.correlated_noise import compute_cyclic_sensitivity
from tf_privacy.accounting.correlated_noise import compute_matrix_sensitivity
from tf_privacy.accounting.correlated_noise import compute_toeplitz_sensitivity
from tf_privacy.accounting.correlated_noise import compute_tree_sensitivity
from tf_privacy.accounting.discrete_gaussian import DiscreteGaussian
from tf_privacy.accounting.dp_events import from_dp_event
from tf_privacy.accounting.dp_events import to_dp_event
from tf_privacy.accounting.epsilon_curve import calibrate_num_steps
from tf_privacy.accounting.epsilon_curve import compute_max_steps
from tf_privacy.accounting.epsilon_curve import DescribedEpsilonCurve
from tf_privacy.accounting.epsilon_curve import EpsilonCurve
from tf_privacy.accounting.group_privacy import compute_group_epsilon
from tf_privacy.accounting.group_privacy import convert_to_group_epsilon
from tf_privacy.accounting.group_privacy import GroupRun
from tf_privacy.accounting.hyperparameter_search import compute_search_epsilon
from tf_privacy.accounting.hyperparameter_search import compute_search_rdp
from tf_privacy.accounting.hyperparameter_search import NegativeBinomialRuns
from tf_privacy.accounting.hyperparameter_search import PoissonRuns
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
from tf_privacy.accounting.noise_mechanisms import MatrixMechanism
from tf_privacy.accounting.noise_mechanisms import TreeAggregation
from tf_privacy.accounting.phase import Phase
from tf_privacy.accounting.privacy_plan import Choice
from tf_privacy.accounting.privacy_plan import plan
from tf_privacy.accounting.privacy_plan import PrivacyPlan
from tf_privacy.accounting.profile import compute_attack_bounds_of
from tf_privacy.accounting.profile import compute_profile_of
from tf_privacy.accounting.rdp_accountant import compute_rdp_delta_of
from tf_privacy.accounting.rdp_accountant import compute_rdp_epsilon_of
from tf_privacy.accounting.rdp_accountant import compute_rdp_of
from tf_privacy.accounting.renyi import compute_gaussian_rdp
from tf_privacy.accounting.renyi import compute_sampled_gaussian_rdp
from tf_privacy.accounting.renyi import DEFAULT_ORDERS
from tf_privacy.accounting.sampled_mechanisms import BallsInBins
from tf_privacy.accounting.sampled_mechanisms import PoissonSampled
from tf_privacy.accounting.sampled_mechanisms import SampledWithoutReplacement
from tf_privacy.accounting.sampled_mechanisms import ShuffledEpochs
from tf_privacy.accounting.sampled_mechanisms import TruncatedPoissonSampled
from tf_privacy.accounting.statement import make_privacy_statement
from tf_privacy.accounting.statement import PrivacyStatement
from tf_privacy.accounting.tensorflow_privacy_names import (
    compute_dp_sgd_privacy,
)
from tf_privacy.accounting.tensorflow_privacy_names import (
    compute_dp_sgd_privacy_statement,
)
from tf_privacy.accounting.tensorflow_privacy_names import compute_noise
from tf_privacy.accounting.trade_off import AttackBounds
from tf_privacy.accounting.trade_off import compute_attack_bounds
from tf_privacy.accounting.trade_off import compute_max_accuracy
from tf_privacy.accounting.trade_off import compute_max_advantage
from tf_privacy.accounting.trade_off import compute_max_posterior
from tf_privacy.accounting.trade_off import compute_max_true_positive_rate
from tf_privacy.accounting.trade_off import compute_posterior_bound
from tf_privacy.accounting.trade_off import compute_trade_off

__all__ = [
    "AdaptiveClipping",
    "ApproximateDP",
    "AttackBounds",
    "BallsInBins",
    "Choice",
    "Composed",
    "ConcentratedDP",
    "DEFAULT_ORDERS",
    "DiscreteGaussian",
    "EpsilonBounds",
    "DescribedEpsilonCurve",
    "EpsilonCurve",
    "Gaussian",
    "GroupRun",
    "Laplace",
    "MatrixMechanism",
    "Mechanism",
    "NegativeBinomialRuns",
    "NeighboringRelation",
    "Phase",
    "PoissonRuns",
    "PoissonSampled",
    "PrivacyPlan",
    "PrivacyStatement",
    "SampledGaussianSteps",
    "SampledWithoutReplacement",
    "SelfComposed",
    "ShuffledEpochs",
    "TreeAggregation",
    "TruncatedPoissonSampled",
    "bound_gdp_mu_of_gaussians",
    "calibrate_correlated_noise_multiplier",
    "calibrate_expected_batch_size",
    "calibrate_noise_multiplier",
    "calibrate_num_steps",
    "calibrate_sampling_probability",
    "compute_attack_bounds",
    "compute_attack_bounds_of",
    "compute_cyclic_sensitivity",
    "compute_delta",
    "compute_delta_of",
    "compute_dp_sgd_privacy",
    "compute_dp_sgd_privacy_statement",
    "compute_epsilon",
    "compute_epsilon_bounds",
    "compute_epsilon_bounds_of",
    "compute_epsilon_of",
    "compute_gaussian_rdp",
    "compute_gaussian_rho",
    "compute_gdp_delta",
    "compute_gdp_epsilon",
    "compute_group_epsilon",
    "compute_matrix_sensitivity",
    "compute_max_accuracy",
    "compute_max_advantage",
    "compute_max_posterior",
    "compute_max_steps",
    "compute_max_true_positive_rate",
    "compute_noise",
    "compute_posterior_bound",
    "compute_profile_of",
    "compute_rdp_delta_of",
    "compute_rdp_epsilon_of",
    "compute_rdp_of",
    "compute_sampled_gaussian_rdp",
    "compute_search_epsilon",
    "compute_search_rdp",
    "compute_toeplitz_sensitivity",
    "compute_trade_off",
    "compute_tree_sensitivity",
    "compute_zcdp_epsilon",
    "convert_to_group_epsilon",
    "estimate_clt_mu",
    "from_dp_event",
    "make_privacy_statement",
    "plan",
    "to_dp_event",
]
