# SPDX-License-Identifier: Apache-2.0
"""What can be got out of a trained model, held against what it claims.

Names load on first use: only those of the `keras_` modules load Keras.
"""

import importlib

_MODULES = {
    "canaries": ("Canaries",),
    "canary_format": ("CanaryFormat",),
    "canary_makers": (
        "make_custom_canaries",
        "make_exposure_canaries",
        "make_image_canaries",
        "make_mislabeled_canaries",
        "make_tabular_canaries",
        "make_text_canaries",
        "make_token_canaries",
    ),
    "claim": ("Claim", "make_claim"),
    "claim_check": (
        "estimate_claim_violation",
        "estimate_noise_multiplier",
        "estimate_profile_epsilon",
    ),
    "clipping_check": ("estimate_clipping",),
    "critical_samples": ("search_critical_samples",),
    "dirac_scores": ("compute_log_likelihood_ratios",),
    "exposure": (
        "compute_exact_exposure",
        "compute_exposure_floor",
        "estimate_exposure_by_extrapolation",
        "estimate_exposure_by_sampling",
    ),
    "exposure_audit": ("make_exposure_report",),
    "exposure_report": ("ExposureReport",),
    "gaussian_epsilon": (
        "compute_fdp_one_run_epsilon",
        "compute_gdp_audit_epsilon",
        "estimate_fdp_one_run_epsilon",
        "estimate_held_out_gdp_epsilon",
    ),
    "keras_callback": ("AuditCallback",),
    "keras_language": ("make_language_model", "make_text_score"),
    "keras_model": (
        "audit_canaries",
        "audit_membership",
        "compute_loss_sensitivities",
        "compute_loss_slopes",
        "compute_losses",
        "find_critical_samples",
        "make_shadow_trainer",
    ),
    "keras_pipeline": ("audit_pipeline", "record_dirac_steps"),
    "language_model": ("LanguageModel",),
    "lira": ("compute_lira_scores", "compute_offline_lira_scores"),
    "membership": ("estimate_membership",),
    "membership_scores": (
        "compute_confidence_scores",
        "compute_entropy_scores",
        "compute_logit_scores",
        "compute_logit_scores_of_losses",
        "compute_loss_scores",
        "compute_max_confidence_scores",
        "compute_modified_entropy_scores",
    ),
    "memorization": (
        "compute_class_sensitivities",
        "compute_easy_example_statistics",
        "compute_gini",
        "estimate_memorization",
        "make_class_loss_weights",
    ),
    "noise_check": ("estimate_noise",),
    "one_run": (
        "compute_one_run_epsilon",
        "compute_one_run_p_value",
        "estimate_one_run_epsilon",
    ),
    "pipeline": ("ClaimedSteps", "make_pipeline_report"),
    "prefix_tree": ("compute_exact_ranks",),
    "progress": ("make_progress_bar",),
    "quantile_attack": ("calibrate_quantile_attack",),
    "random_fit": (
        "RandomFit",
        "estimate_random_fit",
        "randomize_inputs",
        "randomize_labels",
    ),
    "report": ("AuditReport", "Verdict"),
    "rmia": ("compute_offline_rmia_scores", "compute_rmia_scores"),
    "roc": ("compute_roc", "estimate_auc", "estimate_true_positive_rate"),
    "secret_exposure": ("estimate_exposure",),
    "secret_search": ("beam_search", "search_secrets"),
    "secret_space": ("SecretSpace",),
    "secret_tokens": ("encode_secrets",),
    "shadow_models": (
        "leave_one_model_out",
        "make_membership_table",
        "train_shadow_models",
    ),
    "slices": (
        "estimate_slices",
        "make_correctness_groups",
        "make_loss_groups",
    ),
    "threshold_epsilon": (
        "compute_threshold_epsilon",
        "estimate_held_out_epsilon",
    ),
    "verdict": ("audit",),
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
