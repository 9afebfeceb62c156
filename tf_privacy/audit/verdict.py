# SPDX-License-Identifier: Apache-2.0
"""From an attack's scores to a report that says whether the claim holds."""

import numpy as np

from tf_privacy import _checks
from tf_privacy import accounting
from tf_privacy.audit import binomial
from tf_privacy.audit import claim as claim_lib
from tf_privacy.audit import gaussian_epsilon
from tf_privacy.audit import guesses
from tf_privacy.audit import lower_bounds
from tf_privacy.audit import one_run
from tf_privacy.audit import report
from tf_privacy.audit import roc
from tf_privacy.audit import scores as scores_lib
from tf_privacy.audit import threshold_epsilon

_METHODS = ("one_run", "held_out", "fdp_one_run", "membership")
_MEMBERSHIPS = ("fair_coins", "given")
_RATES = (1e-3, 1e-2, 1e-1)
# With fewer, the false positive rate itself is a matter of chance.
_MIN_FALSE_POSITIVES = 10
_TITLES = {
    "one_run": "Audit by guessing canaries of one training run",
    "held_out": "Audit by a threshold on independent trials",
    "fdp_one_run": "Audit by guessing canaries, within the Gaussian family",
    "membership": "Membership inference",
}
NOT_BY_COIN = (
    "Membership was not decided by a fair coin for each example before "
    "training: members and others may differ for another reason than training, "
    "so that epsilon here is an estimate, not a bound."
)


def audit(
    member_scores,
    non_member_scores,
    *,
    delta: float,
    claimed_epsilon: float | None = None,
    claim: claim_lib.Claim | None = None,
    method: str = "one_run",
    membership: str = "given",
    confidence: float = 0.95,
    rng: np.random.Generator | None = None,
) -> report.AuditReport:
    """Returns whether an attack's scores contradict a claim of privacy.

    | method | bound if | needs |
    | --- | --- | --- |
    | one_run | fair coins | nothing more: canaries may interact |
    | held_out | fair coins | independent trials: a model for each score |
    | fdp_one_run | never | the mechanism's curve is a Gaussian's |
    | membership | never | nothing; reports the attack, no epsilon |

    Args:
        member_scores: `[M]` finite, M >= 1; higher means more likely a member.
        non_member_scores: `[N]` finite, N >= 1.
        delta: Probability in [0, 1) of the claim and of the bound.
        claimed_epsilon: Nats, >= 0, of whatever a coin put in or left out: of
            a group of k where each canary was put in k times; see
            `accounting.compute_group_epsilon`. None takes that of `claim` at
            delta, or tests no claim.
        claim: The whole claimed curve, instead of `claimed_epsilon`; or None.
        method: See above.
        membership: "fair_coins" if a fair coin for each example, drawn before
            training, decided who is a member; "given" for any other way, such
            as training against test set.
        confidence: In (0, 1).
        rng: Draws the halves of "held_out"; None takes fresh entropy.

    Raises:
        TypeError: If scores are not real numbers.
        ValueError: If a score is not finite, or an argument is out of range,
            or fair coins cannot have given M of M + N.
    """
    method = _checks.check_choice("method", method, _METHODS)
    membership = _checks.check_choice("membership", membership, _MEMBERSHIPS)
    confidence = binomial.check_confidence(confidence)
    members = scores_lib.check_scores("member_scores", member_scores)
    others = scores_lib.check_scores("non_member_scores", non_member_scores)
    delta = lower_bounds.check_delta(delta)
    claimed_epsilon = _get_claimed_epsilon(claimed_epsilon, claim, delta)
    result = _estimate_epsilon(
        members,
        others,
        method=method,
        delta=delta,
        confidence=confidence,
        rng=np.random.default_rng() if rng is None else rng,
    )
    fields = _describe(result, membership, members, others)
    fields |= describe_attack(members, others, confidence=confidence)
    if claim is not None:
        fields["claim_curve"] = (claim.epsilons, claim.deltas)
    if result is None and claimed_epsilon is not None and fields["tpr_at_fpr"]:
        fields["warnings"] += (_describe_rates(fields["tpr_at_fpr"]),)
        pairs = ([claimed_epsilon], [delta])
        fields["is_rejected"] = _is_above(
            fields["tpr_at_fpr"], *fields.get("claim_curve", pairs)
        )
    return report.AuditReport(
        kind=method,
        title=_TITLES[method],
        delta=delta,
        confidence=confidence,
        claimed_epsilon=claimed_epsilon,
        num_members=len(members),
        num_non_members=len(others),
        **fields,
    )


