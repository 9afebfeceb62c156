# SPDX-License-Identifier: Apache-2.0
"""Clipping styles: from a unit's gradient norms to the factors that bound it.

A style says how the bound `l2_norm_clip` on one unit's gradient is kept. All
of them give a sum that one unit moves by at most `l2_norm_clip`, so noise and
accounting are the same for each.
"""

import abc
import dataclasses
import math

import keras
from keras import ops

from tf_privacy import _checks
from tf_privacy import _neighboring_relation

_PACKAGE = "tf_privacy"
# In units of the bound; a norm below it limits no factor further.
_SMALLEST_NORM = 2.0**-60


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClippingStyle(abc.ABC):
    """How each unit's gradient is bounded.

    Attributes:
        l2_norm_clip: L2 bound on one unit's gradient over all weights;
            gradient units; in [1e-12, 1e18].
    """

    # What `optimizer.current_clip` says beyond its style.
    scale = None
    scales = None
    selects_rows = False

    l2_norm_clip: float

    def __post_init__(self):
        clip = _checks.check_l2_norm_clip(self.l2_norm_clip)
        object.__setattr__(self, "l2_norm_clip", clip)

    def sensitivity(
        self,
        neighboring_relation: _neighboring_relation.NeighboringRelation,
    ) -> float:
        """Returns by how much one unit moves the clipped sum, in L2 norm.

        Args:
            neighboring_relation: Adding, removing or zeroing out a unit moves
                the sum by its one clipped gradient; replacing it by two.

        Raises:
            ValueError: If it is not a NeighboringRelation.
        """
        relations = _neighboring_relation.NeighboringRelation
        relation = _checks.check_choice(
            "neighboring_relation", neighboring_relation, list(relations)
        )
        if relation is relations.REPLACE_ONE:
            return 2.0 * self.l2_norm_clip
        return self.l2_norm_clip

    def group_variables(self, variables) -> list[int]:
        """Returns the group of each variable; each group is clipped alone.

        Args:
            variables: The trainable `keras.Variable`s.

        Returns:
            A list of group numbers, 0 up to the number of groups without gaps.
        """
        return [0] * len(variables)

    @abc.abstractmethod
    def scale_factors(self, norms, num_groups: int):
        """Returns the factors that bound gradients of finite norm.

        Args:
            norms: `[U]` float32; finite upper bounds on the norms of one
                group of the units' gradients.
            num_groups: How many groups share the bound.

        Returns:
            `[U]` float32; what makes factor * norm larger than
            l2_norm_clip / sqrt(num_groups), or is NaN, is lowered to that.
        """

    @property
    def query_sensitivity(self) -> float | None:
        """Largest value of the query of one unit; None if there is none.

        A style whose clip follows the data asks each unit a question, whose
        noised sum moves the clip: see `query_values`.
        """
        return None

    def query_values(self, norms):
        """Returns what each unit adds to the query, within its sensitivity.

        Args:
            norms: `[U]` float32; finite; each unit's whole gradient norm, in
                the units in which l2_norm_clip is the clip in force.
        """
        raise NotImplementedError(f"{type(self).__name__} asks no query.")

    def sum_query(self, squared_norms, counted=None):
        """Returns the sum of the query over the units, or None.

        Adding or removing one unit moves it by at most `query_sensitivity`,
        whatever a style of the user's own answers; a unit with a norm that is
        not finite counts as absent.

        Args:
            squared_norms: `[U]` float32; over all groups.
            counted: As in `compute_factors`.
        """
        most = self.query_sensitivity
        if most is None:
            return None
        finite = ops.isfinite(squared_norms)
        present = finite if counted is None else finite & counted
        norms = ops.sqrt(ops.where(finite, squared_norms, 0.0))
        values = self.query_values(norms)
        values = ops.where(ops.abs(values) <= most, values, most)
        return ops.sum(ops.where(present, values, 0.0))

    def compute_factors(self, squared_norms, counted=None):
        """Returns each unit's factor in each group, and which units count.

        A unit with a norm that is NaN or inf in any group (a non-finite
        input, an overflow) gets factor 0 in all of them and counts as absent:
        its gradient cannot be bounded.

        Args:
            squared_norms: A list, for each group, of `[U]` float32.
            counted: `[U]` bool; false for padding, which counts as absent.
                None counts all.

        Returns:
            A list of `[U]` float32 factors, and `[U]` bool.
        """
        share = self.l2_norm_clip / math.sqrt(len(squared_norms))
        total = sum(squared_norms)
        finite = ops.isfinite(total)
        present = finite if counted is None else finite & counted
        factors = []
        for squared in squared_norms:
            norms = ops.sqrt(ops.where(finite, squared, 0.0))
            factor = self.scale_factors(norms, len(squared_norms))
            # The bound holds whatever a style of the user's own answers.
            limit = share / ops.maximum(norms, share * _SMALLEST_NORM)
            factor = ops.where(ops.abs(factor) <= limit, factor, limit)
            factors.append(ops.where(present, factor, 0.0))
        return factors, present

    def at_rest(self) -> "ClippingStyle":
        """Returns a style of the same cost that depends on no tensor.

        To measure and to estimate with, outside of the step's graph.
        """
        return self

    def get_config(self) -> dict:
        """Returns the arguments."""
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config):
        """Returns the style that `get_config()` describes."""
        return cls(**config)


