# SPDX-License-Identifier: Apache-2.0
"""Descriptions of mechanisms as events of the library dp-accounting, and back.

Each pair below has the same meaning, field by field; neither way changes what
a run spent. Where several mechanisms have the same event, the way back gives
the plainest of them (the last column), which has the same releases.

    mechanism                      event                        and back
    Gaussian, Laplace              GaussianDpEvent, Laplace-    the same
    SelfComposed, Composed         SelfComposed-, Composed-     the same
    Composed(())                   NoOpDpEvent                  the same
    PoissonSampled                 PoissonSampled-              the same
    SampledWithoutReplacement      SampledWithoutReplacement-   the same
    TruncatedPoissonSampled        TruncatedSubsampledGaussian- the same
    ConcentratedDP                 ZCDpEvent with xi = 0        the same
    TreeAggregation: one tree, 2^k steps, one participation
                                   SingleEpochTreeAggregation-  the same
    several such trees             that, self-composed          SelfComposed
    SampledGaussianSteps           self-composed PoissonSampled SelfComposed
    AdaptiveClipping, MatrixMechanism, any other TreeAggregation
                                   GaussianDpEvent of all       Gaussian

dp-accounting counts floor(log2 T) + 1 levels of a tree of T steps, the nodes
that are complete; TreeAggregation also releases nodes cut short, on
ceil(log2 T) + 1 levels. Only for T = 2^k are both the same.

An event's accountant has a neighboring relation of its own: REPLACE_SPECIAL is
ZERO_OUT_ONE. For REPLACE_ONE, RdpAccountant of dp-accounting 0.6 leaves out
that replacing a unit moves a sum of Gaussian events by 2 clips, and its epsilon
is too small: https://github.com/google/differential-privacy/issues/378.
"""

import dataclasses
import importlib
import inspect
import math
from collections.abc import Sequence
from typing import Any

from tf_privacy.accounting import group_privacy
from tf_privacy.accounting import mechanism as mechanism_lib
from tf_privacy.accounting import noise_mechanisms
from tf_privacy.accounting import sampled_mechanisms

# Above the rounding errors of a nested sum of precisions.
_ROUND_DOWN = 1.0 - 1e-12

_HINT_OF_MECHANISM = {
    noise_mechanisms.ApproximateDP: (
        "No event is a bare epsilon and delta; where delta is 0, "
        "ConcentratedDP(epsilon**2 / 2) is an upper bound that converts."
    ),
    group_privacy.GroupRun: (
        "Convert its mechanism, or account for the group here, by "
        "compute_group_epsilon."
    ),
}
_HINT_OF_EVENT = {
    "NonPrivateDpEvent": "No finite epsilon describes it.",
    "RandomizedResponseDpEvent": (
        "Where a unit is replaced, ApproximateDP(log(1 + num_buckets * "
        "(1 - noise_parameter) / noise_parameter)) is an upper bound."
    ),
    "DiscreteLaplaceDpEvent": (
        "Where a unit is added or removed, ApproximateDP(noise_parameter * "
        "sensitivity) is an upper bound."
    ),
    "RepeatAndSelectDpEvent": (
        "Convert the event that is repeated, and use compute_search_epsilon."
    ),
    "MixtureOfGaussiansDpEvent": (
        "Describe a sample as PoissonSampled, a group as GroupRun."
    ),
}


def to_dp_event(mechanism: mechanism_lib.Mechanism) -> Any:
    """Returns the event of dp-accounting that has a mechanism's meaning.

    Args:
        mechanism: What ran; of the table above, nested in any way.

    Returns:
        A `dp_accounting.DpEvent`. Counts and order are kept; a count of 0, too,
        which dp-accounting's accountants refuse. A noise multiplier that stands
        for several releases is rounded down.

    Raises:
        ImportError: If dp-accounting is missing or lacks the event.
        TypeError: If `mechanism` is no Mechanism.
        ValueError: If no event has the same meaning.
    """
    mechanism_lib.check_mechanism("mechanism", mechanism)
    # A subclass may mean something else.
    write = _WRITERS.get(type(mechanism))
    if write is None:
        hint = _HINT_OF_MECHANISM.get(
            type(mechanism), "Account for it here, by compute_epsilon_of."
        )
        raise ValueError(
            "mechanism must have an equal event in dp-accounting. Received: "
            f"{mechanism!r}. {hint}"
        )
    name, fields = write(mechanism)
    make_event = _load_event(name)
    return make_event(**{k: _write_value(v) for k, v in fields.items()})


def _load_event(name: str):
    try:
        return getattr(importlib.import_module("dp_accounting.dp_event"), name)
    except (ImportError, AttributeError) as error:
        raise ImportError(
            f"to_dp_event needs dp-accounting with its {name}. Run pip install "
            "--upgrade dp-accounting."
        ) from error


def _write_value(value):
    if isinstance(value, mechanism_lib.Mechanism):
        return to_dp_event(value)
    if isinstance(value, tuple):
        return [to_dp_event(each) for each in value]
    return value


