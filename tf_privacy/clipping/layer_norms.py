# SPDX-License-Identifier: Apache-2.0
"""The norms of each unit's gradient, one for each variable: a diagnostic."""

import dataclasses

import numpy as np
from keras import ops

from tf_privacy.clipping import engine
from tf_privacy.clipping import keras_internals
from tf_privacy.clipping import styles


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class RecordedStep:
    """What clipping did to each unit; raw, computed without noise.

    V is the number of trainable variables, in the model's order.

    Attributes:
        gradients: V arrays, float32; the sum of the units' clipped gradients.
        norms: `[U, V]` float64; of each unit's gradient before clipping.
        factors: `[U, V]` float64; what it was multiplied with; 0 where a unit
            was left out for a gradient that is not finite.
    """

    gradients: tuple[np.ndarray, ...]
    norms: np.ndarray
    factors: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _RecordedClipping(styles.ClippingStyle):
    """Another style, whose norms and factors are written down."""

    style: styles.ClippingStyle
    groups: tuple[int, ...]
    squared_norms: list
    factors: list

    def group_variables(self, variables) -> list[int]:
        """Returns a group for each variable, to see the norm of each."""
        return list(range(len(variables)))

    def scale_factors(self, norms, num_groups: int):
        """Returns the style's factors."""
        return self.style.scale_factors(norms, num_groups)

    def compute_factors(self, squared_norms, counted=None):
        """Returns the style's factors, each for all variables of its group."""
        grouped = [0.0] * len(set(self.groups))
        for squared, group in zip(squared_norms, self.groups, strict=True):
            grouped[group] = grouped[group] + squared
        by_group, present = self.style.compute_factors(grouped, counted)
        factors = [by_group[group] for group in self.groups]
        self.squared_norms.append(_as_columns(squared_norms))
        self.factors.append(_as_columns(factors))
        return factors, present


def clip_and_record(model, data, settings: engine.ClipSettings) -> RecordedStep:
    """Returns the clipped sum of a batch, each unit's norms and factors.

    One forward and one backward pass of the clipping engine, outside of any
    graph.

    Args:
        model: A `keras.Model`.
        data: `(x, y, sample_weight)`, structures of arrays `[B, ...]`; B >= 1.
        settings: What a unit is and how it is clipped.
    """
    keras_internals.build_for(model, engine.as_tensors(data[0]))
    groups = settings.style.group_variables(model.trainable_variables)
    recorded = _RecordedClipping(
        l2_norm_clip=settings.style.l2_norm_clip,
        style=settings.style,
        groups=tuple(groups),
        squared_norms=[],
        factors=[],
    )
    settings = dataclasses.replace(settings, style=recorded)
    step = engine.clip_prepared(
        model, engine.prepare_data(data, settings), settings
    )
    return RecordedStep(
        gradients=tuple(map(_as_array, step.clipped_sum.gradients)),
        norms=np.sqrt(np.concatenate(recorded.squared_norms)),
        factors=np.concatenate(recorded.factors),
    )


def _as_array(tensor) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(tensor))


def _as_columns(vectors) -> np.ndarray:
    return np.stack([_as_array(v) for v in vectors], axis=1).astype(np.float64)


def layer_names(variables) -> list[str]:
    """Returns the path of the layer that each variable was created in.

    Without the model's own name, where that begins all of several paths.

    Args:
        variables: `keras.Variable`s.
    """
    paths = [variable.path.split("/")[:-1] for variable in variables]
    if min(map(len, paths)) > 1 and len({path[0] for path in paths}) == 1:
        paths = [path[1:] for path in paths]
    return ["/".join(path) for path in paths]