@keras.saving.register_keras_serializable(package=_PACKAGE)
@dataclasses.dataclass(frozen=True, kw_only=True)
class FlatClipping(ClippingStyle):
    """One norm over all weights.

        factor = min(1, l2_norm_clip / norm)
    What a number for `l2_norm_clip` means.

    Source: Abadi et al. 2016, arXiv:1607.00133, algorithm 1.
    """

    def scale_factors(self, norms, num_groups: int):
        """Returns min(1, clip / norm)."""
        return _scale_down(norms, self.l2_norm_clip / math.sqrt(num_groups))


@keras.saving.register_keras_serializable(package=_PACKAGE)
@dataclasses.dataclass(frozen=True, kw_only=True)
class PerLayerClipping(ClippingStyle):
    """Each layer's gradient is clipped alone, to its share of the bound.

        factor[layer] = min(1, clip / norm[layer])
        clip = l2_norm_clip / sqrt(number of layers with trainable weights)
    so that the L2 norm over all layers is at most `l2_norm_clip`. Keeps a layer
    with large gradients from shrinking those of all others.

    Source: McMahan et al. 2018, arXiv:1710.06963, section 3.
    """

    def group_variables(self, variables) -> list[int]:
        """Returns one group for each layer that owns a variable."""
        groups = {}
        return [
            groups.setdefault(_owner(variable), len(groups))
            for variable in variables
        ]

    def scale_factors(self, norms, num_groups: int):
        """Returns min(1, clip / norm) for the layer's share of the clip."""
        return _scale_down(norms, self.l2_norm_clip / math.sqrt(num_groups))


@keras.saving.register_keras_serializable(package=_PACKAGE)
@dataclasses.dataclass(frozen=True, kw_only=True)
class AutomaticClipping(ClippingStyle):
    """Every gradient is normalised: no clip to tune (AUTO-S).

        factor = l2_norm_clip / (norm + stability)
    `l2_norm_clip` only scales the learning rate; leave it at 1. The stability
    term keeps small gradients small.

    Attributes:
        l2_norm_clip: As for every style.
        stability: Added to the norm; gradient units; > 0.

    Source: Bu et al. 2023, arXiv:2206.07136, AUTO-S.
    """

    l2_norm_clip: float = 1.0
    stability: float = 0.01

    def __post_init__(self):
        super().__post_init__()
        stability = _checks.check_real(
            "stability", self.stability, at_least=1e-12, at_most=1e18
        )
        object.__setattr__(self, "stability", stability)

    def scale_factors(self, norms, num_groups: int):
        """Returns clip / (norm + stability)."""
        clip = self.l2_norm_clip / math.sqrt(num_groups)
        return clip / (norms + self.stability)


def _scale_down(norms, clip: float):
    return clip / ops.maximum(norms, clip)


def _owner(variable) -> str:
    """Returns the path of the layer that a variable was created in."""
    return variable.path.rpartition("/")[0]


def as_style(l2_norm_clip) -> ClippingStyle:
    """Returns the style that an argument `l2_norm_clip` stands for.

    Args:
        l2_norm_clip: A ClippingStyle, or a number, which clips flat.

    Raises:
        ValueError: If the number is out of range.
    """
    if isinstance(l2_norm_clip, ClippingStyle):
        return l2_norm_clip
    return FlatClipping(l2_norm_clip=_checks.check_l2_norm_clip(l2_norm_clip))