def _write_gaussian(noise_multiplier: float):
    return "GaussianDpEvent", {"noise_multiplier": noise_multiplier}


def _write_self_composed(mechanism, count: int):
    return "SelfComposedDpEvent", {"event": mechanism, "count": count}


def _write_composed(composed: mechanism_lib.Composed):
    if not composed.mechanisms:
        return "NoOpDpEvent", {}
    return "ComposedDpEvent", {"events": composed.mechanisms}


def _write_steps(steps: mechanism_lib.SampledGaussianSteps):
    sampled = sampled_mechanisms.PoissonSampled(
        mechanism_lib.Gaussian(steps.noise_multiplier),
        steps.sampling_probability,
    )
    return _write_self_composed(sampled, steps.num_steps)


def _write_without_replacement(
    sampled: sampled_mechanisms.SampledWithoutReplacement,
):
    return "SampledWithoutReplacementDpEvent", {
        "source_dataset_size": sampled.num_examples,
        "sample_size": sampled.sample_size,
        "event": sampled.mechanism,
    }


def _write_truncated(sampled: sampled_mechanisms.TruncatedPoissonSampled):
    _, noise = _WRITERS[type(sampled.mechanism)](sampled.mechanism)
    return "TruncatedSubsampledGaussianDpEvent", {
        "dataset_size": sampled.num_examples,
        "sampling_probability": sampled.sampling_probability,
        "truncated_batch_size": sampled.max_batch_size,
        **noise,
    }


def _write_as_one_gaussian(noise_multiplier: float, sensitivity: float):
    return _write_gaussian(math.nextafter(noise_multiplier / sensitivity, 0.0))


def _write_tree(tree: noise_mechanisms.TreeAggregation):
    if tree.num_trees != 1:
        return _write_self_composed(
            dataclasses.replace(tree, num_trees=1), tree.num_trees
        )
    steps = int(tree.steps_per_tree)
    if tree.max_participations != 1 or not _is_power_of_two(steps):
        return _write_as_one_gaussian(
            tree.noise_multiplier, tree.compute_sensitivity()
        )
    return "SingleEpochTreeAggregationDpEvent", {
        "noise_multiplier": tree.noise_multiplier,
        "step_counts": steps,
    }


