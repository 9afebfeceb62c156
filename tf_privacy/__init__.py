# SPDX-License-Identifier: Apache-2.0
"""Train Keras models with differential privacy, and check that they have it.

Names load on first use: importing this package imports neither TensorFlow nor
Keras.
"""

import importlib
import sys

__version__ = "0.1.0"

_MODULES = {
    "accounting": (
        "EpsilonBounds",
        "NeighboringRelation",
        "PrivacyPlan",
        "PrivacyStatement",
        "calibrate_correlated_noise_multiplier",
        "calibrate_expected_batch_size",
        "calibrate_noise_multiplier",
        "calibrate_num_steps",
        "calibrate_sampling_probability",
        "compute_delta",
        "compute_dp_sgd_privacy",
        "compute_dp_sgd_privacy_statement",
        "compute_epsilon",
        "compute_epsilon_bounds",
        "compute_noise",
        "plan",
    ),
    "clipping.augmentation": ("Augmentation",),
    "clipping.clipped_sum": ("ClippedSum",),
    "clipping.engine": ("clipped_gradients",),
    "clipping.explanation": ("explain_clipping",),
    "clipping.gradient_terms": (
        "Gather",
        "Instantiated",
        "OuterProduct",
    ),
    "clipping.moving_clips": (
        "ClipSchedule",
        "MeanNormClipping",
        "MovingClip",
        "QuantileClipping",
    ),
    "clipping.regularization": ("regularizer_gradients",),
    "clipping.row_independence": ("check_model",),
    "clipping.row_selection": ("RowSelection",),
    "clipping.rule_check": ("check_rule", "register_rule"),
    "clipping.rules.rule": ("ClippingRule",),
    "clipping.styles": (
        "AutomaticClipping",
        "ClippingStyle",
        "FlatClipping",
        "PerLayerClipping",
    ),
    "noise.discrete_gaussian_noise": ("DiscreteGaussianNoise",),
    "noise.independent_noise": ("NoiseSchedule",),
    "noise.noise_style": ("NoiseStyle",),
    "noise.toeplitz_strategy": ("calibrate_banded_coefficients",),
    "noise.toeplitz_noise": ("ToeplitzNoise",),
    "noise.tree_noise": ("TreeNoise",),
    "optimizers.budget_error": ("PrivacyBudgetError",),
    "optimizers.dp_optimizer": ("DPOptimizer",),
    "optimizers.batch_scaling": ("scale_learning_rate",),
    "optimizers.noise_corrected_adam": ("NoiseCorrectedAdam",),
    "optimizers.preconditioner": ("GradientScaling",),
    "optimizers.presets": (
        "DPAdagrad",
        "DPAdam",
        "DPAdamBC",
        "DPAdamW",
        "DPRMSprop",
        "DPSGD",
    ),
    "sampling.poisson": ("PoissonSampling",),
    "sampling.shards": ("Shard",),
    "training.batch_normalization": (
        "fold_batch_normalization",
        "replace_batch_normalization",
    ),
    "training.custom_loops": ("compile_step",),
    "training.cyclic_dataset": ("CyclicDataset",),
    "training.models": (
        "DPModel",
        "DPSequential",
        "load_model",
        "privatize",
    ),
    "training.poisson_dataset": ("PoissonDataset",),
    "training.privacy_budget": ("PrivacyBudget",),
    "training.privacy_log": ("PrivacyLog",),
    "training.replica_training": ("split_over_replicas",),
    "training.resume": ("ResumableLoop", "ResumableTraining"),
    "training.sanity_plan": ("SanityPlan",),
    "training.sanity_report": ("SanityReport",),
    "training.sanity_run": ("sanity_check",),
    "training.shared_coins": ("share_coins",),
    "training.signal_to_noise": (
        "SignalToNoise",
        "estimate_signal_to_noise",
    ),
    "training.units": ("arrange_units",),
    "training.weight_average": ("WeightAverage",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str):
    """Loads a public name on first use."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_HOME[name]}")
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__():
    return sorted([*globals(), *__all__])


# Keras finds the classes of a saved model only once they are registered. Where
# Keras is loaded already, registering them costs nothing worth a delay.
if "keras" in sys.modules:
    importlib.import_module(f"{__name__}.training.models")