def _get_claimed_epsilon(claimed_epsilon, claim, delta) -> float | None:
    if claimed_epsilon is None:
        return None if claim is None else claim.get_epsilon(delta)
    if claim is not None:
        raise ValueError(
            "claimed_epsilon must be None where a claim is given. Received: "
            f"{claimed_epsilon!r} and a claim. The claim says it at delta."
        )
    return _checks.check_real(
        "claimed_epsilon",
        claimed_epsilon,
        at_least=0.0,
        hint="Pass None to test no claim.",
    )


def _estimate_epsilon(members, others, *, method, delta, confidence, rng):
    """Returns the method's result, or None where it has no epsilon."""
    settings = {"delta": delta, "confidence": confidence}
    if method == "one_run":
        return one_run.estimate_one_run_epsilon(members, others, **settings)
    if method == "fdp_one_run":
        return gaussian_epsilon.estimate_fdp_one_run_epsilon(
            members, others, **settings
        )
    if method == "held_out":
        return threshold_epsilon.estimate_held_out_epsilon(
            members, others, **settings, rng=rng
        )
    return None


def _describe(result, membership, members, others) -> dict:
    """Returns the fields of a report that the method gives."""
    by_coin = membership == "fair_coins"
    warnings = () if by_coin else (NOT_BY_COIN,)
    if result is None:
        return {
            "epsilon_lower": None,
            "is_bound": False,
            "assumptions": ("Scores are higher for likely members.",),
            "warnings": (*warnings, *roc.make_sign_warnings(members, others)),
        }
    fields = {
        "epsilon_lower": result.epsilon_lower,
        "is_bound": result.is_bound and by_coin,
        "assumptions": tuple(_make_sentence(a) for a in result.assumptions),
        "warnings": (*warnings, *map(_make_sentence, result.warnings)),
        "figures": tuple(
            ("how it was found", line) for line in result.describe()
        ),
    }
    if isinstance(result, guesses.GuessingResult):
        fields["num_guesses"] = result.num_guesses_in + result.num_guesses_out
        fields["num_correct"] = result.num_correct
    return fields


def _describe_rates(rates) -> str:
    listed = ", ".join(f"{row[0]:g}" for row in rates)
    return (
        "This method finds no epsilon. The claim was only compared with the "
        f"attack at false positive rates {listed}."
    )


def _is_above(rates, epsilons, deltas) -> bool:
    """Returns whether an attack finds more members than a claim allows."""
    allowed = accounting.compute_max_true_positive_rate(
        [row[0] for row in rates], epsilons=epsilons, deltas=deltas
    )
    return any(row[2] > most for row, most in zip(rates, allowed, strict=True))


def _make_sentence(text: str) -> str:
    return text[0].upper() + text[1:].rstrip(".") + "."


def describe_attack(members, others, *, confidence: float) -> dict:
    """Returns the fields of a report that the ROC gives.

    Args:
        members: `[M]` float64, finite.
        others: `[N]` float64, finite.
        confidence: Of each interval, in (0, 1).
    """
    auc = roc.estimate_auc(members, others, confidence=confidence)
    curve = roc.compute_roc(members, others)
    rates = []
    for rate in _RATES:
        if rate * len(others) < _MIN_FALSE_POSITIVES:
            continue
        found = roc.estimate_true_positive_rate(
            members, others, false_positive_rate=rate, confidence=confidence
        )
        rates.append((rate, found.value, found.lower, found.upper))
    return {
        "auc": auc.value,
        "auc_interval": (auc.lower, auc.upper),
        "tpr_at_fpr": tuple(rates),
        "roc": (curve.false_positive_rates, curve.true_positive_rates),
    }