def _is_power_of_two(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0


# By type: the event and its fields, in which mechanisms stand for events.
_WRITERS = {
    mechanism_lib.Gaussian: lambda m: _write_gaussian(m.noise_multiplier),
    mechanism_lib.SelfComposed: lambda m: _write_self_composed(
        m.mechanism, m.count
    ),
    mechanism_lib.Composed: _write_composed,
    mechanism_lib.SampledGaussianSteps: _write_steps,
    noise_mechanisms.Laplace: lambda m: (
        "LaplaceDpEvent",
        {"noise_multiplier": m.noise_multiplier},
    ),
    noise_mechanisms.ConcentratedDP: lambda m: ("ZCDpEvent", {"rho": m.rho}),
    noise_mechanisms.AdaptiveClipping: lambda m: _write_gaussian(
        m.effective_noise_multiplier
    ),
    noise_mechanisms.MatrixMechanism: lambda m: _write_as_one_gaussian(
        m.noise_multiplier, m.sensitivity
    ),
    noise_mechanisms.TreeAggregation: _write_tree,
    sampled_mechanisms.PoissonSampled: lambda m: (
        "PoissonSampledDpEvent",
        {
            "sampling_probability": m.sampling_probability,
            "event": m.mechanism,
        },
    ),
    sampled_mechanisms.SampledWithoutReplacement: _write_without_replacement,
    sampled_mechanisms.TruncatedPoissonSampled: _write_truncated,
}


def from_dp_event(event: Any) -> mechanism_lib.Mechanism:
    """Returns the mechanism that has the meaning of dp-accounting's event.

    The event is known by its class's name and fields: dp-accounting need not be
    installed. A field that is not known here is refused, as it may change what
    the event means.

    Args:
        event: A `dp_accounting.DpEvent` of the table above, nested in any way.
            A sample may also be of several Gaussian events, which are one
            Gaussian.

    Returns:
        The description. Counts and order are kept; a noise multiplier that
        stands for several events is rounded down.

    Raises:
        TypeError: If `event` is no event.
        ValueError: If no description has the same meaning, or a value is out
            of the accountant's range.
    """
    name = type(event).__name__
    if not name.endswith("DpEvent"):
        raise TypeError(
            f"event must be a DpEvent of dp-accounting. Received: {event!r}. "
            "Describe what ran, as in GaussianDpEvent(1.1)."
        )
    read = _READERS.get(name)
    if read is None:
        raise _make_refusal(
            name,
            _HINT_OF_EVENT.get(name, "Describe what ran as a Mechanism here."),
        )
    wanted = list(inspect.signature(read).parameters)
    fields = _list_fields(event)
    if sorted(fields) != sorted(wanted):
        raise ValueError(
            f"event must have the fields {wanted} as {name}. Received: "
            f"{fields}. Describe what ran as a Mechanism here."
        )
    return read(**{field: getattr(event, field) for field in fields})


def _list_fields(event) -> list[str]:
    declared = getattr(type(event), "__attrs_attrs__", ())
    if dataclasses.is_dataclass(event):
        declared = dataclasses.fields(event)
    return [field.name for field in declared]


def _make_refusal(received: str, hint: str) -> ValueError:
    return ValueError(
        "event must have an equal description in tf_privacy. Received: "
        f"{received}. {hint}"
    )


def _sum_precisions(mechanism: mechanism_lib.Mechanism) -> float:
    """Returns the sum of 1 / noise_multiplier^2, NaN if not all is Gaussian."""
    if isinstance(mechanism, mechanism_lib.Gaussian):
        return mechanism.noise_multiplier**-2.0
    if isinstance(mechanism, mechanism_lib.SelfComposed):
        return mechanism.count * _sum_precisions(mechanism.mechanism)
    if isinstance(mechanism, mechanism_lib.Composed):
        return math.fsum(map(_sum_precisions, mechanism.mechanisms))
    return math.nan


def _read_sampled(event, *, kinds, sampled_by: str):
    """Returns what ran on a sample, as one mechanism of some kinds."""
    inner = from_dp_event(event)
    if isinstance(inner, kinds):
        return inner
    precision = _sum_precisions(inner)
    if not precision > 0.0:
        raise _make_refusal(
            f"{sampled_by} of {type(event).__name__}",
            "Sampling amplifies one release, or Gaussians on the same sample; "
            "compose sampled events instead.",
        )
    return mechanism_lib.Gaussian(_ROUND_DOWN / math.sqrt(precision))


def _read_poisson_sampled(sampling_probability, event):
    kinds = (mechanism_lib.Gaussian, noise_mechanisms.Laplace)
    inner = _read_sampled(
        event, kinds=kinds, sampled_by="PoissonSampledDpEvent"
    )
    return sampled_mechanisms.PoissonSampled(inner, sampling_probability)


def _read_without_replacement(source_dataset_size, sample_size, event):
    inner = _read_sampled(
        event,
        kinds=mechanism_lib.Gaussian,
        sampled_by="SampledWithoutReplacementDpEvent",
    )
    return sampled_mechanisms.SampledWithoutReplacement(
        inner, sample_size, source_dataset_size
    )


def _read_truncated(
    dataset_size, sampling_probability, truncated_batch_size, noise_multiplier
):
    return sampled_mechanisms.TruncatedPoissonSampled(
        mechanism_lib.Gaussian(noise_multiplier),
        sampling_probability,
        dataset_size,
        truncated_batch_size,
    )


def _read_zcdp(rho, xi):
    if not xi == 0.0:
        raise _make_refusal(
            f"ZCDpEvent with xi = {xi!r}", "Only xi = 0 has a description."
        )
    return noise_mechanisms.ConcentratedDP(rho)


def _read_tree(noise_multiplier, step_counts):
    steps = step_counts
    if isinstance(step_counts, Sequence) and len(step_counts) == 1:
        steps = step_counts[0]
    if isinstance(steps, Sequence):
        raise _make_refusal(
            f"SingleEpochTreeAggregationDpEvent of trees {step_counts!r}",
            "A unit is in one of them: the largest alone costs as much.",
        )
    tree = noise_mechanisms.TreeAggregation(
        noise_multiplier=noise_multiplier, steps_per_tree=steps
    )
    if not _is_power_of_two(int(steps)):
        raise _make_refusal(
            f"SingleEpochTreeAggregationDpEvent of {steps!r} steps",
            "Nodes that are cut short count here, but not there, unless the "
            f"steps are a power of two. {tree!r} is an upper bound.",
        )
    return tree


def _read_composed(events):
    return mechanism_lib.Composed([from_dp_event(each) for each in events])


# By the event's name; a reader's parameters are the event's fields.
_READERS = {
    "NoOpDpEvent": lambda: mechanism_lib.Composed(()),
    "GaussianDpEvent": lambda noise_multiplier: mechanism_lib.Gaussian(
        noise_multiplier
    ),
    "LaplaceDpEvent": lambda noise_multiplier: noise_mechanisms.Laplace(
        noise_multiplier
    ),
    "SelfComposedDpEvent": lambda event, count: mechanism_lib.SelfComposed(
        from_dp_event(event), count
    ),
    "ComposedDpEvent": _read_composed,
    "PoissonSampledDpEvent": _read_poisson_sampled,
    "SampledWithoutReplacementDpEvent": _read_without_replacement,
    "TruncatedSubsampledGaussianDpEvent": _read_truncated,
    "ZCDpEvent": _read_zcdp,
    "SingleEpochTreeAggregationDpEvent": _read_tree,
}
