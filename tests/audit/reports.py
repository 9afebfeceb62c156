# SPDX-License-Identifier: Apache-2.0
"""Reports for the tests: with every field, with none, and their verdicts."""

import numpy as np

from tf_privacy.audit import report as report_lib

Verdict = report_lib.Verdict
ROC = ([0.0, 1.0], [0.0, 1.0])
CURVE = ([0.0, 1.0, 3.0], [0.3, 0.05, 1e-5])


def make_report(**changes):
    fields = {
        "kind": "one_run",
        "title": "Digits model",
        "epsilon_lower": 1.25,
        "claimed_epsilon": 3.0,
        "delta": 1e-5,
        "confidence": 0.95,
        "is_bound": True,
        "num_members": 520,
        "num_non_members": 480,
        "num_guesses": 200,
        "num_correct": 160,
        "auc": 0.75,
        "auc_interval": (0.7, 0.8),
        "tpr_at_fpr": ((0.01, 0.0625, 0.04, 0.09), (0.1, 0.25, 0.2, 0.3)),
        "assumptions": ("Fair coins decided membership.",),
        "warnings": ("Few canaries.",),
        "figures": (("p-value", "0.0012"),),
        "slices": (
            ("class 1", 0.5, 0.4, 0.6, 90),
            ("rare", None, None, None, 1),
        ),
        "roc": (np.array([0.0, 0.1, 1.0]), np.array([0.0, 0.25, 1.0])),
        "claim_curve": CURVE,
        "exposures": {"secret": ["a", "b"], "exposure": [1.5, 20.0]},
    }
    return report_lib.AuditReport(**fields | changes)


def make_bare_report(**changes):
    """Returns a report of nothing but what every report must have."""
    fields = {
        "kind": "threshold",
        "title": "Bare",
        "epsilon_lower": 0.0,
        "claimed_epsilon": None,
        "delta": 1e-5,
        "confidence": 0.95,
        "is_bound": True,
        "num_members": 0,
        "num_non_members": 0,
    }
    return report_lib.AuditReport(**fields | changes)


VERDICTS = [
    # epsilon_lower, claimed_epsilon, is_bound, is_rejected, verdict
    (3.0001, 3.0, True, None, Verdict.CLAIM_REJECTED),
    (3.0001, 3.0, False, None, Verdict.CLAIM_DOUBTED),
    (3.0, 3.0, True, None, Verdict.CLAIM_NOT_REJECTED),
    (0.0, 0.0, True, None, Verdict.CLAIM_NOT_REJECTED),
    (1.0, 3.0, False, None, Verdict.CLAIM_NOT_REJECTED),
    (1.0, 3.0, True, True, Verdict.CLAIM_REJECTED),
    (None, 3.0, True, True, Verdict.CLAIM_REJECTED),
    (None, 3.0, True, False, Verdict.CLAIM_NOT_REJECTED),
    (1.0, 3.0, False, True, Verdict.CLAIM_DOUBTED),
    (9.0, None, True, None, Verdict.NO_CLAIM),
    (9.0, None, False, None, Verdict.NO_CLAIM),
    (None, None, False, None, Verdict.NO_CLAIM),
    (None, 3.0, False, None, Verdict.NO_CLAIM),
]
